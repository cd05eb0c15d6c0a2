use std::sync::Arc;

use anyhow::Result;

use super::{Inputs, OutputFolder, Plan, Request, Session};
use crate::captioning::pictures;
use crate::features::{CachePlace, FeatureStore, Layout, remove_leftovers};
use crate::options::{EvalStrategy, Finetune};
use crate::terminal::{say, warn};

/// Computes the image features of all pictures in the run, and frees the encoder. `None` if the vision
/// encoder is trained or `--no-feature-cache` is given; batches contain pictures then.
///
/// # Errors
/// If a picture cannot be read, or the cache cannot be written.
pub fn cache_features(
    request: &Request,
    folder: &OutputFolder,
    inputs: &Inputs,
    plan: &mut Plan,
    session: &mut Session,
) -> Result<Option<Arc<FeatureStore>>> {
    let options = &request.options;
    if session.team.leads() && session.features.is_none() {
        remove_leftovers(&folder.path);
    }
    if plan.adapted.vision_trains || options.hardware.no_feature_cache {
        return Ok(None);
    }
    if session.features.is_none() {
        let rows = rows_seen(options, inputs, session);
        let place = CachePlace {
            memory: options.hardware.feature_memory(),
            between_runs: plan.between_runs.take(),
            scratch: folder.path.clone(),
        };
        if let Some(words) = large(rows.len(), plan.features, &place) {
            say(format_args!("note: {words}"));
        }
        let loader = pictures(&inputs.source, &inputs.processor);
        let (model, team) = (plan.adapted.model.as_ref(), &session.team);
        let store = match team.workers.count() {
            1 => FeatureStore::new(model, &loader, &rows, plan.features, &place)?,
            _ => FeatureStore::shared(model, &loader, &rows, plan.features, &place, team)?,
        };
        for damage in store.damaged() {
            warn(format_args!("{damage}; the features that this run needs are computed again"));
        }
        say(format_args!("{:>13}  {store}", "features"));
        if let Some(unneeded) = store.unneeded() {
            say(format_args!("note: {unneeded}"));
        }
        session.features = Some(Arc::new(store));
    }
    plan.adapted.model.release_image_encoder();
    train_ops::release_memory();
    Ok(session.features.clone())
}

/// Describes the size of the features of this many `pictures`, if it is large, and the alternatives.
fn large(pictures: usize, features: Layout, place: &CachePlace) -> Option<String> {
    let bytes = pictures as f64 * features.bytes() as f64;
    if bytes < MUCH {
        return None;
    }
    let folder = place.between_runs.as_ref().map_or(&place.scratch, |(folder, _)| folder);
    Some(format!(
        "the image features of {pictures} pictures take up to {:.0} GB in {}; --no-feature-cache takes none and runs the \
         encoder in every epoch, --subset takes a part of the dataset",
        bytes / 1e9,
        folder.display()
    ))
}

/// A run warns before it computes image features of more than this many bytes.
const MUCH: f64 = 10e9;

/// The rows whose pictures the run reads; the same for all runs of a sweep.
fn rows_seen(options: &Finetune, inputs: &Inputs, session: &Session) -> Vec<usize> {
    let Finetune { data, training, .. } = options;
    let per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps;
    let steps = training.max_steps.filter(|_| !session.sweeps());
    let samples = steps.map_or(usize::MAX, |steps| steps * per_step);
    let mut rows = inputs.training_order(options).first(samples);
    if training.eval_strategy != EvalStrategy::No || data.eval_captions.is_some() || session.sweeps() {
        rows.extend(&inputs.rows.validation);
    }
    rows.extend(&inputs.rows.test);
    rows
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn the_size_of_many_features_is_said_before_they_are_computed() {
        let place =
            CachePlace { memory: 0, between_runs: Some(("runs/features".into(), 0)), scratch: "out".into() };
        let base = Layout { tokens: 197, width: 768, dtype: DType::BF16 };
        let words = large(1_000_000, base, &place).unwrap();
        assert!(words.contains("303 GB in runs/features") && words.contains("--no-feature-cache"), "{words}");
        assert_eq!(large(700, base, &place), None);
    }
}

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_core::DType;
use caption_data::Padding;
use caption_model::CaptionCheckpoint;
use trainer_core::{Identity, TrainingArguments};

use super::identity::{self, Contents};
use super::setup;
use super::{Inputs, OutputFolder, Request, Session};
use crate::adapt::{self, Adapted, BaseModel};
use crate::distributed::Team;
use crate::engine_words;
use crate::features::{Layout, encoder_fingerprint};
use crate::options::{self, Finetune, TRAINED_ENCODER};
use crate::resume::with_commits;
use crate::terminal::say;

/// The adapted model, the engine's arguments, and the description of the set-up.
pub struct Plan {
    /// The model and its trainable parameters.
    pub adapted: Adapted,
    /// Shape and type of cached image features.
    pub features: Layout,
    /// How captions are padded.
    pub padding: Padding,
    /// Arguments of the training engine.
    pub arguments: TrainingArguments,
    /// The identity of the run: everything that determines its numbers.
    pub identity: Identity,
    /// The set-up as names and values, for the console and the report.
    pub setup: Vec<(String, String)>,
    /// The processes that train together.
    pub(super) team: Team,
    /// The folder that caches features between runs, and the encoder's fingerprint.
    pub(super) between_runs: Option<(PathBuf, u128)>,
}

impl Plan {
    /// Builds the model with its adapter and determines all arguments.
    ///
    /// # Errors
    /// If the adapter does not fit the model, if options contradict each other, or if the resumed run has
    /// another identity.
    pub fn new(
        request: &Request,
        folder: &OutputFolder,
        checkpoint: Box<dyn CaptionCheckpoint>,
        inputs: &Inputs,
        session: &mut Session,
    ) -> Result<Self> {
        let Request { options, resumed, .. } = request;
        let Finetune { lora, training, hardware, .. } = options;
        let device = session.team.device(hardware.device).open()?;
        let team = session.team.connected(hardware.distributed, &device)?;
        let dtype = adapt::storage(hardware.dtype);
        let stored = hardware.feature_cache_dtype.map(DType::from);
        let features = Layout::new(checkpoint.caption_config().feature_shape(), dtype, stored);
        let between_runs = match &hardware.feature_cache_dir {
            Some(dir) if session.features.is_none() => {
                let checkpoint = checkpoint.as_ref();
                let arithmetic = adapt::arithmetic(hardware.dtype);
                Some((dir.clone(), encoder_fingerprint(checkpoint, arithmetic, features.dtype, &device)?))
            }
            _ => None,
        };
        let base = BaseModel { name: &inputs.name, revision: inputs.commit.as_deref() };
        let saved = resumed.as_ref().and_then(|resumed| resumed.options.adapter_config.as_ref());
        let adapted = adapt::build(&base, checkpoint, lora, saved, training.seed, &device, hardware)?;
        train_ops::release_memory();
        if adapted.vision_trains
            && let Some(flag) = hardware.cache_flag()
        {
            bail!("{flag} does nothing, as the vision encoder is trained: {}", TRAINED_ENCODER);
        }

        let (padding, longest) = padding(options, inputs, &adapted);
        let fused_micro_batches =
            options.fused_micro_batches(adapted.model.as_ref(), longest, adapted.vision_trains);
        let arguments = TrainingArguments {
            fused_micro_batches,
            output_dir: folder.path.clone(),
            ..options.training_arguments()
        };
        // Checked now rather than after the features are computed.
        arguments.validate().map_err(engine_words::error)?;
        let contents = match session.contents.take() {
            Some(contents) => contents,
            None => Contents::read(options, inputs)?,
        };
        let mut identity = identity::of(options, inputs, &adapted, &contents, resumed.as_ref())?;
        let caches = !adapted.vision_trains && !hardware.no_feature_cache;
        let rounds = caches && features.dtype != dtype;
        if rounds {
            identity = identity.with("--feature-cache-dtype", features.dtype.as_str());
        }
        session.contents = Some(contents);
        refuse_another_run(request, &identity)?;
        let mut setup = setup::rows(options, &arguments, inputs, &adapted, padding, session.threads);
        if rounds {
            setup.push(("feature type".to_owned(), features.to_string()));
        }
        let workers = team.summary(arguments.gradient_accumulation_steps, arguments.fused_micro_batches);
        setup.extend(workers.map(|workers| ("workers".to_owned(), workers)));
        Ok(Self { adapted, features, padding, arguments, identity, setup, team, between_runs })
    }

    /// Prints the set-up.
    pub fn print(&self) {
        for (name, value) in &self.setup {
            say(format_args!("{name:>13}  {value}"));
        }
    }
}

/// The padding of captions, and the longest padded training caption in tokens.
fn padding(options: &Finetune, inputs: &Inputs, adapted: &Adapted) -> (Padding, usize) {
    match options.data.padding {
        options::Padding::Longest => (Padding::Longest, inputs.captions.longest(&inputs.rows.train)),
        options::Padding::MaxLength => {
            let positions = adapted.model.tokens().max_length;
            let length = inputs.tokenizer.max_length().unwrap_or(positions).min(positions);
            (Padding::MaxLength(length), length)
        }
    }
}

/// Refuses to resume a run of another identity. The engine would do so only after the features are computed.
fn refuse_another_run(request: &Request, identity: &Identity) -> Result<()> {
    let Some(resumed) = &request.resumed else { return Ok(()) };
    let Some(saved) = &resumed.run.identity else { return Ok(()) };
    let differences = saved.differences(identity);
    if differences.is_empty() {
        return Ok(());
    }
    let error = engine_words::another_run(&resumed.newest.display().to_string(), &differences);
    let is_input = |key: &str| key.contains("--model") || key.contains("--dataset");
    if differences.iter().any(|difference| is_input(&difference.key)) {
        return Err(with_commits(error, request));
    }
    Err(error)
}

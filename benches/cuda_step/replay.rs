//! The passes of a training step and a step of decoding, each recorded once as a CUDA graph and replayed.

use git_model::{CaptionDecoder as _, CaptionModel as _, GitForCausalLm, NextTokens};
use train_ops::{DeviceGraph, ForwardContext, backward};
use trainer_core::Parameters;

use super::phases::{Phases, Times};
use super::{TOKENS, captions, features, training};

/// Forward and backward pass, recorded once and replayed with the dropout of each step, beside the same without a graph.
pub(crate) fn passes(
    model: &GitForCausalLm,
    parameters: &Parameters,
    batch: usize,
    steps: u64,
    times: &Times,
) {
    println!("as a graph");
    let mut phases = Phases::new(model.device(), times, false);
    let features = features(model, batch, 0, &mut phases);
    let (input_ids, labels) = captions(model, batch, 0);
    let pass = |ctx: &ForwardContext| {
        let (loss, _) = model.loss(&features, &input_ids, &labels, ctx).map_err(candle_core::Error::wrap)?;
        let store = backward(&loss)?;
        let gradients = parameters.iter().filter_map(|(_, variable)| store.get(variable).cloned());
        Ok(std::iter::once(loss.clone()).chain(gradients).collect::<Vec<_>>())
    };
    phases.begin("6 recording");
    let graph = DeviceGraph::record(model.device(), |_| pass(&training(batch, 0))).unwrap();
    // Each position but a row's last predicts the next token.
    let positions =
        (0..batch * TOKENS).filter(|position| position % TOKENS != TOKENS - 1).map(|at| at as u32);
    let targets = labels.iter().flat_map(|row| row[1..].iter().map(|label| *label as u32));
    let numbers: Vec<u32> = positions.chain(targets).collect();
    for step in 0..steps {
        let ctx = training(batch, step);
        phases.counted = step + 1 == steps;
        phases.begin("7 replay");
        let results = graph.replay(&ctx, &numbers).unwrap();
        phases.begin("6 without a graph");
        let loss = results[0].to_scalar::<f32>().unwrap();
        let expected = pass(&ctx).unwrap()[0].to_scalar::<f32>().unwrap();
        println!("loss {loss:.6}, without a graph {expected:.6}");
        assert_eq!(loss.to_bits(), expected.to_bits(), "a replay has the bits of a pass without a graph");
    }
    phases.begin("6 end");
}

/// A decoding step with two beams for each picture, which copies either all logits to the host, or those that a
/// search without penalties needs. The latter is also replayed as a graph.
pub(crate) fn decoding(model: &GitForCausalLm, batch: usize, times: &Times) {
    const BEAMS: usize = 2;
    println!("decoding with {BEAMS} beams a picture");
    let mut phases = Phases::new(model.device(), times, false);
    let features = features(model, batch, 0, &mut phases);
    phases.begin("6 prompt");
    let mut decoding = model.begin_decoding(&features, (1 + 4 * BEAMS) * batch).unwrap();
    let start = model.tokens().start_token;
    decoding.append(&vec![start; batch]).unwrap();
    decoding.reorder(&(0..BEAMS * batch).map(|beam| beam / BEAMS).collect::<Vec<_>>()).unwrap();
    let tokens = vec![start; BEAMS * batch];
    phases.counted = true;
    // A step that occurs for the first time is not recorded.
    phases.begin("8 decoding, all logits");
    let all = decoding.append(&tokens).unwrap();
    phases.begin("9 decoding, best logits");
    decoding.append_for_best(&tokens, 2 * BEAMS).unwrap();
    phases.begin("6 recording of decoding");
    decoding.append_for_best(&tokens, 2 * BEAMS).unwrap();
    phases.begin("9 replay of decoding");
    let best = decoding.append_for_best(&tokens, 2 * BEAMS).unwrap();
    phases.begin("6 end");
    let NextTokens::Best(best) = best else { panic!("all logits were copied") };
    println!("{} logits copied, and {}", all.len(), best.logits.len());
}

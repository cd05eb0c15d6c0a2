//! Forward and backward pass as a CUDA graph.

use candle_core::{DType, Result, Tensor, Var};
use train_ops::{
    AttentionMask, DeviceGraph, Dropout, ForwardContext, Run, TransformerLayer, cross_entropy_sum,
    host_numbers, sample_key,
};

use crate::common::{constant, gpu, list, values};
use crate::layer::{WIDTH, adapter_shapes, transformer_layer};

/// The result of a layer with dropout and adapters, and the gradients of its input and of the adapters.
fn pass(
    layer: &TransformerLayer,
    inputs: &[Tensor],
    dys: &Tensor,
    ctx: &ForwardContext,
) -> Result<Vec<Tensor>> {
    let ys = layer.forward(&inputs[0], AttentionMask::Full, ctx).map_err(candle_core::Error::wrap)?;
    let gradients = (&ys * dys)?.sum_all()?.backward()?;
    let gradients = inputs.iter().map(|input| gradients.get(input).unwrap().clone());
    Ok(std::iter::once(ys.clone()).chain(gradients).collect())
}

fn keys(step: u64) -> ForwardContext {
    ForwardContext::training([sample_key(1, step, 0), sample_key(1, step, 1)])
}

#[test]
fn a_recorded_pass_repeats_with_new_values_and_new_dropout_to_the_last_bit() {
    for dtype in [DType::F32, DType::BF16] {
        let input =
            |seed: u64| values(seed, &[2, 6, WIDTH]).to_dtype(dtype).unwrap().to_device(gpu()).unwrap();
        let adapters: Vec<Tensor> = (70..)
            .zip(adapter_shapes())
            .map(|(seed, shape)| values(seed, &shape).to_device(gpu()).unwrap())
            .collect();
        let all = std::iter::once(input(1)).chain(adapters);
        let variables: Vec<Var> = all.map(|tensor| Var::from_tensor(&tensor).unwrap()).collect();
        let inputs: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
        let dys = constant(99, &[2, 6, WIDTH], &inputs[0]);
        let layer = transformer_layer(&inputs, false);
        let graph = DeviceGraph::record(gpu(), |_| pass(&layer, &inputs, &dys, &keys(0))).unwrap();
        for step in 0..3 {
            variables[0].set(&input(10 + step)).unwrap();
            variables[1].set(&(&inputs[1] * 1.5).unwrap().detach()).unwrap();
            let found: Vec<_> = graph.replay(&keys(step), &[]).unwrap().iter().map(list).collect();
            let expected: Vec<_> =
                pass(&layer, &inputs, &dys, &keys(step)).unwrap().iter().map(list).collect();
            assert_eq!(found, expected, "{dtype:?}, step {step}");
        }
        let error = graph.replay(&ForwardContext::training([1]), &[]).unwrap_err().to_string();
        assert!(error.contains("recorded for 2 samples got 1 keys"), "{error}");
    }
}

#[test]
fn work_that_reads_from_the_device_is_not_recorded() {
    let xs = values(1, &[3, 4]).to_device(gpu()).unwrap();
    let error = DeviceGraph::record(gpu(), |_| {
        let sum = xs.sum_all()?.to_scalar::<f32>()?;
        Ok(vec![(&xs * f64::from(sum))?])
    });
    assert!(error.is_err());
    // The device is as before.
    assert_eq!(list(&(&xs + &xs).unwrap()), list(&(&xs * 2.0).unwrap()));
}

/// Rows of logits are selected by numbers from the host; some rows have no target.
#[test]
fn a_recorded_loss_takes_new_rows_and_targets_and_some_without_a_target() {
    let logits = Var::from_tensor(&values(1, &[6, 19]).to_device(gpu()).unwrap()).unwrap();
    let work = |rows: &[u32], targets: &[u32]| -> Result<Vec<Tensor>> {
        let selected = logits.index_select(&host_numbers(rows, gpu())?, 0)?;
        let loss = cross_entropy_sum(&selected, targets, 0.1).map_err(candle_core::Error::wrap)?;
        let gradients = loss.backward()?;
        Ok(vec![loss.clone(), gradients.get(&logits).unwrap().clone()])
    };
    let graph = DeviceGraph::record(gpu(), |run| match run {
        Run::First => work(&[0, 1, 2, 3], &[0, 1, 2, 3]),
        Run::Recorded => work(&[3, 2, 1, 0], &[4, 5, 6, 7]),
    });
    let (graph, ctx) = (graph.unwrap(), ForwardContext::inference());
    let none = u32::MAX;
    for (rows, targets) in [([5, 0, 1, 2], [7, 18, 0, 3]), ([4, 1, 0, 0], [2, 2, none, none])] {
        let real = targets.iter().filter(|target| **target != none).count();
        let expected: Vec<_> = work(&rows[..real], &targets[..real]).unwrap().iter().map(list).collect();
        let numbers = [rows, targets].concat();
        let found: Vec<_> = graph.replay(&ctx, &numbers).unwrap().iter().map(list).collect();
        assert_eq!(found, expected);
    }
    let error = graph.replay(&ctx, &[1, 2]).unwrap_err().to_string();
    assert!(error.contains("takes 8 numbers got 2"), "{error}");
}

#[test]
fn work_that_depends_on_other_values_of_the_host_is_not_recorded() {
    let xs = values(1, &[3]).to_device(gpu()).unwrap();
    let error = DeviceGraph::record(gpu(), |run| {
        let host = if run == Run::First { [1f32, 2., 3.] } else { [4., 5., 6.] };
        Ok(vec![(&xs * Tensor::new(&host, gpu())?)?])
    });
    assert!(error.unwrap_err().to_string().contains("host data"));
}

#[test]
fn work_that_panics_leaves_a_device_that_can_be_used_and_recorded() {
    let xs = values(1, &[3, 4]).to_device(gpu()).unwrap();
    let doubled = || Ok(vec![(&xs * 2.0)?]);
    for panics_in in [Run::First, Run::Recorded] {
        let recording = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            DeviceGraph::record(gpu(), |run| {
                let results = doubled();
                assert!(run != panics_in, "as in a faulty model");
                results
            })
        }));
        assert!(recording.is_err());
        assert_eq!(list(&(&xs + &xs).unwrap()), list(&doubled().unwrap()[0]));
        let graph = DeviceGraph::record(gpu(), |_| doubled()).unwrap();
        let results = graph.replay(&ForwardContext::inference(), &[]).unwrap();
        assert_eq!(list(&results[0]), list(&doubled().unwrap()[0]));
    }
}

#[test]
fn dropout_that_only_the_second_run_has_is_not_recorded() {
    let xs = values(1, &[2, 4]).to_device(gpu()).unwrap();
    let [first, second] = ["first", "second"].map(|place| Dropout::new(place, 0.5).unwrap());
    let drop_out = |dropout: &Dropout, step| {
        dropout.forward(&xs, &keys(step)).map(|ys| vec![ys]).map_err(candle_core::Error::wrap)
    };
    // At another place, and of another pass.
    for (other, step) in [(&second, 0), (&first, 1)] {
        let error = DeviceGraph::record(gpu(), |run| match run {
            Run::First => drop_out(&first, 0),
            Run::Recorded => drop_out(other, step),
        });
        assert!(error.unwrap_err().to_string().contains("dropout mask in its second run"));
    }
}

/// As with one thread for each GPU. Each thread has the keys of its own passes.
#[test]
fn passes_of_another_thread_do_not_change_the_dropout_of_a_recording() {
    let xs = values(1, &[2, 4]).to_device(gpu()).unwrap();
    let dropout = Dropout::new("place", 0.5).unwrap();
    let pass = |step| -> Result<Vec<Tensor>> {
        Ok(vec![dropout.forward(&xs, &keys(step)).map_err(candle_core::Error::wrap)?])
    };
    let graph = DeviceGraph::record(gpu(), |run| {
        let results = pass(0);
        if run == Run::First {
            std::thread::scope(|scope| scope.spawn(|| pass(7).map(|_| ())).join()).unwrap()?;
        }
        results
    });
    let graph = graph.unwrap();
    for step in 1..4 {
        let found = list(&graph.replay(&keys(step), &[]).unwrap()[0]);
        assert_eq!(found, list(&pass(step).unwrap()[0]), "step {step}");
    }
}

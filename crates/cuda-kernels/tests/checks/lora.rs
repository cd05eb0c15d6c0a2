use cuda_kernels::emulation::Emulator;
use cuda_kernels::{Element, Lora, LoraGradients, Pointer};

use super::memory::Memory;
use super::{
    ELEMENTS, Outcome, TestMask, agrees, exact, in_all_orders, ok, product, run, same, tolerance, transposed,
    uniform,
};

const SCALE: f32 = 2.0;

/// The products of an adapter with activations and all its gradients.
pub(crate) fn lora(emulator: &Emulator) -> Outcome {
    for element in ELEMENTS {
        for (samples, rows, in_features, out_features, rank) in [
            (2, 38, 136, 72, 16),
            (1, 300, 20, 13, 3),
            (0, 17, 300, 64, 40),
            (1, 1, 1, 1, 1),
            (1, 5, 530, 1100, 9),
        ] {
            one(emulator, element, samples, [rows, in_features, out_features, rank]).map_err(|error| {
                format!("{element:?} ({rows}, {in_features}, {out_features}), rank {rank}: {error}")
            })?;
        }
    }
    Ok(())
}

fn one(
    emulator: &Emulator,
    element: Element,
    samples: usize,
    [rows, in_features, out_features, rank]: [usize; 4],
) -> Outcome {
    let (x, y) = (uniform(element, 1, rows * in_features), uniform(element, 2, rows * out_features));
    let (dy, dx) = (uniform(element, 3, rows * out_features), uniform(element, 4, rows * in_features));
    // In the type of activations, so that rounding them changes nothing.
    let (a, b) = (uniform(element, 5, rank * in_features), uniform(element, 6, out_features * rank));
    let mask = TestMask::new(samples, rows, in_features, 0.1);
    let [xs, dys] = [&x, &dy].map(|values| Memory::of(element, values));
    let [a_memory, b_memory] = [&a, &b].map(|values| Memory::of(Element::F32, values));
    // Where there is a single element, its sum with a bias would cancel.
    let bias = (rank > 3).then(|| uniform(Element::F32, 7, out_features));
    let bias_memory = bias.as_ref().map(|bias| Memory::of(Element::F32, bias));
    let lora = Lora {
        a: a_memory.pointer(),
        b: b_memory.pointer(),
        bias: bias_memory.as_ref().map_or(Pointer::NULL, Memory::pointer),
        rows,
        in_features,
        out_features,
        rank,
        scale: SCALE,
        mask: mask.mask,
    };
    let results = in_all_orders(|seed| {
        let (ys, dxs) = (Memory::of(element, &y), Memory::of(element, &dx));
        let [hidden, dhidden] = [(); 2].map(|()| Memory::unwritten(4 * rows * rank));
        let (da, db) =
            (Memory::unwritten(4 * rank * in_features), Memory::unwritten(4 * out_features * rank));
        let partial = Memory::unwritten(4 * lora.partial_len());
        let gradients = LoraGradients {
            xs: xs.pointer(),
            hidden: hidden.pointer(),
            dys: dys.pointer(),
            dhidden: dhidden.pointer(),
            partial: partial.pointer(),
            da: da.pointer(),
            db: db.pointer(),
        };
        let mut launches = vec![
            ok(lora.forward(element, xs.pointer(), hidden.pointer(), ys.pointer()))?,
            ok(lora.backward(element, dys.pointer(), dhidden.pointer(), dxs.pointer()))?,
        ];
        launches.extend(ok(lora.gradients(element, &gradients))?);
        run(emulator, &launches, seed)?;
        partial.f32s()?;
        // Without a gradient of the input, `dh` is the same.
        let alone = Memory::unwritten(4 * rows * rank);
        let launch = ok(lora.backward(element, dys.pointer(), alone.pointer(), Pointer::NULL))?;
        run(emulator, &[launch], seed)?;
        same("dh alone", &alone.f32s()?, &dhidden.f32s()?)?;
        let mut results = vec![ys.values(element)?, dxs.values(element)?];
        for memory in [hidden, dhidden, da, db] {
            results.push(memory.f32s()?);
        }
        Ok(results)
    })?;

    let expected = exact_results(
        [&x, &y, &dy, &dx, &a, &b],
        bias.as_deref(),
        &mask,
        [rows, in_features, out_features, rank],
    );
    for ((name, got), exact) in ["ys", "dxs", "h", "dh", "dA", "dB"].into_iter().zip(&results).zip(expected) {
        agrees(name, got, &exact, tolerance(element, 3e-6, 2e-2))?;
    }
    Ok(())
}

/// `ys`, `dxs`, `h`, `dh`, `dA` and `dB` in f64.
fn exact_results(
    [x, y, dy, dx, a, b]: [&[f32]; 6],
    bias: Option<&[f32]>,
    mask: &TestMask,
    [rows, in_features, out_features, rank]: [usize; 4],
) -> [Vec<f64>; 6] {
    let factors = exact(&mask.factors(rows, in_features));
    let scale = f64::from(SCALE);
    let scaled = |values: Vec<f64>| values.into_iter().map(|value| scale * value).collect::<Vec<f64>>();
    let added = |base: &[f32], delta: Vec<f64>| -> Vec<f64> {
        delta.iter().zip(base).map(|(delta, base)| f64::from(*base) + delta).collect()
    };
    let (a, b, dy) = (exact(a), exact(b), exact(dy));
    let dropped: Vec<f64> = exact(x).iter().zip(&factors).map(|(x, factor)| x * factor).collect();
    let h = product(&dropped, &a, in_features);
    let mut ys = added(y, scaled(product(&h, &b, rank)));
    for row in ys.chunks_exact_mut(out_features) {
        row.iter_mut().zip(bias.unwrap_or_default()).for_each(|(y, bias)| *y += f64::from(*bias));
    }
    let dh = scaled(product(&dy, &transposed(&b, rank), out_features));
    let through_a = product(&dh, &transposed(&a, in_features), rank);
    let dxs = added(dx, through_a.iter().zip(&factors).map(|(d, factor)| d * factor).collect());
    let da = product(&transposed(&dh, rank), &transposed(&dropped, in_features), rows);
    let db = scaled(product(&transposed(&dy, out_features), &transposed(&h, rank), rows));
    [ys, dxs, h, dh, da, db]
}

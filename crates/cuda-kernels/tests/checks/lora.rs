use cuda_kernels::emulation::Emulator;
use cuda_kernels::{Element, Lora, LoraGradients, Pointer};

use super::memory::Memory;
use super::{ELEMENTS, Outcome, TestMask, agrees, exact, in_all_orders, ok, run, same, tolerance, uniform};
use crate::reference::lora::{Lora as Reference, with_bias};
use crate::reference::plus;

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

    let [x, y, dy, dx, a, b] = [&x, &y, &dy, &dx, &a, &b].map(|values| exact(values));
    let factors = exact(&mask.factors(rows, in_features));
    let scale = f64::from(SCALE);
    let reference =
        Reference { a: &a, b: &b, factors: &factors, scale, rows, in_features, out_features, rank };
    let h = reference.hidden(&x);
    let base = bias.map_or(y.clone(), |bias| with_bias(&y, &exact(&bias)));
    let gradients = reference.gradients(&x, &dy);
    let ys = plus(&base, &reference.added(&h));
    let dxs = plus(&dx, &gradients.xs);
    let expected = [ys, dxs, h, gradients.hidden, gradients.a, gradients.b];
    let names = ["ys", "dxs", "h", "dh", "dA", "dB"];
    for ((name, got), expected) in names.into_iter().zip(&results).zip(expected) {
        agrees(name, got, &expected, tolerance(element, 3e-6, 2e-2))?;
    }
    Ok(())
}

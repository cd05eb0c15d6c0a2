use cuda_kernels::emulation::Emulator;
use cuda_kernels::{Element, Int8Linear, Pointer};

use super::memory::Memory;
use super::{
    ELEMENTS, Outcome, agrees, exact, in_all_orders, ok, product, run, tolerance, transposed, uniform,
};

/// Products with a weight in int8, forward and backward.
pub(crate) fn int8(emulator: &Emulator) -> Outcome {
    for element in ELEMENTS {
        for (rows, in_features, out_features, with_bias) in
            [(70, 144, 80, true), (3, 65, 13, false), (1, 1, 1, true), (64, 64, 64, false)]
        {
            one(emulator, element, [rows, in_features, out_features], with_bias)
                .map_err(|error| format!("{element:?} ({rows}, {in_features}, {out_features}): {error}"))?;
        }
    }
    Ok(())
}

fn one(
    emulator: &Emulator,
    element: Element,
    [rows, in_features, out_features]: [usize; 3],
    with_bias: bool,
) -> Outcome {
    let q: Vec<i8> = uniform(Element::F32, 1, in_features * out_features)
        .into_iter()
        .map(|value| (value * 127.5).clamp(-127.0, 127.0).round() as i8)
        .collect();
    // Powers of two, so that bf16 holds the scaled weight exactly.
    let scales: Vec<f32> = (0..out_features).map(|i| 2f32.powi(-7 - (i % 3) as i32)).collect();
    let (x, dy) = (uniform(element, 2, rows * in_features), uniform(element, 3, rows * out_features));
    let b = uniform(element, 4, out_features);
    let weight = Memory::of_bytes(&q.iter().map(|q| *q as u8).collect::<Vec<u8>>());
    let scale_memory = Memory::of(Element::F32, &scales);
    let [xs, dys, bias] = [&x, &dy, &b].map(|values| Memory::of(element, values));
    let linear = Int8Linear {
        weight: weight.pointer(),
        scales: scale_memory.pointer(),
        bias: if with_bias { bias.pointer() } else { Pointer::NULL },
        in_features,
        out_features,
    };
    let results = in_all_orders(|seed| {
        let ys = Memory::unwritten_elements(element, rows * out_features);
        let dxs = Memory::unwritten_elements(element, rows * in_features);
        let forward = ok(linear.forward(element, xs.pointer(), ys.pointer(), rows))?;
        let backward = ok(linear.backward(element, dys.pointer(), dxs.pointer(), rows))?;
        run(emulator, &[forward, backward], seed)?;
        Ok(vec![ys.values(element)?, dxs.values(element)?])
    })?;
    let w: Vec<f64> =
        q.iter().enumerate().map(|(i, q)| f64::from(*q) * f64::from(scales[i / in_features])).collect();
    let mut ys = product(&exact(&x), &w, in_features);
    if with_bias {
        ys.iter_mut().zip(b.iter().cycle()).for_each(|(y, b)| *y += f64::from(*b));
    }
    let dxs = product(&exact(&dy), &transposed(&w, in_features), out_features);
    agrees("ys", &results[0], &ys, tolerance(element, 2e-6, 5e-3))?;
    agrees("dxs", &results[1], &dxs, tolerance(element, 2e-6, 5e-3))
}

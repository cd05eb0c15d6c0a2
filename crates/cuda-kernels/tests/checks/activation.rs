use cuda_kernels::emulation::Emulator;
use cuda_kernels::{ActivationKind, BiasActivation, Element, Pointer};

use super::memory::Memory;
use super::{ELEMENTS, Outcome, agrees_within, in_all_orders, ok, run, tolerance, uniform};

/// Bias + activation and its gradient, over values from far below to far above 0.
pub(crate) fn activation(emulator: &Emulator) -> Outcome {
    use ActivationKind::{Gelu, GeluTanh, Identity, QuickGelu, Silu};
    for element in ELEMENTS {
        for activation in [Gelu, QuickGelu, GeluTanh, Silu, Identity] {
            for (rows, columns, with_bias) in [(3, 300, true), (2, 64, false), (5, 7, true)] {
                let mut x = uniform(element, 1, rows * columns);
                x.iter_mut().zip([1.0, 8.0, 0.25, 64.0].iter().cycle()).for_each(|(x, factor)| *x *= factor);
                (x[0], x[1]) = (-1000.0, 1000.0);
                let [b, dy] = [uniform(Element::F32, 2, columns), uniform(element, 3, rows * columns)];
                let [xs, dys] = [&x, &dy].map(|values| Memory::of(element, values));
                let bias = Memory::of(Element::F32, &b);
                let bias = if with_bias { bias.pointer() } else { Pointer::NULL };
                let operation = BiasActivation { xs: xs.pointer(), bias, rows, columns, activation };
                let results = in_all_orders(|seed| {
                    let [ys, dxs] = [(); 2].map(|()| Memory::unwritten_elements(element, x.len()));
                    let forward = ok(operation.forward(element, ys.pointer()))?;
                    let backward = ok(operation.backward(element, dys.pointer(), dxs.pointer()))?;
                    run(emulator, &[forward, backward], seed)?;
                    Ok(vec![ys.values(element)?, dxs.values(element)?])
                })?;
                let at = |i: usize| f64::from(x[i]) + if with_bias { f64::from(b[i % columns]) } else { 0.0 };
                for i in 0..x.len() {
                    let (y, slope) = value_and_slope(activation, at(i));
                    let tolerance = tolerance(element, 2e-6, 4e-3);
                    // Each element by itself, as they differ in size.
                    let name = format!("{activation:?} of {}", at(i));
                    agrees_within(&name, &results[0][i..=i], &[y], tolerance * y.abs().max(1.0))?;
                    agrees_within(&name, &results[1][i..=i], &[f64::from(dy[i]) * slope], tolerance)?;
                }
            }
        }
    }
    Ok(())
}

/// The value, and the slope by a central difference of the exact function.
fn value_and_slope(activation: ActivationKind, x: f64) -> (f64, f64) {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let f = |x: f64| match activation {
        ActivationKind::Gelu => 0.5 * x * erfc(-x / 2f64.sqrt()),
        ActivationKind::QuickGelu => x * sigmoid(1.702 * x),
        ActivationKind::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        ActivationKind::Silu => x * sigmoid(x),
        ActivationKind::Identity => x,
    };
    let h = 1e-5;
    (f(x), (f(x + h) - f(x - h)) / (2.0 * h))
}

/// The complementary error function, as the integral of the density from 0 by Simpson's rule.
fn erfc(x: f64) -> f64 {
    let end = x.abs().min(8.0);
    let steps = 4000;
    let density = |t: f64| (-t * t).exp() * 2.0 / std::f64::consts::PI.sqrt();
    let h = end / f64::from(steps);
    let weight = |i: i32| {
        if i == 0 || i == steps {
            1.0
        } else if i % 2 == 1 {
            4.0
        } else {
            2.0
        }
    };
    let integral = (0..=steps).map(|i| weight(i) * density(f64::from(i) * h)).sum::<f64>() * h / 3.0;
    if x < 0.0 { 1.0 + integral } else { 1.0 - integral }
}

use cuda_kernels::emulation::Emulator;
use cuda_kernels::{Element, Pointer, ResidualNorm, ResidualNormGradient};

use super::memory::Memory;
use super::{
    ELEMENTS, Outcome, TestMask, agrees, exact, in_all_orders, ok, rounded, run, same, tolerance, uniform,
};
use crate::reference::residual_norm::{norm, norm_gradient};
use crate::reference::{plus, times};

const EPS: f32 = 1e-5;

/// Which optional arguments are given.
#[derive(Clone, Copy)]
struct Options {
    samples: usize,
    residual: bool,
    direct: bool,
}

/// Residual + dropout + layer norm, forward and backward.
pub(crate) fn residual_norm(emulator: &Emulator) -> Outcome {
    let all = Options { samples: 1, residual: true, direct: true };
    let norm_only = Options { samples: 0, residual: false, direct: false };
    for element in ELEMENTS {
        for (rows, features) in [(3, 768), (2, 7), (4, 300), (1, 4096), (2, 1024), (2, 1)] {
            for options in [all, norm_only] {
                one(emulator, element, rows, features, options)
                    .map_err(|error| format!("{element:?} ({rows}, {features}): {error}"))?;
            }
        }
    }
    Ok(())
}

fn one(emulator: &Emulator, element: Element, rows: usize, features: usize, options: Options) -> Outcome {
    let count = rows * features;
    let [x, r, dy, direct] = [1, 2, 3, 4].map(|seed| uniform(element, seed, count));
    let [w, b] = [5, 6].map(|seed| uniform(Element::F32, seed, features));
    let mask = TestMask::new(options.samples, rows, features, 0.25);
    let [xs, residual, dys, dsums_direct] = [&x, &r, &dy, &direct].map(|values| Memory::of(element, values));
    let [weight, bias] = [&w, &b].map(|values| Memory::of(Element::F32, values));
    let given = |memory: &Memory, is: bool| if is { memory.pointer() } else { Pointer::NULL };

    let results = in_all_orders(|seed| {
        let [sums, ys, dsums, dxs] = [(); 4].map(|()| Memory::unwritten_elements(element, count));
        let statistics = Memory::unwritten(8 * rows);
        let forward = ResidualNorm {
            xs: xs.pointer(),
            residual: given(&residual, options.residual),
            weight: weight.pointer(),
            bias: bias.pointer(),
            sums: sums.pointer(),
            ys: ys.pointer(),
            statistics: statistics.pointer(),
            rows,
            features,
            eps: EPS,
            mask: mask.mask,
        };
        let backward = ResidualNormGradient {
            sums: sums.pointer(),
            statistics: statistics.pointer(),
            weight: weight.pointer(),
            dys: dys.pointer(),
            dsums_direct: given(&dsums_direct, options.direct),
            dsums: dsums.pointer(),
            dxs: dxs.pointer(),
            rows,
            features,
            mask: mask.mask,
        };
        run(emulator, &[ok(forward.launch(element))?, ok(backward.launch(element))?], seed)?;
        [sums, ys, dsums, dxs].iter().map(|memory| memory.values(element)).collect()
    })?;
    let [got_sums, got_ys, got_dsums, got_dxs] = &results[..] else { return Err("four results".to_owned()) };

    let factors = mask.factors(rows, features);
    let with_residual = if options.residual { r } else { vec![0.0; count] };
    let sums: Vec<f32> = (0..count).map(|i| rounded(element, with_residual[i] + factors[i] * x[i])).collect();
    let with_direct = if options.direct { direct } else { vec![0.0; count] };
    let (exact_sums, w, eps) = (exact(&sums), exact(&w), f64::from(EPS));
    let ys = norm(&exact_sums, [&w, &exact(&b)], eps);
    let dsums = plus(&norm_gradient(&exact_sums, &w, eps, &exact(&dy)), &exact(&with_direct));
    let dxs = times(&dsums, &exact(&factors));
    same("sums", got_sums, &sums)?;
    // A single value is its own mean: what remains is rounding, times 1 / sqrt(eps).
    let tolerance = if features == 1 { 1e-2 } else { tolerance(element, 2e-6, 5e-3) };
    agrees("ys", got_ys, &ys, tolerance)?;
    agrees("dsums", got_dsums, &dsums, tolerance)?;
    agrees("dxs", got_dxs, &dxs, tolerance)
}

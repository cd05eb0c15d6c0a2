use cuda_kernels::emulation::Emulator;
use cuda_kernels::{CrossEntropy, Element, LossSum, Pointer};

use super::memory::Memory;
use super::{ELEMENTS, Outcome, agrees, exact, in_all_orders, ok, run, same, tolerance, uniform};
use crate::reference::cross_entropy::CrossEntropy as Reference;

/// Losses, their sum, and gradients in place of logits.
pub(crate) fn cross_entropy(emulator: &Emulator) -> Outcome {
    for element in ELEMENTS {
        for (rows, vocabulary, stride) in [(3, 2003, 2008), (2, 5, 5), (4, 513, 520), (1, 1, 8)] {
            // Large logits overflow without the largest being subtracted.
            let mut z = uniform(element, 1, rows * stride);
            z.iter_mut().for_each(|z| *z *= 128.0);
            let mut bias = uniform(Element::F32, 2, vocabulary);
            bias.iter_mut().for_each(|bias| *bias *= 64.0);
            for (smoothing, bias) in [(0.0, None), (0.1, None), (0.0, Some(&bias[..])), (0.1, Some(&bias))] {
                let logits = Logits { element, z: &z, bias, rows, vocabulary, stride };
                logits.check(emulator, smoothing)?;
            }
        }
    }
    Ok(())
}

struct Logits<'a> {
    element: Element,
    z: &'a [f32],
    bias: Option<&'a [f32]>,
    rows: usize,
    vocabulary: usize,
    stride: usize,
}

impl Logits<'_> {
    fn check(&self, emulator: &Emulator, label_smoothing: f32) -> Outcome {
        let &Self { element, z, bias, rows, vocabulary, stride } = self;
        let mut targets: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocabulary) as u32).collect();
        // The second row has no target.
        if let Some(target) = targets.get_mut(1) {
            *target = CrossEntropy::NO_TARGET;
        }
        let (exact_bias, target_memory) = (bias.map(exact), Memory::of_u32(&targets));
        let bias = bias.map(|bias| Memory::of(Element::F32, bias));
        let reference = Reference {
            targets: &targets,
            none: CrossEntropy::NO_TARGET,
            vocabulary,
            stride,
            bias: exact_bias.as_deref(),
            smoothing: f64::from(label_smoothing),
        };
        let (losses, gradients) = (reference.losses(&exact(z)), reference.gradients(&exact(z)));
        for gradient in [true, false] {
            let results = in_all_orders(|seed| {
                let (logits, losses) = (Memory::of(element, z), Memory::unwritten(4 * rows));
                let sum = Memory::unwritten(4);
                let loss = CrossEntropy {
                    logits: logits.pointer(),
                    bias: bias.as_ref().map_or(Pointer::NULL, Memory::pointer),
                    targets: target_memory.pointer(),
                    losses: losses.pointer(),
                    rows,
                    vocabulary,
                    stride,
                    label_smoothing,
                    gradient,
                };
                let of_all = LossSum { losses: losses.pointer(), sum: sum.pointer(), count: rows };
                run(emulator, &[ok(loss.launch(element))?, ok(of_all.launch())?], seed)?;
                Ok(vec![losses.f32s()?, sum.f32s()?, logits.values(element)?])
            })?;
            agrees("losses", &results[0], &losses, 1e-6)?;
            agrees("sum", &results[1], &[losses.iter().sum()], 1e-6)?;
            if gradient {
                agrees("gradients", &results[2], &gradients, tolerance(element, 2e-5, 5e-3))?;
            } else {
                same("logits", &results[2], z)?;
            }
        }
        Ok(())
    }
}

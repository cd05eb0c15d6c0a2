use cuda_kernels::emulation::Emulator;
use cuda_kernels::{CrossEntropy, Element, LossSum, Pointer};

use super::memory::Memory;
use super::{ELEMENTS, Outcome, agrees, in_all_orders, ok, run, same, tolerance, uniform};

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
        let (target_memory, bias) =
            (Memory::of_u32(&targets), bias.map(|bias| Memory::of(Element::F32, bias)));
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
            let (losses, gradients) = self.reference(&targets, f64::from(label_smoothing));
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

    fn reference(&self, targets: &[u32], smoothing: f64) -> (Vec<f64>, Vec<f64>) {
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for (row, target) in self.z.chunks(self.stride).zip(targets) {
            if *target == CrossEntropy::NO_TARGET {
                losses.push(0.0);
                gradients.extend(vec![0.0; self.stride]);
                continue;
            }
            let bias = |i: usize| self.bias.map_or(0.0, |bias| f64::from(bias[i]));
            let row: Vec<f64> = (0..self.vocabulary).map(|i| f64::from(row[i]) + bias(i)).collect();
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = largest + row.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
            let mean = row.iter().sum::<f64>() / self.vocabulary as f64;
            losses.push(log_sum - (1.0 - smoothing) * row[*target as usize] - smoothing * mean);
            let of = |i: usize| {
                let on_target = if i == *target as usize { 1.0 - smoothing } else { 0.0 };
                (row[i] - log_sum).exp() - on_target - smoothing / self.vocabulary as f64
            };
            gradients.extend((0..self.stride).map(|i| if i < self.vocabulary { of(i) } else { 0.0 }));
        }
        (losses, gradients)
    }
}

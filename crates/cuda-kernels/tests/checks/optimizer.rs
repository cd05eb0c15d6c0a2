use cuda_kernels::emulation::Emulator;
use cuda_kernels::{AdamW, Element, Launch, OptimizerTensor, Pointer, TensorTable};

use super::memory::Memory;
use super::{Outcome, in_all_orders, ok, run, same, uniform};

const COUNTS: [usize; 6] = [4096, 5, 9001, 1, 4097, 0];
const BETAS: [f64; 2] = [0.9, 0.999];
const SCALE: f32 = 1.0 / 37.0;

/// Norms, clipping and the update of parameters and moments, bit for bit those of the CPU.
pub(crate) fn optimizer(emulator: &Emulator) -> Outcome {
    // 0.1 is another number in f32.
    for max_norm in [1.0, 0.1, 1e6, 0.0] {
        one(emulator, max_norm).map_err(|error| format!("max_norm {max_norm}: {error}"))?;
    }
    Ok(())
}

/// More losses than a block has threads.
fn losses() -> Vec<f32> {
    uniform(Element::F32, 99, 300)
}

/// A step with a gradient or a loss that is infinite or NaN changes nothing.
pub(crate) fn not_finite(emulator: &Emulator) -> Outcome {
    for wrong in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        unchanged(emulator, &Step { wrong: Some(wrong), ..Step::new(1.0) })?;
        for place in [0, 299] {
            let mut losses = losses();
            losses[place] = wrong;
            unchanged(emulator, &Step { losses, ..Step::new(1.0) })?;
        }
    }
    Ok(())
}

fn unchanged(emulator: &Emulator, given: &Step) -> Outcome {
    let results = in_all_orders(|seed| step(emulator, given, seed))?;
    if results[1][0].is_finite() {
        return Err(format!("the norm of a step that is not finite is {}", results[1][0]));
    }
    for index in 0..COUNTS.len() {
        let [parameter, _, exp_avg, exp_avg_sq] = values(index);
        for (tensor, expected) in [(0, parameter), (2, exp_avg), (3, exp_avg_sq)] {
            same(&format!("tensor {index}"), &results[2 + 4 * index + tensor], &expected)?;
        }
    }
    Ok(())
}

/// Gradients times a factor, in memory that was not written.
pub(crate) fn scaled_gradients(emulator: &Emulator) -> Outcome {
    let unwritten = |index: usize| Memory::unwritten(4 * COUNTS[index]);
    let results = combined(emulator, &unwritten, AdamW::scaled)?;
    for (index, result) in results.iter().enumerate() {
        let expected: Vec<f32> = values(index)[1].iter().map(|g| g * SCALE).collect();
        same(&format!("gradient {index}"), result, &expected)?;
    }
    Ok(())
}

/// Gradients that are added to sums, without the factor.
pub(crate) fn added_gradients(emulator: &Emulator) -> Outcome {
    let sums = |index: usize| Memory::of(Element::F32, &values(index)[0]);
    let results = combined(emulator, &sums, AdamW::added)?;
    for (index, result) in results.iter().enumerate() {
        let [sums, gradients, ..] = values(index);
        let expected: Vec<f32> = sums.iter().zip(&gradients).map(|(sum, g)| sum + g).collect();
        same(&format!("sum {index}"), result, &expected)?;
    }
    Ok(())
}

/// The memory `to` of each tensor after a launch on all gradients.
fn combined(
    emulator: &Emulator,
    to: &dyn Fn(usize) -> Memory,
    launch: fn(&AdamW) -> cuda_kernels::Result<Launch>,
) -> Result<Vec<Vec<f32>>, String> {
    in_all_orders(|seed| {
        let indices = 0..COUNTS.len();
        let given: Vec<Memory> =
            indices.clone().map(|index| Memory::of(Element::F32, &values(index)[1])).collect();
        let to: Vec<Memory> = indices.clone().map(to).collect();
        let tensors: Vec<OptimizerTensor> = indices
            .map(|index| {
                let (gradient, to) = (given[index].pointer(), to[index].pointer());
                OptimizerTensor { scale: SCALE, ..OptimizerTensor::of_gradient(gradient, COUNTS[index], to) }
            })
            .collect();
        let table = ok(TensorTable::new(&tensors))?;
        let (table_memory, chunks) = (Memory::of_u64(&table.tensors), Memory::of_u32(&table.chunks));
        let adamw = AdamW {
            tensors: table_memory.pointer(),
            chunks: chunks.pointer(),
            squares: Pointer::NULL,
            norms: Pointer::NULL,
            result: Pointer::NULL,
            losses: Pointer::NULL,
            loss_values: Pointer::NULL,
            tensor_count: tensors.len(),
            chunk_count: table.chunks.len(),
            max_norm: 0.0,
            betas: BETAS,
            epsilon: 1e-8,
        };
        run(emulator, &[ok(launch(&adamw))?], seed)?;
        to.iter().map(Memory::f32s).collect()
    })
}

/// Parameter, gradient and moments of a tensor.
fn values(index: usize) -> [Vec<f32>; 4] {
    let of = |seed: u64| uniform(Element::F32, 10 * index as u64 + seed, COUNTS[index]);
    let squares = of(4).into_iter().map(|v| v * v).collect();
    [of(1), of(2).into_iter().map(|g| 100.0 * g).collect(), of(3), squares]
}

fn scalars(index: usize) -> [f32; 3] {
    let rate = 1e-3 * (index + 1) as f64;
    let t = 7.0;
    [
        (1.0 - rate * 0.01) as f32,
        (rate / (1.0 - BETAS[0].powf(t))) as f32,
        (1.0 - BETAS[1].powf(t)).sqrt() as f32,
    ]
}

/// A step on the tensors above.
struct Step {
    max_norm: f64,
    /// The value of one gradient, instead of its own.
    wrong: Option<f32>,
    losses: Vec<f32>,
}

impl Step {
    fn new(max_norm: f64) -> Self {
        Self { max_norm, wrong: None, losses: Vec::new() }
    }
}

/// The norms of all tensors, the norm and the coefficient of clipping, all tensors after a step whose launches run in the order of a
/// seed, and the losses.
fn step(emulator: &Emulator, given: &Step, seed: u32) -> Result<Vec<Vec<f32>>, String> {
    let Step { max_norm, wrong, ref losses } = *given;
    let given = |index: usize| {
        let mut values = values(index);
        if let Some(wrong) = wrong.filter(|_| index == 2) {
            values[1][4100] = wrong;
        }
        values.map(|values| Memory::of(Element::F32, &values))
    };
    let memories: Vec<[Memory; 4]> = (0..COUNTS.len()).map(given).collect();
    let tensors: Vec<OptimizerTensor> = memories
        .iter()
        .enumerate()
        .map(|(index, memory)| {
            let [parameter, gradient, exp_avg, exp_avg_sq] = memory.each_ref().map(Memory::pointer);
            let [decay, step_size, root_correction] = scalars(index);
            let count = COUNTS[index];
            let moments = (exp_avg, exp_avg_sq);
            OptimizerTensor {
                parameter,
                gradient,
                exp_avg: moments.0,
                exp_avg_sq: moments.1,
                count,
                decay,
                step_size,
                root_correction,
                scale: SCALE,
            }
        })
        .collect();
    let table = ok(TensorTable::new(&tensors))?;
    let (table_memory, chunks) = (Memory::of_u64(&table.tensors), Memory::of_u32(&table.chunks));
    let squares = Memory::unwritten(8 * table.chunks.len());
    let norms = Memory::unwritten(8 * tensors.len());
    let result = Memory::unwritten(16);
    let each: Vec<Memory> = losses.iter().map(|loss| Memory::of(Element::F32, &[*loss])).collect();
    let addresses: Vec<Pointer> = each.iter().map(Memory::pointer).collect();
    let loss_table = Memory::of_u64(&TensorTable::losses(&addresses, addresses.len() + 2));
    let loss_values = Memory::unwritten(8 * losses.len());
    let adamw = AdamW {
        tensors: table_memory.pointer(),
        chunks: chunks.pointer(),
        squares: squares.pointer(),
        norms: norms.pointer(),
        result: result.pointer(),
        losses: if losses.is_empty() { Pointer::NULL } else { loss_table.pointer() },
        loss_values: loss_values.pointer(),
        tensor_count: tensors.len(),
        chunk_count: table.chunks.len(),
        max_norm,
        betas: BETAS,
        epsilon: 1e-8,
    };
    let [of_chunks, of_all] = ok(adamw.norms())?;
    run(emulator, &[of_chunks, of_all, ok(adamw.step())?], seed)?;
    let (norms, global) = (norms.f64s()?, result.f64s()?[0]);
    let expected = norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
    let finite = wrong.is_none() && losses.iter().all(|loss| loss.is_finite());
    if global.to_bits() != expected.to_bits() && finite {
        return Err(format!("the norm is {global:e}; that of the tensors' norms is {expected:e}"));
    }
    let mut results = vec![norms.into_iter().map(|norm| norm as f32).collect()];
    results.push(vec![global as f32, result.f32s()?[2]]);
    for memory in memories.iter().flatten() {
        results.push(memory.f32s()?);
    }
    results.push(loss_values.f64s()?.into_iter().map(|loss| loss as f32).collect());
    Ok(results)
}

fn one(emulator: &Emulator, max_norm: f64) -> Outcome {
    let given = Step { losses: losses(), ..Step::new(max_norm) };
    let results = in_all_orders(|seed| step(emulator, &given, seed))?;

    let scaled = |index: usize| -> Vec<f32> { values(index)[1].iter().map(|g| g * SCALE).collect() };
    // An empty sum is -0.0 in Rust.
    let square = |g: &f32| f64::from(*g) * f64::from(*g);
    let squares: Vec<f64> =
        (0..COUNTS.len()).map(|index| 0.0 + scaled(index).iter().map(square).sum::<f64>()).collect();
    let norm = squares.iter().sum::<f64>().sqrt();
    let coefficient = max_norm / (norm + 1e-6);
    let clip = if max_norm > 0.0 && coefficient < 1.0 { coefficient as f32 } else { 1.0 };
    same("norms", &results[0], &squares.iter().map(|sum| sum.sqrt() as f32).collect::<Vec<f32>>())?;
    same("norm and coefficient", &results[1], &[norm as f32, clip])?;
    same("losses", &results[2 + 4 * COUNTS.len()], &losses())?;
    let (beta1, beta2) = (BETAS[0] as f32, BETAS[1] as f32);
    let (rest1, rest2) = ((1.0 - BETAS[0]) as f32, (1.0 - BETAS[1]) as f32);
    for index in 0..COUNTS.len() {
        let [mut parameter, gradient, mut exp_avg, mut exp_avg_sq] = values(index);
        let [decay, step_size, root_correction] = scalars(index);
        for i in 0..COUNTS[index] {
            let g = scaled(index)[i] * clip;
            let (p, m, v) = (&mut parameter[i], &mut exp_avg[i], &mut exp_avg_sq[i]);
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            *p = decay * *p - step_size * *m / (v.sqrt() / root_correction + 1e-8);
        }
        let expected = [parameter, gradient, exp_avg, exp_avg_sq];
        for (name, (got, expected)) in ["parameter", "gradient", "exp_avg", "exp_avg_sq"]
            .iter()
            .zip(results[2 + 4 * index..].iter().zip(&expected))
        {
            same(&format!("{name} of tensor {index}"), got, expected)?;
        }
    }
    Ok(())
}

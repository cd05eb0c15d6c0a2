use cuda_kernels::emulation::Emulator;
use cuda_kernels::{
    Attention, AttentionGradients, AttentionSizes, AttentionStrides, Element, Pointer, VisibleKeys,
};

use super::memory::Memory;
use super::{ELEMENTS, Outcome, TestMask, agrees_within, exact, in_all_orders, ok, run, tolerance, uniform};
use crate::reference::attention::Attention as Reference;

struct Case {
    sizes: AttentionSizes,
    visible: VisibleKeys,
    /// Real keys of each sequence; empty if there is no padding.
    lengths: &'static [u32],
    /// Samples of the mask; 0 for no dropout.
    samples: usize,
    /// Whether queries, keys and values lie side by side.
    fused: bool,
}

fn cases() -> Vec<Case> {
    let prefix = |prefix, first_query| VisibleKeys::CausalAfterPrefix { prefix, first_query };
    let case = |[batch, queries, keys, heads, head_dim]: [usize; 5], visible, samples, fused| {
        let sizes = AttentionSizes { batch, queries, keys, heads, head_dim };
        Case { sizes, visible, lengths: &[], samples, fused }
    };
    let padded = |lengths, case| Case { lengths, ..case };
    vec![
        // GIT: image tokens, then text. More than one tile of both.
        case([2, 75, 75, 2, 64], prefix(50, 0), 2, false),
        // Its last layer: the queries are those of text.
        case([1, 9, 75, 1, 64], prefix(66, 66), 1, false),
        // A vision encoder with one projection.
        case([1, 66, 66, 2, 64], VisibleKeys::All, 0, true),
        // Cross-attention.
        case([2, 5, 131, 2, 40], VisibleKeys::All, 1, false),
        // Padding: more than a tile of it, and none.
        padded(&[131, 60], case([2, 5, 131, 2, 40], VisibleKeys::All, 1, false)),
        padded(&[7, 67, 66], case([3, 67, 67, 1, 13], prefix(0, 0), 3, true)),
        // Causal, heads that are no multiple of a vector.
        case([1, 67, 67, 3, 13], prefix(0, 0), 1, true),
        case([1, 3, 3, 1, 32], prefix(1, 0), 0, false),
        // The last query alone sees the last key, and both begin a tile.
        case([1, 65, 65, 1, 32], prefix(0, 0), 1, false),
        case([3, 1, 1, 1, 1], prefix(0, 0), 3, false),
    ]
}

pub(crate) fn attention_forward(emulator: &Emulator) -> Outcome {
    all(emulator, false)
}

pub(crate) fn attention_backward(emulator: &Emulator) -> Outcome {
    all(emulator, true)
}

fn all(emulator: &Emulator, backward: bool) -> Outcome {
    for element in ELEMENTS {
        for case in cases() {
            one(emulator, element, &case, backward)
                .map_err(|error| format!("{element:?} {:?} {:?}: {error}", case.sizes, case.visible))?;
        }
    }
    Ok(())
}

const NAMES: [&str; 4] = ["context", "dquery", "dkey", "dvalue"];

fn one(emulator: &Emulator, element: Element, case: &Case, backward: bool) -> Outcome {
    let s = case.sizes;
    let width = s.heads * s.head_dim;
    // Larger queries make the probabilities differ more.
    let mut q = uniform(element, 1, s.batch * s.queries * width);
    q.iter_mut().for_each(|q| *q *= 4.0);
    let [k, v] = [2, 3].map(|seed| uniform(element, seed, s.batch * s.keys * width));
    let dcontext = uniform(element, 4, q.len());
    let mask = TestMask::new(case.samples, (s.batch * s.heads) << 20, s.keys, 0.2);
    let inputs = Inputs::new(element, case.fused, [&q, &k, &v], width);
    let dcontexts = Memory::of(element, &dcontext);
    let lengths = Memory::of_u32(case.lengths);
    let key_lengths = if case.lengths.is_empty() { Pointer::NULL } else { lengths.pointer() };

    let results = in_all_orders(|seed| {
        let context = Memory::unwritten_elements(element, q.len());
        let [log_sums, means] = [(); 2].map(|()| Memory::unwritten(4 * s.batch * s.heads * s.queries));
        let gradients = inputs.like();
        let [query, key, value] = inputs.pointers();
        let [dquery, dkey, dvalue] = gradients.pointers();
        let attention = Attention {
            query,
            key,
            value,
            context: context.pointer(),
            log_sums: log_sums.pointer(),
            sizes: s,
            strides: inputs.strides(),
            visible: case.visible,
            key_lengths,
            batch_per_sample: s.batch / case.samples.max(1),
            mask: mask.mask,
        };
        let mut launches = vec![ok(attention.forward(element))?];
        if backward {
            let (dcontext, means) = (dcontexts.pointer(), means.pointer());
            let of = AttentionGradients { dcontext, means, dquery, dkey, dvalue };
            launches.extend(ok(attention.backward(element, &of))?);
        }
        run(emulator, &launches, seed)?;
        let mut results = vec![context.values(element)?];
        if backward {
            results.extend(gradients.values()?);
        }
        Ok(results)
    })?;
    let factors = |row| exact(&mask.row(row, s.keys));
    let reference = Reference { sizes: s, visible: case.visible, lengths: case.lengths, factors: &factors };
    let [q, k, v, dcontext] = [&q, &k, &v, &dcontext].map(|values| exact(values));
    let inputs = [&q[..], &k, &v];
    let mut expected = vec![reference.context(inputs)];
    if backward {
        expected.extend(reference.gradients(inputs, &dcontext));
    }
    // With a single key there is no gradient of the scores, and what is left of it is rounding.
    let least = [0f64, 1.0, 1.0, 0.0];
    for (i, (got, expected)) in results.iter().zip(&expected).enumerate() {
        let largest = expected.iter().fold(least[i], |largest, value| largest.max(value.abs()));
        agrees_within(NAMES[i], got, expected, largest * tolerance(element, 5e-6, 2e-2))?;
    }
    Ok(())
}

/// Queries, keys and values in three tensors, or in one with rows of all three.
struct Inputs {
    element: Element,
    memories: Vec<Memory>,
    counts: [usize; 3],
    width: usize,
}

impl Inputs {
    fn new(element: Element, fused: bool, values: [&Vec<f32>; 3], width: usize) -> Self {
        let memories = if fused {
            let rows = (0..values[0].len() / width)
                .flat_map(|row| values.iter().flat_map(move |values| &values[row * width..][..width]));
            vec![Memory::of(element, &rows.copied().collect::<Vec<f32>>())]
        } else {
            values.iter().map(|values| Memory::of(element, values)).collect()
        };
        Self { element, memories, counts: values.map(Vec::len), width }
    }

    fn like(&self) -> Self {
        let all: usize = self.counts.iter().sum();
        let counts = if self.fused() { vec![all] } else { self.counts.to_vec() };
        let unwritten = |count| Memory::unwritten_elements(self.element, count);
        let memories = counts.into_iter().map(unwritten).collect();
        Self { memories, ..*self }
    }

    fn fused(&self) -> bool {
        self.memories.len() == 1
    }

    fn pointers(&self) -> [cuda_kernels::Pointer; 3] {
        [0, 1, 2].map(|i| {
            if self.fused() {
                let bytes = i * self.width * self.element.size();
                cuda_kernels::Pointer(self.memories[0].pointer().0 + bytes as u64)
            } else {
                self.memories[i].pointer()
            }
        })
    }

    fn strides(&self) -> AttentionStrides {
        let stride = if self.fused() { 3 * self.width } else { self.width };
        AttentionStrides { query: stride, key: stride, value: stride }
    }

    fn values(&self) -> Result<Vec<Vec<f32>>, String> {
        if !self.fused() {
            return self.memories.iter().map(|memory| memory.values(self.element)).collect();
        }
        let all = self.memories[0].values(self.element)?;
        let of = |i: usize| {
            all.chunks(3 * self.width).flat_map(|row| row[i * self.width..][..self.width].to_vec()).collect()
        };
        Ok((0..3).map(of).collect())
    }
}

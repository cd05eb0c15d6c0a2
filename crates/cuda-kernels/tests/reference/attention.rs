use cuda_kernels::{AttentionSizes, VisibleKeys};

use super::{product, times, transposed};

/// Attention of some heads, with all scores at once.
pub(crate) struct Attention<'a> {
    pub(crate) sizes: AttentionSizes,
    pub(crate) visible: VisibleKeys,
    /// Real keys of each sequence; empty if there is no padding.
    pub(crate) lengths: &'a [u32],
    /// The factors of dropout for the probabilities of a row, which is `head << 20 | query`; heads are numbered through all sequences.
    pub(crate) factors: &'a dyn Fn(usize) -> Vec<f64>,
}

/// A head's probabilities, and the factors of their dropout, both `(queries, keys)`.
struct Probabilities {
    before_dropout: Vec<f64>,
    factors: Vec<f64>,
}

impl Attention<'_> {
    /// The context, from queries, keys and values, each `(batch, tokens, heads, head_dim)`.
    pub(crate) fn context(&self, inputs: [&[f64]; 3]) -> Vec<f64> {
        let s = self.sizes;
        let mut context = vec![0.0; inputs[0].len()];
        for head in 0..s.batch * s.heads {
            let [q, k, v] = inputs.map(|values| self.head(values, head));
            let p = self.probabilities(head, &q, &k);
            let dropped = times(&p.before_dropout, &p.factors);
            self.put(&mut context, head, &product(&dropped, &transposed(&v, s.head_dim), s.keys));
        }
        context
    }

    /// The gradients of queries, keys and values for the gradient of the context.
    pub(crate) fn gradients(&self, inputs: [&[f64]; 3], dcontext: &[f64]) -> [Vec<f64>; 3] {
        let s = self.sizes;
        let mut gradients = inputs.map(|values| vec![0.0; values.len()]);
        for head in 0..s.batch * s.heads {
            let [q, k, v] = inputs.map(|values| self.head(values, head));
            let dcontext = self.head(dcontext, head);
            let p = self.probabilities(head, &q, &k);
            let dropped = times(&p.before_dropout, &p.factors);
            let scale = 1.0 / (s.head_dim as f64).sqrt();
            let mut dscores = times(&product(&dcontext, &v, s.head_dim), &p.factors);
            for (row, p) in dscores.chunks_mut(s.keys).zip(p.before_dropout.chunks(s.keys)) {
                let mean: f64 = times(row, p).iter().sum();
                row.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean) * scale);
            }
            let of_head = [
                product(&dscores, &transposed(&k, s.head_dim), s.keys),
                product(&transposed(&dscores, s.keys), &transposed(&q, s.head_dim), s.queries),
                product(&transposed(&dropped, s.keys), &transposed(&dcontext, s.head_dim), s.queries),
            ];
            for (gradient, of_head) in gradients.iter_mut().zip(of_head) {
                self.put(gradient, head, &of_head);
            }
        }
        gradients
    }

    fn probabilities(&self, head: usize, q: &[f64], k: &[f64]) -> Probabilities {
        let s = self.sizes;
        let scale = 1.0 / (s.head_dim as f64).sqrt();
        let (mut before_dropout, mut factors) = (product(q, k, s.head_dim), Vec::new());
        for (query, row) in before_dropout.chunks_mut(s.keys).enumerate() {
            let visible = self.visible(head / s.heads, query);
            let largest = row[..visible].iter().copied().fold(f64::NEG_INFINITY, f64::max);
            for (key, x) in row.iter_mut().enumerate() {
                *x = if key < visible { ((*x - largest) * scale).exp() } else { 0.0 };
            }
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum);
            factors.extend((self.factors)((head << 20) + query));
        }
        Probabilities { before_dropout, factors }
    }

    /// How many keys a query sees.
    fn visible(&self, sequence: usize, query: usize) -> usize {
        let real = self.lengths.get(sequence).map_or(self.sizes.keys, |length| *length as usize);
        match self.visible {
            VisibleKeys::All => real,
            VisibleKeys::CausalAfterPrefix { prefix, first_query } => {
                (first_query + query + 1).max(prefix).min(real)
            }
        }
    }

    /// The places of a head's tokens in a tensor of `len` elements.
    fn places(&self, len: usize, head: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let s = self.sizes;
        let width = s.heads * s.head_dim;
        let tokens = len / (s.batch * width);
        let first = head / s.heads * tokens * width + head % s.heads * s.head_dim;
        (0..tokens).map(move |token| first + token * width..first + token * width + s.head_dim)
    }

    /// A head's part, `(tokens, head_dim)`.
    fn head(&self, values: &[f64], head: usize) -> Vec<f64> {
        self.places(values.len(), head).flat_map(|place| &values[place]).copied().collect()
    }

    fn put(&self, to: &mut [f64], head: usize, values: &[f64]) {
        for (place, token) in self.places(to.len(), head).zip(values.chunks(self.sizes.head_dim)) {
            to[place].copy_from_slice(token);
        }
    }
}

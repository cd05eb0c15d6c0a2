use super::{plus, product, times, transposed};

/// An adapter, and the mask of its input.
pub(crate) struct Lora<'a> {
    /// `(rank, in_features)`.
    pub(crate) a: &'a [f64],
    /// `(out_features, rank)`.
    pub(crate) b: &'a [f64],
    /// `(rows, in_features)`.
    pub(crate) factors: &'a [f64],
    pub(crate) scale: f64,
    pub(crate) rows: usize,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    pub(crate) rank: usize,
}

/// What an adapter adds to a gradient, and the gradients of its own matrices.
pub(crate) struct Gradients {
    pub(crate) hidden: Vec<f64>,
    pub(crate) xs: Vec<f64>,
    pub(crate) a: Vec<f64>,
    pub(crate) b: Vec<f64>,
}

impl Lora<'_> {
    /// `h = drop(xs) Aᵀ`.
    pub(crate) fn hidden(&self, xs: &[f64]) -> Vec<f64> {
        product(&times(xs, self.factors), self.a, self.in_features)
    }

    /// `s h Bᵀ`, which is added to the layer's result.
    pub(crate) fn added(&self, hidden: &[f64]) -> Vec<f64> {
        self.scaled(product(hidden, self.b, self.rank))
    }

    /// The gradients for the gradient `dys` of the layer's result.
    pub(crate) fn gradients(&self, xs: &[f64], dys: &[f64]) -> Gradients {
        let dropped = times(xs, self.factors);
        let hidden = self.scaled(product(dys, &transposed(self.b, self.rank), self.out_features));
        let through_a = product(&hidden, &transposed(self.a, self.in_features), self.rank);
        let h = self.hidden(xs);
        Gradients {
            xs: times(&through_a, self.factors),
            a: product(&transposed(&hidden, self.rank), &transposed(&dropped, self.in_features), self.rows),
            b: self.scaled(product(
                &transposed(dys, self.out_features),
                &transposed(&h, self.rank),
                self.rows,
            )),
            hidden,
        }
    }

    fn scaled(&self, values: Vec<f64>) -> Vec<f64> {
        values.into_iter().map(|value| self.scale * value).collect()
    }
}

/// `ys + bias` of rows as long as the bias.
pub(crate) fn with_bias(ys: &[f64], bias: &[f64]) -> Vec<f64> {
    plus(ys, &bias.repeat(ys.len() / bias.len()))
}

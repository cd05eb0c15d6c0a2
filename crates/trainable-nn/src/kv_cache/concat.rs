use candle_core::{Result, Tensor};

/// Keys and values that grow along one dimension and are concatenated at each addition.
#[derive(Debug, Clone)]
pub struct ConcatKvCache {
    k: Option<Tensor>,
    v: Option<Tensor>,
    dim: usize,
}

impl ConcatKvCache {
    /// An empty cache that grows along dimension `dim`.
    pub fn new(dim: usize) -> Self {
        Self { k: None, v: None, dim }
    }

    /// The length so far.
    pub fn current_seq_len(&self) -> usize {
        self.k.as_ref().and_then(|k| k.dims().get(self.dim).copied()).unwrap_or(0)
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.k.is_none()
    }

    /// The dimension that grows.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Appends to both, and returns their contents.
    ///
    /// # Errors
    /// If the other dimensions are not those of the contents.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let dim = self.dim;
        let appended = |before: &Option<Tensor>, new: &Tensor| match before {
            None => new.contiguous(),
            Some(before) => Tensor::cat(&[before, &new.contiguous()?], dim),
        };
        let (k, v) = (appended(&self.k, k)?, appended(&self.v, v)?);
        (self.k, self.v) = (Some(k.clone()), Some(v.clone()));
        Ok((k, v))
    }

    /// Empties the cache.
    pub fn reset(&mut self) {
        (self.k, self.v) = (None, None);
    }

    /// The keys.
    pub fn k(&self) -> Option<&Tensor> {
        self.k.as_ref()
    }

    /// The values.
    pub fn v(&self) -> Option<&Tensor> {
        self.v.as_ref()
    }

    /// The keys.
    pub fn k_mut(&mut self) -> Option<&mut Tensor> {
        self.k.as_mut()
    }

    /// The values.
    pub fn v_mut(&mut self) -> Option<&mut Tensor> {
        self.v.as_mut()
    }

    /// Keys and values.
    pub fn into_inner(self) -> Option<(Tensor, Tensor)> {
        self.k.zip(self.v)
    }
}

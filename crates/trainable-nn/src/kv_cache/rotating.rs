use candle_core::{Device, Result, Tensor, bail};

/// A tensor that holds the newest values along one dimension. Values that track gradients can be appended only
/// to an empty cache.
#[derive(Debug, Clone)]
pub struct RotatingCache(candle_nn::kv_cache::RotatingCache);

impl RotatingCache {
    /// An empty cache along dimension `dim` of the newest `max_seq_len` values.
    pub fn new(dim: usize, max_seq_len: usize) -> Self {
        Self(candle_nn::kv_cache::RotatingCache::new(dim, max_seq_len))
    }

    /// Where the next value is written.
    pub fn offset(&self) -> usize {
        self.0.offset()
    }

    /// The dimension of the values.
    pub fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Number of values appended so far.
    pub fn current_seq_len(&self) -> usize {
        self.0.current_seq_len()
    }

    /// Number of values that are kept.
    pub fn max_seq_len(&self) -> usize {
        self.0.max_seq_len()
    }

    /// The memory of the cache.
    pub fn all_data(&self) -> &Option<Tensor> {
        self.0.all_data()
    }

    /// The contents, without gradients.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn current_data(&self) -> Result<Option<Tensor>> {
        self.0.current_data()
    }

    /// Empties the cache.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Appends `src` and returns the values that a query may attend to.
    ///
    /// # Errors
    /// If its other dimensions are not those of the contents, or if it tracks gradients and the cache is not
    /// empty.
    pub fn append(&mut self, src: &Tensor) -> Result<Tensor> {
        if !src.track_op() {
            return self.0.append(src);
        }
        if self.current_seq_len() > 0 {
            bail!(
                "a rotating cache with {} values cannot keep gradients: clear it before a forward pass that trains",
                self.current_seq_len()
            )
        }
        // For an empty cache, the result is the appended tensor itself.
        self.0.append(&src.detach().contiguous()?)?;
        Ok(src.clone())
    }

    /// Positions of the contents after `seq_len` more values.
    pub fn positions(&self, seq_len: usize) -> Vec<usize> {
        self.0.positions(seq_len)
    }

    /// The mask of attention after `seq_len` more values: 1 where a query must not attend, u8 of shape
    /// `(seq_len, keys)`; `None` if `seq_len` is 1.
    ///
    /// # Errors
    /// If the device refuses the mask.
    pub fn attn_mask(&self, seq_len: usize, device: &Device) -> Result<Option<Tensor>> {
        self.0.attn_mask(seq_len, device)
    }
}

/// The newest keys and values. Tensors that track gradients can be appended only to an empty cache.
#[derive(Debug, Clone)]
pub struct RotatingKvCache {
    k: RotatingCache,
    v: RotatingCache,
}

impl RotatingKvCache {
    /// An empty cache along dimension `dim` of the newest `max_seq_len` keys and values.
    pub fn new(dim: usize, max_seq_len: usize) -> Self {
        Self { k: RotatingCache::new(dim, max_seq_len), v: RotatingCache::new(dim, max_seq_len) }
    }

    /// The keys' cache.
    pub fn k_cache(&self) -> &RotatingCache {
        &self.k
    }

    /// The values' cache.
    pub fn v_cache(&self) -> &RotatingCache {
        &self.v
    }

    /// The keys' cache.
    pub fn k_cache_mut(&mut self) -> &mut RotatingCache {
        &mut self.k
    }

    /// The values' cache.
    pub fn v_cache_mut(&mut self) -> &mut RotatingCache {
        &mut self.v
    }

    /// The keys, without gradients.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn k(&self) -> Result<Option<Tensor>> {
        self.k.current_data()
    }

    /// The values, without gradients.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn v(&self) -> Result<Option<Tensor>> {
        self.v.current_data()
    }

    /// Appends to both, and returns the keys and values that a query may attend to.
    ///
    /// # Errors
    /// As [`RotatingCache::append`].
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.k.append(k)?, self.v.append(v)?))
    }

    /// Where the next key is written.
    pub fn offset(&self) -> usize {
        self.k.offset()
    }

    /// Number of keys appended so far.
    pub fn current_seq_len(&self) -> usize {
        self.k.current_seq_len()
    }

    /// The mask of attention after `seq_len` more keys, as [`RotatingCache::attn_mask`].
    ///
    /// # Errors
    /// If the device refuses the mask.
    pub fn attn_mask(&self, seq_len: usize, device: &Device) -> Result<Option<Tensor>> {
        self.k.attn_mask(seq_len, device)
    }

    /// Positions of the contents after `seq_len` more keys.
    pub fn positions(&self, seq_len: usize) -> Vec<usize> {
        self.k.positions(seq_len)
    }

    /// Empties the cache.
    pub fn reset(&mut self) {
        self.k.reset();
        self.v.reset();
    }
}

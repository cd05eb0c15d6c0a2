use candle_core::{Result, Tensor};

/// A tensor that grows along one dimension.
#[derive(Debug, Clone)]
pub struct Cache {
    values: candle_nn::kv_cache::Cache,
    /// The contents with their graph, if a tensor that tracks gradients was appended.
    trained: Option<Tensor>,
}

impl Cache {
    /// An empty cache that grows along dimension `dim`, with room for `max_seq_len` at first.
    pub fn new(dim: usize, max_seq_len: usize) -> Self {
        Self { values: candle_nn::kv_cache::Cache::new(dim, max_seq_len), trained: None }
    }

    /// The dimension that grows.
    pub fn dim(&self) -> usize {
        self.values.dim()
    }

    /// The length so far.
    pub fn current_seq_len(&self) -> usize {
        match &self.trained {
            Some(trained) => trained.dims().get(self.dim()).copied().unwrap_or(0),
            None => self.values.current_seq_len(),
        }
    }

    /// The length that there is room for.
    pub fn max_seq_len(&self) -> usize {
        self.values.max_seq_len()
    }

    /// The memory of the cache, or the contents if they track gradients.
    pub fn all_data(&self) -> &Option<Tensor> {
        if self.trained.is_some() { &self.trained } else { self.values.all_data() }
    }

    /// The contents.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn current_data(&self) -> Result<Option<Tensor>> {
        if self.trained.is_some() { Ok(self.trained.clone()) } else { self.values.current_data() }
    }

    /// Empties the cache.
    pub fn reset(&mut self) {
        self.values.reset();
        self.trained = None;
    }

    /// Appends `src`.
    ///
    /// # Errors
    /// If its other dimensions are not those of the contents.
    pub fn append(&mut self, src: &Tensor) -> Result<()> {
        if !src.track_op() && self.trained.is_none() {
            // candle-nn's cache refuses the transposed tensors that several models append.
            return self.values.append(&src.contiguous()?);
        }
        self.trained = Some(match self.current_data()? {
            Some(before) if self.current_seq_len() > 0 => Tensor::cat(&[&before, src], self.dim())?,
            _ => src.clone(),
        });
        Ok(())
    }
}

/// Keys and values that grow along one dimension.
#[derive(Debug, Clone)]
pub struct KvCache {
    k: Cache,
    v: Cache,
}

impl KvCache {
    /// An empty cache that grows along dimension `dim`, with room for `max_seq_len` at first.
    pub fn new(dim: usize, max_seq_len: usize) -> Self {
        Self { k: Cache::new(dim, max_seq_len), v: Cache::new(dim, max_seq_len) }
    }

    /// The keys' cache.
    pub fn k_cache(&self) -> &Cache {
        &self.k
    }

    /// The values' cache.
    pub fn v_cache(&self) -> &Cache {
        &self.v
    }

    /// The keys' cache.
    pub fn k_cache_mut(&mut self) -> &mut Cache {
        &mut self.k
    }

    /// The values' cache.
    pub fn v_cache_mut(&mut self) -> &mut Cache {
        &mut self.v
    }

    /// The keys.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn k(&self) -> Result<Option<Tensor>> {
        self.k.current_data()
    }

    /// The values.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn v(&self) -> Result<Option<Tensor>> {
        self.v.current_data()
    }

    /// Appends to both, and returns their contents.
    ///
    /// # Errors
    /// If the other dimensions are not those of the contents.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        self.k.append(k)?;
        self.v.append(v)?;
        let contents = |cache: &Cache, appended: &Tensor| {
            Ok::<_, candle_core::Error>(cache.current_data()?.unwrap_or_else(|| appended.clone()))
        };
        Ok((contents(&self.k, k)?, contents(&self.v, v)?))
    }

    /// The length so far.
    pub fn current_seq_len(&self) -> usize {
        self.k.current_seq_len()
    }

    /// Empties the cache.
    pub fn reset(&mut self) {
        self.k.reset();
        self.v.reset();
    }
}

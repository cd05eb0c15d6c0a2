use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::decomposition::{qr, svd};
use crate::update::LowRank;
use crate::weights::AdapterWeights;
use crate::{Adapter, Adapters, Bias, Error, InitLoraWeights, LoraConfig, Modules, Result};

/// How [`Adapters::combine`] computes one adapter from several, with weights `w`. The names and results are
/// those of PEFT's `add_weighted_adapter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// `A = Σ ±√|w s| A` and `B = Σ √|w s| B`. Needs equal ranks, and is a rough approximation of the sum of the updates: it also
    /// multiplies each `B` by the `A` of the others.
    Linear,
    /// The sum of the updates, exactly. The rank is the sum of the ranks.
    Cat,
    /// The best approximation of rank `rank` to the sum of the updates. By default the rank is the largest of
    /// the adapters.
    Svd {
        /// The new rank.
        rank: Option<usize>,
    },
}

/// An adapter's part in a layer: its update and its weight times its scale.
type Part<'a> = (&'a LowRank, f64);

impl Adapters {
    /// Adds the adapter `name`, which is not active yet: a combination of others, each with a weight, which may be negative.
    /// The new adapter has `lora_alpha = r`, so that its scale is 1. With a single adapter, every combination is
    /// [`Combination::Linear`].
    ///
    /// ```no_run
    /// # fn example(adapters: peft_lora::Adapters) -> peft_lora::Result<()> {
    /// use peft_lora::Combination;
    ///
    /// adapters.combine("both", &[("animals", 0.7), ("colours", 0.5)], Combination::Cat)?;
    /// adapters.activate(["both"])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`Error::UnknownAdapter`], [`Error::AdapterExists`], [`Error::ReservedName`].
    /// - [`Error::Combination`] if there is no adapter, one of them is not a plain LoRA, a weight is not finite, or ranks differ
    ///   where they must not.
    pub fn combine(&self, name: &str, adapters: &[(&str, f64)], combination: Combination) -> Result<Adapter> {
        let state = self.set.state.current.get();
        let mut sources = Vec::with_capacity(adapters.len());
        for (source, weight) in adapters {
            let adapter = state.adapter(source)?.clone();
            check_plain(source, &adapter)?;
            if !weight.is_finite() {
                return Err(refuse(source, &format!("its weight is {weight}, which is not a finite number")));
            }
            sources.push((adapter, *weight));
        }
        let Some((first, _)) = sources.first() else { return Err(refuse(name, "it is made of no adapters")) };
        let combination = if sources.len() == 1 { Combination::Linear } else { combination };
        let ranks: Vec<usize> = sources.iter().map(|(adapter, _)| largest_rank(&adapter.config)).collect();
        let rank = new_rank(name, combination, &ranks)?;

        let mut parts: BTreeMap<&str, Vec<Part<'_>>> = BTreeMap::new();
        for (adapter, weight) in &sources {
            for (path, layer) in &adapter.layers {
                if let Some(low_rank) = layer.update.low_rank() {
                    parts.entry(path).or_default().push((low_rank, weight * low_rank.scale()));
                }
            }
        }
        let mut matrices = BTreeMap::new();
        for (path, parts) in &parts {
            let combined = match combination {
                Combination::Linear => linear(parts).map_err(|_| {
                    refuse(name, &format!("the ranks of its adapters differ in {path}; use Cat or Svd"))
                })?,
                Combination::Cat => concatenated(parts, rank)?,
                Combination::Svd { .. } => decomposed(parts, rank)?,
            };
            matrices.insert((*path).to_owned(), combined);
        }
        let weights = self.new_weights(&combined_config(&first.config, rank, &matrices), 0)?;
        for (path, (a, b)) in matrices {
            if let Some(low_rank) = weights.layers.get(&path).and_then(|layer| layer.update.low_rank()) {
                low_rank.a.set(&a)?;
                low_rank.b.set(&b)?;
            }
        }
        self.insert(name, weights)
    }
}

fn refuse(adapter: &str, problem: &str) -> Error {
    Error::Combination { adapter: adapter.to_owned(), problem: problem.to_owned() }
}

fn check_plain(name: &str, adapter: &Arc<AdapterWeights>) -> Result<()> {
    let config = &adapter.config;
    let options = [
        ("use_dora", config.use_dora),
        ("lora_bias", config.lora_bias),
        ("bias", config.bias != Bias::None),
        ("modules_to_save", !config.modules_to_save.is_empty()),
    ];
    if let Some((option, _)) = options.into_iter().find(|(_, is_set)| *is_set) {
        return Err(refuse(name, &format!("{option} is set, and only plain LoRA can be combined")));
    }
    if !adapter.others.is_empty() {
        return Err(refuse(
            name,
            "it adapts embeddings or convolutions, and only linear layers can be combined",
        ));
    }
    if config.init_lora_weights.changes_base() {
        return Err(refuse(name, "it is trained with PiSSA or OLoRA; save it and load it, as a plain LoRA"));
    }
    Ok(())
}

fn largest_rank(config: &LoraConfig) -> usize {
    config.rank_pattern.iter().map(|(_, rank)| *rank).max().unwrap_or(0).max(config.r)
}

fn new_rank(name: &str, combination: Combination, ranks: &[usize]) -> Result<usize> {
    let largest = ranks.iter().copied().max().unwrap_or(0);
    match combination {
        Combination::Linear if ranks.iter().any(|rank| *rank != largest) => {
            Err(refuse(name, &format!("the ranks of its adapters differ, {ranks:?}; use Cat or Svd")))
        }
        Combination::Linear => Ok(largest),
        Combination::Cat => Ok(ranks.iter().sum()),
        Combination::Svd { rank: Some(0) } => Err(refuse(name, "a rank must be at least 1, got 0")),
        Combination::Svd { rank } => Ok(rank.unwrap_or(largest)),
    }
}

/// The configuration of a combined adapter. It has the paths of its layers, and their ranks if they differ.
fn combined_config(
    first: &LoraConfig,
    rank: usize,
    matrices: &BTreeMap<String, (Tensor, Tensor)>,
) -> LoraConfig {
    let ranks = matrices.iter().map(|(path, (a, _))| (path, a.dims()[0]));
    let others: Vec<(String, usize)> =
        ranks.filter(|(_, own)| *own != rank).map(|(path, own)| (path.replace('.', r"\."), own)).collect();
    LoraConfig {
        r: rank,
        lora_alpha: rank as f64,
        target_modules: Modules::Names(matrices.keys().cloned().collect()),
        alpha_pattern: others.iter().map(|(path, rank)| (path.clone(), *rank as f64)).collect(),
        rank_pattern: others,
        exclude_modules: None,
        layers_to_transform: Vec::new(),
        layers_pattern: Vec::new(),
        // PEFT keeps `use_rslora`, and so scales the combination by √r.
        use_rslora: false,
        init_lora_weights: InitLoraWeights::Default,
        ..first.clone()
    }
}

fn linear(parts: &[Part<'_>]) -> candle_core::Result<(Tensor, Tensor)> {
    let mut sums: Option<(Tensor, Tensor)> = None;
    for (low_rank, weight) in parts {
        // Only one of the two matrices gets the sign.
        let root = weight.abs().sqrt();
        let a = (low_rank.a.as_detached_tensor() * (root * weight.signum()))?;
        let b = (low_rank.b.as_detached_tensor() * root)?;
        sums = Some(match sums {
            None => (a, b),
            Some((of_a, of_b)) => ((of_a + a)?, (of_b + b)?),
        });
    }
    sums.ok_or_else(|| candle_core::Error::Msg("a layer without adapters".to_owned()))
}

/// `[w s A; …]` and `[B, …]`.
fn stacked(parts: &[Part<'_>]) -> candle_core::Result<(Tensor, Tensor)> {
    let scaled = |(low_rank, weight): &Part<'_>| low_rank.a.as_detached_tensor() * *weight;
    let a = parts.iter().map(scaled).collect::<candle_core::Result<Vec<_>>>()?;
    let b: Vec<Tensor> = parts.iter().map(|(low_rank, _)| low_rank.b.as_detached_tensor()).collect();
    Ok((Tensor::cat(&a, 0)?, Tensor::cat(&b, 1)?))
}

fn concatenated(parts: &[Part<'_>], rank: usize) -> candle_core::Result<(Tensor, Tensor)> {
    let (a, b) = stacked(parts)?;
    padded(a, b, rank)
}

/// `A = Vᵀ` and `B = U S` of the sum of the updates. All of its factors are small: with `B = Q R` and `Aᵀ = P T`, it is
/// `Q (R Tᵀ) Pᵀ`.
fn decomposed(parts: &[Part<'_>], rank: usize) -> candle_core::Result<(Tensor, Tensor)> {
    let (a, b) = stacked(parts)?;
    let (q, r) = qr(&b)?;
    let (p, t) = qr(&a.t()?.contiguous()?)?;
    let (u, values, v_t) = svd(&r.matmul(&t.t()?)?)?;
    let kept = rank.min(values.dim(0)?);
    let u = q.matmul(&u)?.broadcast_mul(&values)?.narrow(1, 0, kept)?;
    let v_t = v_t.matmul(&p.t()?)?.narrow(0, 0, kept)?;
    padded(v_t, u, rank)
}

/// `A` and `B` with zeros up to the rank.
fn padded(a: Tensor, b: Tensor, rank: usize) -> candle_core::Result<(Tensor, Tensor)> {
    let missing = rank.saturating_sub(a.dim(0)?);
    Ok((a.pad_with_zeros(0, 0, missing)?.contiguous()?, b.pad_with_zeros(1, 0, missing)?.contiguous()?))
}

use std::fmt;

use candle_core::DType;

use super::Layout;

/// Features with more bytes than this a picture, in f32, are large. It is more than GIT's (1.1 MB in git-large)
/// and less than BLIP's (577 tokens: 1.8 MB in blip-base, 2.4 MB in blip-large).
const LARGE: usize = 1_500_000;

impl Layout {
    /// The layout of features `(tokens, width)` of a model whose weights are of type `dtype`: `stored` if that is given, or else
    /// bf16 for large features and `dtype` for all others.
    ///
    /// bf16 halves the file of large features, which is read once an epoch, or doubles the number of pictures that fit into
    /// memory. It rounds each number by at most 1/256 of itself.
    pub fn new((tokens, width): (usize, usize), dtype: DType, stored: Option<DType>) -> Self {
        let is_large = tokens * width * DType::F32.size_in_bytes() > LARGE;
        let usual = if is_large { DType::BF16 } else { dtype };
        Self { tokens, width, dtype: stored.unwrap_or(usual) }
    }
}

/// `577 x 768 numbers a picture, stored as bf16 (0.9 MB)`.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, width, dtype } = self;
        let size = self.bytes() as f64 / 1e6;
        write!(f, "{tokens} x {width} numbers a picture, stored as {} ({size:.1} MB)", dtype.as_str())
    }
}

#[cfg(test)]
mod tests {
    use blip_model::BlipConfig;
    use git_model::GitConfig;

    use super::*;

    #[test]
    fn features_of_blip_are_stored_in_bf16_and_those_of_git_in_the_type_of_the_weights() {
        let (git, blip) = (GitConfig::default().vision_config, BlipConfig::default().vision_config);
        let git_base = (git.tokens(), git.hidden_size);
        for (shape, dtype, stored, expected) in [
            ((blip.tokens(), blip.hidden_size), DType::F32, None, DType::BF16),
            ((blip.tokens(), blip.hidden_size), DType::F32, Some(DType::F32), DType::F32),
            (git_base, DType::F32, None, DType::F32),
            (git_base, DType::BF16, None, DType::BF16),
            (git_base, DType::F32, Some(DType::BF16), DType::BF16),
            // git-large
            ((257, 1024), DType::F32, None, DType::F32),
        ] {
            assert_eq!(Layout::new(shape, dtype, stored).dtype, expected, "{shape:?} {dtype:?} {stored:?}");
        }
    }
}

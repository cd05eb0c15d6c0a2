use std::sync::OnceLock;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512F, and AVX512-BF16 where `bf16` says so.
    Avx512 { bf16: bool },
    /// AVX2 and FMA.
    Avx2,
    /// What every processor can do.
    Portable,
}

impl Isa {
    /// The best that this processor has, or what the environment variable `TRAIN_OPS_ISA` asks for: `avx512` (without
    /// BF16 instructions), `avx2` or `portable`. A wish that the processor cannot fulfil is not heard.
    pub(crate) fn active() -> Self {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let wish = std::env::var("TRAIN_OPS_ISA").unwrap_or_default();
            let supported = Self::supported();
            let wished = supported.iter().copied().find(|isa| isa.name() == wish);
            wished.or(supported.first().copied()).unwrap_or(Self::Portable)
        })
    }

    /// What this processor can run, best first.
    pub(crate) fn supported() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                if is_x86_feature_detected!("avx512bf16") {
                    sets.push(Self::Avx512 { bf16: true });
                }
                sets.push(Self::Avx512 { bf16: false });
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets.push(Self::Avx2);
            }
        }
        sets.push(Self::Portable);
        sets
    }

    /// As in `TRAIN_OPS_ISA`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Avx512 { bf16: true } => "avx512bf16",
            Self::Avx512 { bf16: false } => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Columns of a panel: two vectors.
    pub(crate) fn panel_width(self) -> usize {
        match self {
            Self::Avx512 { .. } => 32,
            Self::Avx2 | Self::Portable => 16,
        }
    }

    /// Rows of a tile: as many as leave registers for the operands.
    pub(crate) fn tile_rows(self) -> usize {
        match self {
            Self::Avx512 { .. } => 14,
            Self::Avx2 => 6,
            Self::Portable => 4,
        }
    }

    /// Whether products of bf16 values have an instruction of their own.
    pub(crate) fn has_bf16(self) -> bool {
        matches!(self, Self::Avx512 { bf16: true })
    }
}

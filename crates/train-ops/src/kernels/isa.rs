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
    /// The best that this processor has, or what the environment variable `TRAIN_OPS_ISA` asks for: `avx512bf16`, `avx512`
    /// (without BF16 instructions), `avx2` or `portable`. A wish that the processor cannot fulfil is not heard.
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
                sets.push(Self::Avx512 { bf16: false });
                if is_x86_feature_detected!("avx512bf16") {
                    let best = if multiplies_pairs_slowly() { sets.len() } else { 0 };
                    sets.insert(best, Self::Avx512 { bf16: true });
                }
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

    /// Units of `k` that are worked on at a time, the more the less often sums are read and written again. A panel of them
    /// stays in the second-level cache, of which tiles ask for 9 to 11 bytes a cycle.
    pub(crate) fn depth(self) -> usize {
        match self {
            Self::Avx512 { .. } | Self::Avx2 => 768,
            Self::Portable => 256,
        }
    }

    /// Rows that a task works on, whole tiles: with [`depth`](Self::depth) units each, they take a third to a half of the
    /// second-level cache, which is larger on processors with AVX-512, and leave room for the panels and the result.
    pub(crate) fn task_rows(self) -> usize {
        match self {
            Self::Avx512 { .. } => 224,
            Self::Avx2 => 96,
            Self::Portable => 144,
        }
    }

    /// Whether products of bf16 values have an instruction of their own.
    pub(crate) fn has_bf16(self) -> bool {
        matches!(self, Self::Avx512 { bf16: true })
    }
}

/// Whether AVX512-BF16 is slower than to widen bf16 and multiply in f32. Intel's processors issue a product of pairs every
/// second cycle at most (they have AMX for the purpose), AMD's as often as one of f32. By the maker and not by a measurement,
/// so that a processor computes the same bits in every run.
#[cfg(target_arch = "x86_64")]
fn multiplies_pairs_slowly() -> bool {
    let maker = std::arch::x86_64::__cpuid(0);
    [maker.ebx, maker.edx, maker.ecx] == [b"Genu", b"ineI", b"ntel"].map(|name| u32::from_le_bytes(*name))
}

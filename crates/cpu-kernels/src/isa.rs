use std::sync::OnceLock;

use crate::{Error, Result};

/// The environment variable that selects the instruction set of all kernels of the process: `avx512bf16`, `avx512`
/// (without BF16 instructions), `amx` (AVX-512 and Intel's tiles for int8 and bf16), `avxvnni` (AVX2 and products of
/// int8), `avx2`, `neon-bf16`, `neon` or `portable`. Unset or
/// empty, the processor's best is used.
pub const ISA_VARIABLE: &str = "CPU_KERNELS_ISA";

/// An instruction set that the kernels are compiled for, and that this processor has.
///
/// Only the functions below return one, so its kernels may always be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each architecture has its own sets")]
pub(crate) enum Kind {
    /// AVX-512 F, BW and VL, with AVX512-BF16 where `bf16` is set, and with AMX-INT8 and AMX-BF16 where `amx` is.
    Avx512 { bf16: bool, amx: bool },
    /// AVX2 and FMA, with AVX-VNNI where `vnni` is set.
    Avx2 { vnni: bool },
    /// NEON, and the BF16 instructions of Armv8.6 where `bf16` is set.
    Neon { bf16: bool },
    /// Plain Rust, for every processor.
    Portable,
}

impl Isa {
    /// The instruction set of this process: the best that the processor has, or the one that [`ISA_VARIABLE`] names. The
    /// variable is read once.
    ///
    /// # Errors
    /// If the variable names a set that the processor does not have, or that does not exist.
    pub fn active() -> Result<Self> {
        static ACTIVE: OnceLock<Result<Isa>> = OnceLock::new();
        ACTIVE.get_or_init(|| Self::named(&std::env::var_os(ISA_VARIABLE).unwrap_or_default())).clone()
    }

    fn named(name: &std::ffi::OsStr) -> Result<Self> {
        // A process that chooses another set does not ask for the permission to use AMX, which costs memory.
        let sets = if name.is_empty() || name == "amx" { Self::supported() } else { Self::sets(false) };
        let found = match name.is_empty() {
            true => sets.first(),
            false => sets.iter().find(|isa| isa.name() == name),
        };
        found.copied().ok_or_else(|| Error::UnknownIsa {
            variable: ISA_VARIABLE,
            value: name.to_string_lossy().into_owned(),
            supported: Self::supported().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The instruction sets that this processor has, best first. On a processor with AMX, the first call asks Linux for the
    /// permission to use it.
    pub fn supported() -> Vec<Self> {
        Self::sets(true)
    }

    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    fn sets(with_amx: bool) -> Vec<Self> {
        let mut kinds = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            if avx512 {
                kinds.push(Kind::Avx512 { bf16: false, amx: false });
                if is_x86_feature_detected!("avx512bf16") {
                    let best = if is_intel() { kinds.len() } else { 0 };
                    kinds.insert(best, Kind::Avx512 { bf16: true, amx: false });
                }
                // All other code is that of AVX-512 without BF16: only products with bf16 matrices have other
                // results.
                if with_amx && crate::amx::is_available() {
                    kinds.insert(0, Kind::Avx512 { bf16: false, amx: true });
                }
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // All other code is that of AVX2: the results are the same in every precision.
                if is_x86_feature_detected!("avxvnni") {
                    kinds.push(Kind::Avx2 { vnni: true });
                }
                kinds.push(Kind::Avx2 { vnni: false });
            }
        }
        // Bytes and pairs of bf16 are read in the order of their addresses.
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        {
            use std::arch::is_aarch64_feature_detected;
            if is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("bf16") {
                kinds.push(Kind::Neon { bf16: true });
            }
            if is_aarch64_feature_detected!("neon") {
                kinds.push(Kind::Neon { bf16: false });
            }
        }
        kinds.push(Kind::Portable);
        kinds.into_iter().map(Self).collect()
    }

    /// The instruction set that every processor has.
    pub fn portable() -> Self {
        Self(Kind::Portable)
    }

    /// The name, as in [`ISA_VARIABLE`].
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Avx512 { amx: true, .. } => "amx",
            Kind::Avx512 { bf16: true, .. } => "avx512bf16",
            Kind::Avx512 { .. } => "avx512",
            Kind::Avx2 { vnni: true } => "avxvnni",
            Kind::Avx2 { vnni: false } => "avx2",
            Kind::Neon { bf16: true } => "neon-bf16",
            Kind::Neon { bf16: false } => "neon",
            Kind::Portable => "portable",
        }
    }

    #[inline]
    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// Columns of a panel: two vectors.
    pub fn panel_width(self) -> usize {
        match self.0 {
            Kind::Avx512 { .. } => 32,
            Kind::Avx2 { .. } | Kind::Neon { .. } | Kind::Portable => 16,
        }
    }

    /// Rows of a tile: as many as leave registers for the operands.
    pub fn tile_rows(self) -> usize {
        match self.0 {
            Kind::Avx512 { .. } => 14,
            Kind::Avx2 { .. } | Kind::Neon { .. } => 6,
            Kind::Portable => 4,
        }
    }

    /// Words of `k` in one pass over a tile. With more words, sums are read and written less often, but the
    /// panel of this many words must stay in the second-level cache, from which tiles read 9 to 11 bytes a
    /// cycle.
    pub(crate) fn depth(self) -> usize {
        match self.0 {
            Kind::Avx512 { .. } | Kind::Avx2 { .. } | Kind::Neon { .. } => 768,
            Kind::Portable => 256,
        }
    }

    /// Rows of a block, a multiple of [`tile_rows`](Self::tile_rows): with [`depth`](Self::depth) words each they take a
    /// third to a half of the second-level cache, which is larger on processors with AVX-512, and leave room for panels and
    /// result.
    pub(crate) fn block_rows(self) -> usize {
        match self.0 {
            Kind::Avx512 { .. } => 224,
            Kind::Avx2 { .. } | Kind::Neon { .. } => 96,
            Kind::Portable => 144,
        }
    }

    /// Whether there is an instruction that multiplies pairs of bf16.
    pub fn has_bf16(self) -> bool {
        self.has_tiles() || self.has_bf16_vectors()
    }

    /// Whether AMX multiplies pairs of bf16.
    pub(crate) fn has_tiles(self) -> bool {
        matches!(self.0, Kind::Avx512 { amx: true, .. })
    }

    /// Whether an instruction on vectors multiplies pairs of bf16.
    pub(crate) fn has_bf16_vectors(self) -> bool {
        matches!(self.0, Kind::Avx512 { bf16: true, .. } | Kind::Neon { bf16: true })
    }
}

/// Whether the processor is Intel's, on which AVX512-BF16 is slower than widening bf16 to f32: Intel's issue a
/// product of pairs at most every second cycle, AMD's as often as an f32 product. This depends on the vendor
/// and not on a measurement, so that a processor computes the same bits in every run.
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let maker = std::arch::x86_64::__cpuid(0);
    [maker.ebx, maker.edx, maker.ecx] == [b"Genu", b"ineI", b"ntel"].map(|name| u32::from_le_bytes(*name))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn an_instruction_set_that_the_processor_lacks_is_an_error_that_lists_the_others() {
        for value in ["avx9", "AVX2", "portable ", "sse2"] {
            let error = Isa::named(OsStr::new(value)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("CPU_KERNELS_ISA={value}:")) && error.contains("portable"),
                "{error}"
            );
        }
    }

    #[test]
    fn every_supported_set_can_be_named_and_the_best_is_the_default() {
        let supported = Isa::supported();
        for isa in &supported {
            assert_eq!(Isa::named(OsStr::new(isa.name())), Ok(*isa));
        }
        assert_eq!(Isa::named(OsStr::new("")), Ok(supported[0]));
    }
}

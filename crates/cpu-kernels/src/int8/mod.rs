//! Products of 8-bit integers on both sides, with exact sums in 32 bits.
//!
//! Rows are quantised when the product is computed ([`QuantisedRows`]), each with its own scale; the matrix is
//! quantised once, with a scale for each column. A product is
//!
//! ```text
//! y[i][j] = init + s[i] t[j] Σₖ q[i][k] w[k][j] + Σₒ x[i][o] t[j] w[o][j]
//! ```
//!
//! with the integers `q` and `w`, the scales `s` and `t`, and the few outliers `o` of row `i`, which are multiplied in f32 (as in
//! LLM.int8(), Dettmers et al., 2022, <https://arxiv.org/abs/2208.07339>, but chosen row by row, so that a row's result does not
//! depend on the others). The first sum is exact, and the rest is computed in one order without fused multiply-adds: the bits are
//! the same on every instruction set.

mod bounded;
mod dequantise;
mod product;
mod rows;
mod sums;
#[cfg(test)]
mod tests;

use crate::Isa;
use crate::isa::Kind;

pub use product::int8_product;
pub use rows::QuantisedRows;

/// The largest number of elements in a row: the sum of this many products of two integers up to 127 fits into
/// 32 bits.
pub const MAX_INT8_ROW: usize = 1 << 17;

/// The instructions that multiply integers. All of them have the same results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// AMX-INT8, for more than a few rows.
    Amx,
    /// AVX512-VNNI.
    Vnni,
    /// AVX-VNNI: the same instruction for processors without AVX-512.
    AvxVnni,
    /// `vpmaddubsw`, which adds pairs of products in 16 bits, with AVX-512 BW.
    Avx512,
    /// The same with AVX2.
    Avx2,
    /// The matrix products of Armv8.6, for more than a few rows.
    NeonMatrix,
    /// The dot products of Armv8.2.
    NeonDot,
    /// Plain Rust, for panels of any width.
    Portable,
}

impl Engine {
    /// All engines, best first.
    pub(crate) const ALL: [Self; 8] = [
        Self::Amx,
        Self::Vnni,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx2,
        Self::NeonMatrix,
        Self::NeonDot,
        Self::Portable,
    ];

    /// Whether `isa` can use this engine on this processor.
    pub(crate) fn serves(self, isa: Isa) -> bool {
        #[cfg(target_arch = "aarch64")]
        use std::arch::is_aarch64_feature_detected;
        match (self, isa.kind()) {
            (Self::Portable, _) | (Self::Avx2, Kind::Avx2 { .. }) | (Self::Avx512, Kind::Avx512 { .. }) => {
                true
            }
            (Self::Amx, Kind::Avx512 { amx, .. }) => amx,
            #[cfg(target_arch = "x86_64")]
            (Self::Vnni, Kind::Avx512 { .. }) => is_x86_feature_detected!("avx512vnni"),
            (Self::AvxVnni, Kind::Avx2 { vnni }) => vnni,
            #[cfg(target_arch = "aarch64")]
            (Self::NeonMatrix, Kind::Neon { .. }) => {
                is_aarch64_feature_detected!("i8mm") && is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "aarch64")]
            (Self::NeonDot, Kind::Neon { .. }) => is_aarch64_feature_detected!("dotprod"),
            _ => false,
        }
    }

    /// The best engine for products of this many rows.
    pub(crate) fn of(isa: Isa, rows: usize) -> Self {
        let is_worth_it = |engine: &Self| !matches!(engine, Self::Amx | Self::NeonMatrix) || rows > FEW;
        Self::ALL.into_iter().filter(is_worth_it).find(|engine| engine.serves(isa)).unwrap_or(Self::Portable)
    }

    /// The format in which the engine reads rows.
    pub(crate) fn form(self) -> Form {
        match self {
            Self::Amx | Self::NeonMatrix | Self::NeonDot | Self::Portable => Form::Signed,
            Self::Vnni | Self::AvxVnni => Form::Unsigned,
            Self::Avx512 | Self::Avx2 => Form::Bounded,
        }
    }

    /// The form in which the engine reads a panel, which is copied once for all rows of a block.
    pub(crate) fn panel_form(self) -> PanelForm {
        match self {
            Self::Avx512 | Self::Avx2 => PanelForm::Unsigned,
            Self::NeonMatrix => PanelForm::Interleaved,
            _ => PanelForm::Packed,
        }
    }

    /// Rows of a tile.
    pub(crate) fn tile_rows(self, isa: Isa) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => crate::amx::SIDE,
            _ => isa.tile_rows(),
        }
    }
}

/// How the integers of a row are stored, four neighbours in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Signed,
    /// Plus 128: VNNI multiplies bytes without sign by bytes with it.
    Unsigned,
    /// Within the bound of the module [`bounded`].
    Bounded,
}

/// The form of a panel's words for an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PanelForm {
    /// As the matrix is packed.
    Packed,
    /// The same, plus 128 for each byte.
    Unsigned,
    /// As `words::interleave` leaves them.
    Interleaved,
}

/// Up to this many rows, a tile of AMX, which has 16 rows, is slower than a tile with fewer rows, and interleaving a panel takes a
/// large part of the time of its product.
const FEW: usize = 8;

//! Intel's AMX: registers of 16 rows of 64 bytes, and products of two of them.
//!
//! In inline assembly, as Rust has no stable intrinsics for it. A process has to ask Linux for the registers, which take 8 KiB
//! of every thread's saved state; [`is_available`] does so once.

// SAFETY (of every block in this file): the instructions are reached only where `is_available`; pointers are valid for the
// tiles that are loaded and stored, for which the callers argue.
#![allow(unsafe_code)]

use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile register.
pub(crate) const TILE_ROWS: usize = 16;
/// Words of a row of a tile register.
pub(crate) const TILE_WORDS: usize = 16;
/// Rows, and columns, of the sums that are computed at a time: two tile registers each way.
pub(crate) const SIDE: usize = 2 * TILE_ROWS;

/// Whether the processor has AMX-INT8 and Linux gives it to this process.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| cfg!(not(miri)) && is_present() && is_permitted())
}

/// Whether the processor has tiles, and products of 8 bits.
fn is_present() -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let highest = std::arch::x86_64::__cpuid(0).eax;
    highest >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & (TILE | INT8) == TILE | INT8
}

/// Asks Linux for the tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, which also fails where the system
/// does not save them.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The tile registers of this thread, all of them 16 rows of 64 bytes, until the value is dropped.
pub(crate) struct Tiles(());

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// # Safety
    /// AMX [is available](is_available), and no other value lives on this thread.
    pub(crate) unsafe fn new() -> Self {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        // There are eight registers; the other entries must be zero.
        configuration.row_bytes[..8].fill(4 * TILE_WORDS as u16);
        configuration.rows[..8].fill(TILE_ROWS as u8);
        unsafe { asm!("ldtilecfg [{0}]", in(reg) &raw const configuration, options(nostack, readonly)) }
        Self(())
    }

    /// `sums = a b` for 16 rows of `a` and 32 columns, or 32 rows if `is_tall`; `sums` has 32 columns in i32.
    ///
    /// `b` is a panel of 32 columns and `words` words of four signed bytes, `tail` its last `words % 16` words with zeros up to
    /// the sixteenth.
    ///
    /// # Safety
    /// `a` is valid for so many rows of `words` words, rounded up to a multiple of 16, that are `a_stride` words apart; `b` for
    /// `32 * words` words and `tail` for `32 * 16`; `sums` for writing all rows.
    pub(crate) unsafe fn int8_sums(
        &self,
        (a, a_stride, is_tall): (*const u32, usize, bool),
        (b, words, tail): (*const u32, usize, *const u32),
        sums: *mut i32,
    ) {
        let (whole, has_tail) = (words / TILE_WORDS, !words.is_multiple_of(TILE_WORDS));
        // The tail comes last; without whole tiles it is all there is.
        let (b, steps, tail_left) = if whole == 0 { (tail, 1, false) } else { (b, whole, has_tail) };
        let lower = a.wrapping_add(if is_tall { TILE_ROWS * a_stride } else { 0 });
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tileloadd tmm4, [{a} + {a_stride}]",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "test {is_tall}, {is_tall}",
                "jz 3f",
                "tileloadd tmm5, [{lower} + {a_stride}]",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "3:",
                "add {a}, 64",
                "add {lower}, 64",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 2b",
                // Once more for the tail.
                "mov {steps}, {tail_left}",
                "xor {tail_left:e}, {tail_left:e}",
                "mov {b}, {tail}",
                "test {steps}, {steps}",
                "jnz 2b",
                "tilestored [{sums} + {b_stride}], tmm0",
                "tilestored [{sums} + {b_stride} + 64], tmm1",
                "test {is_tall}, {is_tall}",
                "jz 4f",
                "tilestored [{sums} + {b_stride} + 2048], tmm2",
                "tilestored [{sums} + {b_stride} + 2112], tmm3",
                "4:",
                a = inout(reg) a => _,
                lower = inout(reg) lower => _,
                a_stride = in(reg) 4 * a_stride,
                b = inout(reg) b => _,
                // Also that of the sums: 32 words.
                b_stride = in(reg) 4 * SIDE,
                tail = in(reg) tail,
                steps = inout(reg) steps => _,
                tail_left = inout(reg) usize::from(tail_left) => _,
                is_tall = in(reg) usize::from(is_tall),
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // Registers in use would be saved at every switch of threads.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

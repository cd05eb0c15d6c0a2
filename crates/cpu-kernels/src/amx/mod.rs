//! Intel's AMX: registers of 16 rows of 64 bytes, and products of two of them.
//!
//! The code is inline assembly, because Rust has no stable intrinsics for AMX. A process has to ask Linux for
//! permission to use the registers, which take 8 KiB of every thread's saved state; [`is_available`] does so
//! once.

// SAFETY (of every block in this file): the instructions are reached only where `is_available`; pointers are valid for the
// tiles that are loaded and stored, for which the callers argue.
#![allow(unsafe_code)]

mod block;

use std::arch::asm;
use std::sync::OnceLock;

pub(crate) use block::bf16_block;

/// Rows of a tile register.
pub(crate) const TILE_ROWS: usize = 16;
/// Words of a row of a tile register.
pub(crate) const TILE_WORDS: usize = 16;
/// Rows, and columns, of the sums that are computed at a time: two tile registers in each direction.
pub(crate) const SIDE: usize = 2 * TILE_ROWS;

/// Whether the processor has AMX-INT8 and AMX-BF16, and Linux permits this process to use the registers.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| cfg!(not(miri)) && is_present() && is_permitted())
}

/// Whether the processor has tiles, and products of 8 bits and of bf16.
fn is_present() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let all = BF16 | TILE | INT8;
    let highest = std::arch::x86_64::__cpuid(0).eax;
    highest >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & all == all
}

/// Asks Linux for permission to use the tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`,
/// which also fails if the system does not save them.
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

/// The sums of a [`Product`] by an instruction that multiplies two tiles.
macro_rules! sum_tiles {
    ($multiply:literal, $product:expr) => {{
        let Product { a, a_stride, is_tall, b, words, tail, sums } = $product;
        let (whole, has_tail) = (words / TILE_WORDS, !words.is_multiple_of(TILE_WORDS));
        // The tail comes last. Without whole tiles, there is only the tail.
        let (b, steps, tail_left) = if whole == 0 { (tail, 1, false) } else { (b, whole, has_tail) };
        let lower = a.wrapping_add(if is_tall { TILE_ROWS * a_stride } else { 0 });
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{b} + {b_stride}]",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm7, [{b} + {b_stride} + 64]",
            concat!($multiply, " tmm0, tmm4, tmm6"),
            concat!($multiply, " tmm1, tmm4, tmm7"),
            "test {is_tall}, {is_tall}",
            "jz 3f",
            "tileloadd tmm5, [{lower} + {a_stride}]",
            concat!($multiply, " tmm2, tmm5, tmm6"),
            concat!($multiply, " tmm3, tmm5, tmm7"),
            "3:",
            "add {a}, 64",
            "add {lower}, 64",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            // Once more, for the tail.
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
    }};
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

    /// `sums = a b`, for four signed bytes a word; the sums are i32.
    ///
    /// # Safety
    /// As [`Product`] says.
    pub(crate) unsafe fn int8_sums(&self, product: Product) {
        unsafe { sum_tiles!("tdpbssd", product) }
    }

    /// `sums = a b`, for pairs of bf16; the sums are f32.
    ///
    /// The instruction sums the first numbers of 16 pairs, in their order, and the second ones, each with one
    /// rounding a multiply-add; then it adds the two sums to each other, and their sum to that of the tiles
    /// before. It treats denormal numbers as zeros.
    ///
    /// # Safety
    /// As [`Product`] says.
    pub(crate) unsafe fn bf16_sums(&self, product: Product) {
        unsafe { sum_tiles!("tdpbf16ps", product) }
    }
}

/// 16 rows of `a`, or 32, by a panel of 32 columns.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// Valid for the rows, each of `words` words rounded up to a multiple of [`TILE_WORDS`]. Those beyond `words` are finite numbers
    /// of the format, such as zeros.
    pub(crate) a: *const u32,
    /// Words from one row to the next.
    pub(crate) a_stride: usize,
    /// Whether there are 32 rows.
    pub(crate) is_tall: bool,
    /// Valid for `words` rows of 32 words.
    pub(crate) b: *const u32,
    /// At least one.
    pub(crate) words: usize,
    /// The last `words % TILE_WORDS` rows of `b`, with zeros up to [`TILE_WORDS`] rows: see [`Tail`].
    pub(crate) tail: *const u32,
    /// Valid for writing the rows, of 32 words each.
    pub(crate) sums: *mut u32,
}

/// The end of a panel whose number of words is not a multiple of [`TILE_WORDS`], padded with zeros.
#[repr(C, align(64))]
pub(crate) struct Tail([u32; SIDE * TILE_WORDS]);

impl Tail {
    /// The end of a panel of [`SIDE`] columns.
    pub(crate) fn new(panel: &[u32]) -> Self {
        let rest = &panel[panel.len() / (SIDE * TILE_WORDS) * SIDE * TILE_WORDS..];
        let mut tail = [0; SIDE * TILE_WORDS];
        tail[..rest.len()].copy_from_slice(rest);
        Self(tail)
    }

    pub(crate) fn as_ptr(&self) -> *const u32 {
        self.0.as_ptr()
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // The registers are released, because otherwise they would be saved at every switch of threads.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

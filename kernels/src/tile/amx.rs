//! Tiles of Intel's AMX (Intel, "64 and IA-32 Architectures Software Developer's Manual", volume 1,
//! chapter 18).
//!
//! This module has been assembled, but has not run on a processor with AMX yet: at its first use its
//! results are compared with the emulated unit's, and it is put aside where they differ.

use std::arch::{
    asm,
    x86_64::{__cpuid, __cpuid_count, _xgetbv},
};

use super::block::{Block, LeftBlock, SIDE, TILE_LEN};

/// The layout of all eight tiles: 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const fn config() -> Config {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        row_bytes[tile] = 64;
        rows[tile] = 16;
        tile += 1;
    }
    Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes,
        rows,
    }
}

static CONFIG: Config = config();

/// Whether the CPU has tiles of bf16, the system saves them, and the kernel lets this process use
/// them.
pub(super) fn permitted() -> bool {
    has_tiles() && permission()
}

/// Whether the CPU has tiles of bf16, and the system saves them.
pub(super) fn has_tiles() -> bool {
    const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // SAFETY: `OSXSAVE` tells that the instruction is there.
    let saved = unsafe { xcr0() };
    __cpuid_count(7, 0).edx & TILES_AND_BF16 == TILES_AND_BF16 && saved & TILE_STATE == TILE_STATE
}

/// # Safety
/// The system has enabled XSAVE.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever XSAVE is enabled.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the use of tiles, for all threads of the process
/// (<https://docs.kernel.org/arch/x86/xstate.html>).
#[cfg(target_os = "linux")]
fn permission() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the call takes two numbers and touches no memory of the process; the kernel clobbers
    // `rcx` and `r11` alone.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permission() -> bool {
    false
}

/// Lays out the tiles of this thread.
///
/// # Safety
/// AMX is [`permitted`].
pub(super) unsafe fn begin() {
    // SAFETY: the layout is valid, and AMX is there by contract. Nobody else uses tiles.
    unsafe { asm!("ldtilecfg [{config}]", config = in(reg) &CONFIG, options(nostack, readonly)) };
}

/// Gives the tiles of this thread back.
///
/// # Safety
/// AMX is [`permitted`].
pub(super) unsafe fn end() {
    // SAFETY: AMX is there by contract.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Four tiles of sums, two of the left factor, two of the right.
///
/// # Safety
/// AMX is [`permitted`], and this thread is between [`begin`] and [`end`]; `right` holds two tiles for
/// each of `left`.
pub(super) unsafe fn block(left: LeftBlock<'_>, right: &[u32], sums: &mut Block) {
    const TILE_BYTES: usize = TILE_LEN * size_of::<u32>();
    const HALF: usize = SIDE / 2;
    let sums = sums.floats_mut().as_mut_ptr();
    // SAFETY: each step reads 64 bytes of 32 rows of the left factor and two tiles of the right one,
    // `left.tiles()` times, which both hold by contract; the sums are a whole block.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {tiles}, {tiles}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{upper} + {row_bytes}]",
            "tileloadd tmm5, [{lower} + {row_bytes}]",
            "tileloadd tmm6, [{right} + {line}]",
            "tileloadd tmm7, [{right} + {line} + {tile_bytes}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {right}, {step}",
            "dec {tiles}",
            "jnz 2b",
            "3:",
            "tilestored [{sums} + {sum_row}], tmm0",
            "tilestored [{sums} + {sum_row} + 64], tmm1",
            "tilestored [{sums} + {sum_row} + {half}], tmm2",
            "tilestored [{sums} + {sum_row} + {half} + 64], tmm3",
            upper = inout(reg) left.start() => _,
            lower = inout(reg) left.start().cast::<u8>().wrapping_add(HALF * left.row_bytes()) => _,
            row_bytes = in(reg) left.row_bytes(),
            right = inout(reg) right.as_ptr() => _,
            line = in(reg) 64usize,
            tiles = inout(reg) left.tiles() => _,
            sums = in(reg) sums,
            sum_row = in(reg) SIDE * size_of::<f32>(),
            tile_bytes = const TILE_BYTES,
            step = const 2 * TILE_BYTES,
            half = const HALF * SIDE * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

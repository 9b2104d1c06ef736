//! Products of bf16 matrices with sums in float32, on the matrix units of processors.
//!
//! ```text
//! right  [depth, columns] ─► pairs of depth side by side, 16 pairs x 16 columns a tile ─┐
//! left   [rows, depth]    ─► where it lies, or padded to whole tiles ───────────────────┤
//!                                                  block of 32 x 32 sums  ◄── Unit ─────┘
//!                                                  bias, activation, rounding ─► out
//! ```
//!
//! Packing, blocking and what follows a product are common to all units; a unit computes one block.
//! AMX does so with tiles, AVX-512 BF16 with dot products of pairs, and [`Emulated`] in plain Rust,
//! by the definition of the instruction `TDPBF16PS`, so that everything around the units is tested
//! on any machine. Before a native unit is used, its block is compared with the emulated one.
//! Where there is none, products of bf16 are taken in float32.

#[cfg(target_arch = "x86_64")]
mod amx;
mod block;
#[cfg(target_arch = "x86_64")]
mod dot_pairs;
mod emulated;
mod pack;
mod product;

use std::sync::OnceLock;

pub(crate) use product::{RightTiles, multiply, multiply_transposed, right_len, transposed_len};

use crate::error::{Error, Result};
pub(crate) use block::SIDE;
use block::{Block, LeftBlock};
use emulated::Emulated;

/// What multiplies bf16 matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Tiles of Intel's AMX.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// Dot products of pairs in AVX-512.
    #[cfg(target_arch = "x86_64")]
    DotPairs,
    /// Plain Rust.
    Emulated,
}

/// What was found to multiply bf16 matrices with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bf16Products {
    /// Its name: `amx`, `avx512_bf16`, `emulated`, or `float32` where numbers are widened.
    pub unit: &'static str,
    /// Units that are there, but gave other results than their definition.
    pub refused: Vec<&'static str>,
}

/// What became of Intel's AMX in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amx {
    /// It multiplies bf16 matrices.
    InUse,
    /// The CPU has none, or none for bf16, or the system does not save its registers.
    Absent,
    /// The CPU has it, and the system does not let this process use it.
    NotPermitted,
    /// It gave other results than its definition.
    Wrong,
    /// Another unit was asked for.
    LeftOut,
}

/// What became of Intel's AMX in this process, for diagnosis.
pub fn amx() -> Amx {
    #[cfg(target_arch = "x86_64")]
    {
        let (found, candidates) = (found(), candidates());
        if amx::has_tiles() {
            return match () {
                () if found.unit == Some(Unit::Amx) => Amx::InUse,
                () if !candidates.contains(&Unit::Amx) => Amx::NotPermitted,
                () if found.refused.contains(&Unit::Amx.name()) => Amx::Wrong,
                () => Amx::LeftOut,
            };
        }
    }
    Amx::Absent
}

struct Found {
    unit: Option<Unit>,
    refused: Vec<&'static str>,
}

/// What bf16 matrices are multiplied with in this process, for logs.
pub fn bf16_products() -> Bf16Products {
    let found = found();
    Bf16Products {
        unit: found.unit.map_or("float32", Unit::name),
        refused: found.refused.clone(),
    }
}

/// The unit in use, if there is one.
pub(crate) fn unit() -> Option<Unit> {
    found().unit
}

/// Checks `STREAMREC_BF16_UNIT`.
///
/// # Errors
/// When it names no unit.
pub(crate) fn check_limit() -> Result<()> {
    match limit().as_deref() {
        None | Some("amx" | "avx512_bf16" | "emulated" | "float32") => Ok(()),
        Some(other) => Err(Error::Bf16Unit(other.into())),
    }
}

fn limit() -> Option<String> {
    let name = std::env::var_os("STREAMREC_BF16_UNIT")?;
    Some(name.to_string_lossy().into_owned())
}

fn found() -> &'static Found {
    static FOUND: OnceLock<Found> = OnceLock::new();
    FOUND.get_or_init(|| {
        let wanted = limit();
        let mut refused = Vec::new();
        let unit = candidates().into_iter().find(|unit| {
            let asked = wanted.as_deref().is_none_or(|name| name == unit.name());
            let asked = asked && (*unit != Unit::Emulated || wanted.is_some());
            let right = asked && unit.agrees_with_its_definition();
            if asked && !right {
                refused.push(unit.name());
            }
            right
        });
        Found { unit, refused }
    })
}

/// The units of this CPU, the fastest first.
fn candidates() -> Vec<Unit> {
    let mut units = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::Level;
        let wide = Level::detect() == Level::Avx512;
        if wide && amx::permitted() {
            units.push(Unit::Amx);
        }
        if wide && is_x86_feature_detected!("avx512bf16") {
            units.push(Unit::DotPairs);
        }
    }
    units.push(Unit::Emulated);
    units
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
            #[cfg(target_arch = "x86_64")]
            Self::DotPairs => "avx512_bf16",
            Self::Emulated => "emulated",
        }
    }

    /// Makes the calling thread ready for blocks.
    fn begin(self) {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Amx {
            // SAFETY: the unit is a candidate only where AMX has been found and permitted.
            unsafe { amx::begin() };
        }
    }

    /// Ends what [`begin`](Self::begin) began, on the same thread.
    fn end(self) {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Amx {
            // SAFETY: as for `begin`.
            unsafe { amx::end() };
        }
    }

    /// `sums = left . right`: 32 rows of `depth` tiles by 32 columns. Between `begin` and `end`.
    fn block(self, left: LeftBlock<'_>, right: &[u32], sums: &mut Block) {
        left.check(right);
        match self {
            // SAFETY: the unit is a candidate only where AMX has been found and permitted; the
            // operands' lengths have been checked.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => unsafe { amx::block(left, right, sums) },
            // SAFETY: the unit is a candidate only where AVX-512 BF16 has been found; the operands'
            // lengths have been checked.
            #[cfg(target_arch = "x86_64")]
            Self::DotPairs => unsafe { dot_pairs::block(left, right, sums) },
            Self::Emulated => Emulated::block(left, right, sums),
        }
    }

    /// Compares a block of small and large numbers with the emulated one.
    fn agrees_with_its_definition(self) -> bool {
        let (left, right) = block::example(3);
        let left = LeftBlock::new(&left, 3);
        let (mut own, mut expected) = (Block::default(), Block::default());
        self.begin();
        self.block(left, &right, &mut own);
        self.end();
        Emulated::block(left, &right, &mut expected);
        let pairs = own.floats().iter().zip(expected.floats());
        // Units may add the products of a block in another order.
        pairs
            .into_iter()
            .all(|(own, expected)| (own - expected).abs() <= 1e-4 * expected.abs().max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_this_machine_agrees_with_the_definition() {
        for unit in candidates() {
            assert!(unit.agrees_with_its_definition(), "{}", unit.name());
        }
    }
}

//! The vector unit that loops over columns run on, chosen at run time.

use std::sync::OnceLock;

use pulp::{Arch, Simd, WithSimd};

/// A loop over a column that the compiler turns into vectors. It is compiled once for each unit, so it gives
/// the same bits on all: integers, and floats in a fixed order without fused multiplications.
///
/// Implementations are `#[inline(always)]`, and so is all that they call in the loop: a function that is not
/// inlined is compiled for the baseline.
pub(crate) trait ColumnLoop {
    /// Runs the loop; `vectors` says whether the unit multiplies more than two 32-bit numbers at a time, which
    /// the baseline of x86-64 does not.
    fn run(self, vectors: bool);
}

/// Runs a loop on the widest unit that this CPU has, or on a narrower one that `STREAMREC_VECTOR_UNIT` asks for.
#[inline]
pub(crate) fn run(column_loop: impl ColumnLoop) {
    static UNIT: OnceLock<Arch> = OnceLock::new();
    let unit =
        *UNIT.get_or_init(|| within(&std::env::var("STREAMREC_VECTOR_UNIT").unwrap_or_default()));
    unit.dispatch(Compiled(column_loop));
}

/// The widest unit that is not wider than the named one. Names are those of the kernels, which refuse others.
fn within(limit: &str) -> Arch {
    #[cfg(target_arch = "x86_64")]
    match limit {
        "baseline" => return Arch::Scalar,
        "avx2" => return pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = limit;
    Arch::new()
}

struct Compiled<L>(L);

impl<L: ColumnLoop> WithSimd for Compiled<L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.0.run(!S::IS_SCALAR);
    }
}

/// Runs a loop on the named unit, or on the widest below it that this CPU has.
#[cfg(test)]
pub(crate) fn run_on(unit: &str, column_loop: impl ColumnLoop) {
    within(unit).dispatch(Compiled(column_loop));
}

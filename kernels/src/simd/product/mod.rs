//! Products of float32 matrices in tiles of vectors, with what follows a product done while its tile is in
//! registers.
//!
//! The right factor is packed once a call into panels of a tile's columns, `[depth, width]` each,
//! so that a tile reads it in order; the left one is read where it lies. Each sum is taken in the
//! order of `depth`, so it depends neither on the rows beside it nor on threads, nor on the unit.

mod tile;
mod transposed;
mod unit;

use std::ops::Range;

use super::{Avx2, Avx512, Epilogue, LANES, Level, transpose};
use crate::tensor::{TensorMut, TensorRef};
use tile::{Ahead, Beside, Left, Right, Tiles};
use unit::TileUnit;

/// A vector unit that this CPU has, and by which products are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unit(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Avx2,
    Avx512,
}

/// Calls a function for a unit.
macro_rules! for_unit {
    ($unit:expr, $name:ident($($argument:expr),*)) => {
        match $unit {
            // SAFETY: a `Unit` is made only where it has been found.
            Kind::Avx2 => unsafe { $name::<Avx2>($($argument),*) },
            // SAFETY: as above.
            Kind::Avx512 => unsafe { $name::<Avx512>($($argument),*) },
        }
    };
}

impl Unit {
    /// The widest that this CPU has and the environment allows.
    pub(crate) fn detect() -> Option<Self> {
        match Level::detect() {
            Level::Baseline => None,
            Level::Avx2 => Some(Self(Kind::Avx2)),
            Level::Avx512 => Some(Self(Kind::Avx512)),
        }
    }

    /// Panels of a right factor of so many columns.
    pub(crate) fn panels(self, columns: usize) -> usize {
        self.cut(columns).count
    }

    /// Where the panels `panels` of a packed right factor lie.
    pub(crate) fn floats_of(
        self,
        panels: Range<usize>,
        [depth, columns]: [usize; 2],
    ) -> Range<usize> {
        let cut = self.cut(columns);
        let start = |panel| depth * cut.start(panel) * LANES;
        start(panels.start)..start(panels.end)
    }

    fn cut(self, columns: usize) -> Panels {
        match self.0 {
            Kind::Avx2 => Panels::new::<Avx2>(columns),
            Kind::Avx512 => Panels::new::<Avx512>(columns),
        }
    }

    /// Packs some panels of `right: [depth, columns]` into `floats`, those of [`floats_of`](Self::floats_of).
    pub(crate) fn pack(self, panels: Range<usize>, floats: &mut [f32], right: TensorRef<'_>) {
        for_unit!(self.0, pack(panels, floats, right));
    }

    /// Packs some panels of the transpose of `elements: [columns, depth]`, of a depth of at least 1.
    pub(crate) fn pack_transposed(
        self,
        panels: Range<usize>,
        floats: &mut [f32],
        elements: &[f32],
        depth: usize,
    ) {
        for_unit!(self.0, pack_transposed(panels, floats, elements, depth));
    }

    /// `out = epilogue(left . right)` with `left: [rows, depth]`, `out: [rows, columns]`, and what was packed into
    /// `right`. All is float32, the numbers of the epilogue too.
    ///
    /// # Panics
    /// When the shapes differ, or `right` has fewer floats.
    pub(crate) fn multiply(
        self,
        left: TensorRef<'_>,
        right: &[f32],
        out: TensorMut<'_>,
        epilogue: Epilogue<'_>,
    ) {
        for_unit!(self.0, multiply(left, right, out, epilogue));
    }

    /// `out (+)= left^T . right` with `left: [samples, rows]`, `right: [samples, columns]`, `out: [rows, columns]`. Each
    /// sum is taken in the order of the samples, in blocks that depend on the number of samples and the unit alone.
    /// `scratch` is of [`transposed_scratch_len`](Self::transposed_scratch_len).
    ///
    /// # Panics
    /// When the shapes do not chain.
    pub(crate) fn multiply_transposed(
        self,
        left: TensorRef<'_>,
        right: TensorRef<'_>,
        out: TensorMut<'_>,
        accumulate: bool,
        scratch: &mut [f32],
    ) {
        use transposed::multiply;
        for_unit!(self.0, multiply(left, right, out, accumulate, scratch));
    }

    /// Floats of the scratch memory of [`multiply_transposed`](Self::multiply_transposed).
    pub(crate) fn transposed_scratch_len(self, left: TensorRef<'_>, right: TensorRef<'_>) -> usize {
        match self.0 {
            Kind::Avx2 => transposed::scratch_len::<Avx2>(left, right),
            Kind::Avx512 => transposed::scratch_len::<Avx512>(left, right),
        }
    }
}

/// Floats of a right factor that stays in a first cache of 32 KiB beside some rows.
const FIRST_CACHE: usize = 7168;

/// How columns are cut into panels: as few as possible, of almost equal width.
#[derive(Clone, Copy)]
struct Panels {
    columns: usize,
    vectors: usize,
    count: usize,
}

impl Panels {
    fn new<U: TileUnit>(columns: usize) -> Self {
        let vectors = columns.div_ceil(LANES);
        Self {
            columns,
            vectors,
            count: vectors.div_ceil(U::VECTORS),
        }
    }

    /// The first vector of a panel.
    fn start(&self, panel: usize) -> usize {
        panel * self.vectors / self.count
    }

    /// First column, columns, and vectors of a panel.
    fn get(&self, panel: usize) -> (usize, usize, usize) {
        let (first, end) = (self.start(panel), self.start(panel + 1));
        let column = first * LANES;
        (
            column,
            (end * LANES).min(self.columns) - column,
            end - first,
        )
    }
}

/// Floats of a packed right factor.
pub(crate) fn packed_len(depth: usize, columns: usize) -> usize {
    depth * columns.next_multiple_of(LANES)
}

/// # Safety
/// The CPU has the unit.
unsafe fn pack<U: TileUnit>(panels: Range<usize>, floats: &mut [f32], right: TensorRef<'_>) {
    let [depth, columns] = right.shape();
    let cut = Panels::new::<U>(columns);
    let first = cut.start(panels.start) * LANES;
    for panel in panels {
        let (column, width, vectors) = cut.get(panel);
        let stride = vectors * LANES;
        let to = &mut floats[depth * (column - first)..][..depth * stride];
        for (row, to) in to.chunks_exact_mut(stride).enumerate() {
            // SAFETY: the CPU has the unit by contract.
            unsafe { U::copy_vectors(to, &right.row(row)[column..][..width]) };
        }
    }
}

/// # Safety
/// None: as the others, for the macro.
unsafe fn pack_transposed<U: TileUnit>(
    panels: Range<usize>,
    floats: &mut [f32],
    elements: &[f32],
    depth: usize,
) {
    let cut = Panels::new::<U>(elements.len() / depth);
    let first = cut.start(panels.start) * LANES;
    for panel in panels {
        let (column, width, vectors) = cut.get(panel);
        let stride = vectors * LANES;
        let to = &mut floats[depth * (column - first)..][..depth * stride];
        let rows = &elements[column * depth..][..width * depth];
        transpose(rows, width, depth, to, stride);
    }
}

/// # Safety
/// The CPU has the unit.
unsafe fn multiply<U: TileUnit>(
    left: TensorRef<'_>,
    right: &[f32],
    mut out: TensorMut<'_>,
    epilogue: Epilogue<'_>,
) {
    let ([rows, depth], [out_rows, columns]) = (left.shape(), out.shape());
    assert_eq!(rows, out_rows);
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), columns);
    }
    for numbers in epilogue.gate.iter().chain(epilogue.cross.iter().flatten()) {
        assert_eq!(numbers.shape(), [rows, columns]);
    }
    let (stride, panels) = (out.row_stride(), Panels::new::<U>(columns));
    let start = out.as_mut_ptr();
    let tiles = |panel: usize| {
        let (column, width, vectors) = panels.get(panel);
        let floats = &right[depth * column..][..depth * vectors * LANES];
        Tiles {
            left: Left::InPlace {
                start: left.as_ptr(),
                row_stride: left.row_stride(),
            },
            right: Right::Packed(floats.as_ptr()),
            depth,
            out: start.wrapping_add(column),
            out_stride: stride,
            width,
            epilogue: Epilogue {
                bias: epilogue.bias.map(|bias| &bias[column..][..width]),
                ..epilogue
            },
            gate: epilogue.gate.map(|gate| Beside::new(gate, column)),
            cross: epilogue
                .cross
                .map(|cross| cross.map(|numbers| Beside::new(numbers, column))),
            ahead: None,
        }
    };
    // A right factor that stays in the first cache passes by for every few rows: they are written in the order of
    // memory, which is most of what a product of little depth does. Of a larger one a panel stays, and the rows pass by.
    let together = match depth * columns <= FIRST_CACHE {
        true => U::ROWS,
        false => rows.max(1),
    };
    for first in (0..rows).step_by(together) {
        for panel in 0..panels.count {
            let tiles = tiles(panel);
            for row in (first..rows.min(first + together)).step_by(U::ROWS) {
                // SAFETY: the tile covers rows `row..row + U::ROWS` that exist and `width` columns of the
                // panel, all inside the operands, whose extents have been asserted.
                unsafe { U::run(&tiles, row, U::ROWS.min(rows - row)) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of this CPU.
    pub(super) fn units() -> Vec<Unit> {
        match Unit::detect() {
            Some(Unit(Kind::Avx512)) => vec![Unit(Kind::Avx512), Unit(Kind::Avx2)],
            found => found.into_iter().collect(),
        }
    }

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn products_equal_those_in_float64_whatever_the_shape_and_the_unit() {
        for unit in units() {
            for [rows, depth, columns] in [
                [1, 1, 1],
                [8, 16, 48],
                [9, 5, 64],
                [23, 130, 49],
                [7, 33, 17],
                [16, 3, 113],
                [5, 9, 24],
                [4, 0, 20],
            ] {
                check_shape(unit, [rows, depth, columns]);
            }
        }
    }

    fn check_shape(unit: Unit, [rows, depth, columns]: [usize; 3]) {
        let (a, b, bias) = (
            numbers(rows * depth, 1),
            numbers(depth * columns, 2),
            numbers(columns, 3),
        );
        let left = TensorRef::from_f32(&a, &[rows, depth]);
        let right = TensorRef::from_f32(&b, &[depth, columns]);
        let exact = |row: usize, column: usize| -> f64 {
            let term =
                |k: usize| f64::from(a[row * depth + k]) * f64::from(b[k * columns + column]);
            (0..depth).map(term).sum()
        };
        let check = |out: &[f32], expected: &dyn Fn(usize, usize) -> f64| {
            for row in 0..rows {
                for column in 0..columns {
                    let got = f64::from(out[row * columns + column]);
                    let error = (got - expected(row, column)).abs();
                    assert!(error < 1e-4, "{unit:?}: {rows} {depth} {columns}");
                }
            }
        };
        let mut packed = vec![f32::NAN; packed_len(depth, columns)];
        let mut out = vec![0.5; rows * columns];
        let shape = [rows, columns];
        unit.pack(0..unit.panels(columns), &mut packed, right);
        let relu = Epilogue {
            bias: Some(&bias),
            relu: true,
            ..Epilogue::default()
        };
        unit.multiply(left, &packed, TensorMut::from_f32(&mut out, &shape), relu);
        check(&out, &|row, column| {
            (exact(row, column) + f64::from(bias[column])).max(0.0)
        });
        out.fill(0.5);
        let add = Epilogue {
            accumulate: true,
            ..Epilogue::default()
        };
        unit.multiply(left, &packed, TensorMut::from_f32(&mut out, &shape), add);
        check(&out, &|row, column| exact(row, column) + 0.5);
        let mut values = numbers(rows * columns, 4);
        (values[0], values[rows * columns - 1]) = (f32::NAN, 0.0);
        let gate = Epilogue {
            gate: Some(TensorRef::from_f32(&values, &shape)),
            ..Epilogue::default()
        };
        unit.multiply(left, &packed, TensorMut::from_f32(&mut out, &shape), gate);
        check(&out, &|row, column| match values[row * columns + column] {
            value if value <= 0.0 => 0.0,
            _ => exact(row, column),
        });

        let (x0, x) = (numbers(rows * columns, 5), numbers(rows * columns, 6));
        let cross = Epilogue {
            bias: Some(&bias),
            cross: Some([&x0, &x].map(|floats| TensorRef::from_f32(floats, &shape))),
            ..Epilogue::default()
        };
        unit.multiply(left, &packed, TensorMut::from_f32(&mut out, &shape), cross);
        check(&out, &|row, column| {
            let at = row * columns + column;
            let projection = exact(row, column) + f64::from(bias[column]);
            f64::from(x0[at]) * projection + f64::from(x[at])
        });

        let mut right_turned = vec![0.0; depth * columns];
        for k in 0..depth {
            (0..columns).for_each(|c| right_turned[c * depth + k] = b[k * columns + c]);
        }
        if depth > 0 {
            let mut packed = vec![f32::NAN; packed_len(depth, columns)];
            unit.pack_transposed(0..unit.panels(columns), &mut packed, &right_turned, depth);
            let into = TensorMut::from_f32(&mut out, &shape);
            unit.multiply(left, &packed, into, Epilogue::default());
            check(&out, &exact);
        }
    }

    #[test]
    fn a_rectified_nan_stays_one() {
        for unit in units() {
            let (left, right) = ([f32::NAN], [1.0]);
            let (mut packed, mut out) = (vec![0.0; 16], [0.0]);
            unit.pack(0..1, &mut packed, TensorRef::from_f32(&right, &[1, 1]));
            let relu = Epilogue {
                relu: true,
                ..Epilogue::default()
            };
            let into = TensorMut::from_f32(&mut out, &[1, 1]);
            unit.multiply(TensorRef::from_f32(&left, &[1, 1]), &packed, into, relu);
            assert!(out[0].is_nan(), "{unit:?}");
        }
    }
}

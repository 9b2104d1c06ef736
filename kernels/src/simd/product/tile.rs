//! The inner loop: a tile of the result stays in registers while the depth passes by.

use super::{
    super::{Epilogue, LANES, prefetch_far, prefetch_row},
    unit::TileUnit,
};
use crate::tensor::TensorRef;

/// Steps of the depth without a jump: what is left to the front end of a core is 4 instructions a
/// cycle, of which multiply-adds take 2.
const UNROLL: usize = 4;
/// How many steps ahead the right factor is asked for: its panel comes from a second cache.
const AHEAD: usize = 8;

/// A left factor.
#[derive(Clone, Copy)]
pub(super) enum Left {
    /// Element (row, depth) is at `row * row_stride + depth`.
    InPlace {
        start: *const f32,
        row_stride: usize,
    },
    /// Tiles of the unit's rows one after another, `tile_len` floats each: element (row, depth) of a
    /// tile is at `depth * ROWS + row`.
    Packed { start: *const f32, tile_len: usize },
}

/// A panel of a right factor, `[depth, vectors * LANES]`.
#[derive(Clone, Copy)]
pub(super) enum Right {
    InPlace {
        start: *const f32,
        row_stride: usize,
    },
    /// Row after row.
    Packed(*const f32),
}

/// Rows that later tiles need, in memory: they are brought to a second cache line by line while a tile
/// is computed. A core has some ten requests under way at most and waits with more, so they are
/// spread.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    rows: [*const f32; 2],
    last: [usize; 2],
}

impl Ahead {
    /// Two rows, neither of them empty.
    pub(super) fn rows(rows: [&[f32]; 2]) -> Self {
        Self {
            rows: rows.map(<[f32]>::as_ptr),
            last: rows.map(|row| row.len() - 1),
        }
    }

    /// Asks for the line of element `at` of each row, or again for its last one.
    #[inline(always)]
    fn ask(&self, at: usize) {
        for (row, last) in self.rows.iter().zip(self.last) {
            prefetch_far(row.wrapping_add(at.min(last)));
        }
    }
}

/// Numbers of the epilogue beside those of a panel, in memory.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    start: *const f32,
    row_stride: usize,
}

impl Beside {
    /// Those from column `column` on.
    pub(super) fn new(numbers: TensorRef<'_>, column: usize) -> Self {
        Self {
            start: numbers.as_ptr().wrapping_add(column),
            row_stride: numbers.row_stride(),
        }
    }

    #[inline(always)]
    fn at(&self, row: usize) -> *const f32 {
        self.start.wrapping_add(row * self.row_stride)
    }
}

/// The tiles of a panel of `out (+)= left . right`, and what follows.
pub(super) struct Tiles<'a> {
    pub(super) left: Left,
    pub(super) right: Right,
    pub(super) depth: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    /// Columns, at least 1, at most those of the unit's vectors.
    pub(super) width: usize,
    /// Its bias has `width` elements; its gate is in `gate`, its cross in `cross`.
    pub(super) epilogue: Epilogue<'a>,
    pub(super) gate: Option<Beside>,
    pub(super) cross: Option<[Beside; 2]>,
    pub(super) ahead: Option<Ahead>,
}

impl Tiles<'_> {
    #[inline(always)]
    fn out(&self, row: usize) -> *mut f32 {
        self.out.wrapping_add(row * self.out_stride)
    }
}

/// Computes the `R` rows of `V` vectors from row `first` on, a multiple of the unit's rows.
///
/// # Safety
/// These rows of the left factor and of the tiles' `out`, gate and cross, their `width` columns of both, and `depth` rows of the
/// panel are there; the CPU has the unit.
#[inline(always)]
pub(super) unsafe fn run<U: TileUnit, const R: usize, const V: usize>(
    tiles: &Tiles<'_>,
    first: usize,
) {
    let packed_left = |start: *const f32, tile_len: usize| {
        let start = start.wrapping_add(first / U::ROWS * tile_len);
        move |row, depth| start.wrapping_add(depth * U::ROWS + row)
    };
    let packed_right = |start: *const f32| move |depth| start.wrapping_add(depth * V * LANES);
    match (tiles.left, tiles.right) {
        (Left::InPlace { start, row_stride }, Right::Packed(right)) => {
            let rows: [*const f32; R] =
                std::array::from_fn(|row| start.wrapping_add((first + row) * row_stride));
            let left = |row: usize, depth| rows[row].wrapping_add(depth);
            // SAFETY: as the caller promises.
            unsafe { U::compute::<R, V>(tiles, first, left, packed_right(right)) }
        }
        // SAFETY: as the caller promises.
        (Left::Packed { start, tile_len }, Right::Packed(right)) => unsafe {
            U::compute::<R, V>(
                tiles,
                first,
                packed_left(start, tile_len),
                packed_right(right),
            );
        },
        (
            Left::Packed { start, tile_len },
            Right::InPlace {
                start: right,
                row_stride,
            },
        ) => {
            let right = |depth| right.wrapping_add(depth * row_stride);
            // SAFETY: as the caller promises.
            unsafe { U::compute::<R, V>(tiles, first, packed_left(start, tile_len), right) }
        }
        (Left::InPlace { .. }, Right::InPlace { .. }) => {
            unreachable!("one of the factors is packed")
        }
    }
}

/// What [`TileUnit::compute`] does.
///
/// # Safety
/// `left` gives the address of an element of the left factor for each row and depth of the tile, and
/// `right` that of `V` vectors of the right one for each depth; see [`run`].
#[inline(always)]
pub(super) unsafe fn multiply<U: TileUnit, const R: usize, const V: usize>(
    tiles: &Tiles<'_>,
    first: usize,
    left: impl Fn(usize, usize) -> *const f32,
    right: impl Fn(usize) -> *const f32,
) {
    let mut sums = [[U::splat(0.0); V]; R];
    if tiles.epilogue.accumulate {
        // Asked for now, added at the end.
        for row in 0..R {
            prefetch_row(tiles.out(first + row), V * LANES);
        }
    }
    for beside in tiles.gate.iter().chain(tiles.cross.iter().flatten()) {
        for row in 0..R {
            prefetch_row(beside.at(first + row), V * LANES);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { add_products::<U, R, V>(&mut sums, tiles, left, right) };
    if tiles.width == V * LANES {
        // SAFETY: as the caller promises.
        unsafe { finish::<U, R, V>(sums, tiles, first, LANES) };
    } else {
        // SAFETY: as the caller promises.
        unsafe { finish::<U, R, V>(sums, tiles, first, tiles.width - (V - 1) * LANES) };
    }
}

/// Writes the sums, with what the epilogue adds. Its loops are short and have no other ends: unrolled, they leave the
/// sums in their registers.
///
/// # Safety
/// See [`run`]; the last of a row's vectors has `last` columns.
#[inline(always)]
unsafe fn finish<U: TileUnit, const R: usize, const V: usize>(
    mut sums: [[U::Vector; V]; R],
    tiles: &Tiles<'_>,
    first: usize,
    last: usize,
) {
    let mut lanes = [LANES; V];
    lanes[V - 1] = last;
    let out = |row: usize, v: usize| tiles.out(first + row).wrapping_add(v * LANES);
    if let Some(bias) = tiles.epilogue.bias {
        for v in 0..V {
            // SAFETY: the bias has `width` elements.
            let bias = unsafe { U::load_first(bias.as_ptr().wrapping_add(v * LANES), lanes[v]) };
            for row in &mut sums {
                row[v] = U::add(row[v], bias);
            }
        }
    }
    if tiles.epilogue.accumulate {
        for (row, sums) in sums.iter_mut().enumerate() {
            for v in 0..V {
                // SAFETY: a row of `out` has `width` elements.
                let before = unsafe { U::load_first(out(row, v), lanes[v]) };
                sums[v] = U::add(before, sums[v]);
            }
        }
    }
    if tiles.epilogue.relu {
        for sum in sums.as_flattened_mut() {
            *sum = U::rectify(*sum);
        }
    }
    if let Some(gate) = tiles.gate {
        for (row, sums) in sums.iter_mut().enumerate() {
            for v in 0..V {
                // SAFETY: a row of the gate has `width` elements.
                let value = unsafe {
                    U::load_first(gate.at(first + row).wrapping_add(v * LANES), lanes[v])
                };
                sums[v] = U::pass(sums[v], value);
            }
        }
    }
    if let Some([x0, x]) = tiles.cross {
        for (row, sums) in sums.iter_mut().enumerate() {
            let [x0, x] = [x0, x].map(|beside| beside.at(first + row));
            for v in 0..V {
                // SAFETY: a row of both has `width` elements.
                let [x0, x] = unsafe {
                    [
                        U::load_first(x0.wrapping_add(v * LANES), lanes[v]),
                        U::load_first(x.wrapping_add(v * LANES), lanes[v]),
                    ]
                };
                sums[v] = U::add(U::multiply(x0, sums[v]), x);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for v in 0..V {
            // SAFETY: as above.
            unsafe { U::store_first(sums[v], out(row, v), lanes[v]) };
        }
    }
}

/// # Safety
/// `left` gives the address of an element of the left factor for each row and depth of the tile, and
/// `right` that of `V` vectors of the right one for each depth; the CPU has the unit.
#[inline(always)]
unsafe fn add_products<U: TileUnit, const R: usize, const V: usize>(
    sums: &mut [[U::Vector; V]; R],
    tiles: &Tiles<'_>,
    left: impl Fn(usize, usize) -> *const f32,
    right: impl Fn(usize) -> *const f32,
) {
    let unrolled = tiles.depth - tiles.depth % UNROLL;
    for depth in (0..unrolled).step_by(UNROLL) {
        if let Some(ahead) = tiles.ahead {
            ahead.ask(depth * (LANES / UNROLL));
        }
        for next in 0..UNROLL {
            // SAFETY: as the caller promises.
            unsafe { step::<U, R, V>(sums, depth + next, &left, &right) };
        }
    }
    for depth in unrolled..tiles.depth {
        // SAFETY: as the caller promises.
        unsafe { step::<U, R, V>(sums, depth, &left, &right) };
    }
}

/// No closure of it calls a function of the unit: those are not compiled for it.
///
/// # Safety
/// See [`add_products`].
#[inline(always)]
unsafe fn step<U: TileUnit, const R: usize, const V: usize>(
    sums: &mut [[U::Vector; V]; R],
    depth: usize,
    left: &impl Fn(usize, usize) -> *const f32,
    right: &impl Fn(usize) -> *const f32,
) {
    let (row, ahead) = (right(depth), right(depth + AHEAD));
    let mut right = [U::splat(0.0); V];
    for (v, vector) in right.iter_mut().enumerate() {
        // SAFETY: the right factor has the vectors.
        *vector = unsafe { U::load_first(row.wrapping_add(v * LANES), LANES) };
    }
    prefetch_row(ahead, V * LANES);
    // With iterators in place of indices the sums leave the registers.
    #[allow(clippy::needless_range_loop)]
    for row in 0..R {
        // SAFETY: the left factor has the element.
        let element = U::splat(unsafe { *left(row, depth) });
        for v in 0..V {
            sums[row][v] = U::multiply_add(element, right[v], sums[row][v]);
        }
    }
}

use half::{bf16, f16};

use super::{
    Unit,
    block::{Block, DEPTH, LeftBlock, SIDE, TILE, TILE_LEN},
    pack,
};
use crate::{
    device::Context,
    simd::{Epilogue, Float, LANES, Simd, lanes, multiversion, narrow, transpose},
    tensor::{DType, TensorMut, TensorRef},
};

/// Floats that a packed right factor takes.
pub(crate) fn right_len(depth: usize, columns: usize) -> usize {
    pack::blocks(columns) * pack::tiles(depth) * 2 * TILE_LEN
}

/// Floats of working memory to pack a right factor that lies transposed.
pub(crate) fn transposed_len(depth: usize) -> usize {
    pack::transposed_floats(depth)
}

/// A packed right factor, `[depth, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct RightTiles<'a> {
    pairs: &'a [u32],
    depth: usize,
    columns: usize,
}

impl<'a> RightTiles<'a> {
    /// Packs `right: [depth, columns]` of bf16 into `floats`, of [`right_len`].
    pub(crate) fn pack(floats: &mut [f32], right: TensorRef<'_>) {
        pack::right(right, bytemuck::cast_slice_mut(floats));
    }

    /// Packs the transpose of `rows: [columns, depth]`; `working` is of [`transposed_len`].
    pub(crate) fn pack_transposed(floats: &mut [f32], rows: TensorRef<'_>, working: &mut [f32]) {
        pack::right_transposed(rows, working, bytemuck::cast_slice_mut(floats));
    }

    /// What was packed into `floats`.
    pub(crate) fn packed(floats: &'a [f32], depth: usize, columns: usize) -> Self {
        Self {
            pairs: &bytemuck::cast_slice(floats)[..right_len(depth, columns)],
            depth,
            columns,
        }
    }

    fn block(&self, block: usize) -> &'a [u32] {
        let len = pack::tiles(self.depth) * 2 * TILE_LEN;
        &self.pairs[block * len..][..len]
    }
}

/// `out = epilogue(left . right)`, with `left: [rows, depth]` and `out: [rows, columns]` of any floats;
/// `left` is rounded to bf16. There is no cross.
///
/// # Panics
/// When the shapes do not chain.
pub(crate) fn multiply(
    context: &Context,
    unit: Unit,
    left: TensorRef<'_>,
    right: RightTiles<'_>,
    mut out: TensorMut<'_>,
    epilogue: Epilogue<'_>,
) {
    let [rows, depth] = left.shape();
    assert_eq!((depth, [rows, right.columns]), (right.depth, out.shape()));
    let tiles = pack::tiles(depth);
    let whole = left.dtype() == DType::Bf16
        && depth.is_multiple_of(DEPTH)
        && rows.is_multiple_of(SIDE)
        && depth > 0;
    let padded = if whole {
        0
    } else {
        pack::blocks(rows) * SIDE * tiles * DEPTH
    };
    let mut scratch = context.scratch(padded / 2);
    let halves: &mut [bf16] = bytemuck::cast_slice_mut(&mut scratch);
    if !whole {
        pack::left(left, halves);
    }
    let block_of = |row: usize| -> LeftBlock<'_> {
        if whole {
            let bytes = left.row_stride() * size_of::<bf16>();
            let start = left.row_of::<bf16>(row).as_ptr();
            // SAFETY: 32 rows from `row` on exist, each as deep as the tiles.
            return unsafe { LeftBlock::from_raw(start, bytes, tiles) };
        }
        LeftBlock::new(
            &halves[row * tiles * DEPTH..][..SIDE * tiles * DEPTH],
            tiles,
        )
    };
    let mut sums = Block::default();
    unit.begin();
    for block in 0..pack::blocks(right.columns) {
        let columns = block * SIDE..right.columns.min((block + 1) * SIDE);
        for row in (0..rows).step_by(SIDE) {
            unit.block(block_of(row), right.block(block), &mut sums);
            let rows = row..rows.min(row + SIDE);
            let out = out.reborrow().rows(rows.clone()).columns(columns.clone());
            let beside = Epilogue {
                bias: epilogue.bias.map(|bias| &bias[columns.clone()]),
                gate: epilogue
                    .gate
                    .map(|gate| gate.rows(rows).columns(columns.clone())),
                ..epilogue
            };
            finish(&sums, out, beside);
        }
    }
    unit.end();
}

/// `out (+)= left^T . right`, with `left: [samples, rows]` and `right: [samples, columns]` of bf16 or
/// float32, which is rounded.
///
/// # Panics
/// When the shapes do not chain.
pub(crate) fn multiply_transposed(
    context: &Context,
    unit: Unit,
    left: TensorRef<'_>,
    right: TensorRef<'_>,
    out: TensorMut<'_>,
    accumulate: bool,
) {
    let ([samples, rows], columns) = (left.shape(), right.shape()[1]);
    assert_eq!(samples, right.shape()[0]);
    let mut floats = context.scratch(right_len(samples, columns));
    with_halves(context, right, |right| RightTiles::pack(&mut floats, right));
    // The left factor as pairs of samples, then turned: rows of pairs.
    let pairs = pack::tiles(samples) * TILE;
    let (padded_rows, stride) = (rows.next_multiple_of(TILE), pairs);
    let mut paired = context.scratch(pairs * rows);
    with_halves(context, left, |left| pair_rows(left, &mut paired));
    let mut turned = context.scratch(padded_rows * stride);
    transpose(&paired, pairs, rows, &mut turned, stride);
    let depth = 2 * pairs;
    let halves: &[bf16] = bytemuck::cast_slice(&turned[..rows * stride]);
    let left = TensorRef::from_elements(halves, &[rows, depth]);
    let right = RightTiles::packed(&floats, samples, columns);
    let right = RightTiles { depth, ..right };
    let epilogue = Epilogue {
        accumulate,
        ..Epilogue::default()
    };
    multiply(context, unit, left, right, out, epilogue);
}

/// Calls `work` with a view of bf16.
fn with_halves(context: &Context, view: TensorRef<'_>, work: impl FnOnce(TensorRef<'_>)) {
    if view.dtype() == DType::Bf16 {
        return work(view);
    }
    let [rows, columns] = view.shape();
    let mut scratch = context.scratch((rows * columns).div_ceil(2));
    let halves: &mut [bf16] = bytemuck::cast_slice_mut(&mut scratch);
    let halves = &mut halves[..rows * columns];
    narrow(view, TensorMut::from_elements(halves, &[rows, columns]));
    work(TensorRef::from_elements(halves, &[rows, columns]));
}

/// `pairs[p][c]` is the pair of rows `2 p`, `2 p + 1` of column `c`; rows past the end are zeros.
fn pair_rows(rows: TensorRef<'_>, pairs: &mut [f32]) {
    let [count, columns] = rows.shape();
    for (pair, to) in pairs.chunks_exact_mut(columns.max(1)).enumerate() {
        let row = |row: usize| (row < count).then(|| rows.row_of::<bf16>(row));
        pair_row(
            row(2 * pair),
            row(2 * pair + 1),
            bytemuck::cast_slice_mut(to),
        );
    }
}

multiversion! {
    fn pair_row(low: Option<&[bf16]>, high: Option<&[bf16]>, to: &mut [u32]) {
        match (low, high) {
            (Some(low), Some(high)) => {
                for ((low, high), to) in low.iter().zip(high).zip(to) {
                    *to = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
                }
            }
            (Some(low), None) => {
                low.iter().zip(to).for_each(|(low, to)| *to = low.to_bits().into());
            }
            _ => to.fill(0),
        }
    }
}

multiversion! {
    /// Writes the sums of a block, after bias, activation and gate, to the part of `out` that exists.
    fn finish(sums: &Block, out: TensorMut<'_>, epilogue: Epilogue<'_>) {
        match out.dtype() {
            DType::Bf16 => finish_rows::<S, bf16>(sums, out, epilogue),
            DType::F16 => finish_rows::<S, f16>(sums, out, epilogue),
            _ => finish_rows::<S, f32>(sums, out, epilogue),
        }
    }
}

#[inline(always)]
fn finish_rows<S: Simd, F: Float>(sums: &Block, mut out: TensorMut<'_>, epilogue: Epilogue<'_>) {
    let [rows, columns] = out.shape();
    for start in (0..columns).step_by(LANES) {
        let end = columns.min(start + LANES);
        let bias = epilogue.bias.map(|bias| first::<S, f32>(&bias[start..end]));
        for row in 0..rows {
            let out = &mut out.row_mut_of::<F>(row)[start..end];
            let mut x = S::load(lanes(&sums.floats()[row * SIDE + start..]));
            if epilogue.accumulate {
                x = S::add(x, first::<S, F>(out));
            }
            if let Some(bias) = bias {
                x = S::add(x, bias);
            }
            if epilogue.relu {
                x = S::where_positive(x, x);
            }
            if let Some(gate) = epilogue.gate {
                let values = match gate.dtype() {
                    DType::Bf16 => first::<S, bf16>(&gate.row_of(row)[start..end]),
                    DType::F16 => first::<S, f16>(&gate.row_of(row)[start..end]),
                    _ => first::<S, f32>(&gate.row(row)[start..end]),
                };
                x = S::where_positive(x, values);
            }
            if out.len() == LANES {
                F::store::<S>(x, out);
            } else {
                let mut wide = [0.0; LANES];
                S::store(x, &mut wide);
                out.iter_mut()
                    .zip(wide)
                    .for_each(|(out, x)| *out = F::narrow(x));
            }
        }
    }
}

/// Up to a vector of numbers, with zeros behind them.
#[inline(always)]
fn first<S: Simd, F: Float>(x: &[F]) -> S::Vector {
    if x.len() == LANES {
        return F::load::<S>(x);
    }
    let mut wide = [0.0; LANES];
    wide.iter_mut()
        .zip(x)
        .for_each(|(wide, x)| *wide = x.widen());
    S::load(&wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(len: usize, seed: u32) -> Vec<bf16> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    /// `[rows, depth] . [depth, columns]` in float64.
    fn exact(a: &[bf16], b: &[bf16], [rows, depth, columns]: [usize; 3]) -> Vec<f64> {
        let at = |x: &[bf16], index: usize| x[index].to_f64();
        (0..rows * columns)
            .map(|index| {
                let (row, column) = (index / columns, index % columns);
                let term = |k: usize| at(a, row * depth + k) * at(b, k * columns + column);
                (0..depth).map(term).sum()
            })
            .collect()
    }

    fn turned(x: &[bf16], rows: usize, columns: usize) -> Vec<bf16> {
        let at = |index: usize| x[index % rows * columns + index / rows];
        (0..rows * columns).map(at).collect()
    }

    fn assert_close(what: &str, got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!(
                (f64::from(*got) - expected).abs() < 1e-4,
                "{what}: {got}, {expected}"
            );
        }
    }

    const SHAPES: [[usize; 3]; 7] = [
        [1, 1, 1],
        [32, 32, 32],
        [33, 31, 65],
        [64, 96, 20],
        [5, 130, 48],
        [40, 7, 16],
        [31, 64, 33],
    ];

    #[test]
    fn tiles_give_the_product_of_any_shape() {
        let context = Context::cpu(1, false).unwrap();
        for shape @ [rows, depth, columns] in SHAPES {
            let (a, b) = (halves(rows * depth, 1), halves(depth * columns, 2));
            let bias: Vec<f32> = (0..columns).map(|c| c as f32 / 16.0 - 1.0).collect();
            let expected = exact(&a, &b, shape);
            let rectified: Vec<f64> = expected
                .iter()
                .enumerate()
                .map(|(index, x)| (x + f64::from(bias[index % columns])).max(0.0))
                .collect();
            let left = TensorRef::from_elements(&a, &[rows, depth]);
            let mut floats = vec![0.0; right_len(depth, columns)];
            let b_turned = turned(&b, depth, columns);
            let mut working = vec![0.0; transposed_len(depth)];
            for transposed in [false, true] {
                floats.fill(f32::NAN);
                if transposed {
                    let rows = TensorRef::from_elements(&b_turned, &[columns, depth]);
                    RightTiles::pack_transposed(&mut floats, rows, &mut working);
                } else {
                    let right = TensorRef::from_elements(&b, &[depth, columns]);
                    RightTiles::pack(&mut floats, right);
                }
                let right = RightTiles::packed(&floats, depth, columns);
                let mut out = vec![1.0; rows * columns];
                let view = TensorMut::from_f32(&mut out, &[rows, columns]);
                let relu = Epilogue {
                    bias: Some(&bias),
                    relu: true,
                    ..Epilogue::default()
                };
                multiply(&context, Unit::Emulated, left, right, view, relu);
                assert_close("with bias and activation", &out, &rectified);
                out.fill(1.0);
                let view = TensorMut::from_f32(&mut out, &[rows, columns]);
                let add = Epilogue {
                    accumulate: true,
                    ..Epilogue::default()
                };
                multiply(&context, Unit::Emulated, left, right, view, add);
                let plus: Vec<f64> = expected.iter().map(|x| x + 1.0).collect();
                assert_close("accumulated", &out, &plus);
            }
        }
    }

    #[test]
    fn sums_over_samples_are_products_with_a_transpose() {
        let context = Context::cpu(1, false).unwrap();
        for shape @ [rows, depth, columns] in SHAPES {
            let (a, b) = (halves(rows * depth, 3), halves(depth * columns, 4));
            let left = turned(&a, rows, depth);
            let left = TensorRef::from_elements(&left, &[depth, rows]);
            let right = TensorRef::from_elements(&b, &[depth, columns]);
            let mut out = vec![0.0; rows * columns];
            let view = TensorMut::from_f32(&mut out, &[rows, columns]);
            multiply_transposed(&context, Unit::Emulated, left, right, view, false);
            assert_close("a gradient", &out, &exact(&a, &b, shape));
        }
    }

    #[test]
    fn results_in_bf16_are_rounded_once() {
        let context = Context::cpu(1, false).unwrap();
        let a = halves(32 * 32, 5);
        let left = TensorRef::from_elements(&a, &[32, 32]);
        let mut floats = vec![0.0; right_len(32, 32)];
        RightTiles::pack(&mut floats, left);
        let right = RightTiles::packed(&floats, 32, 32);
        let (mut wide, mut half) = (vec![0.0; 1024], vec![bf16::ZERO; 1024]);
        let none = Epilogue::default();
        let view = TensorMut::from_f32(&mut wide, &[32, 32]);
        multiply(&context, Unit::Emulated, left, right, view, none);
        let view = TensorMut::from_elements(&mut half, &[32, 32]);
        multiply(&context, Unit::Emulated, left, right, view, none);
        let rounded: Vec<bf16> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
        assert_eq!(half, rounded);
    }

    #[test]
    fn a_gate_lets_gradients_pass_where_values_are_positive() {
        let context = Context::cpu(1, false).unwrap();
        for shape @ [rows, depth, columns] in SHAPES {
            let (a, b) = (halves(rows * depth, 6), halves(depth * columns, 7));
            let values = halves(rows * columns, 8);
            let closed = exact(&a, &b, shape).into_iter().zip(&values);
            let expected: Vec<f64> = closed
                .map(|(sum, value)| if value.to_f32() <= 0.0 { 0.0 } else { sum })
                .collect();
            let left = TensorRef::from_elements(&a, &[rows, depth]);
            let mut floats = vec![0.0; right_len(depth, columns)];
            RightTiles::pack(&mut floats, TensorRef::from_elements(&b, &[depth, columns]));
            let right = RightTiles::packed(&floats, depth, columns);
            let wide: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
            let gates = [
                TensorRef::from_elements(&values, &[rows, columns]),
                TensorRef::from_f32(&wide, &[rows, columns]),
            ];
            for gate in gates {
                let mut out = vec![1.0; rows * columns];
                let view = TensorMut::from_f32(&mut out, &[rows, columns]);
                let closing = Epilogue {
                    gate: Some(gate),
                    ..Epilogue::default()
                };
                multiply(&context, Unit::Emulated, left, right, view, closing);
                assert_close("gated", &out, &expected);
            }
        }
    }
}

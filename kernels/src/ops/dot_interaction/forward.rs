use super::{
    super::{
        operand::expect_float as expect,
        wide::{Wide, WideMut},
    },
    PANEL_ROWS,
    ahead::Ahead,
    output_columns, pairs,
};
use crate::{
    device::{Context, Device},
    error::Result,
    simd::{LANES, Lanes, Simd, multiversion, transpose},
    tensor::{TensorMut, TensorRef},
};

/// Writes each sample's first vector and its pairwise dot products.
///
/// `x: [batch, features * dim]`, `y: [batch, dim + features * (features - 1) / 2]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn forward(
    context: &Context,
    x: TensorRef<'_>,
    features: usize,
    dim: usize,
    y: TensorMut<'_>,
) -> Result<()> {
    const OPERATION: &str = "dot_interaction::forward";
    let batch = x.shape()[0];
    expect(OPERATION, "x", &x, [batch, features * dim])?;
    expect(OPERATION, "y", &y, [batch, output_columns(features, dim)])?;
    match context.device() {
        Device::Cpu => context.for_each_panel(batch, PANEL_ROWS, |rows| {
            let x = Wide::new(context, x.rows(rows.clone()));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let mut y = WideMut::new(context, unsafe { y.alias_rows(rows) });
            let mut scratch = context.scratch(Scratch::floats(features));
            forward_panel(x.view(), features, dim, y.view(), &mut scratch);
            y.store();
        }),
    }
    Ok(())
}

/// Some depth of a vector of each of [`LANES`] samples, a sample in each lane.
type Slice = [Lanes; LANES];

/// Working memory for [`LANES`] samples, one in each lane: no vector is padded, whatever `features` is.
struct Scratch<'a> {
    /// A slice of each vector.
    slices: &'a mut [Slice],
    /// The triangles.
    triangles: &'a mut [Lanes],
    /// The triangles turned, `[LANES, padded pairs]`.
    turned: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn floats(features: usize) -> usize {
        let pairs = pairs(features);
        features * LANES * LANES + pairs * LANES + pairs.next_multiple_of(LANES) * LANES
    }

    #[inline(always)]
    fn new(floats: &'a mut [f32], features: usize) -> Self {
        let (slices, rest) = floats.split_at_mut(features * LANES * LANES);
        let (triangles, turned) = rest.split_at_mut(pairs(features) * LANES);
        Self {
            slices: slices.as_chunks_mut().0.as_chunks_mut().0,
            triangles: triangles.as_chunks_mut().0,
            turned,
        }
    }
}

multiversion! {
    fn forward_panel(
        x: TensorRef<'_>,
        features: usize,
        dim: usize,
        y: TensorMut<'_>,
        scratch: &mut [f32],
    ) {
        let (mut y, pairs) = (y, pairs(features));
        let scratch = Scratch::new(scratch, features);
        let stride = pairs.next_multiple_of(LANES);
        let batch = x.shape()[0];
        for first in (0..batch).step_by(LANES) {
            let x = x.rows(first..batch.min(first + LANES));
            let samples = x.shape()[0];
            let following = x.as_ptr().wrapping_add(LANES * x.row_stride());
            let tiles = features.div_ceil(SIDE) * (features.div_ceil(SIDE) + 1) / 2;
            let steps = tiles * dim.next_multiple_of(LANES);
            let mut ahead = Ahead::new(following, LANES * x.row_stride(), steps);
            scratch.triangles.as_flattened_mut().fill(0.0);
            for depth in (0..dim).step_by(LANES) {
                let width = LANES.min(dim - depth);
                for (feature, slice) in scratch.slices.iter_mut().enumerate() {
                    let column = feature * dim + depth;
                    let slice = slice.as_flattened_mut();
                    transpose(x.columns(column..column + width), slice, LANES);
                    slice[width * LANES..].fill(0.0);
                }
                add_products::<S>(scratch.slices, scratch.triangles, &mut ahead);
            }
            if pairs > 0 {
                let triangles = scratch.triangles.as_flattened();
                transpose(TensorRef::from_f32(triangles, &[pairs, LANES]), scratch.turned, stride);
            }
            for sample in 0..samples {
                let (copy, z) = y.row_mut(first + sample).split_at_mut(dim);
                match features {
                    0 => copy.fill(0.0),
                    _ => copy.copy_from_slice(&x.row(sample)[..dim]),
                }
                z.copy_from_slice(&scratch.turned[sample * stride..][..pairs]);
            }
        }
    }
}

/// Vectors on a side of a tile of products: 25 sums and 6 factors fit the 32 registers of AVX-512.
const SIDE: usize = 5;

/// Adds the products of slices to all pairs.
#[inline(always)]
fn add_products<S: Simd>(slices: &[Slice], triangles: &mut [Lanes], ahead: &mut Ahead) {
    for (index, rows) in slices.chunks(SIDE).enumerate() {
        let first = index * SIDE;
        for column in (0..first).step_by(SIDE) {
            let columns = &slices[column..];
            match *rows {
                [_] => rectangle::<S, 1>(rows, columns, first, column, triangles, ahead),
                [_, _] => rectangle::<S, 2>(rows, columns, first, column, triangles, ahead),
                [_, _, _] => rectangle::<S, 3>(rows, columns, first, column, triangles, ahead),
                [_, _, _, _] => rectangle::<S, 4>(rows, columns, first, column, triangles, ahead),
                _ => rectangle::<S, SIDE>(rows, columns, first, column, triangles, ahead),
            }
        }
        match *rows {
            [_] => {}
            [_, _] => triangle::<S, 2>(rows, first, triangles, ahead),
            [_, _, _] => triangle::<S, 3>(rows, first, triangles, ahead),
            [_, _, _, _] => triangle::<S, 4>(rows, first, triangles, ahead),
            _ => triangle::<S, SIDE>(rows, first, triangles, ahead),
        }
    }
}

/// Adds the products of `ROWS` slices, those of the vectors from `row` on, with [`SIDE`] others, those from
/// `column` on, all of them before.
#[inline(always)]
fn rectangle<S: Simd, const ROWS: usize>(
    rows: &[Slice],
    columns: &[Slice],
    row: usize,
    column: usize,
    triangles: &mut [Lanes],
    ahead: &mut Ahead,
) {
    let rows: [&Slice; ROWS] = std::array::from_fn(|index| &rows[index]);
    let columns: [&Slice; SIDE] = std::array::from_fn(|index| &columns[index]);
    let mut sums: [[S::Vector; SIDE]; ROWS] = std::array::from_fn(|r| {
        std::array::from_fn(|c| S::load(&triangles[pairs(row + r) + column + c]))
    });
    for depth in 0..LANES {
        ahead.step();
        let own: [S::Vector; ROWS] = std::array::from_fn(|row| S::load(&rows[row][depth]));
        for (c, column) in columns.iter().enumerate() {
            let other = S::load(&column[depth]);
            for r in 0..ROWS {
                sums[r][c] = S::multiply_add(own[r], other, sums[r][c]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (c, sum) in sums.iter().enumerate() {
            S::store(*sum, &mut triangles[pairs(row + r) + column + c]);
        }
    }
}

/// Adds the products of `ROWS` slices, those of the vectors from `row` on, with each other.
#[inline(always)]
fn triangle<S: Simd, const ROWS: usize>(
    rows: &[Slice],
    row: usize,
    triangles: &mut [Lanes],
    ahead: &mut Ahead,
) {
    let rows: [&Slice; ROWS] = std::array::from_fn(|index| &rows[index]);
    let mut sums: [[S::Vector; ROWS]; ROWS] = [[S::splat(0.0); ROWS]; ROWS];
    for r in 1..ROWS {
        for c in 0..r {
            sums[r][c] = S::load(&triangles[pairs(row + r) + row + c]);
        }
    }
    #[allow(clippy::needless_range_loop)] // It indexes several slices.
    for depth in 0..LANES {
        ahead.step();
        let own: [S::Vector; ROWS] = std::array::from_fn(|row| S::load(&rows[row][depth]));
        for r in 1..ROWS {
            for c in 0..r {
                sums[r][c] = S::multiply_add(own[r], own[c], sums[r][c]);
            }
        }
    }
    for r in 1..ROWS {
        for c in 0..r {
            S::store(sums[r][c], &mut triangles[pairs(row + r) + row + c]);
        }
    }
}

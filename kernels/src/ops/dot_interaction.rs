//! Pairwise dot products of a sample's feature vectors (DLRM, <https://arxiv.org/abs/1906.00091>).
//!
//! With the vectors `x[0..features]` of a sample, `y = [x[0], z]`, where `z` holds the dot products
//! `x[i] . x[j]` for `i > j`, the strict lower triangle row by row: pair `(i, j)` is at
//! `i * (i - 1) / 2 + j`. `x[0]` is the vector of the dense features.

use super::operand::expect;
use crate::{
    device::{Context, Device},
    error::Result,
    simd::{LANES, Lanes, multiply_add, multiversion},
    tensor::{TensorMut, TensorRef},
};

/// Samples of one parallel task.
const PANEL_ROWS: usize = 64;

/// Columns of the output for `features` vectors of `dim` floats.
pub fn output_columns(features: usize, dim: usize) -> usize {
    dim + pairs(features)
}

fn pairs(features: usize) -> usize {
    features * features.saturating_sub(1) / 2
}

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
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let y = unsafe { y.alias_rows(rows.clone()) };
            let mut scratch = context.scratch(ForwardScratch::floats(features, dim));
            forward_panel(x.rows(rows), features, dim, y, &mut scratch);
        }),
    }
    Ok(())
}

/// Working memory of the forward pass of one sample.
struct ForwardScratch<'a> {
    /// The sample's vectors transposed, `[dim, padded features]`.
    transposed: &'a mut [f32],
    /// The triangle, with room for the last row's whole registers.
    triangle: &'a mut [f32],
}

impl<'a> ForwardScratch<'a> {
    fn floats(features: usize, dim: usize) -> usize {
        let padded = features.next_multiple_of(LANES);
        dim * padded + pairs(features) + padded
    }

    #[inline(always)]
    fn new(floats: &'a mut [f32], features: usize, dim: usize) -> Self {
        let (transposed, triangle) = floats.split_at_mut(dim * features.next_multiple_of(LANES));
        Self {
            transposed,
            triangle,
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
        let mut y = y;
        scratch.fill(0.0);
        let scratch = ForwardScratch::new(scratch, features, dim);
        for sample in 0..x.shape()[0] {
            let x = x.row(sample);
            let (copy, z) = y.row_mut(sample).split_at_mut(dim);
            if features > 0 {
                copy.copy_from_slice(&x[..dim]);
            } else {
                copy.fill(0.0);
            }
            transpose(x, features, dim, scratch.transposed);
            let mut row = 1;
            while row < features {
                row += match features - row {
                    1 => triangle_rows::<FMA, 1>(row, x, features, dim, scratch.transposed, scratch.triangle),
                    2 | 3 => triangle_rows::<FMA, 2>(row, x, features, dim, scratch.transposed, scratch.triangle),
                    4..8 => triangle_rows::<FMA, 4>(row, x, features, dim, scratch.transposed, scratch.triangle),
                    _ => triangle_rows::<FMA, 8>(row, x, features, dim, scratch.transposed, scratch.triangle),
                };
            }
            z.copy_from_slice(&scratch.triangle[..pairs(features)]);
        }
    }
}

/// `[features, dim]` to `[dim, padded features]`.
#[inline(always)]
fn transpose(x: &[f32], features: usize, dim: usize, transposed: &mut [f32]) {
    let padded = features.next_multiple_of(LANES);
    for (feature, x) in x.chunks_exact(dim.max(1)).enumerate() {
        for (&x, column) in x.iter().zip(transposed.chunks_exact_mut(padded)) {
            column[feature] = x;
        }
    }
}

/// Computes `ROWS` rows of the triangle from `first` on and returns `ROWS`.
///
/// Each row is written in whole registers; what spills over is overwritten by the next rows, so
/// rows are computed in ascending order.
#[inline(always)]
fn triangle_rows<const FMA: bool, const ROWS: usize>(
    first: usize,
    x: &[f32],
    features: usize,
    dim: usize,
    transposed: &[f32],
    triangle: &mut [f32],
) -> usize {
    let padded = features.next_multiple_of(LANES);
    let x: [&[f32]; ROWS] = std::array::from_fn(|row| &x[(first + row) * dim..][..dim]);
    // The last of these rows needs the columns up to its own number.
    let columns = (first + ROWS - 1).next_multiple_of(LANES);
    // Registers of a row are computed from the last to the first, so that what the spill of a
    // later register hits is always a later row.
    let mut sums = [[0.0; LANES]; ROWS];
    for block in (0..columns / LANES).rev() {
        for sums in &mut sums {
            *sums = [0.0; LANES];
        }
        for (d, column) in transposed.chunks_exact(padded).take(dim).enumerate() {
            let column: &Lanes = column[block * LANES..][..LANES]
                .try_into()
                .expect("one register");
            for (sums, x) in sums.iter_mut().zip(&x) {
                for (sum, value) in sums.iter_mut().zip(column) {
                    *sum = multiply_add::<FMA>(x[d], *value, *sum);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let (row, column) = (first + row, block * LANES);
            if column < row {
                let width = LANES.min(row - column);
                triangle[pairs(row) + column..][..width].copy_from_slice(&sums[..width]);
            }
        }
    }
    ROWS
}

/// Adds up the gradients of both parts of the output.
///
/// `x, dx: [batch, features * dim]`, `dy: [batch, dim + features * (features - 1) / 2]`. With
/// `accumulate`, adds to `dx` instead of overwriting it.
///
/// # Errors
/// When the shapes do not fit.
pub fn backward(
    context: &Context,
    x: TensorRef<'_>,
    features: usize,
    dim: usize,
    dy: TensorRef<'_>,
    dx: TensorMut<'_>,
    accumulate: bool,
) -> Result<()> {
    const OPERATION: &str = "dot_interaction::backward";
    let batch = x.shape()[0];
    expect(OPERATION, "x", &x, [batch, features * dim])?;
    expect(OPERATION, "dy", &dy, [batch, output_columns(features, dim)])?;
    expect(OPERATION, "dx", &dx, [batch, features * dim])?;
    match context.device() {
        Device::Cpu => context.for_each_panel(batch, PANEL_ROWS, |rows| {
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let dx = unsafe { dx.alias_rows(rows.clone()) };
            let mut symmetric = context.scratch(features * features);
            backward_panel(
                x.rows(rows.clone()),
                features,
                dim,
                dy.rows(rows),
                dx,
                accumulate,
                &mut symmetric,
            );
        }),
    }
    Ok(())
}

multiversion! {
    fn backward_panel(
        x: TensorRef<'_>,
        features: usize,
        dim: usize,
        dy: TensorRef<'_>,
        dx: TensorMut<'_>,
        accumulate: bool,
        symmetric: &mut [f32],
    ) {
        if features == 0 {
            return;
        }
        let mut dx = dx;
        symmetric.fill(0.0);
        for sample in 0..x.shape()[0] {
            let (x, dx) = (x.row(sample), dx.row_mut(sample));
            let (d_copy, dz) = dy.row(sample).split_at(dim);
            fill_symmetric(dz, features, symmetric);
            let mut row = 0;
            while row < features {
                row += match features - row {
                    1 => gradient_rows::<FMA, 1>(row, x, features, dim, symmetric, dx, accumulate),
                    2 => gradient_rows::<FMA, 2>(row, x, features, dim, symmetric, dx, accumulate),
                    3..6 => gradient_rows::<FMA, 3>(row, x, features, dim, symmetric, dx, accumulate),
                    _ => gradient_rows::<FMA, 6>(row, x, features, dim, symmetric, dx, accumulate),
                };
            }
            dx[..dim].iter_mut().zip(d_copy).for_each(|(dx, d)| *dx += d);
        }
    }
}

/// The gradient of all dot products as a symmetric matrix with a diagonal of zeros.
#[inline(always)]
fn fill_symmetric(dz: &[f32], features: usize, symmetric: &mut [f32]) {
    let mut rest = dz;
    for row in 1..features {
        let (dz, tail) = rest.split_at(row);
        rest = tail;
        symmetric[row * features..][..row].copy_from_slice(dz);
        for (column, &d) in dz.iter().enumerate() {
            symmetric[column * features + row] = d;
        }
    }
}

/// Computes `ROWS` rows of `dx = symmetric . x` from `first` on and returns `ROWS`.
#[inline(always)]
fn gradient_rows<const FMA: bool, const ROWS: usize>(
    first: usize,
    x: &[f32],
    features: usize,
    dim: usize,
    symmetric: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) -> usize {
    let weights: [&[f32]; ROWS] =
        std::array::from_fn(|row| &symmetric[(first + row) * features..][..features]);
    let mut d = 0;
    while d < dim {
        d += if dim - d >= 4 * LANES {
            gradient_block::<FMA, ROWS, { 4 * LANES }>(first, x, dim, d, &weights, dx, accumulate)
        } else if dim - d >= LANES {
            gradient_block::<FMA, ROWS, LANES>(first, x, dim, d, &weights, dx, accumulate)
        } else {
            gradient_block::<FMA, ROWS, 1>(first, x, dim, d, &weights, dx, accumulate)
        };
    }
    ROWS
}

/// As [`gradient_rows`], for `WIDTH` columns from `d` on; returns `WIDTH`.
#[inline(always)]
fn gradient_block<const FMA: bool, const ROWS: usize, const WIDTH: usize>(
    first: usize,
    x: &[f32],
    dim: usize,
    d: usize,
    weights: &[&[f32]; ROWS],
    dx: &mut [f32],
    accumulate: bool,
) -> usize {
    let mut sums = [[0.0f32; WIDTH]; ROWS];
    for (feature, x) in x.chunks_exact(dim).enumerate() {
        let x: &[f32; WIDTH] = x[d..][..WIDTH].try_into().expect("WIDTH columns");
        for (sums, weights) in sums.iter_mut().zip(weights) {
            let weight = weights[feature];
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = multiply_add::<FMA>(weight, *x, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let dx = &mut dx[(first + row) * dim + d..][..WIDTH];
        if accumulate {
            dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx += sum);
        } else {
            dx.copy_from_slice(sums);
        }
    }
    WIDTH
}

//! Pairwise dot products of a sample's feature vectors (DLRM, <https://arxiv.org/abs/1906.00091>).
//!
//! With the vectors `x[0..features]` of a sample, `y = [x[0], z]`, where `z` holds the dot products
//! `x[i] . x[j]` for `i > j`, the strict lower triangle row by row: pair `(i, j)` is at
//! `i * (i - 1) / 2 + j`. `x[0]` is the vector of the dense features.

use super::{
    operand::expect_float as expect,
    wide::{Wide, WideMut},
};
use crate::{
    device::{Context, Device},
    error::Result,
    simd::{
        LANES, Lanes, Simd, finish_stream, lanes, lanes_mut, multiversion, past_caches,
        prefetch_row, transpose,
    },
    tensor::{DType, TensorMut, TensorRef},
};

/// Samples of one parallel task.
const PANEL_ROWS: usize = 32;

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
            let x = Wide::new(context, x.rows(rows.clone()));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let mut y = WideMut::new(context, unsafe { y.alias_rows(rows) });
            let mut scratch = context.scratch(ForwardScratch::floats(features, dim));
            forward_panel(x.view(), features, dim, y.view(), &mut scratch);
            y.store();
        }),
    }
    Ok(())
}

/// Working memory of the forward pass of one sample.
struct ForwardScratch<'a> {
    /// The sample's vectors transposed, `[dim, padded features]`.
    transposed: &'a mut [f32],
    /// Some rows of products, `[MAX_ROWS, padded features]`.
    products: &'a mut [f32],
    /// The triangle, with room for the last row's whole vectors.
    triangle: &'a mut [f32],
}

/// Rows of the triangle computed together.
const MAX_ROWS: usize = 8;

impl<'a> ForwardScratch<'a> {
    fn floats(features: usize, dim: usize) -> usize {
        let padded = features.next_multiple_of(LANES);
        dim * padded + MAX_ROWS * padded + pairs(features) + padded
    }

    #[inline(always)]
    fn new(floats: &'a mut [f32], features: usize, dim: usize) -> Self {
        let padded = features.next_multiple_of(LANES);
        let (transposed, rest) = floats.split_at_mut(dim * padded);
        let (products, triangle) = rest.split_at_mut(MAX_ROWS * padded);
        Self {
            transposed,
            products,
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
        let (padded, stride) = (features.next_multiple_of(LANES), x.row_stride());
        let mut scratch = ForwardScratch::new(scratch, features, dim);
        for sample in 0..x.shape()[0] {
            let x = x.row(sample);
            let (copy, z) = y.row_mut(sample).split_at_mut(dim);
            if features == 0 {
                copy.fill(0.0);
                continue;
            }
            copy.copy_from_slice(&x[..dim]);
            transpose(x, features, dim, scratch.transposed, padded);
            let mut row = 1;
            while row < features {
                // Meanwhile the next sample's vectors come into cache, a few at a time: all at
                // once they would stall on the memory's latency.
                prefetch_row(x.as_ptr().wrapping_add(stride + row * dim), MAX_ROWS * dim);
                row += match features - row {
                    1 => triangle_rows::<S, 1>(row, x, features, dim, &mut scratch),
                    2 | 3 => triangle_rows::<S, 2>(row, x, features, dim, &mut scratch),
                    4 | 5 => triangle_rows::<S, 4>(row, x, features, dim, &mut scratch),
                    rest if rest < MAX_ROWS || S::REGISTERS <= MAX_ROWS => {
                        triangle_rows::<S, 6>(row, x, features, dim, &mut scratch)
                    }
                    _ => triangle_rows::<S, MAX_ROWS>(row, x, features, dim, &mut scratch),
                };
            }
            z.copy_from_slice(&scratch.triangle[..pairs(features)]);
        }
    }
}

/// Computes `ROWS` rows of the triangle from `first` on and returns `ROWS`.
#[inline(always)]
fn triangle_rows<S: Simd, const ROWS: usize>(
    first: usize,
    x: &[f32],
    features: usize,
    dim: usize,
    scratch: &mut ForwardScratch<'_>,
) -> usize {
    let padded = features.next_multiple_of(LANES);
    let x: [&[f32]; ROWS] = std::array::from_fn(|row| &x[(first + row) * dim..][..dim]);
    // The last of these rows needs the columns before its own number.
    let columns = (first + ROWS - 1).next_multiple_of(LANES);
    let mut column = 0;
    while column < columns {
        column += if S::REGISTERS > 2 * ROWS && columns - column >= 2 * LANES {
            products::<S, ROWS, 2>(&x, scratch.transposed, padded, column, scratch.products)
        } else {
            products::<S, ROWS, 1>(&x, scratch.transposed, padded, column, scratch.products)
        };
    }
    // Each row is written in whole vectors; the next row overwrites what spills over.
    for row in 0..ROWS {
        let products = &scratch.products[row * padded..][..padded];
        let triangle = &mut scratch.triangle[pairs(first + row)..];
        for column in (0..first + row).step_by(LANES) {
            triangle[column..][..LANES].copy_from_slice(&products[column..][..LANES]);
        }
    }
    ROWS
}

/// Dot products of `ROWS` vectors with `BLOCKS * LANES` others; returns how many others.
#[inline(always)]
fn products<S: Simd, const ROWS: usize, const BLOCKS: usize>(
    x: &[&[f32]; ROWS],
    transposed: &[f32],
    padded: usize,
    column: usize,
    products: &mut [f32],
) -> usize {
    let mut sums = [[S::splat(0.0); BLOCKS]; ROWS];
    let dim = x[0].len();
    assert!(x.iter().all(|x| x.len() == dim));
    for (d, others) in transposed.chunks_exact(padded).take(dim).enumerate() {
        let others = &others[column..][..BLOCKS * LANES];
        let others: [S::Vector; BLOCKS] =
            std::array::from_fn(|block| S::load(lanes(&others[block * LANES..])));
        for row in 0..ROWS {
            // SAFETY: each of the vectors has `dim` floats, and `d` is below.
            let own = S::splat(unsafe { *x[row].get_unchecked(d) });
            for block in 0..BLOCKS {
                sums[row][block] = S::multiply_add(own, others[block], sums[row][block]);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (block, sum) in sums.iter().enumerate() {
            S::store(
                *sum,
                lanes_mut(&mut products[row * padded + column + block * LANES..]),
            );
        }
    }
    BLOCKS * LANES
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
    let store = match accumulate {
        true => Store::Add,
        false if dx.dtype() == DType::F32 && past_caches(batch * features * dim) => Store::Stream,
        false => Store::Overwrite,
    };
    match context.device() {
        Device::Cpu => context.for_each_panel(batch, PANEL_ROWS, |rows| {
            let [x, dy] = [x, dy].map(|view| Wide::new(context, view.rows(rows.clone())));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let own = unsafe { dx.alias_rows(rows) };
            let mut dx = WideMut::keeping(context, own, accumulate);
            let mut weights = context.scratch(MAX_GRADIENT_ROWS * features);
            backward_panel(
                x.view(),
                features,
                dim,
                dy.view(),
                dx.view(),
                store,
                &mut weights,
            );
            dx.store();
            finish_stream();
        }),
    }
    Ok(())
}

/// How sums get into the gradient.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Overwrite,
    /// Past the caches.
    Stream,
    Add,
}

/// Rows of the gradient computed together, at most.
const MAX_GRADIENT_ROWS: usize = 6;

multiversion! {
    fn backward_panel(
        x: TensorRef<'_>,
        features: usize,
        dim: usize,
        dy: TensorRef<'_>,
        dx: TensorMut<'_>,
        store: Store,
        weights: &mut [f32],
    ) {
        let mut dx = dx;
        if features * dim == 0 {
            return;
        }
        let (x_stride, dy_stride) = (x.row_stride(), dy.row_stride());
        for sample in 0..x.shape()[0] {
            let dy = dy.row(sample);
            let (d_copy, dz) = dy.split_at(dim);
            let x = x.row(sample);
            let dx = dx.row_mut(sample);
            for (group, own) in dx.chunks_mut(MAX_GRADIENT_ROWS * dim).enumerate() {
                let first = group * MAX_GRADIENT_ROWS;
                // Meanwhile the next sample comes into cache, as in the forward pass.
                prefetch_row(x.as_ptr().wrapping_add(x_stride + first * dim), own.len());
                let part = (dy.len() * MAX_GRADIENT_ROWS).div_ceil(features);
                prefetch_row(dy.as_ptr().wrapping_add(dy_stride + group * part), part);
                let copy = if group == 0 { d_copy } else { &[] };
                let terms = Terms { x, dz, copy, dim };
                match own.len() / dim {
                    1 => gradient_rows::<S, 1>(first, terms, own, store, weights),
                    2 => gradient_rows::<S, 2>(first, terms, own, store, weights),
                    3 => gradient_rows::<S, 3>(first, terms, own, store, weights),
                    4 => gradient_rows::<S, 4>(first, terms, own, store, weights),
                    5 => gradient_rows::<S, 5>(first, terms, own, store, weights),
                    _ => gradient_rows::<S, MAX_GRADIENT_ROWS>(first, terms, own, store, weights),
                }
            }
        }
    }
}

/// What some rows of a sample's gradient are summed from.
#[derive(Clone, Copy)]
struct Terms<'a> {
    /// All vectors of the sample, `[features, dim]`.
    x: &'a [f32],
    /// The gradient of the triangle.
    dz: &'a [f32],
    /// The gradient of the copy of the first vector, `[dim]`, where the first of the rows is its.
    copy: &'a [f32],
    dim: usize,
}

/// Computes `ROWS` rows of the gradient from `first` on, `dx[i] = sum over j != i of dz[i, j] * x[j]`, and the copy's to
/// the first.
#[inline(always)]
fn gradient_rows<S: Simd, const ROWS: usize>(
    first: usize,
    terms: Terms<'_>,
    dx: &mut [f32],
    store: Store,
    weights: &mut [f32],
) {
    let Terms { x, dz, copy, dim } = terms;
    let features = x.len() / dim;
    let (weights, _) = weights[..features * ROWS].as_chunks_mut::<ROWS>();
    gather_weights(first, dz, weights);
    let mut d = 0;
    while S::REGISTERS > 4 * ROWS && dim - d >= 4 * LANES {
        gradient_block::<S, ROWS, 4>(weights, terms, d, dx, store);
        d += 4 * LANES;
    }
    while dim - d >= LANES {
        gradient_block::<S, ROWS, 1>(weights, terms, d, dx, store);
        d += LANES;
    }
    for d in d..dim {
        for row in 0..ROWS {
            let mut sum = 0.0;
            for (x, weights) in x.chunks_exact(dim).zip(weights.iter()) {
                sum = S::multiply_add_scalar(weights[row], x[d], sum);
            }
            if row == 0 && !copy.is_empty() {
                sum += copy[d];
            }
            let dx = &mut dx[row * dim + d];
            *dx = if store == Store::Add { *dx + sum } else { sum };
        }
    }
}

/// The weights `dz[i, j]` of the rows `i` from `first` on, those of each vector `j` side by side: they are read once for
/// every few columns. A vector has none in its own gradient.
#[inline(always)]
fn gather_weights<const ROWS: usize>(first: usize, dz: &[f32], weights: &mut [[f32; ROWS]]) {
    // Before these rows, the weights of one row are adjacent; after them, those of one other vector are.
    for row in 0..ROWS {
        let before = &dz[pair(first + row, 0)..][..first + row];
        for (weights, &weight) in weights.iter_mut().zip(before) {
            weights[row] = weight;
        }
        weights[first + row][row] = 0.0;
        for other in row + 1..ROWS {
            weights[first + other][row] = dz[pair(first + other, first + row)];
        }
    }
    for (other, weights) in weights.iter_mut().enumerate().skip(first + ROWS) {
        weights.copy_from_slice(&dz[pair(other, first)..][..ROWS]);
    }
}

/// Where the product of vectors `i > j` is in the triangle.
#[inline(always)]
fn pair(i: usize, j: usize) -> usize {
    pairs(i) + j
}

/// As [`gradient_rows`], for `BLOCKS * LANES` columns from `d` on.
#[inline(always)]
fn gradient_block<S: Simd, const ROWS: usize, const BLOCKS: usize>(
    weights: &[[f32; ROWS]],
    terms: Terms<'_>,
    d: usize,
    dx: &mut [f32],
    store: Store,
) {
    let Terms { x, copy, dim, .. } = terms;
    let mut sums = [[S::splat(0.0); BLOCKS]; ROWS];
    for (x, weights) in x.chunks_exact(dim).zip(weights) {
        let x = &x[d..][..BLOCKS * LANES];
        let x: [S::Vector; BLOCKS] =
            std::array::from_fn(|block| S::load(lanes(&x[block * LANES..])));
        add_weighted::<S, ROWS, BLOCKS>(&mut sums, weights, &x);
    }
    if !copy.is_empty() {
        for (block, sum) in sums[0].iter_mut().enumerate() {
            *sum = S::add(*sum, S::load(lanes(&copy[d + block * LANES..])));
        }
    }
    for (row, sums) in in_memory::<S, ROWS, BLOCKS>(&sums).iter().enumerate() {
        for (block, sum) in sums.iter().enumerate() {
            let sum = S::load(sum);
            let dx = lanes_mut(&mut dx[row * dim + d + block * LANES..]);
            match store {
                Store::Overwrite => S::store(sum, dx),
                Store::Stream => S::stream(sum, dx),
                Store::Add => S::store(S::add(S::load(dx), sum), dx),
            }
        }
    }
}

/// Sums for a loop that is not unrolled: where one indexes them in registers, the compiler keeps them in memory from the
/// beginning, and stores each of them whenever a term is added.
#[inline(always)]
fn in_memory<S: Simd, const ROWS: usize, const BLOCKS: usize>(
    sums: &[[S::Vector; BLOCKS]; ROWS],
) -> [[Lanes; BLOCKS]; ROWS] {
    let mut memory = [[[0.0; LANES]; BLOCKS]; ROWS];
    for row in 0..ROWS {
        for block in 0..BLOCKS {
            S::store(sums[row][block], &mut memory[row][block]);
        }
    }
    memory
}

#[inline(always)]
fn add_weighted<S: Simd, const ROWS: usize, const BLOCKS: usize>(
    sums: &mut [[S::Vector; BLOCKS]; ROWS],
    weights: &[f32; ROWS],
    x: &[S::Vector; BLOCKS],
) {
    for row in 0..ROWS {
        let weight = S::splat(weights[row]);
        for block in 0..BLOCKS {
            sums[row][block] = S::multiply_add(weight, x[block], sums[row][block]);
        }
    }
}

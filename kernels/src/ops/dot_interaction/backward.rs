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
    simd::{LANES, Simd, finish_stream, lanes, lanes_mut, multiversion, past_caches, prefetch_row},
    tensor::{DType, TensorMut, TensorRef},
};

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
        false if dx.dtype() == DType::F32 && past_caches(batch * features * dim) => {
            Store::PastCaches
        }
        false => Store::Overwrite,
    };
    match context.device() {
        Device::Cpu => context.for_each_panel(batch, PANEL_ROWS, |rows| {
            let [x, dy] = [x, dy].map(|view| Wide::new(context, view.rows(rows.clone())));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let own = unsafe { dx.alias_rows(rows) };
            let mut dx = WideMut::keeping(context, own, accumulate);
            backward_panel(x.view(), features, dim, dy.view(), dx.view(), store);
            dx.store();
            if store == Store::PastCaches {
                finish_stream();
            }
        }),
    }
    Ok(())
}

/// What becomes of a sum.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Add,
    Overwrite,
    PastCaches,
}

/// The most rows of the gradient computed together.
const MAX_ROWS: usize = 6;

multiversion! {
    fn backward_panel(
        x: TensorRef<'_>,
        features: usize,
        dim: usize,
        dy: TensorRef<'_>,
        dx: TensorMut<'_>,
        store: Store,
    ) {
        let mut dx = dx;
        if features * dim == 0 {
            return;
        }
        let share = dy.shape()[1].div_ceil(features);
        for sample in 0..x.shape()[0] {
            let operands = Operands { x: x.row(sample), dy: dy.row(sample), features, dim };
            let blocks = dim / (4 * LANES) + dim % (4 * LANES) / LANES;
            let steps = features.div_ceil(MAX_ROWS) * blocks * features;
            let next_x = operands.x.as_ptr().wrapping_add(x.row_stride());
            let mut ahead = Ahead::new(next_x, x.row_stride(), steps);
            let next_dy = operands.dy.as_ptr().wrapping_add(dy.row_stride());
            let dx = dx.row_mut(sample);
            let mut row = 0;
            while row < features {
                prefetch_row(next_dy.wrapping_add(row * share), MAX_ROWS * share);
                row += match features - row {
                    1 => gradient_rows::<S, 1>(row, operands, dx, store, &mut ahead),
                    2 => gradient_rows::<S, 2>(row, operands, dx, store, &mut ahead),
                    3..MAX_ROWS => gradient_rows::<S, 3>(row, operands, dx, store, &mut ahead),
                    _ => gradient_rows::<S, MAX_ROWS>(row, operands, dx, store, &mut ahead),
                };
            }
        }
    }
}

/// What the gradient of one sample is computed from.
#[derive(Clone, Copy)]
struct Operands<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    features: usize,
    dim: usize,
}

/// Computes `ROWS` rows of the gradient from `first` on, `dx[i] = sum over j != i of
/// dz[i, j] * x[j]`, and returns `ROWS`. To the first of all rows it adds the gradient of its copy.
#[inline(always)]
fn gradient_rows<S: Simd, const ROWS: usize>(
    first: usize,
    operands: Operands<'_>,
    dx: &mut [f32],
    store: Store,
    ahead: &mut Ahead,
) -> usize {
    let Operands {
        x,
        dy,
        features,
        dim,
    } = operands;
    let mut d = 0;
    while dim - d >= 4 * LANES {
        gradient_block::<S, ROWS, 4>(first, operands, d, dx, store, ahead);
        d += 4 * LANES;
    }
    while dim - d >= LANES {
        gradient_block::<S, ROWS, 1>(first, operands, d, dx, store, ahead);
        d += LANES;
    }
    let (copy, dz) = dy.split_at(dim);
    for d in d..dim {
        for row in first..first + ROWS {
            let mut sum = 0.0;
            for other in (0..features).filter(|&other| other != row) {
                let weight = dz[pair(row.max(other), row.min(other))];
                sum = S::multiply_add_scalar(weight, x[other * dim + d], sum);
            }
            let dx = &mut dx[row * dim + d];
            if store == Store::Add {
                sum += *dx;
            }
            *dx = if row == 0 { sum + copy[d] } else { sum };
        }
    }
    ROWS
}

/// Where the product of vectors `i > j` is in the triangle.
#[inline(always)]
fn pair(i: usize, j: usize) -> usize {
    pairs(i) + j
}

/// As [`gradient_rows`], for `BLOCKS * LANES` columns from `d` on.
#[inline(always)]
fn gradient_block<S: Simd, const ROWS: usize, const BLOCKS: usize>(
    first: usize,
    operands: Operands<'_>,
    d: usize,
    dx: &mut [f32],
    store: Store,
    ahead: &mut Ahead,
) {
    let Operands {
        x,
        dy,
        features,
        dim,
    } = operands;
    let (copy, dz) = dy.split_at(dim);
    let mut sums = [[S::splat(0.0); BLOCKS]; ROWS];
    let column = |other: usize| -> [S::Vector; BLOCKS] {
        let x = &x[other * dim + d..][..BLOCKS * LANES];
        std::array::from_fn(|block| S::load(lanes(&x[block * LANES..])))
    };
    // Before these rows, the weights of one row are adjacent; after them, those of one other
    // vector are. Both are read where they lie.
    let before: [&[f32]; ROWS] =
        std::array::from_fn(|row| &dz[pair(first + row, 0)..][..first + row]);
    #[allow(clippy::needless_range_loop)] // It indexes several slices.
    for other in 0..first {
        ahead.step();
        let weights = std::array::from_fn(|row| before[row][other]);
        add_weighted::<S, ROWS, BLOCKS>(&mut sums, &weights, &column(other));
    }
    for other in first..first + ROWS {
        ahead.step();
        let weights = std::array::from_fn(|row| {
            let row = first + row;
            if row == other {
                0.0
            } else {
                dz[pair(row.max(other), row.min(other))]
            }
        });
        add_weighted::<S, ROWS, BLOCKS>(&mut sums, &weights, &column(other));
    }
    for other in first + ROWS..features {
        let after = &dz[pair(other, first)..][..ROWS];
        ahead.step();
        let weights = std::array::from_fn(|row| after[row]);
        add_weighted::<S, ROWS, BLOCKS>(&mut sums, &weights, &column(other));
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (block, mut sum) in sums.into_iter().enumerate() {
            let column = d + block * LANES;
            let dx = lanes_mut(&mut dx[(first + row) * dim + column..]);
            if store == Store::Add {
                sum = S::add(S::load(dx), sum);
            }
            if first + row == 0 {
                sum = S::add(sum, S::load(lanes(&copy[column..])));
            }
            match store {
                Store::PastCaches => S::stream(sum, dx),
                Store::Add | Store::Overwrite => S::store(sum, dx),
            }
        }
    }
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

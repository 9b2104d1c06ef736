//! What a linear layer does around its products, where the matrix library does not fuse it; and products that it does not
//! have.

use super::launch::{
    Address, Kernel, Launch, Matrix, THREADS, count, expect_dtype, of_dtype, per_row,
};
use super::product::{Factor, Product};
use crate::{
    error::{Error, Result},
    linear::Activation,
    ops::operand::{expect, expect_float},
    tensor::DType,
};

const BIAS_ACTIVATION: [&str; 5] = [
    "bias_activation<float, float>",
    "bias_activation<bfloat16, bfloat16>",
    "bias_activation<float16, float16>",
    "bias_activation<bfloat16, float>",
    "bias_activation<float16, float>",
];
const MASK_AND_SUM: [&str; 3] = [
    "mask_and_sum<float>",
    "mask_and_sum<bfloat16>",
    "mask_and_sum<float16>",
];
const SUM_PANELS: &str = "sum_panels";
const MULTIPLY: [&str; 5] = [
    "multiply<float, float>",
    "multiply<bfloat16, bfloat16>",
    "multiply<float16, float16>",
    "multiply<bfloat16, float>",
    "multiply<float16, float>",
];
pub(super) const KERNELS: &[&str] = &[
    BIAS_ACTIVATION[0],
    BIAS_ACTIVATION[1],
    BIAS_ACTIVATION[2],
    BIAS_ACTIVATION[3],
    BIAS_ACTIVATION[4],
    MASK_AND_SUM[0],
    MASK_AND_SUM[1],
    MASK_AND_SUM[2],
    SUM_PANELS,
    MULTIPLY[0],
    MULTIPLY[1],
    MULTIPLY[2],
    MULTIPLY[3],
    MULTIPLY[4],
];

/// Rows and columns of a block of [`multiply`].
const TILE: usize = 64;

/// The most panels of a batch, and the fewest rows of one.
const PANELS_MAX: usize = 256;
const PANEL_ROWS: usize = 64;
/// Columns of a block that sums panels.
const STRIP: usize = 32;

/// `y = activation(sums + bias)`: `sums: [batch, outputs]` of float32, `bias: [outputs]` or null, `y: [batch,
/// outputs]` of the bias's type or float32.
///
/// # Errors
/// When the shapes do not fit, or there is no kernel for the types.
pub fn finish(
    sums: &Matrix,
    bias: (Address, DType),
    activation: Activation,
    y: &Matrix,
) -> Result<Launch> {
    const OPERATION: &str = "cuda::linear::finish";
    expect(OPERATION, "sums", sums, y.shape)?;
    expect_float(OPERATION, "y", y, y.shape)?;
    let kernel = of_types(OPERATION, "y", BIAS_ACTIVATION, (bias.1, y.dtype))?;
    let rows = per_row(OPERATION, kernel, y.shape, bias.1)?;
    Ok(rows
        .launch
        .with_matrix(sums)
        .with(bias.0)
        .with_matrix(y)
        .with(rows.rows)
        .with(rows.columns)
        .with(u32::from(activation == Activation::Relu))
        .with(rows.lanes))
}

/// The kernel of a type, and of a result of that type or float32.
fn of_types(
    operation: &'static str,
    operand: &'static str,
    names: [&'static str; 5],
    types: (DType, DType),
) -> Result<Kernel> {
    let name = match types {
        (DType::F32, DType::F32) => names[0],
        (DType::Bf16, DType::Bf16) => names[1],
        (DType::F16, DType::F16) => names[2],
        (DType::Bf16, DType::F32) => names[3],
        (DType::F16, DType::F32) => names[4],
        (expected, got) => {
            return Err(Error::DType {
                operation,
                operand,
                expected,
                got,
            });
        }
    };
    Ok(Kernel::new("linear", name))
}

/// A product that the matrix library does not have, without what its epilogue does. It is not tuned: it is there so that no
/// shape, stride or type ends a run.
///
/// # Errors
/// When there is no kernel for the types, or a matrix has 2^31 rows, columns or more.
pub fn multiply(product: &Product) -> Result<Launch> {
    const OPERATION: &str = "cuda::linear::multiply";
    let Product {
        left, right, out, ..
    } = product;
    let kernel = of_types(OPERATION, "the result", MULTIPLY, (left.dtype, out.dtype))?;
    let [rows, columns, depth] = product.sizes();
    let sizes = [rows, columns, depth].map(|size| {
        let what = "rows, columns and depth are fewer than 2^31";
        count(OPERATION, what, size)
    });
    let [row_count, column_count, depth_count] = sizes;
    // Steps from one row to the next as the product reads it, and from one column.
    let steps = |factor: &Factor| match factor.transposed {
        false => [1, factor.stride as i64],
        true => [factor.stride as i64, 1],
    };
    let ([left_row, left_depth], [right_depth, right_column]) = (steps(left), steps(right));
    let mut launch = Launch::new(kernel, columns.div_ceil(TILE) as u32, THREADS);
    launch.grid[1] = rows.div_ceil(TILE).max(1) as u32;
    Ok(launch
        .with(left.address)
        .with(left_row)
        .with(left_depth)
        .with(right.address)
        .with(right_depth)
        .with(right_column)
        .with(out.address)
        .with(out.stride as i64)
        .with(row_count?)
        .with(column_count?)
        .with(depth_count?)
        .with(u32::from(product.accumulate)))
}

/// The operands of [`mask_and_sum`].
#[derive(Debug, Clone, Copy)]
pub struct MaskAndSum {
    /// The layer's output, `[batch, outputs]`, with a ReLU.
    pub y: Option<Matrix>,
    /// Its gradient, of the same type; with a ReLU overwritten with that of the sums before it.
    pub dy: Matrix,
    /// Where to put the bias's gradient.
    pub bias: Option<BiasGradient>,
}

/// Where the gradient of a bias goes.
#[derive(Debug, Clone, Copy)]
pub struct BiasGradient {
    /// `[outputs]` of `f32`.
    pub db: Address,
    /// Add to `db` instead of overwriting it.
    pub accumulate: bool,
    /// Working memory, `[partial_len([batch, outputs])]` of `f32`.
    pub partial: Address,
}

/// Floats that the columns of a batch's gradient are summed in.
pub fn partial_len([batch, outputs]: [usize; 2]) -> usize {
    batch.div_ceil(panel_rows(batch)).max(1) * outputs
}

/// Rows of a panel: a function of the batch alone.
fn panel_rows(batch: usize) -> usize {
    batch.div_ceil(PANELS_MAX).max(PANEL_ROWS)
}

/// `dy = 0` where `y` is not positive, and `db (+)= column sums of dy`, in a fixed order.
///
/// # Errors
/// When the shapes or types do not fit.
pub fn mask_and_sum(operands: &MaskAndSum) -> Result<Vec<Launch>> {
    const OPERATION: &str = "cuda::linear::mask_and_sum";
    let MaskAndSum { y, dy, bias } = operands;
    let [batch, outputs] = dy.shape;
    expect_float(OPERATION, "dy", dy, dy.shape)?;
    if let Some(y) = y {
        expect_float(OPERATION, "y", y, dy.shape)?;
        expect_dtype(OPERATION, "y", y, dy.dtype)?;
    }
    if y.is_none() && bias.is_none() {
        return Ok(Vec::new());
    }
    let rows = count(OPERATION, "a batch has fewer than 2^31 samples", batch)?;
    let columns = count(OPERATION, "there are fewer than 2^31 columns", outputs)?;
    let lanes = super::embedding_bag::group_lanes(outputs, dy.dtype);
    let panel = panel_rows(batch);
    let panels = batch.div_ceil(panel).max(1);
    let width = lanes as usize * 16 / dy.dtype.bytes();
    let mut first = Launch::new(
        of_dtype("linear", MASK_AND_SUM, dy.dtype),
        outputs.div_ceil(width) as u32,
        THREADS,
    );
    first.grid[1] = panels as u32;
    let none = Matrix::new(Address::NULL, dy.dtype, [0, 0]);
    let partial = bias.map_or(Address::NULL, |bias| bias.partial);
    let first = first
        .with_matrix(&y.unwrap_or(none))
        .with_matrix(dy)
        .with(partial)
        .with(rows)
        .with(columns)
        .with(panel as u32)
        .with(lanes);
    let mut launches = vec![first];
    if let Some(bias) = bias {
        let blocks = outputs.div_ceil(STRIP) as u32;
        let sum = Launch::new(Kernel::new("linear", SUM_PANELS), blocks, THREADS)
            .with(bias.partial)
            .with(panels as u32)
            .with(columns)
            .with(u32::from(bias.accumulate))
            .with(bias.db);
        launches.push(sum);
    }
    Ok(launches)
}

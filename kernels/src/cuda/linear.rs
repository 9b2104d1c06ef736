//! What a linear layer does around its products, where the matrix library does not fuse it.

use super::launch::{
    Address, Kernel, Launch, Matrix, THREADS, count, expect_dtype, of_dtype, per_row,
};
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
];

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
    let kernel = match (bias.1, y.dtype) {
        (DType::F32, DType::F32) => 0,
        (DType::Bf16, DType::Bf16) => 1,
        (DType::F16, DType::F16) => 2,
        (DType::Bf16, DType::F32) => 3,
        (DType::F16, DType::F32) => 4,
        (expected, got) => {
            return Err(Error::DType {
                operation: OPERATION,
                operand: "y",
                expected,
                got,
            });
        }
    };
    let kernel = Kernel::new("linear", BIAS_ACTIVATION[kernel]);
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

//! A fully connected layer: `y = activation(x . w^T + bias)`.
//!
//! The type of the weights decides that of the products: both factors are numbers of that type, and
//! sums are float32. A factor in float32 beside weights in half precision is rounded first, as it
//! is for the matrix units of processors.

mod backward;
mod mask;

mod packed_weights;
mod parts;
mod whole_batch;

pub use packed_weights::PackedWeights;

pub use backward::{LinearBackward, backward, backward_input};

use super::{
    matrix_product::{Epilogue, Right, add_bias_and_activate},
    operand::{expect, expect_float, expect_float_vector},
    wide::{Wide, WideMut},
};
use crate::{
    device::{Context, Device},
    error::Result,
    tensor::{DType, TensorMut, TensorRef},
};

/// Samples of one panel: bias, activation and column sums run while a panel is still in cache.
const PANEL_ROWS: usize = 256;
/// Samples of one panel in float32: whole tiles of every vector unit, and few, since threads wait for the last panel.
const FLOAT_PANEL_ROWS: usize = 72;

/// What is applied to a layer's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `max(0, x)`; NaN stays NaN.
    Relu,
}

/// `y = activation(x . w^T + bias)` with `x: [batch, inputs]`, `w: [outputs, inputs]`,
/// `bias: [outputs]`, `y: [batch, outputs]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn forward(
    context: &Context,
    x: TensorRef<'_>,
    w: TensorRef<'_>,
    bias: Option<TensorRef<'_>>,
    activation: Activation,
    y: TensorMut<'_>,
) -> Result<()> {
    const OPERATION: &str = "linear::forward";
    let [batch, _] = y.shape();
    let [outputs, inputs] = w.shape();
    expect_float(OPERATION, "x", &x, [batch, inputs])?;
    expect_float(OPERATION, "w", &w, [outputs, inputs])?;
    expect_float(OPERATION, "y", &y, [batch, outputs])?;
    if let Some(bias) = &bias {
        expect_float_vector(OPERATION, "bias", bias, outputs)?;
    }
    match context.device() {
        Device::Cpu => {
            let right = Right::transposed(context, w, batch);
            multiply(context, x, &right, bias, activation, None, y);
        }
    }
    Ok(())
}

/// `y = activation(x . right + bias)`, panel by panel; with `cross = [x0, x]` then `x0 * y + x`.
fn multiply(
    context: &Context,
    x: TensorRef<'_>,
    right: &Right<'_>,
    bias: Option<TensorRef<'_>>,
    activation: Activation,
    cross: Option<[TensorRef<'_>; 2]>,
    y: TensorMut<'_>,
) {
    let bias = wide_bias(context, bias);
    let epilogue = Epilogue {
        bias: bias.as_ref().map(|bias| bias.view().row(0)),
        relu: activation == Activation::Relu,
        ..Epilogue::default()
    };
    let float = [x.dtype(), y.dtype()] == [DType::F32; 2];
    let panel = match float && right.in_panels() {
        true => FLOAT_PANEL_ROWS,
        false => PANEL_ROWS,
    };
    context.for_each_panel(y.shape()[0], panel, |rows| {
        // SAFETY: panels are disjoint ranges of rows, one call each.
        let y = unsafe { y.alias_rows(rows.clone()) };
        let epilogue = Epilogue {
            cross: cross.map(|numbers| numbers.map(|numbers| numbers.rows(rows.clone()))),
            ..epilogue
        };
        right.multiply(x.rows(rows), y, epilogue);
    });
}

/// `y = activation(sums + bias)`, all `[batch, outputs]`: what [`forward`] does after its product,
/// for sums that several ranks added up.
///
/// # Errors
/// When the shapes do not fit.
pub fn finish(
    context: &Context,
    sums: TensorRef<'_>,
    bias: Option<TensorRef<'_>>,
    activation: Activation,
    y: TensorMut<'_>,
) -> Result<()> {
    const OPERATION: &str = "linear::finish";
    let [batch, outputs] = y.shape();
    expect(OPERATION, "sums", &sums, [batch, outputs])?;
    expect_float(OPERATION, "y", &y, [batch, outputs])?;
    if let Some(bias) = &bias {
        expect_float_vector(OPERATION, "bias", bias, outputs)?;
    }
    match context.device() {
        Device::Cpu => {
            let bias = wide_bias(context, bias);
            let bias = bias.as_ref().map(|bias| bias.view().row(0));
            context.for_each_panel(batch, PANEL_ROWS, |rows| {
                // SAFETY: panels are disjoint ranges of rows, one call each.
                let mut y = WideMut::new(context, unsafe { y.alias_rows(rows.clone()) });
                let sums = sums.rows(rows);
                for row in 0..sums.shape()[0] {
                    y.view().row_mut(row).copy_from_slice(sums.row(row));
                }
                add_bias_and_activate(y.view(), bias, activation == Activation::Relu);
                y.store();
            });
        }
    }
    Ok(())
}

fn wide_bias<'a>(context: &'a Context, bias: Option<TensorRef<'a>>) -> Option<Wide<'a>> {
    bias.map(|bias| Wide::new(context, bias))
}

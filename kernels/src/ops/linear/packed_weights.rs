use std::fmt;

use super::{Activation, multiply};
use crate::{
    device::{Context, Device},
    error::Result,
    ops::{
        matrix_product::OwnedRight,
        operand::{expect, expect_float, expect_float_vector},
    },
    tensor::{TensorMut, TensorRef},
};

/// Weights in float32, `[outputs, inputs]`, that many calls share, as those of a server: packed once where
/// [`forward`](super::forward) packs them in each call.
pub struct PackedWeights(OwnedRight);

impl PackedWeights {
    /// Packs `w: [outputs, inputs]`.
    ///
    /// # Errors
    /// When `w` is not float32.
    pub fn new(context: &Context, w: TensorRef<'_>) -> Result<Self> {
        expect("linear::PackedWeights::new", "w", &w, w.shape())?;
        Ok(Self(OwnedRight::transposed(context, w)))
    }

    /// `[outputs, inputs]`.
    pub fn shape(&self) -> [usize; 2] {
        let [inputs, outputs] = self.0.shape();
        [outputs, inputs]
    }

    /// `y = activation(x . w^T + bias)`, as [`forward`](super::forward). Where weights are packed, a sample's outputs do
    /// not depend on the samples beside it.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(
        &self,
        context: &Context,
        x: TensorRef<'_>,
        bias: Option<TensorRef<'_>>,
        activation: Activation,
        y: TensorMut<'_>,
    ) -> Result<()> {
        const OPERATION: &str = "linear::PackedWeights::forward";
        let ([outputs, inputs], batch) = (self.shape(), y.shape()[0]);
        expect_float(OPERATION, "x", &x, [batch, inputs])?;
        expect_float(OPERATION, "y", &y, [batch, outputs])?;
        if let Some(bias) = &bias {
            expect_float_vector(OPERATION, "bias", bias, outputs)?;
        }
        match context.device() {
            Device::Cpu => multiply(context, x, &self.0.right(context), bias, activation, y),
        }
        Ok(())
    }
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PackedWeights({:?})", self.shape())
    }
}

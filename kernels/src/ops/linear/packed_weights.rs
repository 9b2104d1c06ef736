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
        self.check(OPERATION, x, bias, &y)?;
        match context.device() {
            Device::Cpu => {
                let right = self.0.right(context);
                multiply(context, x, &right, bias, activation, None, y);
            }
        }
        Ok(())
    }

    /// `y = x0 * (inner . w^T + bias) + x`: the last product of a cross layer and what follows it, in one pass over `y`. The bits
    /// are those of [`forward`](Self::forward) and [`cross::combine_forward`](crate::cross::combine_forward).
    ///
    /// `inner: [batch, inputs]`; `x0`, `x`, `y: [batch, outputs]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn cross(
        &self,
        context: &Context,
        inner: TensorRef<'_>,
        bias: Option<TensorRef<'_>>,
        [x0, x]: [TensorRef<'_>; 2],
        y: TensorMut<'_>,
    ) -> Result<()> {
        const OPERATION: &str = "linear::PackedWeights::cross";
        self.check(OPERATION, inner, bias, &y)?;
        expect_float(OPERATION, "x0", &x0, y.shape())?;
        expect_float(OPERATION, "x", &x, y.shape())?;
        match context.device() {
            Device::Cpu => {
                let (right, cross) = (self.0.right(context), Some([x0, x]));
                multiply(context, inner, &right, bias, Activation::None, cross, y);
            }
        }
        Ok(())
    }

    fn check(
        &self,
        operation: &'static str,
        x: TensorRef<'_>,
        bias: Option<TensorRef<'_>>,
        y: &TensorMut<'_>,
    ) -> Result<()> {
        let ([outputs, inputs], batch) = (self.shape(), y.shape()[0]);
        expect_float(operation, "x", &x, [batch, inputs])?;
        expect_float(operation, "y", y, [batch, outputs])?;
        match &bias {
            Some(bias) => expect_float_vector(operation, "bias", bias, outputs),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PackedWeights({:?})", self.shape())
    }
}

//! Checks of operands, shared by every operation.

use crate::{
    error::{Error, Result},
    tensor::{DType, TensorMut, TensorRef},
};

/// What checks need to know of a view.
pub(crate) trait Operand {
    fn shape(&self) -> [usize; 2];
    fn dtype(&self) -> DType;
}

impl Operand for TensorRef<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape()
    }
    fn dtype(&self) -> DType {
        self.dtype()
    }
}

impl Operand for TensorMut<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape()
    }
    fn dtype(&self) -> DType {
        self.dtype()
    }
}

/// Checks that a view is an `f32` matrix of the expected shape.
pub(crate) fn expect(
    operation: &'static str,
    operand: &'static str,
    view: &impl Operand,
    shape: [usize; 2],
) -> Result<()> {
    expect_type(operation, operand, view, view.dtype() == DType::F32)?;
    expect_shape(operation, operand, view, shape)
}

/// Checks that a view is a matrix of the expected shape, of floating-point numbers of any type.
pub(crate) fn expect_float(
    operation: &'static str,
    operand: &'static str,
    view: &impl Operand,
    shape: [usize; 2],
) -> Result<()> {
    expect_type(operation, operand, view, view.dtype().is_float())?;
    expect_shape(operation, operand, view, shape)
}

/// Checks that a view has `len` floating-point numbers of any type in one row.
pub(crate) fn expect_float_vector(
    operation: &'static str,
    operand: &'static str,
    view: &impl Operand,
    len: usize,
) -> Result<()> {
    expect_float(operation, operand, view, [1, len])
}

fn expect_type(
    operation: &'static str,
    operand: &'static str,
    view: &impl Operand,
    fits: bool,
) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(Error::DType {
        operation,
        operand,
        expected: DType::F32,
        got: view.dtype(),
    })
}

fn expect_shape(
    operation: &'static str,
    operand: &'static str,
    view: &impl Operand,
    shape: [usize; 2],
) -> Result<()> {
    if view.shape() == shape {
        return Ok(());
    }
    Err(Error::Shape {
        operation,
        operand,
        expected: shape.to_vec(),
        got: view.shape().to_vec(),
    })
}

/// Checks that a view is `f32` with `len` elements in one row.
pub(crate) fn expect_vector(
    operation: &'static str,
    operand: &'static str,
    view: &impl Operand,
    len: usize,
) -> Result<()> {
    expect(operation, operand, view, [1, len])
}

/// Checks that a slice has `len` elements.
pub(crate) fn expect_len(
    operation: &'static str,
    operand: &'static str,
    got: usize,
    len: usize,
) -> Result<()> {
    if got == len {
        return Ok(());
    }
    Err(Error::Shape {
        operation,
        operand,
        expected: vec![len],
        got: vec![got],
    })
}

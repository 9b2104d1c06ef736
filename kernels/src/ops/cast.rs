//! Rounding of flat arrays: a copy of parameters in the type of the products.

use super::operand::expect_len;
use crate::{
    device::{Context, Device},
    error::Result,
    simd::narrow,
    tensor::{Tensor, TensorRef},
};

/// Elements of one parallel task.
const PANEL: usize = 16_384;

/// `y = x`, rounded to nearest, ties to even, to the type of `y`.
///
/// # Errors
/// When the lengths differ.
pub fn round(context: &Context, x: &[f32], y: &mut Tensor) -> Result<()> {
    expect_len("cast::round", "y", y.len(), x.len())?;
    let panels = x.len() / PANEL;
    let (whole, rest) = x.split_at(panels * PANEL);
    match context.device() {
        Device::Cpu => {
            let tail = y.len() - rest.len()..y.len();
            narrow(
                TensorRef::from_f32(rest, &[1, rest.len()]),
                y.matrix_mut(1, x.len()).columns(tail),
            );
            let y = y.matrix_mut(panels, PANEL);
            let whole = TensorRef::from_f32(whole, &[panels, PANEL]);
            context.for_each_panel(panels, 1, |row| {
                // SAFETY: each task has a row of its own.
                let y = unsafe { y.alias_rows(row.clone()) };
                narrow(whole.rows(row), y);
            });
        }
    }
    Ok(())
}

use streamrec_kernels::add;

use super::{Backward, Forward, Layer, PassError};

/// The sum of the inputs, `[rows, width]`; an input `[rows, 1]` is added to every column.
pub(super) struct Add;

impl Layer for Add {
    fn forward(&mut self, mut pass: Forward<'_>) -> Result<(), PassError> {
        for index in 0..pass.inputs.len() {
            let (x, y) = (pass.inputs.get(index), pass.output.reborrow());
            let broadcast = x.shape()[1] != y.shape()[1];
            match (broadcast, index > 0) {
                (true, accumulate) => add::broadcast(pass.context, x, y, accumulate)?,
                (false, true) => add::accumulate(pass.context, x, y)?,
                (false, false) => add::copy(pass.context, x, y)?,
            }
        }
        Ok(())
    }

    fn backward(&mut self, mut pass: Backward<'_>) -> Result<(), PassError> {
        let dy = pass.d_output.as_ref();
        for index in (0..pass.inputs.len()).rev() {
            let Some(dx) = pass.d_inputs.get(index) else {
                continue;
            };
            let broadcast = dx.view.shape()[1] != dy.shape()[1];
            match (broadcast, dx.accumulate) {
                (true, accumulate) => {
                    add::broadcast_backward(pass.context, dy, dx.view, accumulate)?;
                }
                (false, true) => add::accumulate(pass.context, dy, dx.view)?,
                (false, false) => add::copy(pass.context, dy, dx.view)?,
            }
        }
        Ok(())
    }
}

use streamrec_kernels::add;

use super::{Backward, Forward, Layer, PassError};

/// The inputs side by side. Inputs that were written in place cost nothing.
pub(super) struct Concat;

impl Layer for Concat {
    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let mut rest = pass.output;
        for index in 0..pass.inputs.len() {
            let x = pass.inputs.width(index);
            let (own, after) = rest.split_columns(x);
            rest = after;
            if !pass.inputs.in_place[index] {
                add::copy(pass.context, pass.inputs.get(index), own)?;
            }
        }
        Ok(())
    }

    fn backward(&mut self, mut pass: Backward<'_>) -> Result<(), PassError> {
        let dy = pass.d_output.as_ref();
        let mut end = dy.shape()[1];
        for index in (0..pass.inputs.len()).rev() {
            let start = end - pass.inputs.width(index);
            if let Some(dx) = pass.d_inputs.get(index) {
                let own = dy.columns(start..end);
                if dx.accumulate {
                    add::accumulate(pass.context, own, dx.view)?;
                } else {
                    add::copy(pass.context, own, dx.view)?;
                }
            }
            end = start;
        }
        Ok(())
    }
}

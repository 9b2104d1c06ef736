use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Executor, Matrix, add,
    linear::{BiasGradient, MaskAndSum, finish, mask_and_sum},
    product::{Finish, Mask, Vector, forward, input_gradient, weight_gradient},
};
use streamrec_kernels::linear::Activation;

use super::pass::{InputGradient, Pass};
use crate::model::{ParamId, layers::PassError};

/// `y = activation(x W^T + b)`.
///
/// cuBLASLt adds the bias, applies the ReLU and keeps which elements it let pass, where result and
/// factors have one type. Gradients of biases are float32 whatever the factors are, which no epilogue
/// gives for factors in half precision: they are summed by a kernel of our own.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// Weight `[outputs, inputs]`, then perhaps bias `[outputs]`.
    pub(super) parameters: Vec<ParamId>,
    pub(super) relu: bool,
    /// Which elements of the last value the ReLU let pass, where cuBLASLt applies it.
    pub(super) mask: Option<Mask>,
    /// The layer that writes this one's gradient applies the mask.
    pub(super) masked_by_reader: bool,
    /// The mask of the layer before, to be applied to the gradient of the input.
    pub(super) input_mask: Option<Mask>,
}

impl Linear {
    pub(super) fn forward<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
    ) -> Result<(), PassError> {
        let product = LinearProduct {
            weight: self.parameters[0],
            bias: self.parameters.get(1).copied(),
            relu: self.relu,
            mask: self.mask,
        };
        let (x, y) = (pass.input(node, 0), pass.value(node));
        product.forward(pass, &x, &y)
    }

    pub(super) fn backward<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
        dy: Matrix,
    ) -> Result<(), PassError> {
        let (x, y) = (pass.input(node, 0), pass.value(node));
        let dx = pass.input_gradient(node, 0)?;
        let gradient = LinearGradient {
            weight: self.parameters[0],
            bias: self.parameters.get(1).copied(),
            x,
            y: (self.relu && !self.masked_by_reader).then_some(y),
            dy,
            dx,
            input_mask: self.input_mask,
        };
        gradient.run(pass)
    }
}

/// A product with what follows it.
pub(super) struct LinearProduct {
    pub(super) weight: ParamId,
    pub(super) bias: Option<ParamId>,
    pub(super) relu: bool,
    pub(super) mask: Option<Mask>,
}

impl LinearProduct {
    /// Without an activation.
    pub(super) fn plain(weight: ParamId, bias: Option<ParamId>) -> Self {
        Self {
            weight,
            bias,
            relu: false,
            mask: None,
        }
    }

    pub(super) fn forward<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        x: &Matrix,
        y: &Matrix,
    ) -> Result<(), PassError> {
        let w = pass.weights.weight(self.weight);
        let bias = self.bias.map(|bias| pass.weights.weight(bias));
        let fused = match (y.dtype == w.dtype, self.relu) {
            (true, true) => self.mask.is_some(),
            (true, false) => true,
            (false, relu) => bias.is_none() && !relu,
        };
        if fused {
            let vector = bias.map(|bias| Vector {
                address: bias.address,
                dtype: bias.dtype,
                len: bias.shape[1],
            });
            let finish = Finish {
                bias: vector,
                relu: self.mask,
            };
            return pass.multiply(forward(x, &w, y, finish));
        }
        let sums = pass.sums(w.shape[0]);
        pass.multiply(forward(x, &w, &sums, Finish::default()))?;
        let bias = bias.map_or((Address::NULL, w.dtype), |bias| (bias.address, w.dtype));
        let activation = match self.relu {
            true => Activation::Relu,
            false => Activation::None,
        };
        pass.launch(finish(&sums, bias, activation, y))
    }
}

/// The gradients of a product and of what follows it.
pub(super) struct LinearGradient {
    pub(super) weight: ParamId,
    pub(super) bias: Option<ParamId>,
    pub(super) x: Matrix,
    /// The value, where its ReLU is still to be undone.
    pub(super) y: Option<Matrix>,
    /// Overwritten where `y` is given.
    pub(super) dy: Matrix,
    pub(super) dx: Option<InputGradient>,
    pub(super) input_mask: Option<Mask>,
}

impl LinearGradient {
    pub(super) fn run<E: Executor>(&self, pass: &mut Pass<'_, E>) -> Result<(), PassError> {
        let bias = self.bias.map(|bias| BiasGradient {
            db: pass.weights.gradient(bias).address,
            accumulate: false,
            partial: pass.partial().address,
        });
        for launch in mask_and_sum(&MaskAndSum {
            y: self.y,
            dy: self.dy,
            bias,
        })? {
            pass.executor.launch(&launch)?;
        }
        let (w, dw) = (
            pass.weights.weight(self.weight),
            pass.weights.gradient(self.weight),
        );
        let dz = self.factor(pass, w.dtype)?;
        pass.multiply(weight_gradient(&dz, &self.x, &dw, false, None))?;
        let Some(InputGradient { view, accumulate }) = self.dx else {
            return Ok(());
        };
        let mask = self.input_mask.map(|mask| (mask, None));
        pass.multiply(input_gradient(&dz, &w, &view, accumulate, mask))
    }

    /// The gradient of the sums, rounded to the type of the factors: that of logits is float32.
    fn factor<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        dtype: DType,
    ) -> Result<Matrix, PassError> {
        if self.dy.dtype == dtype {
            return Ok(self.dy);
        }
        let rounded = pass.workspace(0, self.dy.shape[1]);
        pass.launch(add::copy(&self.dy, &rounded, false))?;
        Ok(rounded)
    }
}

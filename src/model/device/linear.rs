use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Executor, Matrix, add,
    linear::{BiasGradient, MaskAndSum, finish, mask_and_sum},
    product::{Finish, Mask, Vector, forward, input_gradient, weight_gradient},
};
use streamrec_kernels::linear::Activation;

use super::{
    memory::columns,
    pass::{InputGradient, Pass},
};
use crate::model::{ParamId, layers::PassError};

/// `y = activation(x W^T + b)`.
///
/// cuBLASLt adds the bias, applies the ReLU and keeps which elements it let pass, where result and
/// factors have one type. Gradients of biases are float32 whatever the factors are, which no epilogue
/// gives for factors in half precision: they are summed by a kernel of our own. A tensor-parallel group shares the layer
/// as on the CPU.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// Weight `[outputs, inputs]`, then perhaps bias `[outputs]`.
    pub(super) parameters: Vec<ParamId>,
    pub(super) relu: bool,
    pub(super) share: Share,
    /// Which elements of the last value the ReLU let pass, where cuBLASLt applies it.
    pub(super) mask: Option<Mask>,
    /// The layer that writes this one's gradient applies the mask.
    pub(super) masked_by_reader: bool,
    /// The mask of the layer before, to be applied to the gradient of the input.
    pub(super) input_mask: Option<Mask>,
}

/// How a tensor-parallel group shares a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// Not at all.
    Whole,
    /// Each rank has its own outputs; `gathered` where somebody reads all of them.
    Outputs { gathered: bool },
    /// Each rank has its own inputs, which are `cut` from those of all where every rank has these.
    Inputs { cut: bool },
}

/// What ranks of a group exchange of the gradient of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    /// It is a sum over them.
    Sum,
    /// Each has its own columns.
    Columns,
}

impl Share {
    /// What is exchanged of the gradient of the input.
    pub(super) fn exchange(self) -> Option<Exchange> {
        match self {
            Self::Whole | Self::Inputs { cut: false } => None,
            Self::Outputs { .. } => Some(Exchange::Sum),
            Self::Inputs { cut: true } => Some(Exchange::Columns),
        }
    }
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
        match self.share {
            Share::Whole | Share::Outputs { gathered: false } => product.forward(pass, &x, &y),
            Share::Outputs { gathered: true } => {
                let group = pass.network.group();
                let part = group.part(pass.rows, y.shape[1], y.dtype);
                product.forward(pass, &x, &part)?;
                group.gather_now(pass, &part, y)
            }
            Share::Inputs { .. } => {
                let own = self.own_inputs(pass, x);
                product.forward_summed(pass, &own, &y)
            }
        }
    }

    /// The columns of the input that are this rank's.
    fn own_inputs<E>(&self, pass: &Pass<'_, E>, x: Matrix) -> Matrix {
        match self.share {
            Share::Inputs { cut: true } => {
                columns(&x, &pass.network.group().own_columns(x.shape[1]))
            }
            _ => x,
        }
    }

    pub(super) fn backward<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
        dy: Matrix,
    ) -> Result<(), PassError> {
        let (x, y) = (pass.input(node, 0), pass.value(node));
        let dx = pass.input_gradient(node, 0)?;
        let (mut y, mut dy) = (y, dy);
        if let (Share::Outputs { gathered: true }, width) = (self.share, y.shape[1]) {
            let own = pass.network.group().own_columns(width);
            (y, dy) = (columns(&y, &own), columns(&dy, &own));
        }
        let gradient = LinearGradient {
            weight: self.parameters[0],
            bias: self.parameters.get(1).copied(),
            x: self.own_inputs(pass, x),
            exchange: self.share.exchange(),
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
        self.finish(pass, &sums, y)
    }

    /// Where each rank of a group has its own inputs `x`: the product is a sum over them.
    pub(super) fn forward_summed<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        x: &Matrix,
        y: &Matrix,
    ) -> Result<(), PassError> {
        let (group, w) = (pass.network.group(), pass.weights.weight(self.weight));
        let summand = group.summand(pass.rows, w.shape[0]);
        pass.multiply(forward(x, &w, &summand, Finish::default()))?;
        let begun = group.sum(pass, &summand)?;
        pass.executor.finish(begun)?;
        self.finish(pass, &summand, y)
    }

    /// Does what follows sums.
    fn finish<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        sums: &Matrix,
        y: &Matrix,
    ) -> Result<(), PassError> {
        let dtype = pass.weights.compute_dtype();
        let bias = self.bias.map(|bias| pass.weights.weight(bias));
        let bias = bias.map_or((Address::NULL, dtype), |bias| (bias.address, dtype));
        let activation = match self.relu {
            true => Activation::Relu,
            false => Activation::None,
        };
        pass.launch(finish(sums, bias, activation, y))
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
    /// What is exchanged of it.
    pub(super) exchange: Option<Exchange>,
    /// Where nothing is.
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
        let weights = weight_gradient(&dz, &self.x, &dw, false, None);
        match (self.dx, self.exchange) {
            (None, _) => pass.multiply(weights),
            (Some(InputGradient { view, accumulate }), None) => {
                pass.multiply(weights)?;
                let mask = self.input_mask.map(|mask| (mask, None));
                pass.multiply(input_gradient(&dz, &w, &view, accumulate, mask))
            }
            // What is exchanged travels while the gradient of the weights is computed.
            (Some(dx), Some(Exchange::Sum)) => {
                let group = pass.network.group();
                let summand = group.summand(pass.rows, w.shape[1]);
                pass.multiply(input_gradient(&dz, &w, &summand, false, None))?;
                let begun = group.sum(pass, &summand)?;
                pass.multiply(weights)?;
                pass.executor.finish(begun)?;
                pass.launch(add::copy(&summand, &dx.view, dx.accumulate))
            }
            (Some(dx), Some(Exchange::Columns)) => {
                let group = pass.network.group();
                let part = group.part(pass.rows, dx.view.shape[1], dx.view.dtype);
                pass.multiply(input_gradient(&dz, &w, &part, false, None))?;
                let begun = group.gather(pass, &part)?;
                pass.multiply(weights)?;
                pass.executor.finish(begun)?;
                group.place(pass, &part, &dx)
            }
        }
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

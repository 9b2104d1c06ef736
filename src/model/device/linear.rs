use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Executor, Matrix, add,
    linear::{BiasGradient, MaskAndSum, finish, mask_and_sum},
    product::{Epilogue, Finish, Mask, Product, Vector, forward, input_gradient, weight_gradient},
};
use streamrec_kernels::linear::Activation;

use super::{
    layer::DeviceLayer,
    memory::columns,
    pass::{InputGradient, Pass},
};
use crate::model::{ParamId, layers::PassError};

/// `y = activation(x W^T + b)`.
///
/// cuBLASLt adds the bias, applies the ReLU and keeps which elements it let pass, where result and
/// factors have one type, and sums the gradient of the bias beside that of the weights. It is asked about each product; what
/// it does not have kernels of our own do (ADR 53). A tensor-parallel group shares the layer as on the CPU.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// Weight `[outputs, inputs]`, then perhaps bias `[outputs]`.
    pub(super) parameters: Vec<ParamId>,
    pub(super) relu: bool,
    pub(super) share: Share,
    /// Which elements of the last value the ReLU let pass, where cuBLASLt applies it.
    pub(super) mask: Option<Mask>,
    /// The node that alone writes this one's gradient, and applies the mask where the library can.
    pub(super) masked_by: Option<usize>,
    /// The node before that this one does so for, and its mask.
    pub(super) input_mask: Option<(usize, Mask)>,
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
        let product = self.product();
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

    fn product(&self) -> LinearProduct {
        LinearProduct {
            weight: self.parameters[0],
            bias: self.parameters.get(1).copied(),
            relu: self.relu,
            mask: self.mask,
        }
    }

    /// Whether the layer behind `node`, which this is the layer of, undoes its ReLU: it is to, and the library keeps the
    /// mask in this pass and applies it.
    fn is_undone_by_reader<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
    ) -> Result<bool, PassError> {
        let (Some(mask), Some(reader)) = (self.mask, self.masked_by) else {
            return Ok(false);
        };
        let DeviceLayer::Linear(of_reader) = &pass.network.layers[reader] else {
            return Ok(false);
        };
        let (x, y) = (pass.input(node, 0), pass.value(node));
        let fused = self.product().fused(pass, &x, &y)?;
        let dy = pass.gradient(reader);
        let (Some(fused), Some(dy), Some(dx)) = (fused, dy, pass.place_of_input_gradient(reader))
        else {
            return Ok(false);
        };
        let w = pass.weights.weight(of_reader.parameters[0]);
        let dz = factor(pass, &dy, w.dtype);
        let product = input_gradient(&dz, &w, &dx.view, dx.accumulate, Some((mask, None)))?;
        Ok(pass.supports(&fused)? && pass.supports(&product)?)
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
        let undone = self.is_undone_by_reader(pass, node)?;
        let mut input_mask = None;
        if let Some((before, mask)) = self.input_mask
            && let DeviceLayer::Linear(layer) = &pass.network.layers[before]
        {
            let undoes = layer.is_undone_by_reader(pass, before)?;
            input_mask = undoes.then_some(mask);
        }
        if let (Share::Outputs { gathered: true }, width) = (self.share, y.shape[1]) {
            let own = pass.network.group().own_columns(width);
            (y, dy) = (columns(&y, &own), columns(&dy, &own));
        }
        let gradient = LinearGradient {
            weight: self.parameters[0],
            bias: self.parameters.get(1).copied(),
            x: self.own_inputs(pass, x),
            exchange: self.share.exchange(),
            y: (self.relu && !undone).then_some(y),
            dy,
            dx,
            input_mask,
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
        if let Some(product) = self.fused(pass, x, y)?
            && (product.epilogue == Epilogue::None || pass.supports(&product)?)
        {
            return pass.multiply(Ok(product));
        }
        let w = pass.weights.weight(self.weight);
        let sums = pass.sums(w.shape[0]);
        pass.multiply(forward(x, &w, &sums, Finish::default()))?;
        self.finish(pass, &sums, y)
    }

    /// All of it as one product, for the types that the library takes; it need not have it.
    fn fused<E>(
        &self,
        pass: &Pass<'_, E>,
        x: &Matrix,
        y: &Matrix,
    ) -> Result<Option<Product>, PassError> {
        let w = pass.weights.weight(self.weight);
        let bias = self.bias.map(|bias| vector(&pass.weights.weight(bias)));
        let fused = match (y.dtype == w.dtype, self.relu) {
            (true, true) => self.mask.is_some(),
            (true, false) => true,
            (false, relu) => bias.is_none() && !relu,
        };
        let finish = Finish {
            bias,
            relu: self.mask,
        };
        Ok(match fused {
            true => Some(forward(x, &w, y, finish)?),
            false => None,
        })
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
        let (w, dw) = (
            pass.weights.weight(self.weight),
            pass.weights.gradient(self.weight),
        );
        let dz = factor(pass, &self.dy, w.dtype);
        let with_sums = self.with_sums(pass, &dz, &dw)?;
        let bias = self.bias.filter(|_| with_sums.is_none());
        let bias = bias.map(|bias| BiasGradient {
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
        if dz.dtype != self.dy.dtype {
            pass.launch(add::copy(&self.dy, &dz, false))?;
        }
        let weights = match with_sums {
            Some(product) => Ok(product),
            None => weight_gradient(&dz, &self.x, &dw, false, None),
        };
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

    /// The gradient of the weights with that of the bias, where the library has both in one. A kernel that undoes a ReLU
    /// sums what it reads anyway, and sums of logits are of what was not rounded.
    fn with_sums<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        dz: &Matrix,
        dw: &Matrix,
    ) -> Result<Option<Product>, PassError> {
        let Some(bias) = self.bias else {
            return Ok(None);
        };
        if self.y.is_some() || dz.dtype != self.dy.dtype {
            return Ok(None);
        }
        let db = vector(&pass.weights.gradient(bias));
        let product = weight_gradient(dz, &self.x, dw, false, Some(db))?;
        let supported = !product.is_empty() && pass.supports(&product)?;
        Ok(supported.then_some(product))
    }
}

/// Where the gradient of the sums lies in the type of the factors: that of logits is float32, and is rounded.
fn factor<E: Executor>(pass: &Pass<'_, E>, dy: &Matrix, dtype: DType) -> Matrix {
    match dy.dtype == dtype {
        true => *dy,
        false => pass.workspace(0, dy.shape[1]),
    }
}

fn vector(row: &Matrix) -> Vector {
    Vector {
        address: row.address,
        dtype: row.dtype,
        len: row.shape[1],
    }
}

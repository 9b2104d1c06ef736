//! What a layer is given for one pass over a batch on a device.

use streamrec_kernels::cuda::{
    Executor, Launch, Matrix, add, linear,
    product::{Epilogue, Product},
};

use super::{
    DeviceInput, DeviceNetwork, DeviceWeights,
    memory::{DeviceBuffer, columns},
};
use crate::model::{layers::PassError, plan::GradientWrite};

/// Matrices in working memory begin at multiples of so many elements: 256 bytes of halves, the most that
/// cuBLASLt is told of an address's alignment.
pub(super) const WORKSPACE_ALIGNMENT: usize = 128;

/// One pass over `rows` samples.
pub(super) struct Pass<'a, E> {
    pub(super) executor: &'a mut E,
    pub(super) network: &'a DeviceNetwork,
    pub(super) weights: &'a DeviceWeights,
    pub(super) input: &'a DeviceInput,
    pub(super) rows: usize,
}

/// One input's gradient, to write to.
#[derive(Debug, Clone, Copy)]
pub(super) struct InputGradient {
    /// `[rows, width]`
    pub(super) view: Matrix,
    /// Add to it instead of overwriting it.
    pub(super) accumulate: bool,
}

impl<E: Executor> Pass<'_, E> {
    /// Runs what an operation describes.
    pub(super) fn launch(
        &mut self,
        launch: streamrec_kernels::Result<Launch>,
    ) -> Result<(), PassError> {
        Ok(self.executor.launch(&launch?)?)
    }

    /// Whether the matrix library has a product, with what follows it.
    pub(super) fn supports(&mut self, product: &Product) -> Result<bool, PassError> {
        Ok(self.executor.supports(product)?)
    }

    /// Runs a product, unless there is nothing to compute. A kernel of our own does one without epilogue that the matrix
    /// library does not have.
    pub(super) fn multiply(
        &mut self,
        product: streamrec_kernels::Result<Product>,
    ) -> Result<(), PassError> {
        let product = product?;
        if product.is_empty() {
            return Ok(());
        }
        if product.epilogue == Epilogue::None && !self.supports(&product)? {
            tracing::debug!(%product, "cuBLASLt has no such product: a slower kernel computes it");
            return self.launch(linear::multiply(&product));
        }
        Ok(self.executor.multiply(&product)?)
    }

    /// The value of a node, `[rows, width]`.
    pub(super) fn value(&self, node: usize) -> Matrix {
        let place = &self.network.places.nodes[node];
        match place.buffer {
            None => self.network.dense(self.input, self.rows),
            Some(buffer) => {
                let width = self.network.places.widths[buffer];
                let whole = self.network.values[buffer].view(self.rows, width);
                columns(&whole, &place.columns)
            }
        }
    }

    /// The value of input `index` of a node.
    pub(super) fn input(&self, node: usize, index: usize) -> Matrix {
        self.value(self.network.nodes[node].inputs[index])
    }

    /// The gradient of a node's value, `[rows, width]`.
    pub(super) fn gradient(&self, node: usize) -> Option<Matrix> {
        self.network.gradient(node, self.rows)
    }

    /// The gradient of input `index`; `None` where nobody needs it. Layers with several inputs ask
    /// for the last one first.
    pub(super) fn input_gradient(
        &mut self,
        node: usize,
        index: usize,
    ) -> Result<Option<InputGradient>, PassError> {
        let network = self.network;
        match &network.plan.writes[node][index] {
            None => Ok(None),
            Some(write) => self.destination(write).map(Some),
        }
    }

    /// Lets `compute` write the gradients of two inputs at once.
    pub(super) fn two_input_gradients(
        &mut self,
        node: usize,
        compute: impl FnOnce(&mut Self, InputGradient, InputGradient) -> Result<(), PassError>,
    ) -> Result<(), PassError> {
        let network = self.network;
        let [Some(first), Some(second)] = network.plan.writes[node].as_slice() else {
            unreachable!("the plan gives both inputs of a cross layer a gradient");
        };
        if !first.through_temporary {
            let one = self.destination(first)?;
            let two = self.destination(second)?;
            return compute(self, one, two);
        }
        let temporary = network.temporary.as_ref();
        let temporary = temporary.expect("the plan sized a temporary");
        let own = temporary.view(self.rows, first.columns.len());
        let two = self.destination(second)?;
        let one = InputGradient {
            view: own,
            accumulate: false,
        };
        compute(self, one, two)?;
        let into = self.destination(first)?;
        self.launch(add::copy(&own, &into.view, into.accumulate))
    }

    /// Where a write goes, after zeroing what nobody has written.
    fn destination(&mut self, write: &GradientWrite) -> Result<InputGradient, PassError> {
        let whole = self.whole_slot(write);
        for range in &write.zero {
            // One row of zeros, read for every sample.
            let zeros = Matrix {
                row_stride: 0,
                ..self.network.zeros.view(1, range.len())
            };
            let zeros = Matrix {
                shape: [self.rows, range.len()],
                ..zeros
            };
            self.launch(add::copy(&zeros, &columns(&whole, range), false))?;
        }
        Ok(self.place(write))
    }

    /// Where a write goes.
    fn place(&self, write: &GradientWrite) -> InputGradient {
        InputGradient {
            view: columns(&self.whole_slot(write), &write.columns),
            accumulate: write.accumulate,
        }
    }

    fn whole_slot(&self, write: &GradientWrite) -> Matrix {
        self.network.slots[write.slot].view(self.rows, write.width)
    }

    /// Where the gradient of the only input of a node goes, without asking for anything.
    pub(super) fn place_of_input_gradient(&self, node: usize) -> Option<InputGradient> {
        let write = self.network.plan.writes[node].first()?.as_ref()?;
        Some(self.place(write))
    }

    /// Working memory in the compute type, `[rows, columns]`, from a column's place on.
    pub(super) fn workspace(&self, start: usize, width: usize) -> Matrix {
        // The alignment of addresses decides how cuBLASLt multiplies: it must not depend on a rank's part of a batch.
        let start = (start * self.network.batch).next_multiple_of(WORKSPACE_ALIGNMENT);
        self.network.workspace.view_at(start, self.rows, width)
    }

    /// Float32 working memory, `[rows, columns]`.
    pub(super) fn sums(&self, width: usize) -> Matrix {
        self.network.sums.view(self.rows, width)
    }

    /// Working memory for the sums of columns.
    pub(super) fn partial(&self) -> DeviceBuffer {
        self.network.partial
    }
}

//! What a layer is given for one pass over a batch on a device.

use streamrec_kernels::cuda::{Executor, Launch, Matrix, add, product::Product};

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

    /// Runs a product, unless there is nothing to compute.
    pub(super) fn multiply(
        &mut self,
        product: streamrec_kernels::Result<Product>,
    ) -> Result<(), PassError> {
        let product = product?;
        match product.is_empty() {
            true => Ok(()),
            false => Ok(self.executor.multiply(&product)?),
        }
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
        let whole = self.network.slots[write.slot].view(self.rows, write.width);
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
        Ok(InputGradient {
            view: columns(&whole, &write.columns),
            accumulate: write.accumulate,
        })
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

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, Executor, Matrix,
    bce::{self, Bce},
    collective::{Element, Reduce},
};
use tracing::trace_span;

use crate::model::{
    ModelError,
    device::{DeviceInput, DeviceNetwork, DeviceWeights, TableRounds},
};
use crate::optim::device::DeviceOptimizer;
use crate::parallel::DeviceBuckets;
use crate::train::TrainError;

/// All that a step works with, in device memory: asks for the same work each time.
#[derive(Debug)]
pub(super) struct DeviceStep {
    pub(super) network: DeviceNetwork,
    pub(super) weights: DeviceWeights,
    pub(super) rounds: TableRounds,
    pub(super) optimizer: DeviceOptimizer,
    pub(super) buckets: DeviceBuckets,
    pub(super) loss: DeviceLoss,
}

/// Memory of the loss.
#[derive(Debug)]
pub(super) struct DeviceLoss {
    /// `[heads]` of `f32`
    head_weights: Address,
    /// `[batch, heads]` of `f32`
    pub(super) probabilities: Address,
    /// Working memory.
    partial: Address,
}

impl DeviceLoss {
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        batch: usize,
        label_weights: &[f32],
    ) -> Result<Self, ModelError> {
        let head_weights = executor.allocate(size_of_val(label_weights))?;
        executor.upload(bytemuck::cast_slice(label_weights), head_weights)?;
        let floats = batch * label_weights.len() * size_of::<f32>();
        Ok(Self {
            head_weights,
            probabilities: executor.allocate(floats)?,
            partial: executor.allocate(bce::partial_len(batch) * size_of::<f64>())?,
        })
    }
}

impl DeviceStep {
    /// Asks for one step on an input.
    pub(super) fn run<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
    ) -> Result<(), TrainError> {
        let (network, weights, optimizer) = (&self.network, &self.weights, &self.optimizer);
        let rows = input.bags.batch;
        optimizer
            .begin(executor, input.step)
            .map_err(ModelError::from)?;
        let logits = network.forward(executor, weights, input)?;
        let mut loss = None;
        if let Some(d_logits) = network.d_logits(rows) {
            let _span = trace_span!("loss").entered();
            self.loss(executor, input, logits, d_logits)?;
            loss = self.send_loss(executor)?;
        }
        let mut buckets = self.buckets.pass();
        network.begin_backward(executor, weights, input, &mut buckets)?;
        let dout = match self.rounds.rounds() {
            [] => None,
            _ => Some(self.rounds.gather(executor, network, rows)?),
        };
        // Gradients of tables travel while the layers before the embeddings go backward.
        let pending = optimizer.sum_tables(executor, &self.rounds, input.bags, dout)?;
        network.finish_backward(executor, weights, input, &mut buckets)?;
        optimizer.merge_tables(executor, &self.rounds, pending)?;
        if let Some(loss) = loss {
            executor.finish(loss).map_err(ModelError::from)?;
        }
        buckets.finish(executor)?;
        optimizer.update(executor, weights, &self.rounds, input.bags, dout)?;
        Ok(())
    }

    /// Begins to add up the loss over all ranks.
    fn send_loss<E: Executor>(&self, executor: &mut E) -> Result<Option<Begun>, ModelError> {
        let [_, ranks] = executor.rank();
        if ranks == 1 {
            return Ok(None);
        }
        let sum = Collective::AllReduce {
            at: self.optimizer.loss(),
            len: 1,
            element: Element::F64,
            reduce: Reduce::Sum,
        };
        Ok(Some(executor.begin("the sum of the loss", &[sum])?))
    }

    fn loss<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
        logits: Matrix,
        d_logits: Matrix,
    ) -> Result<(), ModelError> {
        let DeviceLoss {
            head_weights,
            probabilities,
            partial,
        } = self.loss;
        let operands = Bce {
            logits,
            labels: input.labels,
            weights: input.weights,
            head_weights,
            weight_sum: input.weight_sum,
            step: self.optimizer.step(),
            d_logits,
            probabilities: Matrix::new(probabilities, DType::F32, logits.shape),
            partial,
            loss: self.optimizer.loss(),
        };
        let launches = bce::forward_backward(&operands).map_err(ModelError::kernel("the loss"))?;
        for launch in &launches {
            executor.launch(launch)?;
        }
        Ok(())
    }
}

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, Executor, Group, Matrix,
    bce::{self, Bce},
    collective::{Element, Reduce},
};
use tracing::trace_span;

use crate::config::Reduction;
use crate::model::{
    ModelError,
    device::{DeviceGradientSink, DeviceInput, DeviceNetwork, DeviceWeights, TableRounds},
};
use crate::optim::device::{DeviceOptimizer, TableGradients};
use crate::parallel::{DeviceBuckets, KeepDeviceGradients, MICRO_SHARDS, MicroShards};
use crate::train::TrainError;

/// All that a step works with, in device memory: asks for the same work each time.
#[derive(Debug)]
pub(super) struct DeviceStep {
    pub(super) network: DeviceNetwork,
    pub(super) weights: DeviceWeights,
    pub(super) rounds: TableRounds,
    /// Of sharded tables that this device holds: those whose vectors travel, and those whose rows do.
    pub(super) owned: [Option<TableRounds>; 2],
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
    /// Losses of micro-shards, this rank's and those of all ranks, where their sum must not depend on the number of ranks.
    /// `[MICRO_SHARDS]` of `f64` each
    shards: Option<[Address; 2]>,
}

impl DeviceLoss {
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        (batch, pieces): (usize, &MicroShards),
        label_weights: &[f32],
    ) -> Result<Self, ModelError> {
        let shards = match pieces.reduction() {
            Reduction::Fast => None,
            Reduction::Invariant => {
                let bytes = MICRO_SHARDS * size_of::<f64>();
                Some([executor.allocate(bytes)?, executor.allocate(bytes)?])
            }
        };
        let head_weights = executor.allocate(size_of_val(label_weights))?;
        executor.upload(bytemuck::cast_slice(label_weights), head_weights)?;
        let floats = batch * label_weights.len() * size_of::<f32>();
        Ok(Self {
            head_weights,
            probabilities: executor.allocate(floats)?,
            partial: executor
                .allocate(pieces.count() * bce::partial_len(batch) * size_of::<f64>())?,
            shards,
        })
    }
}

impl DeviceStep {
    /// Asks for one step on a batch, whose micro-batches are the inputs.
    pub(super) fn run<E: Executor>(
        &self,
        executor: &mut E,
        inputs: &[DeviceInput],
    ) -> Result<(), TrainError> {
        let Some((input, earlier)) = inputs.split_last() else {
            return Ok(());
        };
        let optimizer = &self.optimizer;
        optimizer
            .begin(executor, input.step)
            .map_err(ModelError::from)?;
        let mut partial = 0;
        for (index, input) in earlier.iter().enumerate() {
            self.forward(executor, input, index, &mut partial)?;
            self.backward(executor, input, (index, false), &mut KeepDeviceGradients)?;
            self.buckets.keep(executor, index)?;
        }
        self.forward(executor, input, earlier.len(), &mut partial)?;
        let loss = self.send_loss(executor, partial, inputs.len())?;
        let mut buckets = self.buckets.pass();
        let last = (earlier.len(), true);
        let tables = self.backward(executor, input, last, &mut buckets)?;
        if let Some(loss) = loss {
            executor.finish(loss).map_err(ModelError::from)?;
            if let Some([_, all]) = self.loss.shards {
                self.sum_loss(executor, all, MICRO_SHARDS, optimizer.loss())?;
            }
        }
        buckets.finish(executor)?;
        optimizer.update(
            executor,
            &self.weights,
            tables.each_ref().map(Option::as_ref),
        )?;
        Ok(())
    }

    /// Goes backward through micro-batch `index`. Returns the gradients of replicated tables, and of sharded ones that
    /// this device holds: after the `last` micro-batch those of all of them are summed as far as updates need.
    fn backward<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
        (index, last): (usize, bool),
        sink: &mut dyn DeviceGradientSink<E>,
    ) -> Result<[Option<TableGradients<'_>>; 3], TrainError> {
        let (network, weights, optimizer) = (&self.network, &self.weights, &self.optimizer);
        network.begin_backward(executor, weights, input, sink)?;
        let tables = self.table_gradients(executor, input)?;
        // Gradients of tables travel while the layers before the embeddings go backward.
        let vectors = network.send_gradients(executor, input)?;
        let mut rows = None;
        if let Some(gathered) = network.gradients_of_rows(executor, input)? {
            optimizer.sum_requested(executor, gathered)?;
            rows = network.send_row_gradients(executor)?;
        }
        let pending = optimizer.sum_tables(executor, tables.as_ref(), index)?;
        network.finish_backward(executor, weights, input, sink)?;
        let merged = tables.as_ref().filter(|_| last);
        optimizer.merge_tables(executor, merged, pending)?;
        let (mut vectors_of_ranks, mut rows_of_ranks) = (None, None);
        if let Some(vectors) = vectors {
            network.receive_gradients(executor, vectors, input.bags.batch)?;
            vectors_of_ranks = self.owned_gradients(input);
            if let Some(rows) = rows {
                let dout = network.receive_row_gradients(executor, rows)?;
                rows_of_ranks = self.owned_row_gradients(input, dout);
            }
            let owned = [vectors_of_ranks.as_ref(), rows_of_ranks.as_ref()];
            optimizer.sum_owned(executor, owned, index)?;
        }
        Ok([tables, vectors_of_ranks, rows_of_ranks])
    }

    /// Goes forward through micro-batch `index`, and computes the loss and its gradient. `partial` counts partial sums of
    /// the loss.
    fn forward<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
        index: usize,
        partial: &mut usize,
    ) -> Result<(), ModelError> {
        let logits = self.network.forward(executor, &self.weights, input)?;
        let Some(d_logits) = self.network.d_logits(input.bags.batch) else {
            return Ok(());
        };
        let _span = trace_span!("loss").entered();
        self.loss(executor, input, logits, d_logits, *partial)?;
        let len = bce::partial_len(input.bags.batch);
        if let Some([own, _]) = self.loss.shards {
            let [from, to] = [(self.loss.partial, *partial), (own, index)].map(element);
            self.sum_loss(executor, from, len, to)?;
        }
        *partial += len;
        Ok(())
    }

    /// The gradients of replicated tables.
    fn table_gradients<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
    ) -> Result<Option<TableGradients<'_>>, ModelError> {
        if self.rounds.rounds().is_empty() {
            return Ok(None);
        }
        let (rounds, rows) = (&self.rounds, input.bags.batch);
        Ok(Some(TableGradients {
            rounds,
            bags: input.bags,
            dout: rounds.gather(executor, &self.network, rows)?,
        }))
    }

    /// The gradients of sharded tables that this device holds.
    fn owned_gradients(&self, input: &DeviceInput) -> Option<TableGradients<'_>> {
        Some(TableGradients {
            rounds: self.owned[0].as_ref()?,
            bags: input.remote?.owned,
            dout: self.network.owned_gradients(input.bags.batch)?,
        })
    }

    /// The gradients of rows that this device holds, where ids travel once.
    fn owned_row_gradients(
        &self,
        input: &DeviceInput,
        dout: Option<Matrix>,
    ) -> Option<TableGradients<'_>> {
        let [bags, _] = input.remote?.rows?;
        Some(TableGradients {
            rounds: self.owned[1].as_ref()?,
            bags,
            dout: dout?,
        })
    }

    /// Adds up the loss of this rank's micro-batches, and begins to add it up over all ranks, or to give each rank those of
    /// all micro-shards.
    fn send_loss<E: Executor>(
        &self,
        executor: &mut E,
        partial: usize,
        micro_batches: usize,
    ) -> Result<Option<Begun>, ModelError> {
        if partial == 0 {
            return Ok(None);
        }
        let loss = self.optimizer.loss();
        let [_, ranks] = executor.rank(Group::DataParallel);
        let collective = match self.loss.shards {
            None => {
                self.sum_loss(executor, self.loss.partial, partial, loss)?;
                Collective::AllReduce {
                    at: loss,
                    len: 1,
                    element: Element::F64,
                    reduce: Reduce::Sum,
                }
            }
            Some([own, all]) => {
                if ranks == 1 {
                    self.sum_loss(executor, own, MICRO_SHARDS, loss)?;
                }
                Collective::AllGather {
                    from: own,
                    to: all,
                    len: micro_batches,
                    element: Element::F64,
                }
            }
        };
        if ranks == 1 {
            return Ok(None);
        }
        let what = "the sum of the loss";
        let begun = executor.begin(Group::DataParallel, what, &[collective])?;
        Ok(Some(begun))
    }

    /// Adds up `len` sums, in a fixed order.
    fn sum_loss<E: Executor>(
        &self,
        executor: &mut E,
        from: Address,
        len: usize,
        to: Address,
    ) -> Result<(), ModelError> {
        let sum = bce::sum(from, len, to).map_err(ModelError::kernel("the loss"))?;
        Ok(executor.launch(&sum)?)
    }

    /// Loss and gradient of a micro-batch; its partial sums begin at number `first`.
    fn loss<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
        logits: Matrix,
        d_logits: Matrix,
        first: usize,
    ) -> Result<(), ModelError> {
        let DeviceLoss {
            head_weights,
            probabilities,
            partial,
            ..
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
            partial: element((partial, first)),
            loss: self.optimizer.loss(),
        };
        let launches = bce::forward_backward(&operands).map_err(ModelError::kernel("the loss"))?;
        // The sum is of all micro-batches.
        Ok(executor.launch(&launches[0])?)
    }
}

/// One of some numbers in double precision.
fn element((at, index): (Address, usize)) -> Address {
    Address(at.0 + (index * size_of::<f64>()) as u64)
}

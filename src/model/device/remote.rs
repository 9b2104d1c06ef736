//! What a network exchanges of sharded tables.

use streamrec_kernels::cuda::{Begun, DeviceError, Executor, Matrix, embedding_bag::Bags};

use super::{
    DeviceInput, DeviceNetwork, DeviceWeights,
    requested_rows::{DeviceRows, RowRequest, RowShards},
    shards::{DeviceShards, Shards},
    source::DeviceSource,
};
use crate::model::{ModelError, ParameterStore};

/// Vectors on their way; and rows, with this rank's positions among them.
pub(super) type PendingVectors = (Begun, Option<(Begun, Bags)>);

/// What a network needs for sharded tables: those whose vectors travel, and those whose rows do.
pub(super) fn build<E: Executor>(
    executor: &mut E,
    of: &DeviceSource<'_>,
    weights: &DeviceWeights,
    shards: Option<(Shards, RowShards)>,
) -> Result<(Option<DeviceShards>, Option<DeviceRows>), DeviceError> {
    let Some((shards, rows)) = shards else {
        return Ok((None, None));
    };
    let store = (of.parameters, weights);
    let shards = DeviceShards::new(executor, store, shards, of.batch)?;
    let dtype = weights.compute_dtype();
    let rows = (!rows.is_empty()).then(|| DeviceRows::new(rows, of.batch, dtype));
    Ok((Some(shards), rows))
}

impl DeviceNetwork {
    /// As an owner: begins to send vectors, and rows with this rank's positions among those that come.
    pub(super) fn send_vectors<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
    ) -> Result<Option<PendingVectors>, ModelError> {
        let (Some(shards), Some(remote)) = (&self.shards, input.remote) else {
            return Ok(None);
        };
        let vectors =
            shards.send_vectors(executor, remote.owned, input.bags.batch, self.first_bad)?;
        let rows = match (&self.rows, remote.rows) {
            (Some(rows), Some([owned, positions])) => {
                Some((rows.send(executor, owned, self.first_bad)?, positions))
            }
            _ => None,
        };
        Ok(Some((vectors, rows)))
    }

    /// Takes memory for so many rows of each owner and table whose ids travel once, the same number on all ranks. Returns
    /// how their gradients are to be summed; nothing where there is no such table. Not for the steady state.
    ///
    /// # Errors
    /// When the device has not so much.
    pub fn reserve_rows<E: Executor>(
        &mut self,
        executor: &mut E,
        store: (&ParameterStore, &DeviceWeights),
        rows: usize,
    ) -> Result<Option<RowRequest>, DeviceError> {
        let Some(own) = &mut self.rows else {
            return Ok(None);
        };
        own.reserve(executor, store, rows)?;
        Ok(Some(own.request()))
    }

    /// The gradients of vectors that were pooled of such rows, after [`begin_backward`](Self::begin_backward) for the same
    /// input; nothing where there is no such table.
    ///
    /// # Errors
    /// When the device fails.
    pub fn gradients_of_rows<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
    ) -> Result<Option<(Bags, Matrix)>, ModelError> {
        let positions = input.remote.and_then(|remote| remote.rows);
        let (Some(rows), Some([_, positions])) = (&self.rows, positions) else {
            return Ok(None);
        };
        let gathered = rows.gather(executor, self, input.bags.batch)?;
        Ok(Some((positions, gathered)))
    }

    /// Begins to send the gradients of rows, once they are summed.
    ///
    /// # Errors
    /// When the device fails.
    pub fn send_row_gradients<E: Executor>(
        &self,
        executor: &mut E,
    ) -> Result<Option<Begun>, ModelError> {
        let rows = self.rows.as_ref();
        rows.map(|rows| rows.send_gradients(executor)).transpose()
    }

    /// Lets the device wait for them, and returns those of the rows that this device holds, `[ranks * rows, width]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn receive_row_gradients<E: Executor>(
        &self,
        executor: &mut E,
        begun: Begun,
    ) -> Result<Option<Matrix>, ModelError> {
        let Some(rows) = &self.rows else {
            executor.finish(begun)?;
            return Ok(None);
        };
        rows.receive_gradients(executor, begun)?;
        Ok(Some(rows.gradients()))
    }

    /// Begins to send the gradients of vectors of sharded tables to the devices that hold these, after
    /// [`begin_backward`](Self::begin_backward) for the same input; nothing where none is sharded.
    ///
    /// # Errors
    /// When the device fails.
    pub fn send_gradients<E: Executor>(
        &self,
        executor: &mut E,
        input: &DeviceInput,
    ) -> Result<Option<Begun>, ModelError> {
        let shards = self.shards.as_ref();
        shards
            .map(|shards| shards.send_gradients(executor, self, input.bags))
            .transpose()
    }

    /// Lets the device wait for gradients of vectors that were begun to be sent.
    ///
    /// # Errors
    /// When the device fails.
    pub fn receive_gradients<E: Executor>(
        &self,
        executor: &mut E,
        begun: Begun,
        rows: usize,
    ) -> Result<(), ModelError> {
        match &self.shards {
            Some(shards) => shards.receive_gradients(executor, begun, rows),
            None => Ok(executor.finish(begun)?),
        }
    }

    /// The gradients of the vectors that this device pooled for all ranks, `[dp * rows, width]`, once those that were
    /// sent are received.
    pub fn owned_gradients(&self, rows: usize) -> Option<Matrix> {
        self.shards.as_ref().map(|shards| shards.gradients(rows))
    }
}

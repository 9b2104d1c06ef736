use streamrec_kernels::Context;

use crate::model::{BatchInput, ModelError, ParameterStore};
use crate::parallel::{EmbeddingExchange, PendingIds, PendingVectors};

/// What travels for the next batch while this one computes: its ids, and once the tables are updated, its vectors.
#[derive(Default)]
pub(super) struct Ahead {
    next: Option<Sent>,
}

enum Sent {
    Ids(PendingIds),
    Vectors(PendingVectors),
}

impl Ahead {
    /// The vectors of the batch that is next, `batch`, on their way.
    pub(super) fn take(
        &mut self,
        exchange: &mut EmbeddingExchange,
        context: &Context,
        parameters: &ParameterStore,
        batch: &BatchInput<'_>,
    ) -> Result<PendingVectors, ModelError> {
        let ids = match self.next.take() {
            Some(Sent::Vectors(vectors)) => return Ok(vectors),
            Some(Sent::Ids(ids)) => ids,
            None => exchange.send_ids(batch)?,
        };
        exchange.send_vectors(context, parameters, ids)
    }

    /// Sends the ids of the batch after this one.
    pub(super) fn send_ids(
        &mut self,
        exchange: &EmbeddingExchange,
        batch: &BatchInput<'_>,
    ) -> Result<(), ModelError> {
        self.next = Some(Sent::Ids(exchange.send_ids(batch)?));
        Ok(())
    }

    /// Sends the vectors of the next batch, if its ids were: no table changes before it is computed.
    pub(super) fn fetch(
        &mut self,
        exchange: &mut EmbeddingExchange,
        context: &Context,
        parameters: &ParameterStore,
    ) -> Result<(), ModelError> {
        self.next = match self.next.take() {
            Some(Sent::Ids(ids)) => Some(Sent::Vectors(
                exchange.send_vectors(context, parameters, ids)?,
            )),
            other => other,
        };
        Ok(())
    }
}

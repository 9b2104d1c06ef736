//! Ids and vectors of sharded tables that are sent before the piece that needs them is computed.

use std::{collections::VecDeque, mem};

use streamrec_kernels::Context;

use crate::model::{BatchInput, ModelError, ParameterStore};
use crate::parallel::{EmbeddingExchange, PendingIds, PendingVectors};

/// Pieces whose vectors are on their way at once: while one is computed, the link is not out of work before the
/// gradients of that one leave.
const PIECES_AHEAD: usize = 3;

/// What travels for pieces that are still to be computed: ids of a batch while the one before computes; once no table
/// changes before they are used, vectors.
#[derive(Default)]
pub(super) struct Ahead {
    /// Of the batch in work.
    vectors: VecDeque<PendingVectors>,
    /// Of the batch in work.
    ids: VecDeque<PendingIds>,
    /// Of the batch after it.
    next: VecDeque<PendingIds>,
}

impl Ahead {
    /// Whether ids of the batch in work are on their way, or their vectors.
    pub(super) fn has_batch(&self) -> bool {
        !(self.vectors.is_empty() && self.ids.is_empty())
    }

    /// Sends the ids of a piece of the batch after the one in work, one piece after the other.
    pub(super) fn send_ids(
        &mut self,
        exchange: &EmbeddingExchange,
        piece: &BatchInput<'_>,
    ) -> Result<(), ModelError> {
        self.next.push_back(exchange.send_ids(piece)?);
        Ok(())
    }

    /// Begins with the batch after: tables are as it needs them.
    pub(super) fn begin_next(&mut self) {
        self.ids = mem::take(&mut self.next);
    }

    /// Sends vectors of the batch in work as far ahead as they may be.
    pub(super) fn send_vectors(
        &mut self,
        exchange: &mut EmbeddingExchange,
        context: &Context,
        parameters: &ParameterStore,
    ) -> Result<(), ModelError> {
        while self.vectors.len() < PIECES_AHEAD
            && let Some(ids) = self.ids.pop_front()
        {
            let vectors = exchange.send_vectors(context, parameters, ids)?;
            self.vectors.push_back(vectors);
        }
        Ok(())
    }

    /// The vectors of the piece that is computed next, on their way.
    pub(super) fn take(&mut self) -> Option<PendingVectors> {
        self.vectors.pop_front()
    }
}

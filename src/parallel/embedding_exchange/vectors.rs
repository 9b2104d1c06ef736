//! Vectors on their way from the owners.

use streamrec_kernels::{
    Context, TensorMut, TensorRef,
    embedding_bag::{self, Lookup, Pooling},
};
use tracing::trace_span;

use super::{
    EmbeddingExchange, empty_message,
    layout::OwnerLayout,
    owned_ids::OwnedIds,
    wire::{Words, put},
};
use crate::{
    comm::Message,
    config::Exchange,
    model::{ModelError, ParameterStore},
};

impl EmbeddingExchange {
    /// As an owner: what each rank asked for.
    pub(super) fn answers(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
        owned: &OwnedIds,
    ) -> Result<Vec<Message>, ModelError> {
        let (own, bags) = (self.layout.own(), owned.bags());
        self.pooled.resize(bags.batch * own.width, 0.0);
        let lookups = own.pooled.iter().enumerate().map(|(feature, part)| Lookup {
            feature,
            table: parameters.table(self.layout.tables[part.table].id).view(),
            pooling: Pooling::Sum,
            column: part.first,
        });
        let lookups: Vec<_> = lookups.collect();
        let out = TensorMut::from_f32(&mut self.pooled, &[bags.batch, own.width]);
        trace_span!("look up ids of all ranks")
            .in_scope(|| embedding_bag::forward(context, &bags, &lookups, out))
            .map_err(ModelError::kernel("the lookup of other ranks' ids"))?;
        let (mut first, mut scratch) = (0, Vec::new());
        let mut answers = Vec::with_capacity(owned.samples.len());
        for (rank, &samples) in owned.samples.iter().enumerate() {
            let mut answer = empty_message(&mut self.spare, &*self.world);
            let end = first + samples * own.width;
            put(&mut answer, &self.pooled[first..end]);
            first = end;
            let _span = trace_span!("look up ids of all ranks").entered();
            for (part, of_ranks) in own.unique.iter().zip(&owned.unique) {
                let table = parameters.table(self.layout.tables[part.table].id).view();
                for &id in &of_ranks[rank] {
                    put(&mut answer, table.wide_row(id as usize, &mut scratch));
                }
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Puts together what the owners sent: `vectors: [samples, columns]`.
    pub(super) fn assemble(
        &mut self,
        context: &Context,
        answers: &[Message],
        vectors: &mut [f32],
    ) -> Result<(), ModelError> {
        vectors.fill(0.0);
        let samples = self.requested.samples.len();
        let mut readers = Vec::with_capacity(answers.len());
        for (rank, (answer, owner)) in answers.iter().zip(&self.layout.owners).enumerate() {
            let mut words = Words::<f32>::new(rank, answer)?;
            let matrix = words.take(samples * owner.width)?;
            self.add_pooled(owner, matrix, vectors);
            readers.push(words);
        }
        for table in 0..self.layout.tables.len() {
            self.pool_rows(context, table, &mut readers, vectors)?;
        }
        readers.into_iter().try_for_each(Words::end)
    }

    /// Adds an owner's pooled vectors, `matrix: [samples, width]`, to their columns.
    fn add_pooled(&self, owner: &OwnerLayout, matrix: &[f32], vectors: &mut [f32]) {
        let columns = self.layout.columns;
        for part in &owner.pooled {
            let lookup = &self.layout.lookups[part.lookup];
            let inverse_lengths = &self.requested.inverse_lengths[part.lookup];
            let first = lookup.column + part.columns.start;
            for sample in 0..self.requested.samples.len() {
                let from = &matrix[sample * owner.width + part.first..][..part.columns.len()];
                let into = &mut vectors[sample * columns + first..][..part.columns.len()];
                let scale = inverse_lengths.get(sample).copied().unwrap_or(1.0);
                into.iter_mut().zip(from).for_each(|(v, x)| *v += scale * x);
            }
        }
    }

    /// Pools the rows of a table whose ids traveled once into their columns.
    fn pool_rows(
        &mut self,
        context: &Context,
        table: usize,
        readers: &mut [Words<'_, f32>],
        vectors: &mut [f32],
    ) -> Result<(), ModelError> {
        let shared = &self.layout.tables[table];
        if shared.exchange != Exchange::Unique {
            return Ok(());
        }
        let unique = self.requested.unique_of(&self.layout, table);
        let (ids, dim) = (unique.ids.len(), shared.dim);
        self.rows.resize(ids * dim, 0.0);
        for (owner, words) in self.layout.owners.iter().zip(readers) {
            for part in owner.unique.iter().filter(|part| part.table == table) {
                for id in unique.within(&part.rows) {
                    let from = words.take(part.columns.len())?;
                    self.rows[id * dim..][part.columns.clone()].copy_from_slice(from);
                }
            }
        }
        let (samples, columns) = (self.requested.samples.len(), self.layout.columns);
        let lookups = shared.lookups.iter().enumerate().map(|(feature, &lookup)| {
            let lookup = &self.layout.lookups[lookup];
            Lookup {
                feature,
                table: TensorRef::from_f32(&self.rows, &[ids, dim]),
                pooling: lookup.source.pooling,
                column: lookup.column,
            }
        });
        let lookups: Vec<_> = lookups.collect();
        let out = TensorMut::from_f32(vectors, &[samples, columns]);
        embedding_bag::forward(context, &unique.bags(samples), &lookups, out)
            .map_err(ModelError::kernel("the pooling of rows"))
    }
}

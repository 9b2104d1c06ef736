//! Gradients on their way to the owners.

use streamrec_kernels::{
    Context, DType, Tensor, TensorRef, add,
    embedding_bag::{self, BagSource, RowGradients, RowGradientsRef, segment_sum},
};

use super::{
    EmbeddingExchange, empty_message,
    wire::{Words, put},
};
use crate::{
    comm::Message,
    config::{Exchange, Placement},
    model::{ModelError, Network},
};

/// A gradient in float32: where it lies, or widened.
enum Float32<'a> {
    Own(TensorRef<'a>),
    Widened(Tensor),
}

impl Float32<'_> {
    fn view(&self) -> TensorRef<'_> {
        match self {
            Self::Own(view) => *view,
            Self::Widened(tensor) => tensor.view(),
        }
    }
}

fn float32<'a>(context: &Context, gradient: TensorRef<'a>) -> Result<Float32<'a>, ModelError> {
    if gradient.dtype() == DType::F32 {
        return Ok(Float32::Own(gradient));
    }
    let mut widened = Tensor::zeros(context, DType::F32, &gradient.shape());
    add::copy(context, gradient, widened.view_mut()).map_err(ModelError::kernel(
        "the gradient of a sharded table's vectors",
    ))?;
    Ok(Float32::Widened(widened))
}

impl EmbeddingExchange {
    /// What each owner gets: gradients of pooled vectors, then those of rows.
    pub(super) fn gradient_messages(
        &mut self,
        context: &Context,
        network: &Network,
    ) -> Result<Vec<Message>, ModelError> {
        let samples = self.requested.samples.clone();
        let lookups = self.layout.lookups.iter();
        let gradients = lookups
            .map(|lookup| network.remote_gradient(lookup).rows(samples.clone()))
            .map(|gradient| float32(context, gradient))
            .collect::<Result<Vec<_>, _>>()?;
        let gradients: Vec<TensorRef<'_>> = gradients.iter().map(Float32::view).collect();
        let mut messages = Vec::with_capacity(self.layout.owners.len());
        let mut scaled = Vec::new();
        for owner in &self.layout.owners {
            let mut message = empty_message(&mut self.spare, &*self.world);
            for sample in 0..samples.len() {
                for part in &owner.pooled {
                    let gradient = &gradients[part.lookup].row(sample)[part.columns.clone()];
                    let inverse_lengths = &self.requested.inverse_lengths[part.lookup];
                    match inverse_lengths.get(sample) {
                        None => put(&mut message, gradient),
                        Some(scale) => {
                            scaled.clear();
                            scaled.extend(gradient.iter().map(|g| scale * g));
                            put(&mut message, &scaled);
                        }
                    }
                }
            }
            messages.push(message);
        }
        for table in 0..self.layout.tables.len() {
            self.put_row_gradients(context, table, &gradients, &mut messages)?;
        }
        Ok(messages)
    }

    /// Sums the gradient of each distinct id of a table, and appends it to the messages of its owners.
    fn put_row_gradients(
        &mut self,
        context: &Context,
        table: usize,
        gradients: &[TensorRef<'_>],
        messages: &mut [Message],
    ) -> Result<(), ModelError> {
        let shared = &self.layout.tables[table];
        if shared.exchange != Exchange::Unique {
            return Ok(());
        }
        let unique = self.requested.unique_of(&self.layout, table);
        let (samples, dim) = (self.requested.samples.len(), shared.dim);
        // The lookups' gradients side by side: they may come from several nodes.
        let width = shared.lookups.len() * dim;
        self.rows.clear();
        for sample in 0..samples {
            for &lookup in &shared.lookups {
                self.rows.extend_from_slice(gradients[lookup].row(sample));
            }
        }
        let sources = shared.lookups.iter().enumerate();
        let sources: Vec<BagSource> = sources
            .map(|(feature, &lookup)| BagSource {
                feature,
                pooling: self.layout.lookups[lookup].source.pooling,
                column: feature * dim,
            })
            .collect();
        let features: Vec<usize> = (0..shared.lookups.len()).collect();
        let (bags, groups) = (unique.bags(samples), &mut self.unique_groups);
        let dout = TensorRef::from_f32(&self.rows, &[samples, width]);
        let mut sum = RowGradients::default();
        groups
            .build(context, &bags, &features, unique.ids.len())
            .and_then(|()| segment_sum(context, groups, dim, &sources, dout, &mut sum))
            .map_err(ModelError::kernel("the sum of a table's gradient"))?;
        // Every distinct id is in some bag, so row i of the sum is that of id i.
        for (owner, message) in self.layout.owners.iter().zip(messages) {
            for part in owner.unique.iter().filter(|part| part.table == table) {
                for id in unique.within(&part.rows) {
                    put(message, &sum.rows[id * dim..][part.columns.clone()]);
                }
            }
        }
        Ok(())
    }

    /// As an owner: takes up the gradients of pooled vectors.
    pub(super) fn sum_pooled(&mut self, context: &Context, last: bool) -> Result<(), ModelError> {
        let alone = self.collected == 0 && last && !self.sums_first;
        let own = self.layout.own();
        let samples = self.pooled.len().checked_div(own.width).unwrap_or(0);
        let dout = TensorRef::from_f32(&self.pooled, &[samples, own.width]);
        for (pooled, groups) in self.owned.grouped() {
            let table = &self.layout.tables[pooled.table];
            let sum = &mut self.sums[pooled.table];
            // The columns of a row at other ranks take part in its update.
            sum.fused = alone && table.placement != Placement::ColumnWise;
            if sum.fused {
                continue;
            }
            let dim = own
                .pooled
                .iter()
                .find(|part| part.table == pooled.table)
                .map_or(0, |part| part.columns.len());
            sum.own.add(context, self.collected, last, |into| {
                segment_sum(context, groups, dim, &pooled.sources, dout, into)
                    .map_err(ModelError::kernel("the sum of a table's gradient"))
            })?;
        }
        Ok(())
    }

    /// As an owner: takes up the gradients of rows.
    pub(super) fn sum_rows(
        &mut self,
        context: &Context,
        last: bool,
        readers: &mut [Words<'_, f32>],
    ) -> Result<(), ModelError> {
        let own = self.layout.own();
        for (part, of_ranks) in own.unique.iter().zip(&self.owned.unique) {
            let dim = part.columns.len();
            let parts = of_ranks.iter().zip(&mut *readers).map(|(ids, words)| {
                let rows = words.take(ids.len() * dim)?;
                Ok(RowGradientsRef { ids, rows })
            });
            let parts = parts.collect::<Result<Vec<_>, ModelError>>()?;
            let sum = &mut self.sums[part.table];
            let failed = ModelError::kernel("the sum of a table's gradients over the ranks");
            if sum.sources.is_empty() {
                let write =
                    |into: &mut _| embedding_bag::merge(context, &parts, dim, into).map_err(failed);
                sum.own.add(context, self.collected, last, write)?;
                continue;
            }
            for (source, part) in sum.sources.iter_mut().zip(&parts) {
                source.add(context, self.collected, last, |into| {
                    into.ids.clear();
                    into.ids.extend_from_slice(part.ids);
                    into.rows.clear();
                    into.rows.extend_from_slice(part.rows);
                    Ok(())
                })?;
            }
            if last {
                let parts: Vec<_> = sum.sources.iter().map(|source| source.sum.view()).collect();
                sum.own.merge(context, &parts)?;
            }
        }
        Ok(())
    }
}

use streamrec_artifact::{FeatureSchema, Graph, LookupSpec, Pooling};
use streamrec_kernels::{
    add,
    embedding_bag::{self as kernel, BagSource, Lookup},
};

use super::{
    Backward, Forward, Layer, LayerContext, ModelError, ParameterStore, PassError, TableId,
};
use crate::model::RemoteLookup;

/// Pooled embedding vectors side by side, `[rows, sum of dims]`. Its gradient stays where it is:
/// tables are updated from it after the pass.
pub(in crate::model) struct EmbeddingBag {
    /// Lookups in tables that are here.
    bags: Vec<TableBag>,
    /// Lookups in sharded tables, whose vectors come with the batch.
    remote: Vec<RemoteLookup>,
    /// Empty between passes; keeps its memory.
    lookups: Vec<Lookup<'static>>,
}

/// One lookup: a feature's bags in a table.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct TableBag {
    pub(in crate::model) table: TableId,
    /// Feature, pooling and first column.
    pub(in crate::model) source: BagSource,
}

impl TableBag {
    /// The lookups of a node, each with its columns.
    pub(in crate::model) fn all(
        lookups: &[LookupSpec],
        graph: &Graph,
        schema: &FeatureSchema,
        parameters: &ParameterStore,
    ) -> Result<Vec<Self>, ModelError> {
        let mut column = 0;
        let bag = |lookup: &LookupSpec| {
            let table = super::table(graph, parameters, &lookup.table)?;
            let feature = schema.categorical(&lookup.feature);
            let feature = feature.ok_or_else(|| super::missing(&lookup.feature))?;
            let pooling = match lookup.pooling {
                Pooling::Sum => kernel::Pooling::Sum,
                Pooling::Mean => kernel::Pooling::Mean,
            };
            let source = BagSource {
                feature,
                pooling,
                column,
            };
            column += parameters.table(table).parameter.shape[1];
            Ok(Self { table, source })
        };
        lookups.iter().map(bag).collect()
    }
}

impl EmbeddingBag {
    /// `remote` are the lookups of all nodes in sharded tables.
    pub(in crate::model) fn new(
        node: usize,
        lookups: &[LookupSpec],
        of: &LayerContext<'_>,
    ) -> Result<Self, ModelError> {
        let mut bags = TableBag::all(lookups, of.graph, of.schema, of.parameters)?;
        bags.retain(|bag| !of.parameters.table(bag.table).is_sharded());
        let remote = of.remote.iter().filter(|lookup| lookup.node == node);
        Ok(Self {
            remote: remote.copied().collect(),
            lookups: Vec::with_capacity(bags.len()),
            bags,
        })
    }
}

impl Layer for EmbeddingBag {
    fn forward(&mut self, mut pass: Forward<'_>) -> Result<(), PassError> {
        let mut lookups = reuse(std::mem::take(&mut self.lookups));
        lookups.extend(self.bags.iter().map(|&TableBag { table, source }| Lookup {
            feature: source.feature,
            table: pass.parameters.table(table).view(),
            pooling: source.pooling,
            column: source.column,
        }));
        let batch = pass.inputs.batch;
        let output = pass.output.reborrow();
        let result = kernel::forward(pass.context, &batch.bags, &lookups, output);
        self.lookups = reuse(lookups);
        result?;
        for lookup in &self.remote {
            let vectors = batch.remote.ok_or(ModelError::Batch {
                what: "the vectors of sharded tables",
                expected: "those of the exchange".into(),
                got: "none".into(),
            })?;
            let (dim, column) = (lookup.dim, lookup.source.column);
            let vectors = vectors.columns(lookup.column..lookup.column + dim);
            let into = pass.output.reborrow().columns(column..column + dim);
            add::copy(pass.context, vectors, into)?;
        }
        Ok(())
    }

    fn backward(&mut self, _pass: Backward<'_>) -> Result<(), PassError> {
        Ok(())
    }
}

/// The same memory, for lookups of another lifetime.
fn reuse<'a>(mut lookups: Vec<Lookup<'_>>) -> Vec<Lookup<'a>> {
    lookups.clear();
    // Of an empty vector nothing is mapped, and `collect` keeps its memory.
    lookups
        .into_iter()
        .map(|_| unreachable!("the vector is empty"))
        .collect()
}

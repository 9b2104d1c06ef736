use streamrec_artifact::{FeatureSchema, Graph, Op};
use streamrec_kernels::{TensorRef, embedding_bag::BagSource};

use super::{ModelError, Network, ParameterStore, TableId, layers::TableBag};

/// A lookup in a sharded table: its pooled vectors come from an exchange between ranks, as columns
/// of [`BatchInput::remote`](super::BatchInput::remote).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteLookup {
    /// The table.
    pub table: TableId,
    /// The embedding node that reads the vectors.
    pub node: usize,
    /// Feature, pooling, and first column of the node's value.
    pub source: BagSource,
    /// First column among the remote vectors.
    pub column: usize,
    /// Columns of a vector.
    pub dim: usize,
}

impl RemoteLookup {
    /// Those of a graph, in the order of their columns.
    ///
    /// # Errors
    /// When the store lacks one of the tables.
    pub fn of_graph(
        graph: &Graph,
        schema: &FeatureSchema,
        parameters: &ParameterStore,
    ) -> Result<Vec<Self>, ModelError> {
        let (mut all, mut column) = (Vec::new(), 0);
        for (node, of) in graph.nodes.iter().enumerate() {
            let Op::EmbeddingBag { lookups } = &of.op else {
                continue;
            };
            for TableBag { table, source } in TableBag::all(lookups, graph, schema, parameters)? {
                let of = parameters.table(table);
                let dim = of.parameter.shape[1];
                if of.is_sharded() {
                    all.push(Self {
                        table,
                        node,
                        source,
                        column,
                        dim,
                    });
                    column += dim;
                }
            }
        }
        Ok(all)
    }
}

impl Network {
    /// The lookups in sharded tables.
    pub fn remote_lookups(&self) -> &[RemoteLookup] {
        &self.remote
    }

    /// The gradient of a lookup's pooled vectors, `[rows, dim]`, after a backward pass.
    pub fn remote_gradient(&self, lookup: &RemoteLookup) -> TensorRef<'_> {
        let first = lookup.source.column;
        self.embedding_gradient(lookup.node)
            .columns(first..first + lookup.dim)
    }
}

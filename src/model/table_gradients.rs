//! Gradients of embedding tables: of the rows that a batch looks up.

use streamrec_kernels::{
    Context, TensorRef,
    embedding_bag::{
        BagSource, Bags, GroupedTable, Groups, RowGradients, RowGradientsRef, merge, segment_sum,
    },
};

use super::{ModelError, Network, ParameterStore, TableId, layers::TableBag};

/// What the backward pass leaves for the update of the tables: each table's lookups grouped by row.
///
/// The gradient of a row is the sum of the gradients of the pooled vectors it went into. It is
/// formed while the row is updated ([`Network::bag_gradient`]), or before, where ranks or
/// micro-batches add up ([`Network::sum_table_gradient`]).
#[derive(Debug)]
pub struct TableGradients {
    /// In the order of the store's tables.
    parts: Vec<TablePart>,
    /// Where each table's parts begin; one more at the end. `[tables + 1]`
    starts: Vec<usize>,
    /// Tables of one set of rows, looked up by the same features, share their groups.
    group_keys: Vec<GroupKey>,
    groups: Vec<Groups>,
    /// Empty between passes; keeps its memory.
    grouped: Vec<GroupedTable<'static>>,
}

/// One embedding node's lookups in one table.
#[derive(Debug)]
struct TablePart {
    node: usize,
    sources: Vec<BagSource>,
    groups: usize,
}

#[derive(Debug, PartialEq)]
struct GroupKey {
    features: Vec<usize>,
    rows: usize,
}

/// The gradient of a table that one node looks up: what the fused update takes.
#[derive(Debug, Clone, Copy)]
pub struct BagGradient<'a> {
    /// The table's lookups by row.
    pub groups: &'a Groups,
    /// The features, with the columns of their vectors.
    pub sources: &'a [BagSource],
    /// The gradient of the pooled vectors, `[rows, columns]`.
    pub dout: TensorRef<'a>,
}

/// Buffers for the sum of a table that several nodes look up.
#[derive(Debug, Default)]
pub struct SumScratch {
    parts: Vec<RowGradients>,
}

impl TableGradients {
    /// Of the embedding nodes, each with its lookups.
    pub(super) fn new(nodes: Vec<(usize, Vec<TableBag>)>, parameters: &ParameterStore) -> Self {
        let mut own = Self {
            parts: Vec::new(),
            starts: vec![0],
            group_keys: Vec::new(),
            groups: Vec::new(),
            grouped: Vec::new(),
        };
        for (table, weights) in parameters.tables() {
            // Those of sharded tables leave with an exchange.
            let nodes = if weights.is_sharded() {
                &[]
            } else {
                nodes.as_slice()
            };
            for (node, bags) in nodes {
                let of_table = bags.iter().filter(|bag| bag.table == table);
                let sources: Vec<BagSource> = of_table.map(|bag| bag.source).collect();
                if !sources.is_empty() {
                    let groups = own.groups_of(&sources, weights.rows());
                    own.parts.push(TablePart {
                        node: *node,
                        sources,
                        groups,
                    });
                }
            }
            own.starts.push(own.parts.len());
        }
        own
    }

    fn groups_of(&mut self, sources: &[BagSource], rows: usize) -> usize {
        let features = sources.iter().map(|source| source.feature).collect();
        let key = GroupKey { features, rows };
        if let Some(index) = self.group_keys.iter().position(|known| *known == key) {
            return index;
        }
        self.group_keys.push(key);
        self.groups.push(Groups::default());
        self.groups.len() - 1
    }

    /// Groups the ids of a batch by row.
    pub(super) fn group(&mut self, context: &Context, bags: &Bags<'_>) -> Result<(), ModelError> {
        let mut grouped = reuse(std::mem::take(&mut self.grouped));
        grouped.extend(self.group_keys.iter().map(|key| GroupedTable {
            features: &key.features,
            rows: key.rows,
        }));
        let result = Groups::build_all(context, bags, &grouped, &mut self.groups);
        self.grouped = reuse(grouped);
        result.map_err(ModelError::kernel("the grouping of ids by row"))
    }

    fn parts(&self, table: TableId) -> &[TablePart] {
        &self.parts[self.starts[table.index()]..self.starts[table.index() + 1]]
    }
}

/// The same memory, for tables of another lifetime.
fn reuse<'a>(mut tables: Vec<GroupedTable<'_>>) -> Vec<GroupedTable<'a>> {
    tables.clear();
    // Of an empty vector nothing is mapped, and `collect` keeps its memory.
    tables
        .into_iter()
        .map(|_| unreachable!("the vector is empty"))
        .collect()
}

impl Network {
    /// The gradient of a table in the form of the fused update; `None` where several nodes look it
    /// up, so that their gradients must be summed first.
    pub fn bag_gradient(&self, table: TableId) -> Option<BagGradient<'_>> {
        match self.table_gradients().parts(table) {
            [part] => Some(self.part_gradient(part)),
            _ => None,
        }
    }

    /// Sums the gradient of each row of a table that the last batch looked up.
    ///
    /// # Errors
    /// When shapes do not fit, which a planned network rules out.
    pub fn sum_table_gradient(
        &self,
        context: &Context,
        parameters: &ParameterStore,
        table: TableId,
        scratch: &mut SumScratch,
        sum: &mut RowGradients,
    ) -> Result<(), ModelError> {
        let (parts, dim) = (
            self.table_gradients().parts(table),
            parameters.table(table).dim(),
        );
        let sum_part = |part: &TablePart, into: &mut RowGradients| {
            let BagGradient {
                groups,
                sources,
                dout,
            } = self.part_gradient(part);
            segment_sum(context, groups, dim, sources, dout, into)
                .map_err(ModelError::kernel("the sum of a table's gradient"))
        };
        match parts {
            [] => {
                sum.ids.clear();
                sum.rows.clear();
                Ok(())
            }
            [part] => sum_part(part, sum),
            parts => {
                scratch
                    .parts
                    .resize_with(parts.len().max(scratch.parts.len()), Default::default);
                for (part, into) in parts.iter().zip(&mut scratch.parts) {
                    sum_part(part, into)?;
                }
                let views: Vec<RowGradientsRef<'_>> = scratch.parts[..parts.len()]
                    .iter()
                    .map(RowGradients::view)
                    .collect();
                merge(context, &views, dim, sum)
                    .map_err(ModelError::kernel("the sum of a table's gradients"))
            }
        }
    }

    fn part_gradient<'a>(&'a self, part: &'a TablePart) -> BagGradient<'a> {
        BagGradient {
            groups: &self.table_gradients().groups[part.groups],
            sources: &part.sources,
            dout: self.embedding_gradient(part.node),
        }
    }
}

use std::ops::Range;

use crate::{
    config::{Exchange, Placement},
    model::{ParameterStore, RemoteLookup, TableId},
    parallel::TablePlan,
};

/// What each rank sends to each other one: the order of everything in the messages.
pub(super) struct Layout {
    pub(super) rank: usize,
    /// The sharded tables.
    pub(super) tables: Vec<SharedTable>,
    pub(super) lookups: Vec<RemoteLookup>,
    /// Columns of the remote vectors.
    pub(super) columns: usize,
    /// What travels to and from each owner.
    pub(super) owners: Vec<OwnerLayout>,
}

/// A sharded table.
pub(super) struct SharedTable {
    pub(super) id: TableId,
    pub(super) name: String,
    /// Rows of the whole.
    pub(super) rows: usize,
    /// Columns of the whole.
    pub(super) dim: usize,
    pub(super) placement: Placement,
    pub(super) exchange: Exchange,
    /// Indices into the lookups.
    pub(super) lookups: Vec<usize>,
}

/// What an owner holds of the tables, in the order of its messages: a matrix `[samples, width]` of
/// pooled vectors, then the rows of each table whose ids travel once.
#[derive(Default)]
pub(super) struct OwnerLayout {
    pub(super) pooled: Vec<PooledPart>,
    /// Columns of the matrix.
    pub(super) width: usize,
    pub(super) unique: Vec<UniquePart>,
}

/// A lookup in an owner's shard.
pub(super) struct PooledPart {
    pub(super) lookup: usize,
    /// Index into the tables.
    pub(super) table: usize,
    /// First column of the matrix.
    pub(super) first: usize,
    /// The shard.
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

/// An owner's shard of a table whose ids travel once.
pub(super) struct UniquePart {
    /// Index into the tables.
    pub(super) table: usize,
    /// The shard.
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Layout {
    pub(super) fn new(
        rank: usize,
        plan: &TablePlan,
        parameters: &ParameterStore,
        lookups: &[RemoteLookup],
    ) -> Self {
        let sharded = parameters.tables().zip(plan.tables());
        let sharded = sharded.filter(|((_, table), _)| table.is_sharded());
        let mut owners: Vec<OwnerLayout> = Vec::new();
        owners.resize_with(plan.ranks(), OwnerLayout::default);
        let mut tables = Vec::new();
        for ((id, _), planned) in sharded {
            let own = (0..lookups.len()).filter(|&index| lookups[index].table == id);
            let own: Vec<usize> = own.collect();
            for (owner, layout) in owners.iter_mut().enumerate() {
                let (rows, columns) = planned.shard(owner, plan.ranks());
                if !rows.is_empty() && !columns.is_empty() {
                    layout.add(tables.len(), planned.exchange, &own, rows, columns);
                }
            }
            tables.push(SharedTable {
                id,
                name: planned.name.clone(),
                rows: planned.shape[0],
                dim: planned.shape[1],
                placement: planned.placement,
                exchange: planned.exchange,
                lookups: own,
            });
        }
        Self {
            rank,
            tables,
            lookups: lookups.to_vec(),
            columns: lookups.iter().map(|lookup| lookup.dim).sum(),
            owners,
        }
    }

    /// What this rank owns.
    pub(super) fn own(&self) -> &OwnerLayout {
        &self.owners[self.rank]
    }

    /// The tables whose ids travel once, with their index.
    pub(super) fn unique_tables(&self) -> impl Iterator<Item = (usize, &SharedTable)> {
        let unique = |(_, table): &(usize, &SharedTable)| table.exchange == Exchange::Unique;
        self.tables.iter().enumerate().filter(unique)
    }
}

impl Layout {
    /// The ranges of rows in which a table whose ids travel once lies at its owners, ascending; columns of the same rows
    /// are one.
    pub(super) fn row_blocks(&self, table: usize) -> Vec<Range<usize>> {
        let parts = self.owners.iter().flat_map(|owner| &owner.unique);
        let mut blocks: Vec<Range<usize>> = parts
            .filter(|part| part.table == table)
            .map(|part| part.rows.clone())
            .collect();
        blocks.dedup();
        blocks
    }
}

impl OwnerLayout {
    fn add(
        &mut self,
        table: usize,
        exchange: Exchange,
        lookups: &[usize],
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        if exchange == Exchange::Unique {
            self.unique.push(UniquePart {
                table,
                rows,
                columns,
            });
            return;
        }
        for &lookup in lookups {
            let first = self.width;
            self.width += columns.len();
            self.pooled.push(PooledPart {
                lookup,
                table,
                first,
                rows: rows.clone(),
                columns: columns.clone(),
            });
        }
    }
}

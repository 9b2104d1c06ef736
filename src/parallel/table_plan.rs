use std::{fmt, ops::Range};

use streamrec_artifact::{Graph, Shapes};

use crate::{
    comm::chunk_range,
    config::{EmbeddingsConfig, Exchange, Payload, Placement, Reduction},
    model::Extent,
};

/// Where each embedding table lies, over all ranks of the job.
///
/// ```text
/// replicated    every rank all of it           gradients: rows gathered, merged, updated everywhere
/// table-wise    one rank all of it             ids go there, vectors or rows come back,
/// row-wise      each rank a range of rows      gradients go the same way as the ids;
/// column-wise   each rank a range of columns   the owner updates each row once
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePlan {
    ranks: usize,
    vectors: Payload,
    gradients: Payload,
    tables: Vec<PlannedTable>,
}

/// One table of a [`TablePlan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTable {
    /// The table's name.
    pub name: String,
    /// Rows and columns of the whole.
    pub shape: [usize; 2],
    /// Where it lies.
    pub placement: Placement,
    /// What travels, where it is not replicated.
    pub exchange: Exchange,
    /// The rank that holds a table-wise one.
    pub owner: usize,
}

/// A table that cannot be placed as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`parallel.embeddings`, table `{table}`: {problem}")]
pub struct PlacementError {
    /// The table.
    pub table: String,
    /// What was expected, what came, and what to change.
    pub problem: String,
}

impl TablePlan {
    /// Every table on every rank.
    pub fn replicated(graph: &Graph, shapes: &Shapes) -> Self {
        let tables = graph.tables.iter().zip(&shapes.table_rows);
        let tables = tables.map(|(table, &rows)| PlannedTable {
            name: table.name.clone(),
            shape: [rows, table.dim],
            placement: Placement::Replicated,
            exchange: Exchange::default(),
            owner: 0,
        });
        Self {
            ranks: 1,
            vectors: Payload::Fp32,
            gradients: Payload::Fp32,
            tables: tables.collect(),
        }
    }

    /// Every table at a rank that is alone and exchanges all vectors, or rows, with itself: to measure what that costs
    /// it besides what travels.
    pub fn exchanged_alone(graph: &Graph, shapes: &Shapes, exchange: Exchange) -> Self {
        let mut plan = Self::replicated(graph, shapes);
        for table in &mut plan.tables {
            (table.placement, table.exchange) = (Placement::TableWise, exchange);
        }
        plan
    }

    /// Places the tables of a graph over `ranks` ranks as the config says. The placement that holds for
    /// all makes tables that are too small for it table-wise. Table-wise ones without a rank go, largest
    /// first, where the least lies. Where the reduction is invariant each id travels once. On one rank
    /// every table is replicated, and so are those that are left to a planner which nobody asked.
    ///
    /// # Errors
    /// When the config names a table or a rank that is not there, or a table has too few rows or
    /// columns for the ranks.
    pub fn new(
        graph: &Graph,
        shapes: &Shapes,
        config: &EmbeddingsConfig,
        reduction: Reduction,
        ranks: usize,
    ) -> Result<Self, PlacementError> {
        let mut plan = Self::replicated(graph, shapes);
        plan.check_names(config)?;
        if ranks == 1 {
            return Ok(plan);
        }
        plan.ranks = ranks;
        (plan.vectors, plan.gradients) = (config.vectors, config.gradients);
        let mut chosen = Vec::new();
        let mut held = vec![0; ranks];
        for (index, table) in plan.tables.iter_mut().enumerate() {
            let own = config.tables.get(&table.name);
            let own_placement = own.and_then(|own| own.placement);
            table.placement = own_placement.unwrap_or(config.placement);
            table.exchange = match reduction {
                Reduction::Fast => own.and_then(|own| own.exchange).unwrap_or(config.exchange),
                Reduction::Invariant => Exchange::Unique,
            };
            if table.placement == Placement::Auto {
                table.placement = Placement::Replicated;
            }
            if own_placement.is_none() && table.check(ranks).is_err() {
                table.placement = Placement::TableWise;
            }
            table.check(ranks)?;
            match own.and_then(|own| own.rank) {
                None if table.placement == Placement::TableWise => chosen.push(index),
                None => {}
                Some(rank) => {
                    table.check_owner(rank, ranks)?;
                    (table.owner, held[rank]) = (rank, held[rank] + table.len());
                }
            }
        }
        chosen.sort_by_key(|&index| std::cmp::Reverse(plan.tables[index].len()));
        for index in chosen {
            let least = (0..ranks).min_by_key(|&rank| held[rank]).unwrap_or(0);
            plan.tables[index].owner = least;
            held[least] += plan.tables[index].len();
        }
        Ok(plan)
    }

    fn check_names(&self, config: &EmbeddingsConfig) -> Result<(), PlacementError> {
        let known = |name: &String| self.tables.iter().any(|table| table.name == *name);
        let Some(unknown) = config.tables.keys().find(|name| !known(name)) else {
            return Ok(());
        };
        let names: Vec<&str> = self.tables.iter().map(|t| t.name.as_str()).collect();
        Err(PlacementError {
            table: unknown.clone(),
            problem: format!("the model has no such table; it has {}", names.join(", ")),
        })
    }

    /// The tables, in the order of the graph's.
    pub fn tables(&self) -> &[PlannedTable] {
        &self.tables
    }

    /// How vectors and rows travel to where they are used.
    pub fn vectors(&self) -> Payload {
        self.vectors
    }

    /// How gradients travel back.
    pub fn gradients(&self) -> Payload {
        self.gradients
    }

    /// The ranks that hold shards.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Whether every table is on every rank.
    pub fn is_replicated(&self) -> bool {
        let replicated = |table: &PlannedTable| table.placement == Placement::Replicated;
        self.tables.iter().all(replicated)
    }

    /// The part of each sharded table that a rank holds; `None` for replicated ones.
    pub fn extents(&self, rank: usize) -> impl Iterator<Item = Option<Extent>> + '_ {
        self.tables.iter().map(move |table| {
            if table.placement == Placement::Replicated {
                return None;
            }
            let (rows, columns) = table.shard(rank, self.ranks);
            let mut extent = Extent::whole(&table.shape);
            (extent.rows, extent.columns) = (rows, columns);
            Some(extent)
        })
    }
}

impl PlannedTable {
    fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The rows and columns that a rank holds of a sharded table.
    pub fn shard(&self, rank: usize, ranks: usize) -> (Range<usize>, Range<usize>) {
        let [rows, columns] = self.shape;
        match self.placement {
            Placement::Replicated | Placement::Auto => (0..rows, 0..columns),
            Placement::TableWise if rank == self.owner => (0..rows, 0..columns),
            Placement::TableWise => (0..0, 0..columns),
            Placement::RowWise => (chunk_range(rows, rank, ranks), 0..columns),
            Placement::ColumnWise => (0..rows, chunk_range(columns, rank, ranks)),
        }
    }

    fn check(&self, ranks: usize) -> Result<(), PlacementError> {
        let [rows, columns] = self.shape;
        let refuse = |problem: String| {
            Err(PlacementError {
                table: self.name.clone(),
                problem,
            })
        };
        if u32::try_from(rows).is_err() && self.placement != Placement::Replicated {
            return refuse(format!(
                "it has {rows} rows, and row numbers travel in 32 bits; set its placement to \
                 \"replicated\""
            ));
        }
        let (what, count) = match self.placement {
            Placement::RowWise => ("rows", rows),
            Placement::ColumnWise => ("columns", columns),
            _ => return Ok(()),
        };
        if count >= ranks {
            return Ok(());
        }
        refuse(format!(
            "it has {count} {what}, too few to give each of {ranks} ranks one; set another placement \
             than \"{}\"",
            match self.placement {
                Placement::RowWise => "row_wise",
                _ => "column_wise",
            }
        ))
    }

    fn check_owner(&self, rank: usize, ranks: usize) -> Result<(), PlacementError> {
        let problem = if self.placement != Placement::TableWise {
            format!(
                "`rank` = {rank} says where a table-wise table lies, and this one is {}; remove \
                 `rank`, or set `placement` = \"table_wise\"",
                self.placement
            )
        } else if rank >= ranks {
            format!("`rank` is {rank}, expected one of the {ranks} ranks, from 0")
        } else {
            return Ok(());
        };
        Err(PlacementError {
            table: self.name.clone(),
            problem,
        })
    }
}

impl fmt::Display for TablePlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.tables.iter().map(|table| table.name.len()).max();
        let width = width.unwrap_or(0);
        for (index, table) in self.tables.iter().enumerate() {
            let PlannedTable {
                name,
                shape: [rows, columns],
                placement,
                exchange,
                owner,
            } = table;
            write!(formatter, "{name:width$}  {rows} x {columns}  {placement}")?;
            match placement {
                Placement::Replicated | Placement::Auto => {}
                Placement::TableWise => write!(formatter, " on rank {owner}, {exchange}")?,
                _ => write!(formatter, ", {exchange}")?,
            }
            if index + 1 < self.tables.len() {
                formatter.write_str("\n")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        config::TableConfig,
        model::{GraphBuilder, tests::fixture::schema},
    };

    fn graph() -> (Graph, Shapes) {
        let schema = schema(3, &[("a", 9), ("b", 40), ("c", 30), ("d", 3)], 1);
        let mut graph = GraphBuilder::new(&schema);
        let embeddings = graph.embeddings("embeddings", |_| 4);
        let logits = graph.logits("logits", embeddings);
        let graph = graph.finish(logits).unwrap();
        let shapes = graph.validate(&schema).unwrap();
        (graph, shapes)
    }

    fn plan(config: &str, ranks: usize) -> Result<TablePlan, PlacementError> {
        let (graph, shapes) = graph();
        let config = toml::from_str(config).unwrap();
        TablePlan::new(&graph, &shapes, &config, Reduction::Fast, ranks)
    }

    #[test]
    fn shards_cover_each_table_once() {
        for placement in ["table_wise", "row_wise", "column_wise"] {
            let plan = plan(&format!("placement = '{placement}'"), 3).unwrap();
            for (index, table) in plan.tables().iter().enumerate() {
                let mut covered = vec![0; table.len()];
                for rank in 0..3 {
                    let extent = plan.extents(rank).nth(index).unwrap().unwrap();
                    for row in extent.rows {
                        for column in extent.columns.clone() {
                            covered[row * table.shape[1] + column] += 1;
                        }
                    }
                }
                assert!(covered.iter().all(|&count| count == 1), "{placement}");
            }
        }
    }

    #[test]
    fn the_largest_table_goes_where_the_least_lies() {
        let config = "placement = 'table_wise'\n[tables.d]\nrank = 1";
        let plan = plan(config, 2).unwrap();
        let owners: BTreeMap<&str, usize> = plan
            .tables()
            .iter()
            .map(|table| (table.name.as_str(), table.owner))
            .collect();
        // d (12) is on rank 1; b (160) goes to rank 0, c (120) to rank 1, and so does a (36).
        assert_eq!(
            owners,
            BTreeMap::from([("a", 1), ("b", 0), ("c", 1), ("d", 1)])
        );
    }

    #[test]
    fn one_rank_has_every_table_and_names_are_checked_all_the_same() {
        assert!(plan("placement = 'row_wise'", 1).unwrap().is_replicated());
        let error = plan("[tables.e]\nplacement = 'row_wise'", 1).unwrap_err();
        assert!(error.to_string().contains("it has a, b, c, d"), "{error}");
    }

    #[test]
    fn what_cannot_be_placed_is_refused_with_the_numbers() {
        for (config, expected) in [
            (
                "[tables.d]\nplacement = 'row_wise'",
                "table `d`: it has 3 rows, too few",
            ),
            (
                "[tables.a]\nplacement = 'column_wise'",
                "it has 4 columns, too few",
            ),
            (
                "[tables.a]\nplacement = 'table_wise'\nrank = 5",
                "`rank` is 5",
            ),
            ("[tables.a]\nrank = 1", "this one is replicated"),
        ] {
            let error = plan(config, 5).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_table_too_small_for_the_placement_of_all_is_table_wise() {
        let plan = plan("placement = 'row_wise'", 5).unwrap();
        let small = plan.tables().iter().find(|table| table.name == "d");
        assert_eq!(small.unwrap().placement, Placement::TableWise);
    }

    #[test]
    fn a_plan_reads_well() {
        let config = EmbeddingsConfig {
            placement: Placement::RowWise,
            exchange: Exchange::Unique,
            tables: BTreeMap::from([
                (
                    "b".to_owned(),
                    TableConfig {
                        placement: Some(Placement::TableWise),
                        exchange: Some(Exchange::Pooled),
                        rank: None,
                    },
                ),
                (
                    "c".to_owned(),
                    TableConfig {
                        placement: Some(Placement::Replicated),
                        ..TableConfig::default()
                    },
                ),
            ]),
            ..EmbeddingsConfig::default()
        };
        let (graph, shapes) = graph();
        let plan = TablePlan::new(&graph, &shapes, &config, Reduction::Fast, 2).unwrap();
        let expected = "\
a  9 x 4  row-wise, unique
b  40 x 4  table-wise on rank 0, pooled
c  30 x 4  replicated
d  3 x 4  row-wise, unique";
        assert_eq!(plan.to_string(), expected);
    }
}

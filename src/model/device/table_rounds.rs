use std::collections::BTreeSet;

use streamrec_artifact::Op;
use streamrec_kernels::cuda::{Address, Executor, Matrix, add, groups::Source};
use streamrec_kernels::embedding_bag::Pooling;

use super::{
    DeviceNetwork, DeviceWeights, ShardPart, Shards,
    memory::{DeviceBuffer, columns},
    source::DeviceSource,
};
use crate::model::{ModelError, TableId, layers::TableBag};

/// The lookups whose gradients update tables, in rounds in which each feature looks up one table.
///
/// All tables of a round are grouped and updated together. A table is of one round, so that each of
/// its rows is updated once a step, whichever features and nodes look it up.
#[derive(Debug)]
pub struct TableRounds {
    rounds: Vec<TableRound>,
    gathered: Gathered,
}

/// Tables that are updated together.
#[derive(Debug)]
pub struct TableRound {
    /// The tables; sources number them by their place here.
    pub tables: Vec<TableId>,
    /// For each feature of the batch the table it looks up; no rows where that is none of these.
    pub sources: Vec<Source>,
    /// The same, in device memory.
    pub sources_on_device: Address,
    /// Where every rank holds columns of the tables' rows, and updates need sums over whole rows: how many of the tables
    /// one feature of a batch looks up at most.
    pub columns_apart: Option<usize>,
}

/// Where the gradients of all pooled vectors lie in one matrix.
#[derive(Debug)]
enum Gathered {
    /// In the gradient of the one node that looks up.
    Node(usize),
    /// With the vectors of all ranks.
    Elsewhere,
    /// In a matrix of their own, `[batch, width]`, to which they are copied.
    Matrix {
        buffer: DeviceBuffer,
        width: usize,
        copies: Vec<Copied>,
    },
}

/// The gradient of a lookup's vectors, and where it is copied to.
#[derive(Debug)]
struct Copied {
    node: usize,
    from: std::ops::Range<usize>,
    to: std::ops::Range<usize>,
    /// A feature that looks up a table twice in the same way has one sum.
    accumulate: bool,
}

/// Lookups of one feature in one table.
struct Joined {
    table: TableId,
    feature: usize,
    pooling: Pooling,
    column: usize,
}

impl TableRounds {
    /// The rounds of a graph, without tables that `is_frozen`.
    ///
    /// # Errors
    /// When a feature looks up a table with two kinds of pooling, or the device fails.
    pub fn new<E: Executor>(
        executor: &mut E,
        of: &DeviceSource<'_>,
        weights: &DeviceWeights,
        is_frozen: impl Fn(TableId) -> bool,
    ) -> Result<Self, ModelError> {
        let mut nodes = Vec::new();
        for (index, node) in of.graph.nodes.iter().enumerate() {
            if let Op::EmbeddingBag { lookups } = &node.op {
                let mut bags = TableBag::all(lookups, of.graph, of.schema, of.parameters)?;
                let here = |bag: &TableBag| !of.parameters.table(bag.table).is_sharded();
                bags.retain(|bag| here(bag) && !is_frozen(bag.table));
                nodes.push((index, bags));
            }
        }
        nodes.retain(|(_, bags)| !bags.is_empty());
        let (joined, copies, width) = join(of, &nodes)?;
        let gathered = match nodes.as_slice() {
            [(node, bags)] if joined.len() == bags.len() => Gathered::Node(*node),
            _ => Gathered::Matrix {
                buffer: DeviceBuffer::new(executor, weights.compute_dtype(), of.batch * width)?,
                width,
                copies,
            },
        };
        // One node's vectors lie where it put them, others where they are copied to.
        let joined: Vec<Joined> = match (&gathered, nodes.first()) {
            (Gathered::Node(_), Some((_, bags))) => bags.iter().map(Joined::of).collect(),
            _ => joined,
        };
        let mut rounds = Vec::new();
        for tables in colour(&joined) {
            rounds.push(round(
                executor,
                of,
                tables,
                (&joined, of.schema.categorical.len()),
            )?);
        }
        Ok(Self { rounds, gathered })
    }

    /// The rounds of the tables that this device holds for all ranks, whose lookups are the features of its bags;
    /// nothing where it holds none that is trained. Tables of which `needs_whole_rows` are of a round of their own: all
    /// ranks hold columns of the same ones, so it lists the same rows everywhere.
    ///
    /// # Errors
    /// When the device fails.
    pub fn owned<E: Executor>(
        executor: &mut E,
        of: &DeviceSource<'_>,
        shards: &Shards,
        is_frozen: impl Fn(TableId) -> bool,
        needs_whole_rows: impl Fn(TableId) -> bool,
    ) -> Result<Option<Self>, ModelError> {
        let own = shards.own();
        let trained = own.iter().map(|part| part.lookup.table);
        let trained: BTreeSet<TableId> = trained.filter(|&table| !is_frozen(table)).collect();
        let (apart, whole): (Vec<TableId>, Vec<TableId>) = trained
            .into_iter()
            .partition(|&table| needs_whole_rows(table));
        let joined = own.iter().enumerate().map(|(feature, part)| Joined {
            table: part.lookup.table,
            feature,
            pooling: part.pooling(),
            column: part.first,
        });
        let joined: Vec<Joined> = joined.collect();
        let lookups_of_feature = most_tables_of_feature(own, &apart);
        let mut rounds = Vec::new();
        for (tables, columns_apart) in [(whole, None), (apart, Some(lookups_of_feature))] {
            if !tables.is_empty() {
                let own = round(executor, of, tables, (&joined, own.len()))?;
                rounds.push(TableRound {
                    columns_apart,
                    ..own
                });
            }
        }
        let gathered = Gathered::Elsewhere;
        Ok((!rounds.is_empty()).then_some(Self { rounds, gathered }))
    }

    /// The rounds.
    pub fn rounds(&self) -> &[TableRound] {
        &self.rounds
    }

    /// Brings the gradients of all pooled vectors of the last backward pass together:
    /// `[rows, columns]`, at the sources' columns.
    ///
    /// # Errors
    /// When the device fails.
    pub fn gather<E: Executor>(
        &self,
        executor: &mut E,
        network: &DeviceNetwork,
        rows: usize,
    ) -> Result<Matrix, ModelError> {
        let gradient = |node| {
            let gradient = network.gradient(node, rows);
            gradient.expect("the plan gives embeddings a gradient")
        };
        match &self.gathered {
            Gathered::Node(node) => Ok(gradient(*node)),
            Gathered::Elsewhere => unreachable!("vectors of all ranks bring their gradients"),
            Gathered::Matrix {
                buffer,
                width,
                copies,
            } => {
                let whole = buffer.view(rows, *width);
                for copied in copies {
                    let from = columns(&gradient(copied.node), &copied.from);
                    let launch = add::copy(&from, &columns(&whole, &copied.to), copied.accumulate)
                        .map_err(ModelError::kernel("gathering the tables' gradients"))?;
                    executor.launch(&launch)?;
                }
                Ok(whole)
            }
        }
    }
}

/// How many of some tables one feature of a batch looks up at most.
fn most_tables_of_feature(parts: &[ShardPart], tables: &[TableId]) -> usize {
    let lookups = parts.iter().map(|part| part.lookup);
    let lookups = lookups.filter(|lookup| tables.contains(&lookup.table));
    let pairs: BTreeSet<_> = lookups
        .map(|lookup| (lookup.source.feature, lookup.table))
        .collect();
    let of_feature = |&(feature, _): &(usize, TableId)| {
        pairs.iter().filter(|(other, _)| *other == feature).count()
    };
    pairs.iter().map(of_feature).max().unwrap_or(0)
}

impl Joined {
    fn of(bag: &TableBag) -> Self {
        Self {
            table: bag.table,
            feature: bag.source.feature,
            pooling: bag.source.pooling,
            column: bag.source.column,
        }
    }
}

/// Joins the lookups of a feature in a table, and gives each its columns.
fn join(
    of: &DeviceSource<'_>,
    nodes: &[(usize, Vec<TableBag>)],
) -> Result<(Vec<Joined>, Vec<Copied>, usize), ModelError> {
    let (mut joined, mut copies, mut width) = (Vec::<Joined>::new(), Vec::new(), 0);
    for (node, bags) in nodes {
        for bag in bags {
            let dim = of.parameters.table(bag.table).dim();
            let known = joined
                .iter()
                .find(|known| (known.table, known.feature) == (bag.table, bag.source.feature));
            if known.is_some_and(|known| known.pooling != bag.source.pooling) {
                let parameter = of.parameters.table(bag.table).parameter.name.clone();
                let problem = format!(
                    "categorical feature {} looks it up as a sum and as a mean, which training on a GPU \
                     does not know; use one of them, or `train.device = \"cpu\"`",
                    bag.source.feature
                );
                return Err(ModelError::Parameter { parameter, problem });
            }
            let accumulate = known.is_some();
            let column = known.map_or(width, |known| known.column);
            if !accumulate {
                joined.push(Joined {
                    column,
                    ..Joined::of(bag)
                });
                width += dim;
            }
            copies.push(Copied {
                node: *node,
                from: bag.source.column..bag.source.column + dim,
                to: column..column + dim,
                accumulate,
            });
        }
    }
    Ok((joined, copies, width))
}

/// Spreads the tables over rounds in which no feature looks up two of them.
fn colour(joined: &[Joined]) -> Vec<Vec<TableId>> {
    let tables: BTreeSet<TableId> = joined.iter().map(|lookup| lookup.table).collect();
    let features_of = |tables: &[TableId]| -> BTreeSet<usize> {
        let of_tables = joined
            .iter()
            .filter(|lookup| tables.contains(&lookup.table));
        of_tables.map(|lookup| lookup.feature).collect()
    };
    let mut rounds: Vec<Vec<TableId>> = Vec::new();
    for table in tables {
        let own = features_of(&[table]);
        let free = rounds
            .iter_mut()
            .find(|round| features_of(round).is_disjoint(&own));
        match free {
            Some(round) => round.push(table),
            None => rounds.push(vec![table]),
        }
    }
    rounds
}

fn round<E: Executor>(
    executor: &mut E,
    of: &DeviceSource<'_>,
    tables: Vec<TableId>,
    (joined, features): (&[Joined], usize),
) -> Result<TableRound, ModelError> {
    let none = Source {
        rows: 0,
        table: 0,
        column: 0,
        mean: 0,
        reserved: 0,
    };
    let mut sources = vec![none; features];
    for lookup in joined {
        let Some(table) = tables.iter().position(|&table| table == lookup.table) else {
            continue;
        };
        sources[lookup.feature] = Source {
            rows: of.parameters.table(lookup.table).rows() as i64,
            table: table as u32,
            column: lookup.column as u32,
            mean: u32::from(lookup.pooling == Pooling::Mean),
            reserved: 0,
        };
    }
    let sources_on_device = executor.allocate(size_of_val(sources.as_slice()))?;
    executor.upload(bytemuck::cast_slice(&sources), sources_on_device)?;
    Ok(TableRound {
        tables,
        sources,
        sources_on_device,
        columns_apart: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        comm::SingleRank,
        model::{BucketSettings, GraphBuilder, ParameterBuilder, TensorParallel, tests::fixture},
    };

    /// Tables of each round, and the columns gathered, of a model in which features `c0` and `c1` share
    /// table `a`.
    #[test]
    fn a_feature_looks_up_one_table_a_round_and_a_table_is_of_one_round() {
        let schema = fixture::schema(0, &[("a", 7), ("a", 7), ("b", 5)], 1);
        let mut graph = GraphBuilder::new(&schema);
        let vectors = graph.embeddings("vectors", |_| 4);
        let wide = graph.more_embeddings("wide", "wide", |_| 1);
        let both = graph.concat("both", &[vectors, wide]);
        let logits = graph.logits("logits", both);
        let graph = graph.finish(logits).unwrap();
        let context = streamrec_kernels::Context::cpu(1, false).unwrap();
        let shapes = graph.validate(&schema).unwrap();
        let builder = ParameterBuilder::new(1).graph(&graph, &shapes, &TensorParallel::none());
        let buckets = BucketSettings::default();
        let parameters = builder.build(&context, &SingleRank, buckets).unwrap();
        let mut emulator = streamrec_emulation::Emulator::new(0);
        let weights = DeviceWeights::new(&mut emulator, &parameters).unwrap();
        let of = DeviceSource {
            context: &context,
            graph: &graph,
            schema: &schema,
            parameters: &parameters,
            shared: &TensorParallel::none(),
            batch: 3,
        };
        let mut rounds = |frozen: &[&str]| {
            let is_frozen = |id| frozen.contains(&parameters.table(id).parameter.name.as_str());
            let rounds = TableRounds::new(&mut emulator, &of, &weights, is_frozen).unwrap();
            let names = |round: &TableRound| {
                let of_round = round.tables.iter();
                let name = |id: &TableId| parameters.table(*id).parameter.name.clone();
                of_round.map(name).collect::<Vec<_>>()
            };
            let names: Vec<Vec<String>> = rounds.rounds().iter().map(names).collect();
            (names, matches!(rounds.gathered, Gathered::Node(_)))
        };
        let (all, in_place) = rounds(&[]);
        assert_eq!(
            all,
            [
                ["embedding.a", "embedding.b"],
                ["embedding.a.wide", "embedding.b.wide"]
            ]
        );
        assert!(!in_place, "two nodes are brought together");
        let (one, in_place) = rounds(&["embedding.a.wide", "embedding.b.wide"]);
        assert_eq!(one, [["embedding.a", "embedding.b"]]);
        assert!(in_place, "one node's gradient lies as it is needed");
    }
}

//! Which columns are read together, and which expectations are judged on them.

use super::condition::RowCondition;
use super::source::Table;
use super::suite::Suite;

/// How a suite is judged on a table.
#[derive(Debug)]
pub(super) struct Plan {
    /// Columns that are read together, ascending: those of one expectation are.
    pub(super) bundles: Vec<Vec<usize>>,
    /// The expectations of each bundle, by their rows.
    pub(super) groups: Vec<Vec<Group>>,
    /// For each expectation, why it cannot be judged.
    pub(super) trouble: Vec<Option<String>>,
}

/// Expectations of the same rows.
#[derive(Debug)]
pub(super) struct Group {
    /// Which rows, and the column that says so; all where there is none.
    pub(super) condition: Option<(RowCondition, usize)>,
    /// The expectations' places in the suite, with their columns.
    pub(super) members: Vec<(usize, Vec<usize>)>,
}

impl Plan {
    pub(super) fn new(suite: &Suite, table: &Table) -> Self {
        let mut trouble = Vec::new();
        let mut clusters: Vec<Vec<usize>> = Vec::new();
        let mut needs = Vec::new();
        for expectation in &suite.expectations {
            let condition = expectation
                .condition
                .as_ref()
                .map(|condition| condition.column.as_str());
            let mut columns = Vec::new();
            let mut missing = None;
            for name in expectation.kind.columns().into_iter().chain(condition) {
                match table.schema().index_of(name) {
                    Ok(column) => columns.push(column),
                    Err(_) => missing = Some(format!("the table has no column `{name}`")),
                }
            }
            trouble.push(missing.clone());
            if missing.is_none() && !columns.is_empty() {
                join(&mut clusters, &columns);
            }
            needs.push(columns);
        }
        let bundles = bundles(clusters, table);
        let mut groups: Vec<Vec<Group>> = bundles.iter().map(|_| Vec::new()).collect();
        for (index, columns) in needs.into_iter().enumerate() {
            let Some(bundle) = columns
                .first()
                .and_then(|column| bundles.iter().position(|bundle| bundle.contains(column)))
            else {
                continue;
            };
            if trouble[index].is_none() {
                add(&mut groups[bundle], suite, index, columns);
            }
        }
        Self {
            bundles,
            groups,
            trouble,
        }
    }
}

impl Plan {
    /// The bundles with one of the expectations that are wanted.
    pub(super) fn bundles_of(&self, is_wanted: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let has_one = |groups: &&Vec<Group>| {
            let mut members = groups.iter().flat_map(|group| &group.members);
            members.any(|(index, _)| is_wanted(*index))
        };
        let bundles = self.bundles.iter().zip(&self.groups);
        let wanted = bundles.filter(|(_, groups)| has_one(groups));
        wanted.map(|(columns, _)| columns.clone()).collect()
    }
}

fn add(groups: &mut Vec<Group>, suite: &Suite, index: usize, mut columns: Vec<usize>) {
    let condition = suite.expectations[index].condition.clone();
    // The column of the condition came last.
    let condition = condition.and_then(|condition| Some((condition, columns.pop()?)));
    match groups.iter_mut().find(|group| group.condition == condition) {
        Some(group) => group.members.push((index, columns)),
        None => groups.push(Group {
            condition,
            members: vec![(index, columns)],
        }),
    }
}

/// Puts columns into one cluster with all those that are together with one of them.
fn join(clusters: &mut Vec<Vec<usize>>, columns: &[usize]) {
    let mut joined = columns.to_vec();
    clusters.retain(|cluster| {
        let touches = cluster.iter().any(|column| columns.contains(column));
        if touches {
            joined.extend(cluster);
        }
        !touches
    });
    joined.sort_unstable();
    joined.dedup();
    clusters.push(joined);
}

/// Where columns are read apart, each cluster: what is read and unpacked of one stays in a core's own cache. Else all
/// together.
fn bundles(mut clusters: Vec<Vec<usize>>, table: &Table) -> Vec<Vec<usize>> {
    if !table.reads_columns_apart() {
        let mut all: Vec<usize> = clusters.into_iter().flatten().collect();
        all.sort_unstable();
        return if all.is_empty() {
            Vec::new()
        } else {
            vec![all]
        };
    }
    clusters.sort_unstable();
    clusters
}

//! The first scan: every expectation on every batch of its columns.

use std::sync::{Mutex, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::ExpectationError;
use super::aggregate::Aggregate;
use super::duplicates::Duplicates;
use super::kind::{IgnoreRow, Kind};
use super::plan::{Group, Plan};
use super::row_check::{self, KeyOf, RowsChecked};
use super::row_set::Rows;
use super::source::{Scan, Table};
use super::suite::Suite;
use super::view::View;

/// Unexpected values that a result shows.
pub(super) const SHOWN: usize = 20;
/// Rows that all searches for duplicates hold in memory together.
const DUPLICATE_ROWS: usize = 4 << 20;

/// Judges a suite on batches.
pub(super) struct Judge<'a> {
    suite: &'a Suite,
    table: &'a Table,
    plan: &'a Plan,
    /// For each expectation of uniqueness, what its rows are.
    duplicates: Vec<Option<Mutex<Duplicates>>>,
}

/// What was found of one expectation.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Rows that its condition picks.
    pub(super) rows: u64,
    /// Those of them that count.
    pub(super) counted: u64,
    /// Those of them that are not as expected.
    pub(super) unexpected: u64,
    /// The first of them, with their values.
    pub(super) shown: Vec<(u64, Value)>,
    /// Why it could not be judged.
    pub(super) trouble: Option<String>,
    /// What whole columns gave.
    pub(super) aggregate: Option<Aggregate>,
}

/// What was found of a part of the rows.
pub(super) struct PartTally {
    /// Of each expectation of the bundle, in the order of its groups.
    pub(super) tallies: Vec<(usize, Tally)>,
    /// The rows of batches that are not as some expectation says.
    pub(super) failing: Vec<(Rows, BooleanBuffer)>,
}

/// The columns of a batch, each looked at once.
pub(super) struct Views<'a> {
    batch: &'a RecordBatch,
    columns: &'a [usize],
    table: &'a Table,
    views: Vec<Option<Result<View, String>>>,
}

impl<'a> Views<'a> {
    pub(super) fn new(batch: &'a RecordBatch, columns: &'a [usize], table: &'a Table) -> Self {
        Self {
            batch,
            columns,
            table,
            views: columns.iter().map(|_| None).collect(),
        }
    }

    /// Looks at columns of the table.
    fn prepare(&mut self, wanted: &[usize]) {
        for column in wanted {
            if let Ok(place) = self.columns.binary_search(column)
                && self.views[place].is_none()
            {
                self.views[place] = Some(View::new(self.batch.column(place), self.table.is_text()));
            }
        }
    }

    pub(super) fn get(&mut self, wanted: &[usize]) -> Result<Vec<&View>, String> {
        self.prepare(wanted);
        let view = |column: &usize| {
            let place = self
                .columns
                .binary_search(column)
                .map_err(|_| "a column was not read")?;
            match &self.views[place] {
                Some(Ok(view)) => Ok(view),
                Some(Err(problem)) => Err(problem.clone()),
                None => Err("a column was not read".to_owned()),
            }
        };
        wanted.iter().map(view).collect()
    }
}

impl Tally {
    pub(super) fn new(kind: &Kind) -> Self {
        Self {
            rows: 0,
            counted: 0,
            unexpected: 0,
            shown: Vec::new(),
            trouble: None,
            aggregate: Aggregate::new(kind),
        }
    }

    /// Adds what the rows after these gave.
    pub(super) fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.counted += other.counted;
        self.unexpected += other.unexpected;
        self.shown.extend(other.shown);
        self.shown.truncate(SHOWN);
        self.trouble = self.trouble.take().or(other.trouble);
        if let (Some(aggregate), Some(more)) = (&mut self.aggregate, other.aggregate)
            && let Err(problem) = aggregate.merge(more)
        {
            self.trouble.get_or_insert(problem);
        }
    }
}

impl<'a> Judge<'a> {
    pub(super) fn new(suite: &'a Suite, table: &'a Table, plan: &'a Plan) -> Self {
        let is_unique = |kind: &Kind| matches!(kind, Kind::Unique(_) | Kind::CompoundUnique(..));
        let searches = suite
            .expectations
            .iter()
            .filter(|expectation| is_unique(&expectation.kind))
            .count();
        let budget = DUPLICATE_ROWS / searches.max(1);
        let duplicates = suite.expectations.iter().map(|expectation| {
            is_unique(&expectation.kind).then(|| Mutex::new(Duplicates::new(budget)))
        });
        Self {
            suite,
            table,
            plan,
            duplicates: duplicates.collect(),
        }
    }

    /// The searches for duplicates, by expectation.
    pub(super) fn into_duplicates(self) -> Vec<Option<Duplicates>> {
        let open =
            |search: Mutex<Duplicates>| search.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.duplicates
            .into_iter()
            .map(|search| search.map(open))
            .collect()
    }

    fn group(
        &self,
        group: &Group,
        state: &mut [(usize, Tally)],
        columns: &[usize],
        rows: &Rows,
        batch: &RecordBatch,
    ) -> Result<Vec<BooleanBuffer>, ExpectationError> {
        let mut views = Views::new(batch, columns, self.table);
        let mut failing = Vec::new();
        for (member, (index, tally)) in group.members.iter().zip(state) {
            let kind = &self.suite.expectations[*index].kind;
            tally.rows += batch.num_rows() as u64;
            if tally.trouble.is_some() {
                continue;
            }
            let key_of = member
                .1
                .first()
                .map_or(KeyOf::Nothing, |&column| self.table.key_of(column));
            match self.member(kind, *index, &mut views, &member.1, tally, rows, key_of) {
                Ok(Ok(Some(mask))) => failing.push(mask),
                Ok(Ok(None)) => {}
                Ok(Err(problem)) => tally.trouble = Some(problem),
                Err(error) => return Err(error),
            }
        }
        Ok(failing)
    }

    #[allow(clippy::too_many_arguments)]
    fn member(
        &self,
        kind: &Kind,
        index: usize,
        views: &mut Views<'_>,
        columns: &[usize],
        tally: &mut Tally,
        rows: &Rows,
        key_of: KeyOf,
    ) -> Result<Result<Option<BooleanBuffer>, String>, ExpectationError> {
        let batch_rows = views.batch.num_rows();
        let found = match views.get(columns) {
            Ok(found) => found,
            Err(problem) => return Ok(Err(problem)),
        };
        if let Some(aggregate) = &mut tally.aggregate {
            let view = found.first().copied();
            return Ok(aggregate.observe(kind, batch_rows, view).map(|()| None));
        }
        let ignore = match kind {
            Kind::Unique(_) => Some(IgnoreRow::AllMissing),
            Kind::CompoundUnique(_, ignore) => Some(*ignore),
            _ => None,
        };
        if let (Some(ignore), Some(search)) = (ignore, &self.duplicates[index]) {
            let counted = row_check::counted(&found, ignore);
            tally.counted += counted.count_set_bits() as u64;
            let entries = identities(&found, &counted, rows);
            let mut search = search.lock().unwrap_or_else(PoisonError::into_inner);
            search.add(&entries).map_err(ExpectationError::Spill)?;
            return Ok(Ok(None));
        }
        let checked = match row_check::check(kind, &found, key_of) {
            Ok(checked) => checked,
            Err(problem) => return Ok(Err(problem)),
        };
        Ok(Ok(count(tally, checked, &found, rows)))
    }
}

/// Adds the outcome of a batch; gives its unexpected rows, if there are any.
fn count(
    tally: &mut Tally,
    checked: RowsChecked,
    views: &[&View],
    rows: &Rows,
) -> Option<BooleanBuffer> {
    let unexpected = checked.unexpected.count_set_bits();
    tally.counted += checked.counted as u64;
    tally.unexpected += unexpected as u64;
    tally.trouble = checked.trouble;
    if unexpected == 0 {
        return None;
    }
    let room = SHOWN - tally.shown.len();
    for row in checked.unexpected.set_indices().take(room) {
        tally.shown.push((rows.number(row), shown(views, row)));
    }
    Some(checked.unexpected)
}

/// A row's value, or its values in the order of the columns.
pub(super) fn shown(views: &[&View], row: usize) -> Value {
    match views {
        [view] => view.json(row),
        views => views.iter().map(|view| view.json(row)).collect(),
    }
}

fn identities(views: &[&View], counted: &BooleanBuffer, rows: &Rows) -> Vec<(u128, u64)> {
    let mut bytes = Vec::new();
    let identity = |row: usize| {
        bytes.clear();
        views.iter().for_each(|view| view.identity(row, &mut bytes));
        (xxh3_128(&bytes), rows.number(row))
    };
    counted.set_indices().map(identity).collect()
}

impl Scan for Judge<'_> {
    type State = PartTally;

    fn start(&self, bundle: usize) -> PartTally {
        // Of a table without any of the suite's columns, rows are counted and nothing is judged.
        let groups = self.plan.groups.get(bundle).into_iter().flatten();
        let members = groups.flat_map(|group| &group.members);
        let tally = |(index, _): &(usize, Vec<usize>)| {
            (*index, Tally::new(&self.suite.expectations[*index].kind))
        };
        PartTally {
            tallies: members.map(tally).collect(),
            failing: Vec::new(),
        }
    }

    fn batch(
        &self,
        bundle: usize,
        state: &mut PartTally,
        rows: &Rows,
        batch: &RecordBatch,
    ) -> Result<(), ExpectationError> {
        let Some(columns) = self.plan.bundles.get(bundle) else {
            return Ok(());
        };
        let mut first = 0;
        let mut failing: Option<BooleanBuffer> = None;
        for group in &self.plan.groups[bundle] {
            let members = first..first + group.members.len();
            first = members.end;
            let tallies = &mut state.tallies[members];
            let Some((condition, column)) = &group.condition else {
                for mask in self.group(group, tallies, columns, rows, batch)? {
                    failing = Some(failing.map_or_else(|| mask.clone(), |all| &all | &mask));
                }
                continue;
            };
            let mut views = Views::new(batch, columns, self.table);
            let picked = views.get(&[*column]).and_then(|found| {
                row_check::select(condition, found[0], self.table.key_of(*column))
            });
            let picked = match picked {
                Ok(picked) => picked,
                Err(problem) => {
                    for (_, tally) in tallies {
                        tally.trouble.get_or_insert_with(|| problem.clone());
                    }
                    continue;
                }
            };
            let part = filter_record_batch(batch, &BooleanArray::new(picked.clone(), None));
            let part = part.map_err(|error| ExpectationError::Arrow(error.to_string()))?;
            for mask in self.group(group, tallies, columns, &rows.pick(&picked), &part)? {
                let mask = spread(&mask, &picked);
                failing = Some(failing.map_or_else(|| mask.clone(), |all| &all | &mask));
            }
        }
        if let Some(failing) = failing {
            state.failing.push((rows.clone(), failing));
        }
        Ok(())
    }
}

/// A mask of picked rows as a mask of all.
fn spread(mask: &BooleanBuffer, picked: &BooleanBuffer) -> BooleanBuffer {
    let mut place = 0;
    BooleanBuffer::collect_bool(picked.len(), |row| {
        let inside = picked.value(row);
        let set = inside && mask.value(place);
        place += usize::from(inside);
        set
    })
}

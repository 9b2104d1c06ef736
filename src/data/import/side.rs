//! Side tables: in memory, joined to each row by key.
//!
//! A row that repeats a key with the same values says nothing new. One that says something else is
//! malformed: nobody knows which of the two is right, and the first counts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use streamrec_artifact::{RawColumn, key};

use super::cancel::Cancel;
use super::cell::Fault;
use super::error::ImportError;
use super::files::Meter;
use super::malformed::{Reason, Tally};
use super::plan::{Fill, JoinPlan, Target};
use super::rows::FileRows;
use super::schema::TableSchema;
use super::value::{Conversion, truncate};
use crate::data::SourceFile;
use crate::data::history::combined_key;

/// A side table and where its values go.
#[derive(Debug)]
pub(super) struct SideTable {
    pub(super) name: String,
    on: Vec<usize>,
    targets: Vec<Target>,
    /// The row of each key.
    rows: HashMap<u64, u32>,
    /// One column for each target.
    values: Vec<RawColumn>,
    /// Where each row was read: the file's place among those of the table, and the line.
    origins: Vec<(u32, u64)>,
    /// Rows joined so far that have no row here; their values are missing.
    pub(super) unmatched: u64,
    keys: Vec<u64>,
}

/// What a side table is read from.
pub(super) struct TableInput<'a> {
    pub(super) files: &'a [PathBuf],
    pub(super) meter: &'a Meter,
    pub(super) cancel: &'a Cancel,
    pub(super) tally: &'a mut Tally,
}

impl SideTable {
    /// Reads the files of a table.
    pub(super) fn load(
        schema: &TableSchema,
        plan: JoinPlan,
        input: &mut TableInput<'_>,
        sources: &mut Vec<SourceFile>,
    ) -> Result<Self, ImportError> {
        let fills = plan.fills.iter();
        let mut table = Self {
            name: schema.name.clone(),
            on: plan.on,
            targets: fills.clone().map(|fill| fill.target).collect(),
            rows: HashMap::new(),
            values: fills
                .map(|fill| RawColumn::new(fill.conversion.kind()))
                .collect(),
            origins: Vec::new(),
            unmatched: 0,
            keys: Vec::new(),
        };
        let mut first_names: Option<Vec<String>> = None;
        let files = input.files;
        for (file, path) in files.iter().enumerate() {
            let mut rows = FileRows::open(path, &schema.source, input.meter)?;
            match &first_names {
                None => first_names = Some(rows.names().to_vec()),
                Some(names) if names == rows.names() => {}
                Some(_) => {
                    return Err(ImportError::DifferentFields {
                        path: path.clone(),
                        first: files[0].clone(),
                    });
                }
            }
            rows.select(&plan.wanted, &plan.fills, input.cancel)?;
            while rows.next(input.tally)? {
                input.cancel.check()?;
                let origin = (file as u32, rows.line());
                if let Err(misfit) = table.add(&rows, origin, &plan.key, &plan.fills) {
                    let (place, reason) = misfit.told(&table, &rows, &plan.wanted, files);
                    rows.reject(input.tally, reason, place)?;
                }
            }
            sources.push(rows.fingerprint().source_file());
        }
        Ok(table)
    }

    fn add(
        &mut self,
        rows: &FileRows,
        origin: (u32, u64),
        key: &[Conversion],
        fills: &[Fill],
    ) -> Result<(), Misfit> {
        self.keys.clear();
        for (field, conversion) in key.iter().enumerate() {
            let part = conversion.key_of(rows.cell(field));
            self.keys
                .push(part.map_err(|fault| Misfit::Key(field, fault))?);
        }
        if self.keys.contains(&key::MISSING_KEY) {
            // No row is joined to it.
            return Ok(());
        }
        let added = self.push(rows, origin, fills);
        let count = self.origins.len();
        self.values
            .iter_mut()
            .for_each(|column| truncate(column, count));
        added
    }

    /// Adds a row; the values of one that is not added stay behind those of all others.
    fn push(&mut self, rows: &FileRows, origin: (u32, u64), fills: &[Fill]) -> Result<(), Misfit> {
        let count = self.origins.len();
        for (fill, column) in fills.iter().zip(&mut self.values) {
            fill.conversion
                .push(rows.cell(fill.field), column)
                .map_err(|fault| Misfit::Value(fill.field, fault))?;
        }
        let row = u32::try_from(count).map_err(|_| Misfit::TooMany)?;
        match self.rows.entry(combined_key(&self.keys)) {
            Entry::Vacant(entry) => {
                entry.insert(row);
                self.origins.push(origin);
                Ok(())
            }
            Entry::Occupied(entry) => {
                let first = *entry.get() as usize;
                let differs = |values: &RawColumn| !same_values(values, first, count);
                match self.values.iter().position(differs) {
                    None => Ok(()),
                    Some(fill) => Err(Misfit::Conflict {
                        field: fills[fill].field,
                        first,
                    }),
                }
            }
        }
    }

    /// Appends this table's values of one row to `columns`, whose key columns already hold it.
    pub(super) fn join(&mut self, columns: &mut [RawColumn], row: usize, time: Option<i64>) {
        self.keys.clear();
        for &column in &self.on {
            self.keys.push(match &columns[column] {
                RawColumn::Key(keys) => keys[row],
                _ => key::MISSING_KEY,
            });
        }
        let missing = self.keys.contains(&key::MISSING_KEY);
        let found = if missing {
            None
        } else {
            self.rows.get(&combined_key(&self.keys))
        };
        self.unmatched += u64::from(found.is_none());
        for (target, values) in self.targets.iter().zip(&self.values) {
            let to = &mut columns[target.column()];
            match (found, target) {
                (None, _) => to.push_missing(),
                (Some(at), Target::Column(_)) => to.push_row_of(values, *at as usize),
                (Some(at), Target::Elapsed(_, unit)) => {
                    let since = match values {
                        RawColumn::Time(times) => times[*at as usize],
                        _ => key::MISSING_TIME,
                    };
                    push_elapsed(to, time, since, *unit);
                }
            }
        }
    }
}

/// Why a row of a side table is left out; fields are places among those wanted.
enum Misfit {
    Key(usize, Fault),
    Value(usize, Fault),
    /// An earlier row, here by its number, has the same key and says something else.
    Conflict {
        field: usize,
        first: usize,
    },
    TooMany,
}

impl Misfit {
    /// The field at fault, and what to tell of the current row of `rows`.
    fn told(
        self,
        table: &SideTable,
        rows: &FileRows,
        wanted: &[usize],
        files: &[PathBuf],
    ) -> (Option<usize>, Reason) {
        let name = |field: usize| &rows.names()[wanted[field]];
        let mut also = String::new();
        let (field, problem) = match self {
            Self::Key(field, fault) => (Some(field), format!("the key `{}` {fault}", name(field))),
            Self::Value(field, fault) => {
                (Some(field), format!("the field `{}` {fault}", name(field)))
            }
            Self::TooMany => (None, "the table has too many rows".to_owned()),
            Self::Conflict { field, first } => {
                let (file, line) = table.origins[first];
                let path: &Path = &files[file as usize];
                also = format!(
                    "; the earlier row, which counts, is {}:{line}",
                    path.display()
                );
                let name = name(field);
                (
                    Some(field),
                    format!("an earlier row has the same key and another `{name}`"),
                )
            }
        };
        let what = format!("table `{}`: {problem}", table.name);
        (field, Reason { what, also })
    }
}

/// Whether two rows of a column hold the same, to the bit.
fn same_values(column: &RawColumn, a: usize, b: usize) -> bool {
    match column {
        RawColumn::Dense(values) => values[a].to_bits() == values[b].to_bits(),
        RawColumn::Key(keys) => keys[a] == keys[b],
        RawColumn::Time(times) => times[a] == times[b],
        RawColumn::KeyList { offsets, keys } => {
            let list = |row: usize| &keys[offsets[row] as usize..offsets[row + 1] as usize];
            list(a) == list(b)
        }
    }
}

/// Appends the time from `since` to `time` in units of `unit` milliseconds.
pub(super) fn push_elapsed(to: &mut RawColumn, time: Option<i64>, since: i64, unit: f64) {
    match (to, time) {
        (RawColumn::Dense(values), Some(time)) if since != key::MISSING_TIME => {
            values.push(((time as f64 - since as f64) / unit) as f32);
        }
        (to, _) => to.push_missing(),
    }
}

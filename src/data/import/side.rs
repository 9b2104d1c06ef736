//! Side tables: in memory, joined to each row by key.

use std::collections::HashMap;
use std::path::PathBuf;

use streamrec_artifact::{RawColumn, key};

use super::error::ImportError;
use super::files::Meter;
use super::malformed::Tally;
use super::plan::{Fill, JoinPlan, Target};
use super::rows::FileRows;
use super::schema::TableSchema;
use super::value::truncate;
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
    /// Rows joined so far that have no row here; their values are missing.
    pub(super) unmatched: u64,
    keys: Vec<u64>,
}

impl SideTable {
    /// Reads the files of a table; of rows with equal keys the first counts.
    pub(super) fn load(
        schema: &TableSchema,
        plan: JoinPlan,
        files: &[PathBuf],
        meter: &Meter,
        tally: &mut Tally,
        sources: &mut Vec<SourceFile>,
    ) -> Result<Self, ImportError> {
        let mut table = Self {
            name: schema.name.clone(),
            on: plan.on,
            targets: plan.fills.iter().map(|fill| fill.target).collect(),
            rows: HashMap::new(),
            values: plan
                .fills
                .iter()
                .map(|fill| RawColumn::new(fill.conversion.kind()))
                .collect(),
            unmatched: 0,
            keys: Vec::new(),
        };
        let mut first_names: Option<Vec<String>> = None;
        for path in files {
            let mut rows = FileRows::open(path, &schema.source, meter)?;
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
            rows.select(&plan.wanted, &plan.fills)?;
            while rows.next(tally)? {
                if let Err((place, problem)) = table.add(&rows, &plan.key, &plan.fills) {
                    let reason = format!("table `{}`: {problem}", schema.name);
                    rows.reject(tally, reason, Some(place))?;
                }
            }
            sources.push(rows.fingerprint().source_file());
        }
        Ok(table)
    }

    fn add(
        &mut self,
        rows: &FileRows,
        key: &[super::value::Conversion],
        fills: &[Fill],
    ) -> Result<(), (usize, String)> {
        self.keys.clear();
        for (place, conversion) in key.iter().enumerate() {
            let part = conversion
                .key_of(rows.cell(place))
                .map_err(|fault| (place, format!("the key {fault}")))?;
            self.keys.push(part);
        }
        let count = self.rows.len();
        for (fill, column) in fills.iter().zip(&mut self.values) {
            if let Err(fault) = fill.conversion.push(rows.cell(fill.field), column) {
                self.values
                    .iter_mut()
                    .for_each(|column| truncate(column, count));
                return Err((fill.field, format!("the field {fault}")));
            }
        }
        let row =
            u32::try_from(count).map_err(|_| (0, "the table has too many rows".to_owned()))?;
        match self.rows.entry(combined_key(&self.keys)) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(row);
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(_) => {
                self.values
                    .iter_mut()
                    .for_each(|column| truncate(column, count));
                Err((0, "an earlier row has the same key".to_owned()))
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

/// Appends the time from `since` to `time` in units of `unit` milliseconds.
pub(super) fn push_elapsed(to: &mut RawColumn, time: Option<i64>, since: i64, unit: f64) {
    match (to, time) {
        (RawColumn::Dense(values), Some(time)) if since != key::MISSING_TIME => {
            values.push(((time as f64 - since as f64) / unit) as f32);
        }
        (to, _) => to.push_missing(),
    }
}

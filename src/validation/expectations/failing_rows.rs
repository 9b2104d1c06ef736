//! The second scan: failing rows in full, exact quantiles, and the values of duplicates.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, BooleanArray, ListBuilder, RecordBatch, UInt32Builder, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;

use super::ExpectationError;
use super::exact_quantiles::ExactQuantiles;
use super::judge::{SHOWN, Tally, Views, shown};

use super::plan::Plan;
use super::row_check::{self, KeyOf};
use super::row_set::{RowSet, Rows};
use super::source::{Scan, Table};
use super::suite::Suite;

/// The column with a failing row's number in its table.
pub const ROW_COLUMN: &str = "streamrec_row";
/// The column with the places of the expectations that a row fails.
pub const EXPECTATIONS_COLUMN: &str = "streamrec_expectations";

/// What the first scan left to find.
pub(super) struct SecondScan<'a> {
    pub(super) suite: &'a Suite,
    pub(super) table: &'a Table,
    /// The columns of each bundle.
    pub(super) bundles: Vec<Vec<usize>>,
    /// The quantiles sought of each expectation.
    pub(super) quantiles: Vec<Option<ExactQuantiles>>,
    /// The duplicates of each expectation.
    pub(super) duplicates: Vec<Option<RowSet>>,
    /// All failing rows.
    pub(super) failing: &'a RowSet,
    /// Where failing rows are written.
    pub(super) writer: Option<Mutex<FailingRowsWriter>>,
    /// Which expectations can be judged, with their columns.
    pub(super) members: Vec<Member>,
}

/// An expectation with its columns and the column of its condition.
pub(super) struct Member {
    index: usize,
    columns: Vec<usize>,
    condition: Option<usize>,
}

/// What the second scan found of a part.
pub(super) struct Found {
    pub(super) quantiles: Vec<Option<ExactQuantiles>>,
    pub(super) shown: Vec<Vec<(u64, serde_json::Value)>>,
}

impl Member {
    /// The expectations that the first scan could judge.
    pub(super) fn all(plan: &Plan, tallies: &[Tally]) -> Vec<Self> {
        let groups = plan.groups.iter().flatten();
        let members = groups.flat_map(|group| {
            let condition = group.condition.as_ref().map(|(_, column)| *column);
            group.members.iter().map(move |(index, columns)| Self {
                index: *index,
                columns: columns.clone(),
                condition,
            })
        });
        let mut found: Vec<Self> = members
            .filter(|member| tallies[member.index].trouble.is_none())
            .collect();
        found.sort_by_key(|member| member.index);
        found
    }
}

impl SecondScan<'_> {
    /// For each row of a batch, the expectations that it fails.
    fn failed(&self, views: &mut Views<'_>, rows: &Rows, count: usize) -> Vec<Vec<u32>> {
        let mut failed = vec![Vec::new(); count];
        for member in &self.members {
            let place = member.index as u32;
            if let Some(duplicates) = &self.duplicates[member.index] {
                for (row, failed) in failed.iter_mut().enumerate() {
                    if duplicates.contains(rows.number(row)) {
                        failed.push(place);
                    }
                }
                continue;
            }
            if let Some(mask) = self.unexpected(member, views) {
                mask.set_indices().for_each(|row| failed[row].push(place));
            }
        }
        failed
    }

    /// The rows of a batch that are not as one expectation says; the first scan found no trouble with it.
    fn unexpected(&self, member: &Member, views: &mut Views<'_>) -> Option<BooleanBuffer> {
        let expectation = &self.suite.expectations[member.index];
        if !expectation.kind.is_row_wise() {
            return None;
        }
        let key_of = |column: &usize| self.table.key_of(*column);
        let found = views.get(&member.columns).ok()?;
        let of_columns = member.columns.first().map_or(KeyOf::Nothing, key_of);
        let checked = row_check::check(&expectation.kind, &found, of_columns).ok()?;
        match (&expectation.condition, &member.condition) {
            (Some(condition), Some(column)) => {
                let view = views.get(&[*column]).ok()?[0];
                let picked = row_check::select(condition, view, key_of(column)).ok()?;
                Some(&checked.unexpected & &picked)
            }
            _ => Some(checked.unexpected),
        }
    }

    fn write(
        &self,
        views: &mut Views<'_>,
        rows: &Rows,
        batch: &RecordBatch,
    ) -> Result<(), ExpectationError> {
        let Some(writer) = &self.writer else {
            return Ok(());
        };
        let mask = BooleanBuffer::collect_bool(batch.num_rows(), |row| {
            self.failing.contains(rows.number(row))
        });
        if mask.count_set_bits() == 0 {
            return Ok(());
        }
        let failed = self.failed(views, rows, batch.num_rows());
        let arrow = |error: arrow::error::ArrowError| ExpectationError::Arrow(error.to_string());
        let part =
            filter_record_batch(batch, &BooleanArray::new(mask.clone(), None)).map_err(arrow)?;
        let numbers: UInt64Array = mask.set_indices().map(|row| rows.number(row)).collect();
        let mut lists = ListBuilder::new(UInt32Builder::new());
        for row in mask.set_indices() {
            lists.values().append_slice(&failed[row]);
            lists.append(true);
        }
        let mut arrays: Vec<ArrayRef> = part.columns().to_vec();
        arrays.push(Arc::new(numbers));
        arrays.push(Arc::new(lists.finish()));
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = RecordBatch::try_new(Arc::clone(&writer.schema), arrays).map_err(arrow)?;
        writer.write(&batch)
    }
}

impl Scan for SecondScan<'_> {
    type State = Found;

    fn start(&self, _: usize) -> Found {
        Found {
            quantiles: self
                .quantiles
                .iter()
                .map(|sought| sought.as_ref().map(ExactQuantiles::fresh))
                .collect(),
            shown: vec![Vec::new(); self.duplicates.len()],
        }
    }

    fn batch(
        &self,
        bundle: usize,
        state: &mut Found,
        rows: &Rows,
        batch: &RecordBatch,
    ) -> Result<(), ExpectationError> {
        let columns = &self.bundles[bundle];
        let mut views = Views::new(batch, columns, self.table);
        for member in &self.members {
            let index = member.index;
            let here = member
                .columns
                .iter()
                .chain(&member.condition)
                .all(|column| columns.binary_search(column).is_ok());
            if !here {
                continue;
            }
            if let Some(quantiles) = &mut state.quantiles[index] {
                let trouble = |problem| ExpectationError::Arrow(problem);
                match (&self.suite.expectations[index].condition, member.condition) {
                    (Some(condition), Some(column)) => {
                        let view = views.get(&[column]).map_err(trouble)?[0];
                        let picked = row_check::select(condition, view, self.table.key_of(column))
                            .map_err(trouble)?;
                        let part = filter_record_batch(batch, &BooleanArray::new(picked, None));
                        let part =
                            part.map_err(|error| ExpectationError::Arrow(error.to_string()))?;
                        let mut part = Views::new(&part, columns, self.table);
                        quantiles
                            .observe(part.get(&member.columns).map_err(trouble)?[0])
                            .map_err(trouble)?;
                    }
                    _ => quantiles
                        .observe(views.get(&member.columns).map_err(trouble)?[0])
                        .map_err(trouble)?,
                }
            }
            let room = SHOWN - state.shown[index].len();
            if let Some(duplicates) = self.duplicates[index].as_ref().filter(|_| room > 0) {
                let found = views
                    .get(&member.columns)
                    .map_err(ExpectationError::Arrow)?;
                let is_one = |row: &usize| duplicates.contains(rows.number(*row));
                for row in (0..batch.num_rows()).filter(is_one).take(room) {
                    state.shown[index].push((rows.number(row), shown(&found, row)));
                }
            }
        }
        self.write(&mut views, rows, batch)
    }
}

/// Writes failing rows beside their place and moves them there at the end.
pub(super) struct FailingRowsWriter {
    schema: SchemaRef,
    writer: Option<ArrowWriter<File>>,
    temporary: PathBuf,
    path: PathBuf,
}

impl FailingRowsWriter {
    pub(super) fn create(path: &Path, schema: &SchemaRef) -> Result<Self, ExpectationError> {
        let failed = |problem: String| ExpectationError::Table {
            path: path.to_owned(),
            problem,
        };
        for name in [ROW_COLUMN, EXPECTATIONS_COLUMN] {
            if schema.index_of(name).is_ok() {
                return Err(failed(format!(
                    "the table has a column `{name}`, which failing rows use themselves"
                )));
            }
        }
        let list = DataType::List(Field::new_list_field(DataType::UInt32, true).into());
        let own = [
            Arc::new(Field::new(ROW_COLUMN, DataType::UInt64, false)),
            Arc::new(Field::new(EXPECTATIONS_COLUMN, list, true)),
        ];
        let fields: Vec<_> = schema.fields().iter().cloned().chain(own).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let temporary = path.with_extension("parquet.tmp");
        let file = File::create(&temporary).map_err(|error| {
            failed(format!(
                "failing rows cannot be written there: {error}; choose another --failing-rows"
            ))
        })?;
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), None);
        Ok(Self {
            schema,
            writer: Some(writer.map_err(|error| failed(error.to_string()))?),
            temporary,
            path: path.to_owned(),
        })
    }

    fn failed(&self, error: &dyn std::error::Error) -> ExpectationError {
        ExpectationError::Table {
            path: self.path.clone(),
            problem: error.to_string(),
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), ExpectationError> {
        match &mut self.writer {
            Some(writer) => writer
                .write(batch)
                .map_err(|error| ExpectationError::Arrow(error.to_string())),
            None => Ok(()),
        }
    }

    pub(super) fn finish(mut self) -> Result<(), ExpectationError> {
        if let Some(writer) = self.writer.take() {
            let file = writer.into_inner().map_err(|error| self.failed(&error))?;
            file.sync_all().map_err(|error| self.failed(&error))?;
            std::fs::rename(&self.temporary, &self.path).map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }
}

impl Drop for FailingRowsWriter {
    fn drop(&mut self) {
        // What was finished has another name by now.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

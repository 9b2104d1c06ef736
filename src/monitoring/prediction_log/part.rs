//! A part: the records of one segment, one hour and one model, on their way to a file.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Int64Array, StringArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use streamrec_artifact::{RawBatch, RawColumn};
use streamrec_serving::prediction_log::{LogRecord, LoggedModel};

use super::columns::{MODEL_METADATA, input_array, prediction_schema};
use crate::monitoring::MonitoringError;
use crate::monitoring::store::TableFile;

/// Rows that are gathered before they are written, so that memory does not grow with the log.
const ROWS_HELD: usize = 1 << 15;

/// A file that is being filled.
pub(super) struct Part {
    path: PathBuf,
    model: LoggedModel,
    schema: SchemaRef,
    file: TableFile,
    /// The record of each row.
    requests: Vec<Request>,
    places: Vec<u32>,
    rows: RawBatch,
    /// `[rows, labels]`; NaN where there is none.
    scores: Vec<f32>,
    rows_written: u64,
}

/// What all rows of a request share.
struct Request {
    record: LogRecord,
    rows: usize,
}

impl Part {
    pub(super) fn create(path: PathBuf, model: &LoggedModel) -> Result<Self, MonitoringError> {
        let schema = prediction_schema(model);
        let told = serde_json::to_string(model)
            .map_err(|error| MonitoringError::table(&path, error.to_string()))?;
        let file = TableFile::create(&path, &schema, &[(MODEL_METADATA, told)])?;
        Ok(Self {
            rows: RawBatch::new(&model.inputs),
            model: model.clone(),
            path,
            schema,
            file,
            requests: Vec::new(),
            places: Vec::new(),
            scores: Vec::new(),
            rows_written: 0,
        })
    }

    /// Adds the rows of a record; one whose rows could not be read has one, without values.
    pub(super) fn add(&mut self, mut record: LogRecord) -> Result<(), MonitoringError> {
        let read = std::mem::take(&mut record.rows);
        let scores = std::mem::take(&mut record.scores);
        let rows = read.rows.max(1);
        self.places.extend(0..rows as u32);
        if read.columns.is_empty() || read.rows == 0 {
            (0..rows).for_each(|_| self.rows.push_missing());
        } else {
            for (to, from) in self.rows.columns.iter_mut().zip(&read.columns) {
                append(to, from);
            }
            self.rows.rows += rows;
        }
        let wanted = self.places.len() * self.model.labels.len();
        self.scores.extend(scores);
        self.scores.resize(wanted, f32::NAN);
        self.requests.push(Request { record, rows });
        if self.places.len() >= ROWS_HELD {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), MonitoringError> {
        if self.places.is_empty() {
            return Ok(());
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), self.columns());
        let batch = batch.map_err(MonitoringError::arrow(&self.path))?;
        self.file.write(&batch)?;
        self.rows_written += batch.num_rows() as u64;
        self.requests.clear();
        self.places.clear();
        self.rows.clear();
        self.scores.clear();
        Ok(())
    }

    fn columns(&self) -> Vec<ArrayRef> {
        let each = || {
            let requests = self.requests.iter();
            requests.flat_map(|request| std::iter::repeat_n(&request.record, request.rows))
        };
        let microseconds = |value: fn(&LogRecord) -> u32| -> ArrayRef {
            Arc::new(each().map(value).collect::<UInt32Array>())
        };
        let text = |value: fn(&LogRecord) -> &str| -> ArrayRef {
            Arc::new(each().map(value).map(Some).collect::<StringArray>())
        };
        let same = |text: &str| -> ArrayRef {
            let texts = std::iter::repeat_n(Some(text), self.places.len());
            Arc::new(texts.collect::<StringArray>())
        };
        let mut columns: Vec<ArrayRef> = vec![
            text(|record| &record.request_id),
            Arc::new(UInt32Array::from(self.places.clone())),
            Arc::new(each().map(|record| record.time_ms).collect::<Int64Array>()),
            same(&self.model.name),
            same(&self.model.version),
            text(|record| record.status.name()),
            microseconds(|record| record.total_us),
            microseconds(|record| record.queue_us),
            microseconds(|record| record.compute_us),
        ];
        let labels = self.model.labels.len();
        // A table has a column of scores, whatever the model.
        for label in 0..labels.max(1) {
            let own = self.scores.iter().skip(label).step_by(labels.max(1));
            let own: Vec<f32> = own.copied().collect();
            let own = if labels == 0 {
                vec![f32::NAN; self.places.len()]
            } else {
                own
            };
            let present: NullBuffer = own.iter().map(|score| !score.is_nan()).collect();
            columns.push(Arc::new(Float32Array::new(own.into(), Some(present))));
        }
        let inputs = self.model.inputs.iter().zip(&self.rows.columns);
        columns.extend(inputs.map(|(input, column)| input_array(input, column)));
        columns
    }

    /// The rows of the file, which is there now.
    pub(super) fn finish(mut self) -> Result<(PathBuf, u64), MonitoringError> {
        self.write()?;
        Ok((self.file.finish()?, self.rows_written))
    }
}

/// Appends all rows of a column of the same kind.
fn append(to: &mut RawColumn, from: &RawColumn) {
    match (to, from) {
        (RawColumn::Dense(to), RawColumn::Dense(from)) => to.extend_from_slice(from),
        (RawColumn::Key(to), RawColumn::Key(from)) => to.extend_from_slice(from),
        (RawColumn::Time(to), RawColumn::Time(from)) => to.extend_from_slice(from),
        (to, from) => (0..from.rows()).for_each(|row| to.push_row_of(from, row)),
    }
}

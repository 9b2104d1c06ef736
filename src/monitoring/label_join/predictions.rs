//! The predictions that labels may belong to: found by key columns first, read in full where some match.

use std::fs::File;
use std::path::Path;

use arrow::array::AsArray;
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int64Type, UInt32Type};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::monitoring::MonitoringError;

/// Opens a file; with `columns`, only those of it.
pub(super) fn open(
    path: &Path,
    columns: Option<&[&str]>,
) -> Result<ParquetRecordBatchReader, MonitoringError> {
    let file = File::open(path).map_err(MonitoringError::file("read", path))?;
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(MonitoringError::parquet(path))?
        .with_batch_size(1 << 14);
    if let Some(columns) = columns {
        let schema = builder.parquet_schema();
        let mask = ProjectionMask::columns(schema, columns.iter().copied());
        builder = builder.with_projection(mask);
    }
    builder.build().map_err(MonitoringError::parquet(path))
}

/// Calls `found` for each scored row: its number in the file, request, row and time.
pub(super) fn each_scored(
    path: &Path,
    mut found: impl FnMut(u64, &str, u32, i64),
) -> Result<(), MonitoringError> {
    let columns = ["request_id", "row", "time_ms", "status"];
    let mut before = 0;
    for batch in open(path, Some(&columns))? {
        let batch = batch.map_err(MonitoringError::arrow(path))?;
        let lacks = || MonitoringError::table(path, "it is no table of predictions");
        let column = |name: &str| batch.column_by_name(name).ok_or_else(lacks);
        let text = |name: &str| column(name)?.as_string_opt::<i32>().ok_or_else(lacks);
        let (ids, status) = (text("request_id")?, text("status")?);
        let rows = column("row")?
            .as_primitive_opt::<UInt32Type>()
            .ok_or_else(lacks)?;
        let times = column("time_ms")?
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(lacks)?;
        for row in (0..batch.num_rows()).filter(|&row| status.value(row) == "ok") {
            found(
                before + row as u64,
                ids.value(row),
                rows.value(row),
                times.value(row),
            );
        }
        before += batch.num_rows() as u64;
    }
    Ok(())
}

/// The rows of a file with these ascending numbers, some of them several times.
pub(super) fn rows(path: &Path, wanted: &[u64]) -> Result<RecordBatch, MonitoringError> {
    let reader = open(path, None)?;
    let schema = arrow::record_batch::RecordBatchReader::schema(&reader);
    let (mut before, mut rest) = (0u64, wanted);
    let mut found = Vec::new();
    for batch in reader {
        let batch = batch.map_err(MonitoringError::arrow(path))?;
        let after = before + batch.num_rows() as u64;
        let (here, later) = rest.split_at(rest.partition_point(|&row| row < after));
        if !here.is_empty() {
            let places = here.iter().map(|row| Some((row - before) as u32)).collect();
            let part = take_record_batch(&batch, &places_array(places));
            found.push(part.map_err(MonitoringError::arrow(path))?);
        }
        (before, rest) = (after, later);
        if rest.is_empty() {
            break;
        }
    }
    concat_batches(&schema, &found).map_err(MonitoringError::arrow(path))
}

fn places_array(places: Vec<Option<u32>>) -> arrow::array::UInt32Array {
    places.into_iter().collect()
}

/// The newest time of a label in a file of labels that found no prediction; the oldest there is where it has none.
pub(in crate::monitoring) fn newest_label_ms(path: &Path) -> Result<i64, MonitoringError> {
    let mut newest = i64::MIN;
    for batch in open(path, Some(&["label_time_ms"]))? {
        let batch = batch.map_err(MonitoringError::arrow(path))?;
        let times = batch
            .column_by_name("label_time_ms")
            .and_then(|times| times.as_primitive_opt::<Int64Type>())
            .ok_or_else(|| MonitoringError::table(path, "it is no table of labels"))?;
        newest = newest.max(arrow::compute::max(times).unwrap_or(i64::MIN));
    }
    Ok(newest)
}

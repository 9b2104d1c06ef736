//! Packed data: blocks are read each by itself.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Int64Array, ListArray, RecordBatch, RecordBatchOptions,
    TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use streamrec_artifact::{MISSING_KEY, MISSING_TIME};

use super::{BATCH_ROWS, ExpectationError, Job, Part, project};
use crate::data::{Block, Column, ColumnKind, Dataset, PackReader, RawColumn, SourceType, Split};

#[derive(Debug)]
pub(super) struct PackedFiles {
    schema: SchemaRef,
    columns: Vec<Column>,
    files: Vec<(PackReader, u64)>,
    rows: u64,
}

impl PackedFiles {
    /// All splits of a dataset in the order of time, or one.
    pub(super) fn dataset(
        folder: &Path,
        split: Option<Split>,
    ) -> Result<(SchemaRef, Self), ExpectationError> {
        let dataset = Dataset::open(folder)?;
        let splits = match split {
            Some(split) => vec![split],
            None => dataset.splits.keys().copied().collect(),
        };
        let packs: Result<Vec<_>, _> = splits
            .into_iter()
            .map(|split| dataset.pack(split))
            .collect();
        Ok(Self::new(packs?))
    }

    pub(super) fn file(path: &Path) -> Result<(SchemaRef, Self), ExpectationError> {
        Ok(Self::new(vec![PackReader::open(path)?]))
    }

    fn new(packs: Vec<PackReader>) -> (SchemaRef, Self) {
        let columns = packs
            .first()
            .map(|pack| pack.columns().to_vec())
            .unwrap_or_default();
        let fields: Vec<Field> = columns.iter().map(field).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let (mut files, mut rows) = (Vec::new(), 0);
        for pack in packs {
            let first = rows;
            rows += pack.rows();
            files.push((pack, first));
        }
        let files = Self {
            schema: Arc::clone(&schema),
            columns,
            files,
            rows,
        };
        (schema, files)
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn holds_hashes(&self, column: usize) -> bool {
        let column = &self.columns[column];
        column.source == SourceType::Text && column.kind == ColumnKind::Key
    }

    pub(super) fn jobs(&self, bundles: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (place, (pack, first_row)) in self.files.iter().enumerate() {
            let step = (BATCH_ROWS / pack.block_rows()).max(1);
            for first in (0..pack.blocks()).step_by(step) {
                jobs.extend((0..bundles).map(|bundle| Job {
                    bundle,
                    first_row: first_row + (first * pack.block_rows()) as u64,
                    part: Part::Blocks {
                        file: place,
                        first,
                        last: (first + step).min(pack.blocks()),
                    },
                }));
            }
        }
        jobs
    }

    pub(super) fn read(
        &self,
        file: usize,
        blocks: Range<usize>,
        columns: &[usize],
        first_row: u64,
        visit: &mut dyn FnMut(u64, RecordBatch) -> Result<(), ExpectationError>,
    ) -> Result<(), ExpectationError> {
        let (pack, _) = &self.files[file];
        let schema = project(&self.schema, columns);
        let (mut block, mut row) = (Block::default(), first_row);
        for number in blocks {
            pack.read_block(number, &mut block)?;
            let arrays = columns
                .iter()
                .map(|&column| array(&self.columns[column], &block.columns[column]));
            let options = RecordBatchOptions::new().with_row_count(Some(block.rows));
            let batch =
                RecordBatch::try_new_with_options(Arc::clone(&schema), arrays.collect(), &options);
            let batch = batch.map_err(|error| ExpectationError::Table {
                path: pack.path().to_owned(),
                problem: error.to_string(),
            })?;
            visit(row, batch)?;
            row += block.rows as u64;
        }
        Ok(())
    }
}

fn field(column: &Column) -> Field {
    let kind = match (column.kind, column.source) {
        (ColumnKind::Dense, _) => DataType::Float32,
        (ColumnKind::Key, SourceType::Integer) => DataType::Int64,
        (ColumnKind::Key, SourceType::Boolean) => DataType::Boolean,
        (ColumnKind::Key, _) => DataType::UInt64,
        (ColumnKind::KeyList, _) => {
            DataType::List(Field::new_list_field(DataType::UInt64, false).into())
        }
        (ColumnKind::Time, _) => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
    };
    Field::new(&column.name, kind, true)
}

fn array(column: &Column, values: &RawColumn) -> ArrayRef {
    match values {
        RawColumn::Dense(values) => {
            let valid = NullBuffer::from_iter(values.iter().map(|value| !value.is_nan()));
            Arc::new(Float32Array::new(
                ScalarBuffer::from(values.clone()),
                Some(valid),
            ))
        }
        RawColumn::Key(keys) => {
            let valid = NullBuffer::from_iter(keys.iter().map(|&key| key != MISSING_KEY));
            match column.source {
                SourceType::Integer => {
                    let values = keys.iter().map(|key| key.cast_signed());
                    Arc::new(Int64Array::new(values.collect(), Some(valid)))
                }
                SourceType::Boolean => {
                    let values = keys.iter().map(|&key| key == 1).collect();
                    Arc::new(BooleanArray::new(values, Some(valid)))
                }
                _ => Arc::new(UInt64Array::new(
                    keys.iter().copied().collect(),
                    Some(valid),
                )),
            }
        }
        RawColumn::KeyList { offsets, keys } => {
            let valid = NullBuffer::from_iter(offsets.windows(2).map(|ends| ends[0] < ends[1]));
            let offsets: ScalarBuffer<i32> = offsets.iter().map(|&offset| offset as i32).collect();
            let keys = Arc::new(UInt64Array::from(keys.clone()));
            let field = Field::new_list_field(DataType::UInt64, false).into();
            Arc::new(ListArray::new(
                field,
                OffsetBuffer::new(offsets),
                keys,
                Some(valid),
            ))
        }
        RawColumn::Time(times) => {
            let valid = NullBuffer::from_iter(times.iter().map(|&time| time != MISSING_TIME));
            let array =
                TimestampMillisecondArray::new(times.iter().copied().collect(), Some(valid));
            Arc::new(array.with_timezone("UTC"))
        }
    }
}

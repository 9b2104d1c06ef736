//! Columns of the predictions' table, and how raw values stand in them.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Int64Array, ListArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Field, Float32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType,
    UInt64Type,
};
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use streamrec_artifact::{
    ColumnKind, InputColumn, MISSING_KEY, MISSING_TIME, RawBatch, RawColumn, SourceType,
};
use streamrec_serving::prediction_log::LoggedModel;

use crate::monitoring::MonitoringError;

/// What the columns of raw inputs are called by: `input.NAME`.
pub const INPUT_PREFIX: &str = "input.";
/// The key of a file's metadata with its model, JSON of a [`LoggedModel`].
pub const MODEL_METADATA: &str = "streamrec.model";

/// The schema of a model's predictions.
pub fn prediction_schema(model: &LoggedModel) -> SchemaRef {
    let of = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
    let mut fields = vec![
        of("request_id", DataType::Utf8, false),
        of("row", DataType::UInt32, false),
        of("time_ms", DataType::Int64, false),
        of("model", DataType::Utf8, false),
        of("version", DataType::Utf8, false),
        of("status", DataType::Utf8, false),
        of("latency_us", DataType::UInt32, false),
        of("queue_us", DataType::UInt32, false),
        of("compute_us", DataType::UInt32, false),
        of("score", DataType::Float32, true),
    ];
    let further = model.labels.iter().skip(1);
    fields.extend(further.map(|label| of(&format!("score.{label}"), DataType::Float32, true)));
    let inputs = model.inputs.iter();
    fields.extend(inputs.map(|input| {
        let name = format!("{INPUT_PREFIX}{}", input.name);
        Field::new(name, data_type(input), true)
    }));
    Arc::new(Schema::new(fields))
}

/// The model of a file of predictions or labelled predictions.
///
/// # Errors
/// When the file cannot be read, or tells no model.
pub fn logged_model(path: &Path) -> Result<LoggedModel, MonitoringError> {
    let file = std::fs::File::open(path).map_err(MonitoringError::file("read", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file);
    let builder = builder.map_err(MonitoringError::parquet(path))?;
    let metadata = builder.metadata().file_metadata().key_value_metadata();
    let entries = metadata.into_iter().flatten();
    let mut entries = entries.filter(|entry| entry.key == MODEL_METADATA);
    let json = entries.find_map(|entry| entry.value.as_deref());
    let json = json.ok_or_else(|| {
        let problem = format!(
            "expected `{MODEL_METADATA}` in its metadata: it is no table of the prediction log"
        );
        MonitoringError::table(path, problem)
    })?;
    serde_json::from_str(json)
        .map_err(|error| MonitoringError::table(path, format!("`{MODEL_METADATA}`: {error}")))
}

fn data_type(input: &InputColumn) -> DataType {
    let one = match input.source {
        SourceType::Integer => DataType::Int64,
        SourceType::Float => DataType::Float32,
        // A text's 64-bit key: the text itself never reaches the model.
        SourceType::Text => DataType::UInt64,
        SourceType::Boolean => DataType::Boolean,
        SourceType::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
    };
    match input.kind {
        ColumnKind::KeyList => DataType::List(Field::new_list_field(one, false).into()),
        _ => one,
    }
}

/// A raw column as it stands in the table, under [`INPUT_PREFIX`] and its name. Missing values are null, missing lists empty.
pub fn input_array(input: &InputColumn, column: &RawColumn) -> ArrayRef {
    match column {
        RawColumn::Dense(values) => {
            let present: NullBuffer = values.iter().map(|value| value.is_finite()).collect();
            match input.source {
                SourceType::Integer => {
                    let integers: Vec<i64> = values.iter().map(|&value| value as i64).collect();
                    Arc::new(Int64Array::new(integers.into(), Some(present)))
                }
                SourceType::Boolean => {
                    let truths = values.iter().map(|&value| value != 0.0).collect();
                    Arc::new(BooleanArray::new(truths, Some(present)))
                }
                _ => Arc::new(Float32Array::new(values.clone().into(), Some(present))),
            }
        }
        RawColumn::Key(keys) => {
            let present = keys.iter().map(|&key| key != MISSING_KEY).collect();
            keys_to_array(input, keys, Some(present))
        }
        RawColumn::KeyList { offsets, keys } => {
            let ends: ScalarBuffer<i32> = offsets.iter().map(|&end| end as i32).collect();
            let values = keys_to_array(input, keys, None);
            let field = Field::new_list_field(values.data_type().clone(), false);
            // Offsets of a batch that was checked never decrease, and end at the number of keys.
            let offsets = OffsetBuffer::new(ends);
            Arc::new(ListArray::new(field.into(), offsets, values, None))
        }
        RawColumn::Time(times) => {
            let present: NullBuffer = times.iter().map(|&time| time != MISSING_TIME).collect();
            let times = TimestampMillisecondArray::new(times.clone().into(), Some(present));
            Arc::new(times.with_timezone("UTC"))
        }
    }
}

fn keys_to_array(input: &InputColumn, keys: &[u64], present: Option<NullBuffer>) -> ArrayRef {
    match input.source {
        SourceType::Integer => {
            let integers: Vec<i64> = keys.iter().map(|key| key.cast_signed()).collect();
            Arc::new(Int64Array::new(integers.into(), present))
        }
        SourceType::Boolean => {
            let truths = keys.iter().map(|&key| key == 1).collect();
            Arc::new(BooleanArray::new(truths, present))
        }
        _ => Arc::new(UInt64Array::new(keys.to_vec().into(), present)),
    }
}

/// The raw rows of a batch of the table, in the order of `inputs`: what the model was given.
///
/// # Errors
/// Names a column that is not there, or is of another type; `path` is for the message.
pub fn raw_batch(
    path: &Path,
    batch: &RecordBatch,
    inputs: &[InputColumn],
) -> Result<RawBatch, MonitoringError> {
    let column = |input: &InputColumn| {
        let name = format!("{INPUT_PREFIX}{}", input.name);
        let array = batch.column_by_name(&name);
        let array = array.ok_or_else(|| {
            MonitoringError::table(
                path,
                format!("no column `{name}`: another model's predictions"),
            )
        })?;
        from_array(input, array).ok_or_else(|| {
            let (expected, got) = (data_type(input), array.data_type());
            let problem = format!("column `{name}`: expected {expected}, got {got}");
            MonitoringError::table(path, problem)
        })
    };
    Ok(RawBatch {
        rows: batch.num_rows(),
        columns: inputs.iter().map(column).collect::<Result<_, _>>()?,
    })
}

fn from_array(input: &InputColumn, array: &ArrayRef) -> Option<RawColumn> {
    Some(match input.kind {
        ColumnKind::Dense => RawColumn::Dense(match input.source {
            SourceType::Integer => values(
                array.as_primitive_opt::<Int64Type>()?.iter(),
                f32::NAN,
                |value| value as f32,
            ),
            SourceType::Boolean => values(array.as_boolean_opt()?.iter(), f32::NAN, |truth| {
                f32::from(u8::from(truth))
            }),
            _ => values(
                array.as_primitive_opt::<Float32Type>()?.iter(),
                f32::NAN,
                |value| value,
            ),
        }),
        ColumnKind::Key => RawColumn::Key(keys(input, array)?),
        ColumnKind::KeyList => {
            let lists = array.as_list_opt::<i32>()?;
            let offsets = lists.value_offsets();
            let first = *offsets.first()?;
            let keys = keys(input, lists.values())?;
            let last = *offsets.last()?;
            RawColumn::KeyList {
                offsets: offsets.iter().map(|end| (end - first) as u32).collect(),
                keys: keys.get(first as usize..last as usize)?.to_vec(),
            }
        }
        ColumnKind::Time => RawColumn::Time(values(
            array.as_primitive_opt::<TimestampMillisecondType>()?.iter(),
            MISSING_TIME,
            |time| time,
        )),
    })
}

fn keys(input: &InputColumn, array: &ArrayRef) -> Option<Vec<u64>> {
    Some(match input.source {
        SourceType::Integer => values(
            array.as_primitive_opt::<Int64Type>()?.iter(),
            MISSING_KEY,
            i64::cast_unsigned,
        ),
        SourceType::Boolean => values(array.as_boolean_opt()?.iter(), MISSING_KEY, u64::from),
        _ => values(
            array.as_primitive_opt::<UInt64Type>()?.iter(),
            MISSING_KEY,
            |key| key,
        ),
    })
}

fn values<A, B: Copy>(
    found: impl Iterator<Item = Option<A>>,
    missing: B,
    value: impl Fn(A) -> B,
) -> Vec<B> {
    found.map(|one| one.map_or(missing, &value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Vec<InputColumn> {
        let input = |name: &str, kind, source| InputColumn {
            name: name.into(),
            kind,
            source,
            unit: None,
            range: None,
            required: false,
        };
        vec![
            input("age", ColumnKind::Dense, SourceType::Float),
            input("views", ColumnKind::Dense, SourceType::Integer),
            input("premium", ColumnKind::Dense, SourceType::Boolean),
            input("user", ColumnKind::Key, SourceType::Integer),
            input("device", ColumnKind::Key, SourceType::Text),
            input("member", ColumnKind::Key, SourceType::Boolean),
            input("tags", ColumnKind::KeyList, SourceType::Text),
            input("friends", ColumnKind::KeyList, SourceType::Integer),
            input("at", ColumnKind::Time, SourceType::Timestamp),
        ]
    }

    #[test]
    fn raw_rows_come_back_from_their_columns() {
        let inputs = inputs();
        let list = |keys: Vec<u64>| RawColumn::KeyList {
            offsets: vec![0, 2, 2, 3],
            keys,
        };
        let raw = RawBatch {
            rows: 3,
            columns: vec![
                RawColumn::Dense(vec![1.5, f32::NAN, -0.25]),
                RawColumn::Dense(vec![7.0, 0.0, f32::NAN]),
                RawColumn::Dense(vec![1.0, f32::NAN, 0.0]),
                RawColumn::Key(vec![(-7i64).cast_unsigned(), MISSING_KEY, 9]),
                RawColumn::Key(vec![u64::MAX, 3, MISSING_KEY]),
                RawColumn::Key(vec![0, 1, MISSING_KEY]),
                list(vec![u64::MAX, 2, 3]),
                list(vec![(-1i64).cast_unsigned(), 2, 3]),
                RawColumn::Time(vec![1_805_018_400_123, MISSING_TIME, -5]),
            ],
        };
        let model = LoggedModel {
            name: "videos".into(),
            version: "v".into(),
            labels: vec!["click".into()],
            inputs: inputs.clone(),
        };
        let fields = prediction_schema(&model);
        let columns = inputs.iter().zip(&raw.columns);
        let columns: Vec<ArrayRef> = columns
            .map(|(input, column)| input_array(input, column))
            .collect();
        let own = fields
            .fields()
            .iter()
            .skip(fields.fields().len() - inputs.len());
        let schema = Arc::new(Schema::new(own.cloned().collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(schema, columns).unwrap();
        let back = |batch: &RecordBatch| raw_batch(Path::new("a file"), batch, &inputs);
        assert_eq!(back(&batch).unwrap(), raw);
        // A slice of a batch is a batch: offsets of lists begin elsewhere.
        let mut last = RawBatch::new(&inputs);
        last.push_row_of(&raw, 2);
        assert_eq!(back(&batch.slice(2, 1)).unwrap(), last);
        let fewer = batch.project(&[0, 1]).unwrap();
        let told = back(&fewer).unwrap_err().to_string();
        assert!(told.contains("no column `input.premium`"), "{told}");
    }
}

//! The encoder: the only way from raw values to the model's inputs.

use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::buckets::Buckets;
use crate::dense_column::{DenseColumn, numbers};
use crate::feature_schema::{CategoricalFeature, Encoding, FeatureSchema, SchemaError};
use crate::hashed_rows::HashedRows;
use crate::key::MISSING_KEY;
use crate::local_time::LocalClock;
use crate::raw::{RawBatch, RawBatchError, RawColumn};
use crate::vocabulary::{Vocabularies, Vocabulary};

/// The model's inputs for some rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// The number of rows.
    pub rows: usize,
    /// Dense values, `[rows, dense features]`.
    pub dense: Vec<f32>,
    /// Table rows, bag after bag.
    pub ids: Vec<i64>,
    /// Where each bag begins, feature-major: bag `feature * rows + row`, `[categorical features * rows + 1]`.
    pub offsets: Vec<i64>,
}

impl Encoded {
    /// The table rows of one bag.
    ///
    /// # Panics
    /// If `feature` or `row` is out of bounds.
    pub fn bag(&self, feature: usize, row: usize) -> &[i64] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let at = feature * self.rows + row;
        &self.ids[self.offsets[at] as usize..self.offsets[at + 1] as usize]
    }
}

/// How a categorical feature finds its rows, resolved.
#[derive(Debug, Clone)]
enum Rows {
    Vocabulary {
        keys: Arc<Vocabulary>,
        unseen_rows: u64,
    },
    Hash(HashedRows),
    Buckets(Buckets),
    HourOfDay(TimeZone),
    DayOfWeek(TimeZone),
}

#[derive(Debug, Clone)]
struct Bag {
    input: usize,
    max_length: usize,
    rows: Rows,
}

/// Turns raw values into the model's inputs. Immutable, and shared between threads freely.
#[derive(Debug, Clone)]
pub struct Encoder {
    schema: FeatureSchema,
    dense: Vec<DenseColumn>,
    bags: Vec<Bag>,
}

impl Encoder {
    /// An encoder of a schema and its vocabularies, which it shares and does not copy.
    ///
    /// # Errors
    /// What [`FeatureSchema::validate`] finds.
    pub fn new(schema: &FeatureSchema, vocabularies: &Vocabularies) -> Result<Self, SchemaError> {
        schema.validate(vocabularies)?;
        let dense = schema.dense.iter().map(|feature| {
            DenseColumn::new(feature, schema).ok_or_else(|| SchemaError::UnknownInput {
                feature: feature.name.clone(),
                input: String::new(),
            })
        });
        let bags = schema
            .categorical
            .iter()
            .map(|feature| bag(feature, schema, vocabularies));
        Ok(Self {
            dense: dense.collect::<Result<_, _>>()?,
            bags: bags.collect::<Result<_, _>>()?,
            schema: schema.clone(),
        })
    }

    /// The schema.
    pub fn schema(&self) -> &FeatureSchema {
        &self.schema
    }

    /// Encodes a batch, reusing the memory of `to`.
    ///
    /// # Errors
    /// The batch does not have the columns of the schema's inputs.
    pub fn encode(&self, raw: &RawBatch, to: &mut Encoded) -> Result<(), RawBatchError> {
        self.encode_padded(raw, raw.rows, to)
    }

    /// Encodes a batch as one of `rows` rows: those beyond the batch have dense values 0 and empty bags.
    ///
    /// # Errors
    /// The batch does not have the columns of the schema's inputs, or has more than `rows` rows.
    pub fn encode_padded(
        &self,
        raw: &RawBatch,
        rows: usize,
        to: &mut Encoded,
    ) -> Result<(), RawBatchError> {
        raw.check(&self.schema.inputs)?;
        if raw.rows > rows {
            return Err(RawBatchError::Padding {
                rows: raw.rows,
                padded: rows,
            });
        }
        to.rows = rows;
        let width = self.dense.len();
        // Every row of the batch is overwritten, only the padding must be zero.
        to.dense.resize(rows * width, 0.0);
        to.dense[raw.rows * width..].fill(0.0);
        for (column, feature) in self.dense.iter().enumerate() {
            feature.encode(raw, &mut to.dense, width, column);
        }
        to.ids.clear();
        to.offsets.clear();
        to.offsets.push(0);
        for bag in &self.bags {
            bag.encode(raw, to);
            to.offsets
                .extend(std::iter::repeat_n(to.ids.len() as i64, rows - raw.rows));
        }
        Ok(())
    }

    /// Adds to `counts`, one an input, how many values of the batch lie outside their input's range.
    ///
    /// # Errors
    /// The batch does not have the columns of the schema's inputs.
    ///
    /// # Panics
    /// If `counts` is not as long as the schema's inputs.
    pub fn count_out_of_range(
        &self,
        raw: &RawBatch,
        counts: &mut [u64],
    ) -> Result<(), RawBatchError> {
        raw.check(&self.schema.inputs)?;
        assert_eq!(counts.len(), self.schema.inputs.len(), "one count an input");
        for ((input, column), count) in self.schema.inputs.iter().zip(&raw.columns).zip(counts) {
            *count += column.count_out_of_range(input);
        }
        Ok(())
    }
}

fn bag(
    feature: &CategoricalFeature,
    schema: &FeatureSchema,
    all: &Vocabularies,
) -> Result<Bag, SchemaError> {
    let name = || feature.name.clone();
    let zone = |time_zone: &str| {
        TimeZone::get(time_zone).map_err(|_| SchemaError::TimeZone {
            feature: name(),
            time_zone: time_zone.to_owned(),
        })
    };
    let rows = match &feature.encoding {
        Encoding::Vocabulary { unseen_rows } => {
            let keys = all.shared(&feature.table);
            let keys = keys.ok_or_else(|| SchemaError::Vocabulary {
                table: feature.table.clone(),
                needed: true,
            })?;
            Rows::Vocabulary {
                keys,
                unseen_rows: *unseen_rows as u64,
            }
        }
        Encoding::Hash { rows } => Rows::Hash(HashedRows::new(*rows as u64 - 1)),
        Encoding::Buckets { edges } => Rows::Buckets(Buckets::new(
            edges.iter().map(|&edge| edge as f32).collect(),
        )),
        Encoding::HourOfDay { time_zone } => Rows::HourOfDay(zone(time_zone)?),
        Encoding::DayOfWeek { time_zone } => Rows::DayOfWeek(zone(time_zone)?),
    };
    let input = schema.input(&feature.input);
    let input = input.ok_or_else(|| SchemaError::UnknownInput {
        feature: name(),
        input: feature.input.clone(),
    })?;
    Ok(Bag {
        input,
        max_length: feature.max_length.unwrap_or(usize::MAX),
        rows,
    })
}

impl Bag {
    fn encode(&self, raw: &RawBatch, to: &mut Encoded) {
        let column = &raw.columns[self.input];
        match &self.rows {
            Rows::Vocabulary { keys, unseen_rows } => {
                self.encode_keys(column, |key| keys.row(key, *unseen_rows), to);
            }
            Rows::Hash(rows) => {
                let first = to.ids.len();
                // The keys' bits first, then all of them at once.
                self.encode_keys(column, |key| key as i64, to);
                rows.replace(&mut to.ids[first..]);
            }
            Rows::Buckets(buckets) => {
                let (first, values) = (to.ids.len(), numbers(raw, self.input));
                to.ids.resize(first + values.len(), 0);
                buckets.rows(values, &mut to.ids[first..]);
                push_single_offsets(first, values.len(), to);
            }
            Rows::HourOfDay(zone) => {
                let mut clock = LocalClock::new(zone);
                push_each(
                    times(column),
                    |time| clock.hour(time).map_or(0, |hour| 1 + hour),
                    to,
                );
            }
            Rows::DayOfWeek(zone) => {
                let mut clock = LocalClock::new(zone);
                push_each(
                    times(column),
                    |time| clock.weekday(time).map_or(0, |day| 1 + day),
                    to,
                );
            }
        }
    }

    fn encode_keys(&self, column: &RawColumn, row: impl Fn(u64) -> i64, to: &mut Encoded) {
        match column {
            RawColumn::Key(keys) => push_each(keys, row, to),
            RawColumn::KeyList { offsets, keys } => {
                for bounds in offsets.windows(2) {
                    let list = &keys[bounds[0] as usize..bounds[1] as usize];
                    let kept = &list[..list.len().min(self.max_length)];
                    // A missing element of a list says nothing.
                    to.ids.extend(
                        kept.iter()
                            .filter(|&&key| key != MISSING_KEY)
                            .map(|&key| row(key)),
                    );
                    to.offsets.push(to.ids.len() as i64);
                }
            }
            // The schema was validated and the batch checked.
            _ => unreachable!("input {} holds keys", self.input),
        }
    }
}

/// One bag of one row for each value.
fn push_each<T: Copy>(values: &[T], mut row: impl FnMut(T) -> i64, to: &mut Encoded) {
    let first = to.ids.len();
    to.ids.extend(values.iter().map(|&value| row(value)));
    push_single_offsets(first, values.len(), to);
}

/// The ends of `bags` bags of one row each, the first of which is at `first`.
fn push_single_offsets(first: usize, bags: usize, to: &mut Encoded) {
    let first = first as i64;
    to.offsets.extend(first + 1..=first + bags as i64);
}

fn times(column: &RawColumn) -> &[i64] {
    match column {
        RawColumn::Time(times) => times,
        // The schema was validated and the batch checked.
        other => unreachable!("a {} input is a time", other.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature_schema::{DenseFeature, DenseSource, DenseStep, Pooling, TableSchema};
    use crate::input::{ColumnKind, InputColumn, SourceType};
    use crate::key::{self, MISSING_TIME};

    fn input(name: &str, kind: ColumnKind, source: SourceType) -> InputColumn {
        InputColumn {
            name: name.into(),
            kind,
            source,
            unit: None,
            range: None,
            required: false,
        }
    }

    fn dense(name: &str, source: DenseSource, steps: Vec<DenseStep>, fill: f64) -> DenseFeature {
        DenseFeature {
            name: name.into(),
            source,
            steps,
            fill,
        }
    }

    fn categorical(name: &str, input: &str, encoding: Encoding) -> CategoricalFeature {
        let (input, table, pooling) = (input.into(), name.into(), Pooling::Sum);
        CategoricalFeature {
            name: name.into(),
            input,
            encoding,
            table,
            pooling,
            max_length: Some(2),
        }
    }

    /// One feature of each kind over four inputs.
    fn encoder() -> Encoder {
        let column = |name: &str| DenseSource::Column(name.into());
        let rate = DenseSource::Rate {
            positives: "age".into(),
            count: "views".into(),
            strength: 2.0,
            prior: 0.5,
        };
        let schema = FeatureSchema {
            inputs: vec![
                input("age", ColumnKind::Dense, SourceType::Float),
                input("views", ColumnKind::Dense, SourceType::Integer),
                input("tags", ColumnKind::KeyList, SourceType::Integer),
                input("at", ColumnKind::Time, SourceType::Timestamp),
            ],
            dense: vec![
                dense(
                    "age",
                    column("age"),
                    vec![DenseStep::Standardise {
                        mean: 2.0,
                        std: 4.0,
                    }],
                    -9.0,
                ),
                dense(
                    "age.missing",
                    DenseSource::Missing(vec!["age".into()]),
                    vec![],
                    0.0,
                ),
                dense("rate", rate, vec![], 7.0),
            ],
            categorical: vec![
                categorical("tags", "tags", Encoding::Vocabulary { unseen_rows: 1 }),
                categorical("hashed", "tags", Encoding::Hash { rows: 11 }),
                categorical(
                    "ages",
                    "age",
                    Encoding::Buckets {
                        edges: vec![0.0, 10.0],
                    },
                ),
                categorical(
                    "hour",
                    "at",
                    Encoding::HourOfDay {
                        time_zone: "Asia/Shanghai".into(),
                    },
                ),
                categorical(
                    "day",
                    "at",
                    Encoding::DayOfWeek {
                        time_zone: "Asia/Shanghai".into(),
                    },
                ),
            ],
            tables: [
                ("tags", 4),
                ("hashed", 11),
                ("ages", 4),
                ("hour", 25),
                ("day", 8),
            ]
            .map(|(name, rows)| TableSchema {
                name: name.into(),
                rows,
                dim: None,
            })
            .to_vec(),
            labels: vec!["click".into()],
        };
        let mut vocabularies = Vocabularies::new();
        vocabularies.insert("tags", Vocabulary::new(vec![50, 40]).unwrap());
        Encoder::new(&schema, &vocabularies).unwrap()
    }

    fn raw() -> RawBatch {
        let columns = vec![
            RawColumn::Dense(vec![10.0, f32::NAN, f32::INFINITY]),
            RawColumn::Dense(vec![18.0, 0.0, 1.0]),
            RawColumn::KeyList {
                offsets: vec![0, 3, 3, 5],
                keys: vec![40, 50, 40, MISSING_KEY, 99],
            },
            // 1970-01-01 00:00 UTC is a Thursday, 08:00 in Shanghai.
            RawColumn::Time(vec![0, MISSING_TIME, 16 * 3_600_000]),
        ];
        RawBatch { rows: 3, columns }
    }

    #[test]
    fn dense_values_are_rates_standardised_and_filled() {
        let mut encoded = Encoded::default();
        encoder().encode(&raw(), &mut encoded).unwrap();
        let expected = [[2.0, 0.0, 11.0 / 20.0], [-9.0, 1.0, 7.0], [-9.0, 1.0, 7.0]];
        assert_eq!(encoded.dense, expected.as_flattened());
    }

    #[test]
    fn bags_hold_the_rows_of_their_tables() {
        let mut encoded = Encoded::default();
        encoder().encode(&raw(), &mut encoded).unwrap();
        let hashed = |key: u64| 1 + (key::hash(key) % 10) as i64;
        let bags = |feature| [0, 1, 2].map(|row| encoded.bag(feature, row).to_vec());
        assert_eq!(bags(0), [vec![3, 2], vec![], vec![1]]);
        assert_eq!(
            bags(1),
            [vec![hashed(40), hashed(50)], vec![], vec![hashed(99)]]
        );
        assert_eq!(bags(2), [vec![3], vec![0], vec![0]]);
        assert_eq!(bags(3), [vec![1 + 8], vec![0], vec![1]]);
        assert_eq!(bags(4), [vec![1 + 3], vec![0], vec![1 + 4]]);
    }

    #[test]
    fn padding_is_zeros_and_empty_bags_whatever_was_in_the_buffers() {
        let (encoder, mut encoded, mut padded) =
            (encoder(), Encoded::default(), Encoded::default());
        encoder.encode(&raw(), &mut encoded).unwrap();
        padded.dense = vec![5.0; 100];
        encoder.encode_padded(&raw(), 5, &mut padded).unwrap();
        assert_eq!(padded.dense[..9], encoded.dense);
        assert_eq!(padded.dense[9..], [0.0; 6]);
        assert_eq!(padded.ids, encoded.ids);
        assert_eq!(padded.offsets.len(), 5 * 5 + 1);
        for feature in 0..5 {
            (0..3).for_each(|row| assert_eq!(padded.bag(feature, row), encoded.bag(feature, row)));
            (3..5).for_each(|row| assert!(padded.bag(feature, row).is_empty()));
        }
        let error = encoder.encode_padded(&raw(), 2, &mut padded).unwrap_err();
        assert_eq!(error, RawBatchError::Padding { rows: 3, padded: 2 });
    }

    #[test]
    fn a_batch_in_parts_is_the_batch_in_one() {
        let encoder = encoder();
        let (mut long, mut whole) = (RawBatch::new(&encoder.schema().inputs), Encoded::default());
        (0..1000).for_each(|row| long.push_row_of(&raw(), row % 3));
        encoder.encode(&long, &mut whole).unwrap();
        let mut one = RawBatch::new(&encoder.schema().inputs);
        let mut part = Encoded::default();
        for row in 0..1000 {
            one.clear();
            one.push_row_of(&long, row);
            encoder.encode(&one, &mut part).unwrap();
            assert_eq!(part.dense, whole.dense[row * 3..row * 3 + 3]);
            (0..5).for_each(|feature| assert_eq!(part.bag(feature, 0), whole.bag(feature, row)));
        }
    }

    #[test]
    fn values_out_of_range_are_counted_and_missing_ones_are_not() {
        let mut encoder = encoder();
        encoder.schema.inputs[0].range = Some([0.0, 9.0]);
        encoder.schema.inputs[2].range = Some([45.0, 60.0]);
        let mut counts = vec![0; 4];
        encoder.count_out_of_range(&raw(), &mut counts).unwrap();
        assert_eq!(counts, [2, 0, 3, 0]);
    }

    #[test]
    fn a_batch_of_other_columns_is_refused() {
        let (encoder, mut encoded) = (encoder(), Encoded::default());
        let mut swapped = raw();
        swapped.columns.swap(0, 3);
        assert!(matches!(
            encoder.encode(&swapped, &mut encoded),
            Err(RawBatchError::Kind { .. })
        ));
        let mut short = raw();
        short.columns[1] = RawColumn::Dense(vec![0.0]);
        assert!(matches!(
            encoder.encode(&short, &mut encoded),
            Err(RawBatchError::Rows { .. })
        ));
        let mut torn = raw();
        torn.columns[2] = RawColumn::KeyList {
            offsets: vec![0, 4, 3, 5],
            keys: vec![1; 5],
        };
        assert!(matches!(
            encoder.encode(&torn, &mut encoded),
            Err(RawBatchError::Offsets { .. })
        ));
    }
}

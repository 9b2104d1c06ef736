//! Feature specifications: what an experiment asks for, before anything is fitted.
//!
//! Each `[[features]]` entry of an experiment's TOML is one [`FeatureSpec`]:
//!
//! ```toml
//! [[features]]
//! name = "duration"
//! kind = "dense"
//! column = "duration_ms"
//! log1p = true
//!
//! [[features]]
//! name = "click_rate"
//! kind = "dense"
//! rate = { positives = "video_clicks", count = "video_impressions", strength = 20.0 }
//! logit = true
//!
//! [[features]]
//! name = "user"
//! kind = "categorical"
//! column = "user_id"
//! encoding = "vocabulary"
//! min_count = 2
//! unseen_rows = 8
//! ```

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::feature_schema::Pooling;

/// One feature of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FeatureSpec {
    /// A number.
    Dense(DenseSpec),
    /// Rows of an embedding table.
    Categorical(CategoricalSpec),
}

impl FeatureSpec {
    /// The feature's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Dense(spec) => &spec.name,
            Self::Categorical(spec) => &spec.name,
        }
    }
}

/// A dense feature. The steps are applied in this order: `clip`, `log1p`, `logit`, `standardise`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseSpec {
    /// The feature's name.
    pub name: String,
    /// The column it reads; either this or `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The smoothed rate it is; either this or `column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateSpec>,
    /// Limits the raw value to these bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<[f64; 2]>,
    /// `sign(x) * ln(1 + |x|)`, for counts and durations.
    #[serde(default)]
    pub log1p: bool,
    /// `ln(x / (1 - x))`, for shares and rates.
    #[serde(default)]
    pub logit: bool,
    /// Subtracts the mean and divides by the standard deviation of the training split.
    #[serde(default = "yes")]
    pub standardise: bool,
    /// What stands in for a missing value.
    #[serde(default)]
    pub missing: MissingSpec,
    /// Adds a second input `<name>.missing`: 1 where the value is missing, else 0.
    #[serde(default)]
    pub indicator: bool,
}

fn yes() -> bool {
    true
}

/// A rate shrunk towards the prior: `(positives + strength * prior) / (count + strength)`.
///
/// The prior is fitted, see [`Fitter`](crate::fit::Fitter).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateSpec {
    /// The column that counts positives.
    pub positives: String,
    /// The column that counts trials.
    pub count: String,
    /// How many trials the prior is worth, above 0.
    #[serde(default = "default_strength")]
    pub strength: f64,
}

fn default_strength() -> f64 {
    20.0
}

/// What stands in for a missing number: `"mean"` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum MissingSpec {
    /// The mean of the feature after its steps: 0 where it is standardised.
    #[default]
    Mean,
    /// A raw value, which goes through the steps like any other.
    Value(f64),
}

impl Serialize for MissingSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Mean => serializer.serialize_str("mean"),
            Self::Value(value) => serializer.serialize_f64(*value),
        }
    }
}

impl<'de> Deserialize<'de> for MissingSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MissingVisitor)
    }
}

struct MissingVisitor;

impl Visitor<'_> for MissingVisitor {
    type Value = MissingSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"mean\" or a number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<MissingSpec, E> {
        match text {
            "mean" => Ok(MissingSpec::Mean),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<MissingSpec, E> {
        Ok(MissingSpec::Value(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<MissingSpec, E> {
        Ok(MissingSpec::Value(value as f64))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<MissingSpec, E> {
        Ok(MissingSpec::Value(value as f64))
    }
}

/// A categorical feature: a value or a list of values that become rows of an embedding table.
///
/// In TOML the settings of the encoding stand beside it: `encoding = "hash"`, `rows = 100000`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "CategoricalFields", into = "CategoricalFields")]
pub struct CategoricalSpec {
    /// The feature's name.
    pub name: String,
    /// The column it reads.
    pub column: String,
    /// How a value becomes a row.
    pub encoding: EncodingSpec,
    /// The table it looks up, its own name by default. Features that share a table share its fit.
    pub table: Option<String>,
    /// The width of its vectors; the model's default where absent.
    pub dim: Option<usize>,
    /// How the vectors of a list become one.
    pub pooling: Pooling,
    /// Only the first so many elements of a list count.
    pub max_length: Option<usize>,
}

impl CategoricalSpec {
    /// The table it looks up.
    pub fn table(&self) -> &str {
        self.table.as_deref().unwrap_or(&self.name)
    }
}

/// How a value becomes a table row.
#[derive(Debug, Clone, PartialEq)]
pub enum EncodingSpec {
    /// A row for each identifier seen often enough.
    Vocabulary {
        /// The least count in the training split.
        min_count: u64,
        /// Only the most frequent so many.
        max_size: Option<usize>,
        /// Rows shared by all others, at least 1.
        unseen_rows: usize,
    },
    /// A row by hash.
    Hash {
        /// Rows of the table, at least 2: row 0 is the missing identifier's.
        rows: usize,
    },
    /// A row for each interval of a number.
    Buckets(BucketSpec),
    /// A row for each hour of the day, 0 to 23.
    HourOfDay {
        /// The IANA time zone of the clock.
        time_zone: String,
    },
    /// A row for each day of the week, Monday first.
    DayOfWeek {
        /// The IANA time zone of the calendar.
        time_zone: String,
    },
}

/// Where the intervals of a number lie.
#[derive(Debug, Clone, PartialEq)]
pub enum BucketSpec {
    /// At these ascending edges; an edge belongs to the interval above it.
    Edges(Vec<f64>),
    /// At the quantiles of the training split that make so many intervals of equal counts.
    Quantiles(usize),
}

/// The flat form of [`CategoricalSpec`] that TOML and JSON hold.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CategoricalFields {
    name: String,
    column: String,
    encoding: EncodingKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_size: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unseen_rows: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edges: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantiles: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dim: Option<usize>,
    #[serde(default)]
    pooling: Pooling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_length: Option<usize>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EncodingKind {
    #[default]
    Vocabulary,
    Hash,
    Buckets,
    HourOfDay,
    DayOfWeek,
}

impl EncodingKind {
    fn name(self) -> &'static str {
        match self {
            Self::Vocabulary => "vocabulary",
            Self::Hash => "hash",
            Self::Buckets => "buckets",
            Self::HourOfDay => "hour_of_day",
            Self::DayOfWeek => "day_of_week",
        }
    }

    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Vocabulary => &["min_count", "max_size", "unseen_rows"],
            Self::Hash => &["rows"],
            Self::Buckets => &["edges", "quantiles"],
            Self::HourOfDay | Self::DayOfWeek => &["time_zone"],
        }
    }
}

impl CategoricalFields {
    /// The first setting that belongs to another encoding.
    fn stray_setting(&self) -> Option<&'static str> {
        let given = [
            ("min_count", self.min_count.is_some()),
            ("max_size", self.max_size.is_some()),
            ("unseen_rows", self.unseen_rows.is_some()),
            ("rows", self.rows.is_some()),
            ("edges", self.edges.is_some()),
            ("quantiles", self.quantiles.is_some()),
            ("time_zone", self.time_zone.is_some()),
        ];
        let stray = given
            .iter()
            .find(|(name, given)| *given && !self.encoding.settings().contains(name));
        stray.map(|(name, _)| *name)
    }

    fn encoding_spec(&mut self) -> Result<EncodingSpec, &'static str> {
        let time_zone = self
            .time_zone
            .take()
            .ok_or("`time_zone`, such as \"Asia/Shanghai\"");
        Ok(match self.encoding {
            EncodingKind::Vocabulary => EncodingSpec::Vocabulary {
                min_count: self.min_count.unwrap_or(1),
                max_size: self.max_size,
                unseen_rows: self.unseen_rows.unwrap_or(1),
            },
            EncodingKind::Hash => EncodingSpec::Hash {
                rows: self.rows.ok_or("`rows`")?,
            },
            EncodingKind::Buckets => {
                EncodingSpec::Buckets(match (self.edges.take(), self.quantiles) {
                    (Some(edges), None) => BucketSpec::Edges(edges),
                    (None, Some(count)) => BucketSpec::Quantiles(count),
                    _ => return Err("either `edges` or `quantiles`"),
                })
            }
            EncodingKind::HourOfDay => EncodingSpec::HourOfDay {
                time_zone: time_zone?,
            },
            EncodingKind::DayOfWeek => EncodingSpec::DayOfWeek {
                time_zone: time_zone?,
            },
        })
    }
}

impl TryFrom<CategoricalFields> for CategoricalSpec {
    type Error = String;

    fn try_from(mut fields: CategoricalFields) -> Result<Self, String> {
        let (name, kind) = (&fields.name, fields.encoding.name());
        if let Some(setting) = fields.stray_setting() {
            let known = fields.encoding.settings().join("`, `");
            return Err(format!(
                "feature `{name}`: `{setting}` is no setting of encoding \"{kind}\", which takes `{known}`"
            ));
        }
        let encoding = fields.encoding_spec().map_err(|needed| {
            format!(
                "feature `{}`: encoding \"{kind}\" needs {needed}",
                fields.name
            )
        })?;
        Ok(Self {
            name: fields.name,
            column: fields.column,
            encoding,
            table: fields.table,
            dim: fields.dim,
            pooling: fields.pooling,
            max_length: fields.max_length,
        })
    }
}

impl From<CategoricalSpec> for CategoricalFields {
    fn from(spec: CategoricalSpec) -> Self {
        let mut fields = Self {
            name: spec.name,
            column: spec.column,
            table: spec.table,
            dim: spec.dim,
            pooling: spec.pooling,
            max_length: spec.max_length,
            ..Self::default()
        };
        match spec.encoding {
            EncodingSpec::Vocabulary {
                min_count,
                max_size,
                unseen_rows,
            } => {
                fields.encoding = EncodingKind::Vocabulary;
                fields.min_count = Some(min_count);
                fields.max_size = max_size;
                fields.unseen_rows = Some(unseen_rows);
            }
            EncodingSpec::Hash { rows } => {
                fields.encoding = EncodingKind::Hash;
                fields.rows = Some(rows);
            }
            EncodingSpec::Buckets(buckets) => {
                fields.encoding = EncodingKind::Buckets;
                match buckets {
                    BucketSpec::Edges(edges) => fields.edges = Some(edges),
                    BucketSpec::Quantiles(count) => fields.quantiles = Some(count),
                }
            }
            EncodingSpec::HourOfDay { time_zone } => {
                fields.encoding = EncodingKind::HourOfDay;
                fields.time_zone = Some(time_zone);
            }
            EncodingSpec::DayOfWeek { time_zone } => {
                fields.encoding = EncodingKind::DayOfWeek;
                fields.time_zone = Some(time_zone);
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> Result<FeatureSpec, String> {
        serde_json::from_value(json).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_filled_in() {
        let spec =
            parse(serde_json::json!({"kind": "dense", "name": "age", "column": "age"})).unwrap();
        let FeatureSpec::Dense(dense) = spec else {
            panic!("dense")
        };
        assert!(dense.standardise && !dense.indicator);
        assert_eq!(dense.missing, MissingSpec::Mean);
        let user = serde_json::json!(
            {"kind": "categorical", "name": "user", "column": "user_id", "encoding": "vocabulary"}
        );
        let FeatureSpec::Categorical(user) = parse(user).unwrap() else {
            panic!("categorical")
        };
        assert_eq!(
            user.encoding,
            EncodingSpec::Vocabulary {
                min_count: 1,
                max_size: None,
                unseen_rows: 1
            }
        );
        assert_eq!(user.table(), "user");
    }

    #[test]
    fn every_form_survives_json() {
        let encodings = [
            EncodingSpec::Vocabulary {
                min_count: 3,
                max_size: Some(9),
                unseen_rows: 2,
            },
            EncodingSpec::Hash { rows: 100 },
            EncodingSpec::Buckets(BucketSpec::Edges(vec![0.5, 1.5])),
            EncodingSpec::Buckets(BucketSpec::Quantiles(8)),
            EncodingSpec::HourOfDay {
                time_zone: "Asia/Shanghai".into(),
            },
            EncodingSpec::DayOfWeek {
                time_zone: "UTC".into(),
            },
        ];
        for encoding in encodings {
            let spec = FeatureSpec::Categorical(CategoricalSpec {
                name: "a".into(),
                column: "b".into(),
                encoding,
                table: Some("c".into()),
                dim: Some(8),
                pooling: Pooling::Mean,
                max_length: Some(20),
            });
            assert_eq!(parse(serde_json::to_value(&spec).unwrap()), Ok(spec));
        }
    }

    #[test]
    fn a_setting_of_another_encoding_is_refused_by_name() {
        let error = parse(serde_json::json!({
            "kind": "categorical", "name": "user", "column": "user_id", "encoding": "hash", "rows": 9, "min_count": 2,
        }));
        let message = error.unwrap_err();
        assert!(
            message.contains("`min_count` is no setting of encoding \"hash\""),
            "{message}"
        );
    }

    #[test]
    fn missing_and_unknown_settings_are_refused() {
        let without = parse(serde_json::json!(
            {"kind": "categorical", "name": "h", "column": "t", "encoding": "hour_of_day"}
        ));
        assert!(without.unwrap_err().contains("needs `time_zone`"));
        let unknown =
            parse(serde_json::json!({"kind": "dense", "name": "a", "column": "a", "log": true}));
        assert!(unknown.unwrap_err().contains("unknown field `log`"));
        let median = parse(
            serde_json::json!({"kind": "dense", "name": "a", "column": "a", "missing": "median"}),
        );
        assert!(
            median
                .unwrap_err()
                .contains("expected \"mean\" or a number")
        );
    }
}

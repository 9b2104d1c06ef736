//! The feature schema: everything that turns raw values into the model's inputs, fitted and final.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::input::{ColumnKind, InputColumn, SourceType};
use crate::vocabulary::Vocabularies;

/// How the vectors of one bag become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their sum.
    #[default]
    Sum,
    /// Their mean.
    Mean,
}

/// The one definition of a model's features, used by training and serving alike.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSchema {
    /// What a caller must send; the order of a [`RawBatch`](crate::RawBatch)'s columns.
    pub inputs: Vec<InputColumn>,
    /// The dense inputs of the model, in the order of their columns.
    pub dense: Vec<DenseFeature>,
    /// The categorical features, in the order of their bags.
    pub categorical: Vec<CategoricalFeature>,
    /// The tables that the categorical features look up.
    pub tables: Vec<TableSchema>,
    /// What the model predicts, a logit each.
    pub labels: Vec<String>,
}

/// One column of the dense input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseFeature {
    /// The feature's name.
    pub name: String,
    /// Where its value comes from.
    pub source: DenseSource,
    /// What is done to the value, in this order, in f32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<DenseStep>,
    /// What stands in for a missing value, after the steps.
    #[serde(default)]
    pub fill: f64,
}

/// Where a dense value comes from. Inputs are named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DenseSource {
    /// The value of an input.
    Column(String),
    /// `(positives + strength * prior) / (count + strength)`; missing where either input is.
    Rate {
        /// The input that counts positives.
        positives: String,
        /// The input that counts trials.
        count: String,
        /// How many trials the prior is worth.
        strength: f64,
        /// The rate of something that has not been tried.
        prior: f64,
    },
    /// 1 where any of these inputs is missing, else 0.
    Missing(Vec<String>),
}

/// One step of a dense feature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DenseStep {
    /// Limits the value to these bounds.
    Clip {
        /// The least value.
        low: f64,
        /// The greatest value.
        high: f64,
    },
    /// `sign(x) * ln(1 + |x|)`.
    Log1p,
    /// `ln(x / (1 - x))`, `x` limited to [[`LOGIT_EPSILON`], 1 - [`LOGIT_EPSILON`]].
    Logit,
    /// `(x - mean) / std`.
    Standardise {
        /// The mean of the training split.
        mean: f64,
        /// Its standard deviation; 1 for a constant column.
        std: f64,
    },
}

/// How close to 0 and 1 a logit's argument may come.
pub const LOGIT_EPSILON: f32 = 1e-6;

/// One categorical feature: a bag of table rows for each sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoricalFeature {
    /// The feature's name.
    pub name: String,
    /// The input it reads.
    pub input: String,
    /// How a value becomes a row.
    pub encoding: Encoding,
    /// The table that holds the row.
    pub table: String,
    /// How the vectors of a list become one.
    #[serde(default)]
    pub pooling: Pooling,
    /// Only the first so many elements of a list count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
}

/// How a value becomes a table row, fitted. Row 0 is the missing value's in each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Encoding {
    /// Rows `1..=unseen_rows` by hash for unknown keys, then one for each key of the table's vocabulary.
    Vocabulary {
        /// Rows shared by unknown keys, at least 1.
        unseen_rows: usize,
    },
    /// Row `1 + hash % (rows - 1)`.
    Hash {
        /// Rows of the table.
        rows: usize,
    },
    /// Row `1 + (edges <= x)`: `edges.len() + 1` intervals, an edge belongs to the one above it.
    Buckets {
        /// Strictly ascending edges.
        edges: Vec<f64>,
    },
    /// Row `1 + hour`, 0 to 23.
    HourOfDay {
        /// The IANA time zone of the clock.
        time_zone: String,
    },
    /// Row `1 + day`, Monday is 0.
    DayOfWeek {
        /// The IANA time zone of the calendar.
        time_zone: String,
    },
}

impl Encoding {
    /// The kinds of input that it can read.
    pub fn accepts(&self, kind: ColumnKind) -> bool {
        match self {
            Self::Vocabulary { .. } | Self::Hash { .. } => {
                matches!(kind, ColumnKind::Key | ColumnKind::KeyList)
            }
            Self::Buckets { .. } => kind == ColumnKind::Dense,
            Self::HourOfDay { .. } | Self::DayOfWeek { .. } => kind == ColumnKind::Time,
        }
    }

    /// The rows of a table under this encoding, whose vocabulary has `keys` keys if it has one.
    pub fn rows(&self, keys: usize) -> usize {
        match self {
            Self::Vocabulary { unseen_rows } => 1 + unseen_rows + keys,
            Self::Hash { rows } => *rows,
            Self::Buckets { edges } => edges.len() + 2,
            Self::HourOfDay { .. } => 25,
            Self::DayOfWeek { .. } => 8,
        }
    }
}

/// One table of embedding rows. What its vectors are is the graph's affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSchema {
    /// The table's name.
    pub name: String,
    /// Its number of rows.
    pub rows: usize,
    /// The width its features asked for; the model's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
}

impl FeatureSchema {
    /// The position of input `name`.
    pub fn input(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|input| input.name == name)
    }

    /// The table `name`.
    pub fn table(&self, name: &str) -> Option<&TableSchema> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The position of categorical feature `name`: its place among the bags.
    pub fn categorical(&self, name: &str) -> Option<usize> {
        self.categorical
            .iter()
            .position(|feature| feature.name == name)
    }

    /// The encoding of table `name`.
    pub fn encoding_of(&self, table: &str) -> Option<&Encoding> {
        self.categorical
            .iter()
            .find(|feature| feature.table == table)
            .map(|feature| &feature.encoding)
    }

    /// The schema of a warm start: this freshly fitted schema over the vocabularies that
    /// [`Vocabularies::grow`] made, so that each row of a table of `previous` keeps its meaning.
    ///
    /// # Errors
    /// A table of both has another encoding now (`unseen_rows`, hash rows, edges, time zone): its rows
    /// would change their meaning.
    pub fn grow(
        mut self,
        previous: &FeatureSchema,
        grown: &Vocabularies,
    ) -> Result<Self, SchemaError> {
        for index in 0..self.tables.len() {
            let table = self.tables[index].name.clone();
            let Some(encoding) = self.encoding_of(&table).cloned() else {
                continue;
            };
            if previous
                .encoding_of(&table)
                .is_some_and(|earlier| *earlier != encoding)
            {
                return Err(SchemaError::EncodingChanged { table });
            }
            self.tables[index].rows = encoding.rows(grown.get(&table).map_or(0, |keys| keys.len()));
        }
        Ok(self)
    }

    /// Checks that the schema is consistent in itself and with its vocabularies.
    ///
    /// # Errors
    /// The first inconsistency, by name.
    pub fn validate(&self, vocabularies: &Vocabularies) -> Result<(), SchemaError> {
        self.check_names()?;
        for input in &self.inputs {
            check_input(input)?;
        }
        for feature in &self.dense {
            self.check_dense(feature)?;
        }
        for feature in &self.categorical {
            self.check_categorical(feature)?;
        }
        for table in &self.tables {
            self.check_table(table, vocabularies)?;
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), SchemaError> {
        let inputs = self.inputs.iter().map(|input| ("input", &input.name));
        let tables = self.tables.iter().map(|table| ("table", &table.name));
        let labels = self.labels.iter().map(|label| ("label", label));
        let dense = self.dense.iter().map(|feature| ("feature", &feature.name));
        let categorical = self
            .categorical
            .iter()
            .map(|feature| ("feature", &feature.name));
        let mut seen = HashSet::new();
        for (what, name) in inputs
            .chain(tables)
            .chain(labels)
            .chain(dense)
            .chain(categorical)
        {
            if name.is_empty() {
                return Err(SchemaError::Unnamed { what });
            }
            if !seen.insert((what, name)) {
                return Err(SchemaError::Duplicate {
                    what,
                    name: name.clone(),
                });
            }
        }
        Ok(())
    }

    fn kind_of(&self, feature: &str, input: &str) -> Result<ColumnKind, SchemaError> {
        let found = self.inputs.iter().find(|column| column.name == input);
        found
            .map(|column| column.kind)
            .ok_or_else(|| SchemaError::UnknownInput {
                feature: feature.to_owned(),
                input: input.to_owned(),
            })
    }

    fn check_dense(&self, feature: &DenseFeature) -> Result<(), SchemaError> {
        let number = |what: &'static str, value: f64, valid: bool| match valid && value.is_finite()
        {
            true => Ok(()),
            false => Err(SchemaError::Number {
                feature: feature.name.clone(),
                what,
                value,
            }),
        };
        let dense = |input: &str| match self.kind_of(&feature.name, input)? {
            ColumnKind::Dense => Ok(()),
            kind => Err(SchemaError::Kind {
                feature: feature.name.clone(),
                input: input.to_owned(),
                kind,
            }),
        };
        match &feature.source {
            DenseSource::Column(input) => dense(input)?,
            DenseSource::Rate {
                positives,
                count,
                strength,
                prior,
            } => {
                dense(positives)?;
                dense(count)?;
                number("strength", *strength, *strength > 0.0)?;
                number("prior", *prior, true)?;
            }
            DenseSource::Missing(inputs) => inputs.iter().try_for_each(|input| dense(input))?,
        }
        number("fill", feature.fill, true)?;
        for step in &feature.steps {
            match *step {
                DenseStep::Clip { low, high } => {
                    number("clip's lower bound", low, true)?;
                    number("clip's upper bound", high, low <= high)?;
                }
                DenseStep::Standardise { mean, std } => {
                    number("mean", mean, true)?;
                    number("standard deviation", std, std > 0.0)?;
                }
                DenseStep::Log1p | DenseStep::Logit => {}
            }
        }
        Ok(())
    }

    fn check_categorical(&self, feature: &CategoricalFeature) -> Result<(), SchemaError> {
        let name = || feature.name.clone();
        let kind = self.kind_of(&feature.name, &feature.input)?;
        if !feature.encoding.accepts(kind) {
            return Err(SchemaError::Kind {
                feature: name(),
                input: feature.input.clone(),
                kind,
            });
        }
        if self.table(&feature.table).is_none() {
            return Err(SchemaError::UnknownTable {
                feature: name(),
                table: feature.table.clone(),
            });
        }
        if self.encoding_of(&feature.table) != Some(&feature.encoding) {
            return Err(SchemaError::EncodingsDiffer {
                feature: name(),
                table: feature.table.clone(),
            });
        }
        match &feature.encoding {
            Encoding::Vocabulary { unseen_rows: 0 } => {
                Err(SchemaError::NoUnseenRow { feature: name() })
            }
            Encoding::Hash { rows: 0 | 1 } => Err(SchemaError::HashRows { feature: name() }),
            // What counts is that they ascend in f32, the precision of the values they are compared with.
            Encoding::Buckets { edges }
                if !edges.iter().all(|&edge| (edge as f32).is_finite())
                    || !edges
                        .windows(2)
                        .all(|pair| (pair[0] as f32) < pair[1] as f32) =>
            {
                Err(SchemaError::Edges { feature: name() })
            }
            _ => Ok(()),
        }
    }

    fn check_table(
        &self,
        table: &TableSchema,
        vocabularies: &Vocabularies,
    ) -> Result<(), SchemaError> {
        let name = || table.name.clone();
        let encoding = self
            .encoding_of(&table.name)
            .ok_or_else(|| SchemaError::UnusedTable { table: name() })?;
        let vocabulary = vocabularies.get(&table.name);
        let needed = matches!(encoding, Encoding::Vocabulary { .. });
        if needed != vocabulary.is_some() {
            return Err(SchemaError::Vocabulary {
                table: name(),
                needed,
            });
        }
        let expected = encoding.rows(vocabulary.map_or(0, |keys| keys.len()));
        if expected != table.rows {
            return Err(SchemaError::Rows {
                table: name(),
                expected,
                got: table.rows,
            });
        }
        Ok(())
    }
}

fn check_input(input: &InputColumn) -> Result<(), SchemaError> {
    if !input.source.fits(input.kind) {
        let (name, kind, type_) = (input.name.clone(), input.kind, input.source);
        return Err(SchemaError::Source { name, kind, type_ });
    }
    match input.range {
        Some([low, high]) if low.is_nan() || high.is_nan() || low > high => {
            Err(SchemaError::Range {
                name: input.name.clone(),
                low,
                high,
            })
        }
        _ => Ok(()),
    }
}

/// A schema that contradicts itself or its vocabularies.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum SchemaError {
    #[error("a {what} of the schema has no name")]
    Unnamed { what: &'static str },
    #[error("{what} `{name}` occurs twice in the schema")]
    Duplicate { what: &'static str, name: String },
    #[error("input `{name}`: a {kind} column cannot hold values of type {type_}")]
    Source {
        name: String,
        kind: ColumnKind,
        type_: SourceType,
    },
    #[error("input `{name}`: the range [{low}, {high}] holds no value")]
    Range { name: String, low: f64, high: f64 },
    #[error("feature `{feature}` reads input `{input}`, which the schema does not have")]
    UnknownInput { feature: String, input: String },
    #[error("feature `{feature}` cannot read input `{input}`, a {kind} column")]
    Kind {
        feature: String,
        input: String,
        kind: ColumnKind,
    },
    #[error("feature `{feature}`: {what} is {value}, which is out of its bounds")]
    Number {
        feature: String,
        what: &'static str,
        value: f64,
    },
    #[error("feature `{feature}` looks up table `{table}`, which the schema does not have")]
    UnknownTable { feature: String, table: String },
    #[error(
        "feature `{feature}` shares table `{table}` with a feature of another encoding; give it a table of its own"
    )]
    EncodingsDiffer { feature: String, table: String },
    #[error("feature `{feature}`: a vocabulary needs at least one row for unseen identifiers")]
    NoUnseenRow { feature: String },
    #[error(
        "feature `{feature}`: a hashed table needs at least two rows, the first is the missing identifier's"
    )]
    HashRows { feature: String },
    #[error(
        "feature `{feature}`: bucket edges must be finite and strictly ascending in single precision"
    )]
    Edges { feature: String },
    #[error("no feature looks up table `{table}`")]
    UnusedTable { table: String },
    #[error("table `{table}` {}", if *needed { "needs a vocabulary and has none" } else { "has a vocabulary and no feature that uses it" })]
    Vocabulary { table: String, needed: bool },
    #[error("table `{table}` has {got} rows, its encoding and vocabulary make {expected}")]
    Rows {
        table: String,
        expected: usize,
        got: usize,
    },
    #[error("feature `{feature}`: `{time_zone}` is no IANA time zone, such as `Europe/Berlin`")]
    TimeZone { feature: String, time_zone: String },
    #[error(
        "table `{table}` has another encoding than in the previous model, so its rows would change their meaning; rename the table or start cold"
    )]
    EncodingChanged { table: String },
}

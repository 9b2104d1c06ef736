//! The feature schema: everything that turns raw values into the model's inputs, fitted and final.

mod error;
mod validation;

pub use error::SchemaError;

use serde::{Deserialize, Serialize};

use crate::input::{ColumnKind, InputColumn};
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
    /// Buckets keep the edges of `previous`, where their rows were learned. Dense features keep this fit.
    ///
    /// # Errors
    /// A table of both has another encoding now (its kind, `unseen_rows`, hash rows or time zone): its rows
    /// would change their meaning.
    pub fn grow(
        mut self,
        previous: &FeatureSchema,
        grown: &Vocabularies,
    ) -> Result<Self, SchemaError> {
        for feature in &mut self.categorical {
            match (&mut feature.encoding, previous.encoding_of(&feature.table)) {
                (Encoding::Buckets { edges }, Some(Encoding::Buckets { edges: earlier })) => {
                    edges.clone_from(earlier);
                }
                (encoding, Some(earlier)) if encoding != earlier => {
                    return Err(SchemaError::EncodingChanged {
                        table: feature.table.clone(),
                    });
                }
                _ => {}
            }
        }
        for index in 0..self.tables.len() {
            let keys = grown
                .get(&self.tables[index].name)
                .map_or(0, |keys| keys.len());
            if let Some(encoding) = self.encoding_of(&self.tables[index].name) {
                self.tables[index].rows = encoding.rows(keys);
            }
        }
        Ok(self)
    }
}

//! Input columns: what a caller must send, by name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;
use crate::nearest_name::{nearest, suggestion};

/// How the values of a column are held, see [`RawColumn`](crate::RawColumn).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// One number a row.
    Dense,
    /// One identifier a row.
    Key,
    /// Any number of identifiers a row.
    KeyList,
    /// One moment a row.
    Time,
}

impl fmt::Display for ColumnKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dense => "dense",
            Self::Key => "key",
            Self::KeyList => "key list",
            Self::Time => "time",
        })
    }
}

/// What the values of a column were before they became numbers or keys. A key list has the type of its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceType {
    /// A 64-bit signed integer.
    Integer,
    /// A floating-point number.
    Float,
    /// UTF-8 text.
    Text,
    /// A truth value.
    Boolean,
    /// Milliseconds since 1970-01-01 00:00 UTC, or text of RFC 3339.
    Timestamp,
}

impl SourceType {
    /// Whether a column of `kind` can hold values of this type.
    pub fn fits(self, kind: ColumnKind) -> bool {
        match kind {
            ColumnKind::Dense => matches!(self, Self::Integer | Self::Float | Self::Boolean),
            ColumnKind::Key | ColumnKind::KeyList => {
                matches!(self, Self::Integer | Self::Text | Self::Boolean)
            }
            ColumnKind::Time => self == Self::Timestamp,
        }
    }
}

impl fmt::Display for SourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Integer => "integer",
            Self::Float => "number",
            Self::Text => "text",
            Self::Boolean => "boolean",
            Self::Timestamp => "timestamp",
        })
    }
}

/// One column that a caller sends: its name, type, unit and valid range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputColumn {
    /// The name by which it is sent.
    pub name: String,
    /// How its values are held.
    pub kind: ColumnKind,
    /// What its values are where they come from.
    pub source: SourceType,
    /// The unit of its values, for people: `seconds`, `EUR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The least and the greatest valid value, both included. Training counts violations, serving refuses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// Whether a row without a value is refused by serving.
    #[serde(default)]
    pub required: bool,
}

impl InputColumn {
    /// Where the input called `name` stands among `inputs`.
    ///
    /// # Errors
    /// No input has this name.
    pub fn position(inputs: &[Self], name: &str) -> Result<usize, UnknownInput> {
        let found = inputs.iter().position(|input| input.name == name);
        found.ok_or_else(|| UnknownInput {
            name: excerpt(name).into_owned(),
            nearest: nearest(name, inputs.iter().map(|input| input.name.as_str()))
                .map(str::to_owned),
        })
    }
}

/// A name that no input has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no input of the model{}", suggestion(nearest))]
pub struct UnknownInput {
    /// What came; its beginning where it is long.
    pub name: String,
    /// The input that was probably meant.
    pub nearest: Option<String>,
}

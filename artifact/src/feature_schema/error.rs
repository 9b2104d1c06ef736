//! What is wrong with a feature schema.

use crate::input::{ColumnKind, SourceType};

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

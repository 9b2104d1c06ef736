//! What is wrong with feature specifications.

use crate::input::ColumnKind;
use crate::nearest_name::suggestion;

/// One fault of one feature specification.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum SpecError {
    #[error("a feature has no name")]
    Unnamed,
    #[error(
        "feature `{feature}` is defined twice (an indicator takes the name `<feature>.missing`)"
    )]
    Duplicate { feature: String },
    #[error(
        "feature `{feature}` reads column `{column}`, which the data does not have{}",
        suggestion(nearest)
    )]
    UnknownColumn {
        feature: String,
        column: String,
        nearest: Option<String>,
    },
    #[error(
        "feature `{feature}` cannot read column `{column}`: it needs a {expected} column, this is a {got} column"
    )]
    Kind {
        feature: String,
        column: String,
        expected: &'static str,
        got: ColumnKind,
    },
    #[error("feature `{feature}` cannot read column `{column}`: {reason}")]
    Unusable {
        feature: String,
        column: String,
        reason: String,
    },
    #[error("feature `{feature}` needs either `column` or `rate`, it has {}", if *both { "both" } else { "neither" })]
    Source { feature: String, both: bool },
    #[error("feature `{feature}`: `{setting}` is {got}, expected {expected}")]
    Setting {
        feature: String,
        setting: &'static str,
        expected: &'static str,
        got: String,
    },
    #[error(
        "features `{first}` and `{feature}` share table `{table}` and differ in {what}; make them equal or give each its own table"
    )]
    SharedTable {
        feature: String,
        first: String,
        table: String,
        what: &'static str,
    },
}

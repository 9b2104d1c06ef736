//! The model of some records: what their columns and scores are.

use serde::{Deserialize, Serialize};
use streamrec_artifact::InputColumn;

/// A model whose records follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggedModel {
    /// Its name in paths.
    pub name: String,
    /// Its version, a digest.
    pub version: String,
    /// Its labels, a score each.
    pub labels: Vec<String>,
    /// Its inputs, a column each.
    pub inputs: Vec<InputColumn>,
}

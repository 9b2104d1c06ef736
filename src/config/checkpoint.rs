//! `[checkpoint]`: when checkpoints are written and how many stay.

use serde::{Deserialize, Serialize};

/// Rules for checkpoints. One is always written at the end of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; only evaluations and the end write one where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// The newest checkpoints that stay; the best evaluated one stays besides.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every_steps: None,
            keep: 2,
        }
    }
}

impl CheckpointConfig {
    pub(super) fn check(&self, errors: &mut Vec<String>) {
        if self.every_steps == Some(0) {
            errors.push("`checkpoint.every_steps`: expected at least 1, got 0".into());
        }
        if self.keep == 0 {
            errors.push("`checkpoint.keep`: expected at least 1, got 0".into());
        }
    }
}

//! `[data]`: where samples come from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which dataset to train on, and how it is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder that `streamrec data import` or `data generate` wrote.
    pub dataset: PathBuf,
    /// The binary labels to predict, one head each.
    pub labels: Vec<String>,
    /// A column of sample weights; 1 where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// A key column: AUC is then also given as its mean over this key (GAUC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Rows are shuffled inside windows of this many blocks.
    #[serde(default = "window_blocks")]
    pub window_blocks: usize,
    /// Batches made ahead of the step.
    #[serde(default = "prefetch_batches")]
    pub prefetch_batches: usize,
}

fn window_blocks() -> usize {
    64
}

fn prefetch_batches() -> usize {
    4
}

impl DataConfig {
    pub(super) fn check(&self, errors: &mut Vec<String>) {
        if self.labels.is_empty() {
            errors.push("`data.labels`: name at least one label".into());
        }
        for (i, label) in self.labels.iter().enumerate() {
            if self.labels[..i].contains(label) {
                errors.push(format!("`data.labels`: `{label}` stands there twice"));
            }
        }
        if self.window_blocks == 0 {
            errors.push("`data.window_blocks`: expected at least 1, got 0".into());
        }
        if self.prefetch_batches == 0 {
            errors.push("`data.prefetch_batches`: expected at least 1, got 0".into());
        }
    }
}

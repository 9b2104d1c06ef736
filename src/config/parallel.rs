//! `[parallel]`: communication between ranks.

use serde::{Deserialize, Serialize};

/// How ranks talk to one another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParallelConfig {
    /// A rank that waits longer than this in a collective gives up and names the missing ranks.
    pub timeout_s: f64,
    /// Size of the first gradient bucket: small, so that reduction begins early.
    pub first_bucket_bytes: usize,
    /// Size of every other gradient bucket.
    pub bucket_bytes: usize,
}

impl Default for ParallelConfig {
    fn default() -> Self {
        Self {
            timeout_s: 300.0,
            first_bucket_bytes: 1 << 20,
            bucket_bytes: 25 << 20,
        }
    }
}

impl ParallelConfig {
    pub(super) fn check(&self, errors: &mut Vec<String>) {
        if !self.timeout_s.is_finite() || self.timeout_s <= 0.0 {
            errors.push(format!(
                "`parallel.timeout_s`: expected seconds above 0, got {}",
                self.timeout_s
            ));
        }
        for (name, bytes) in [
            ("first_bucket_bytes", self.first_bucket_bytes),
            ("bucket_bytes", self.bucket_bytes),
        ] {
            if bytes < 4 {
                errors.push(format!(
                    "`parallel.{name}`: expected at least 4, got {bytes}"
                ));
            }
        }
    }
}

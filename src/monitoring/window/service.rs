//! What a window's requests say of the service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use streamrec_artifact::NumberSketch;
use streamrec_artifact::sketch::SketchError;

/// Requests by how they ended, and their times. Two can be merged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Requests by status.
    pub requests: BTreeMap<String, u64>,
    /// Microseconds from a request to its answer, of those that were answered well.
    pub latency_us: NumberSketch,
    /// Microseconds that those waited for a batch.
    pub queue_us: NumberSketch,
}

impl Service {
    /// All requests.
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// The share of requests that were not answered well; none of none.
    pub fn error_rate(&self) -> Option<f64> {
        let (total, ok) = (self.total(), self.requests.get("ok").copied().unwrap_or(0));
        (total > 0).then(|| (total - ok) as f64 / total as f64)
    }

    /// The share of their time that requests waited: how close to its limit the server is.
    pub fn queue_share(&self) -> Option<f64> {
        let sum = |sketch: &NumberSketch| sketch.moments.mean() * sketch.moments.count() as f64;
        let latency = sum(&self.latency_us);
        (latency > 0.0).then(|| sum(&self.queue_us) / latency)
    }

    /// Adds all that `other` has.
    ///
    /// # Errors
    /// Sketches of different accuracies.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        for (status, count) in &other.requests {
            *self.requests.entry(status.clone()).or_default() += count;
        }
        self.latency_us.merge(&other.latency_us)?;
        self.queue_us.merge(&other.queue_us)
    }
}

//! Page-Hinkley: a sum of distances from the mean that leaves its extreme (Page, "Continuous inspection schemes",
//! Biometrika 41, 1954, <https://doi.org/10.1093/biomet/41.1-2.100>), with the forgetting of river.

use serde::{Deserialize, Serialize};

/// Values before anything is judged.
const WARM_UP: u64 = 30;
const FORGETTING: f64 = 1.0 - 0.0001;

/// Detects that the mean of a stream has risen or fallen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageHinkley {
    delta: f64,
    threshold: f64,
    count: u64,
    mean: f64,
    rising: f64,
    falling: f64,
    /// The least of `rising`; none before the first value.
    rising_least: Option<f64>,
    falling_most: f64,
    drifted: bool,
}

impl Default for PageHinkley {
    /// Changes of 0.005 are tolerated, sums of 50 are an alarm.
    fn default() -> Self {
        Self::new(0.005, 50.0)
    }
}

impl PageHinkley {
    /// A detector that tolerates changes of `delta` and alarms at a sum of `threshold`.
    pub fn new(delta: f64, threshold: f64) -> Self {
        Self {
            delta,
            threshold,
            count: 0,
            mean: 0.0,
            rising: 0.0,
            falling: 0.0,
            rising_least: None,
            // River's first bound.
            falling_most: -1.0,
            drifted: false,
        }
    }

    /// Adds a value; true is an alarm.
    pub fn update(&mut self, value: f64) -> bool {
        if self.drifted {
            *self = Self::new(self.delta, self.threshold);
        }
        self.count += 1;
        self.mean += (value - self.mean) / self.count as f64;
        let distance = value - self.mean;
        self.rising = FORGETTING * self.rising + distance - self.delta;
        self.falling = FORGETTING * self.falling + distance + self.delta;
        let least = self.rising_least.unwrap_or(f64::INFINITY).min(self.rising);
        self.rising_least = Some(least);
        self.falling_most = self.falling_most.max(self.falling);
        let greatest = (self.rising - least).max(self.falling_most - self.falling);
        self.drifted = self.count >= WARM_UP && greatest > self.threshold;
        self.drifted
    }
}

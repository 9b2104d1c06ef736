//! ADWIN: a window that shrinks to what still has one mean (Bifet and Gavaldà, "Learning from time-changing data
//! with adaptive windowing", SDM 2007, <https://doi.org/10.1137/1.9781611972771.42>).
//!
//! The window is an exponential histogram: level `l` holds buckets of `2^l` values, at most five of them before the
//! two oldest become one bucket of the next level. Memory is logarithmic in the window.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

const LEVEL_BUCKETS_MAX: usize = 5;
/// Cuts are looked for at each such update.
const CLOCK: u64 = 32;
/// Shorter windows are not cut.
const WIDTH_MIN: f64 = 10.0;
/// Either side of a cut holds at least so many values.
const SIDE_MIN: f64 = 5.0;

/// Detects that the mean of a stream of values from 0 to 1 has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adwin {
    delta: f64,
    updates: u64,
    width: f64,
    total: f64,
    /// The sum of squared distances from the window's mean.
    squares: f64,
    /// Of each level, oldest bucket first.
    levels: Vec<VecDeque<Bucket>>,
    drifted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bucket {
    total: f64,
    squares: f64,
}

impl Default for Adwin {
    /// With a confidence of 0.002.
    fn default() -> Self {
        Self::new(0.002)
    }
}

impl Adwin {
    /// A detector that takes equal means for different ones with about probability `delta`.
    pub fn new(delta: f64) -> Self {
        Self {
            delta,
            updates: 0,
            width: 0.0,
            total: 0.0,
            squares: 0.0,
            levels: vec![VecDeque::new()],
            drifted: false,
        }
    }

    /// Adds a value; true is an alarm.
    pub fn update(&mut self, value: f64) -> bool {
        if self.drifted {
            *self = Self::new(self.delta);
        }
        self.insert(value);
        self.updates += 1;
        self.drifted =
            self.updates.is_multiple_of(CLOCK) && self.width > WIDTH_MIN && self.shrink();
        self.drifted
    }

    /// The mean of the window; 0 of an empty one.
    pub fn mean(&self) -> f64 {
        if self.width > 0.0 {
            self.total / self.width
        } else {
            0.0
        }
    }

    /// The values in the window.
    pub fn width(&self) -> u64 {
        self.width as u64
    }

    fn insert(&mut self, value: f64) {
        if self.width > 0.0 {
            let distance = value - self.mean();
            self.squares += self.width * distance * distance / (self.width + 1.0);
        }
        self.width += 1.0;
        self.total += value;
        self.levels[0].push_back(Bucket {
            total: value,
            squares: 0.0,
        });
        let mut level = 0;
        while self.levels[level].len() > LEVEL_BUCKETS_MAX {
            if level + 1 == self.levels.len() {
                self.levels.push(VecDeque::new());
            }
            let size = size_of_level(level);
            if let (Some(a), Some(b)) = (
                self.levels[level].pop_front(),
                self.levels[level].pop_front(),
            ) {
                let distance = (a.total - b.total) / size;
                self.levels[level + 1].push_back(Bucket {
                    total: a.total + b.total,
                    squares: a.squares + b.squares + size * distance * distance / 2.0,
                });
            }
            level += 1;
        }
    }

    /// Drops old buckets until no cut divides the window into unequal parts; whether there was one.
    fn shrink(&mut self) -> bool {
        let mut shrunk = false;
        while self.has_cut() {
            shrunk = true;
            self.drop_oldest();
        }
        shrunk
    }

    fn has_cut(&self) -> bool {
        let (mut old_count, mut old_total) = (0.0, 0.0);
        for (level, buckets) in self.levels.iter().enumerate().rev() {
            let size = size_of_level(level);
            for bucket in buckets {
                old_count += size;
                old_total += bucket.total;
                let (count, total) = (self.width - old_count, self.total - old_total);
                if old_count < SIDE_MIN || count < SIDE_MIN {
                    continue;
                }
                let distance = old_total / old_count - total / count;
                if distance.abs() > self.bound(old_count, count) {
                    return true;
                }
            }
        }
        false
    }

    /// How far the means of two parts of these sizes may be apart by chance.
    fn bound(&self, old: f64, new: f64) -> f64 {
        let confidence = (2.0 * self.width.ln() / self.delta).ln();
        let inverse = 1.0 / (old - SIDE_MIN + 1.0) + 1.0 / (new - SIDE_MIN + 1.0);
        let variance = self.squares / self.width;
        (2.0 * inverse * variance * confidence).sqrt() + 2.0 / 3.0 * confidence * inverse
    }

    fn drop_oldest(&mut self) {
        let level = self.levels.len() - 1;
        let size = size_of_level(level);
        if let Some(bucket) = self.levels[level].pop_front() {
            self.width -= size;
            self.total -= bucket.total;
            let distance = bucket.total / size - self.total / self.width;
            self.squares -=
                bucket.squares + size * self.width * distance * distance / (size + self.width);
        }
        if self.levels[level].is_empty() && level > 0 {
            self.levels.pop();
        }
    }
}

fn size_of_level(level: usize) -> f64 {
    2f64.powi(level as i32)
}

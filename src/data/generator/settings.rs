//! What is generated.

use crate::data::{DEFAULT_BLOCK_ROWS, Error, Result};

/// Impressions shown together, at one time to one user.
pub(super) const REQUEST_IMPRESSIONS: u64 = 8;
const USERS_PER_IMPRESSION: f64 = 0.02;
const ITEMS_PER_IMPRESSION: f64 = 0.002;
/// Fewer items could not fill a request without repeating one.
const ITEMS_MIN: u64 = 2 * REQUEST_IMPRESSIONS;
/// Users and items are numbered with 32 bits.
const COUNT_MAX: u64 = u32::MAX as u64;
/// Monday, 5 January 2026, 00:00 UTC.
const START_MS: i64 = 1_767_571_200_000;
pub(super) const DAY_MS: i64 = 86_400_000;

/// What is generated: its size, and how far it is from ideal.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratorSettings {
    /// The dataset's name.
    pub name: String,
    /// The rows of all splits.
    pub impressions: u64,
    /// Decides everything that is random.
    pub seed: u64,
    /// The number of users; 20,000 a million impressions where none is given.
    pub users: Option<u64>,
    /// The number of items; 2,000 a million impressions where none is given.
    pub items: Option<u64>,
    /// How many days the impressions span.
    pub days: u32,
    /// When they begin, in milliseconds since the epoch UTC.
    pub start_ms: i64,
    /// How fast the world changes, in radians a day that tastes rotate; popularity goes round the
    /// catalogue at the same pace. 0 is a world at rest.
    pub drift_per_day: f64,
    /// The share of numbers that are missing, in each column that may miss any.
    pub missing_dense: f64,
    /// The share of rows without a user, and of rows without an item.
    pub missing_ids: f64,
    /// The share of watch durations that arrive too late and are missing.
    pub late: f64,
    /// Threads that generate; 0 is one for each processor. They do not change the result.
    pub threads: usize,
    /// Rows of a packed block.
    pub block_rows: usize,
}

impl Default for GeneratorSettings {
    fn default() -> Self {
        Self {
            name: "streamrec-generated".into(),
            impressions: 1_000_000,
            seed: 7,
            users: None,
            items: None,
            days: 10,
            start_ms: START_MS,
            drift_per_day: 0.0,
            missing_dense: 0.03,
            missing_ids: 0.01,
            late: 0.02,
            threads: 0,
            block_rows: DEFAULT_BLOCK_ROWS,
        }
    }
}

impl GeneratorSettings {
    /// The number of users that will be generated.
    pub fn user_count(&self) -> u64 {
        self.users
            .unwrap_or((self.impressions as f64 * USERS_PER_IMPRESSION) as u64)
            .max(1)
    }

    /// The number of items that will be generated.
    pub fn item_count(&self) -> u64 {
        self.items
            .unwrap_or((self.impressions as f64 * ITEMS_PER_IMPRESSION) as u64)
            .max(ITEMS_MIN)
    }

    /// How long the impressions span, in milliseconds.
    pub(super) fn span_ms(&self) -> i64 {
        i64::from(self.days) * DAY_MS
    }

    /// Requests, each of [`REQUEST_IMPRESSIONS`] impressions but the last.
    pub(super) fn requests(&self) -> u64 {
        self.impressions.div_ceil(REQUEST_IMPRESSIONS)
    }

    pub(super) fn check(&self) -> Result<()> {
        let shares = [
            ("missing_dense", self.missing_dense),
            ("missing_ids", self.missing_ids),
            ("late", self.late),
        ];
        for (what, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::settings(
                    what,
                    format!("expected a share of 0 to 1, got {share}"),
                ));
            }
        }
        if !self.drift_per_day.is_finite() {
            let problem = format!("expected radians a day, got {}", self.drift_per_day);
            return Err(Error::settings("drift_per_day", problem));
        }
        let counts = [
            ("impressions", self.impressions, u64::MAX),
            ("days", self.days.into(), 36_500),
            ("users", self.user_count(), COUNT_MAX),
            ("items", self.item_count(), COUNT_MAX),
        ];
        for (what, count, most) in counts {
            if !(1..=most).contains(&count) {
                return Err(Error::settings(
                    what,
                    format!("expected 1 to {most}, got {count}"),
                ));
            }
        }
        Ok(())
    }
}

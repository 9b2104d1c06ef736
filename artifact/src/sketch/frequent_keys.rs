//! The most frequent keys of a stream, with a bound on what was missed: Misra and Gries's counters.
//!
//! When there are twice as many counters as wanted, the count of the greatest that is not wanted is taken from
//! all, and those without a rest go. What was taken in sum is the most that any count is short of.
//! Misra, Gries 1982; merging: Agarwal et al., "Mergeable Summaries", PODS 2012.

use serde::{Deserialize, Serialize};

use super::{SketchError, sum};
use crate::key::MISSING_KEY;
use crate::key_map::KeyMap;

/// The counters of profiles: every key of more than 0.4 % of all is among them.
pub const DEFAULT_COUNTERS: u32 = 256;

const COUNTERS_MAX: u32 = 1 << 20;

/// A mergeable sketch of the most frequent keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "State", into = "State")]
pub struct FrequentKeys {
    counters: u32,
    count: u64,
    /// The most that the count of any key is short of.
    short: u64,
    kept: KeyMap<u64>,
}

/// A key, and how often it occurs at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrequentKey {
    /// The key.
    pub key: u64,
    /// How often at least; at most [`FrequentKeys::short`] more.
    pub count: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    counters: u32,
    count: u64,
    short: u64,
    keys: Vec<FrequentKey>,
}

impl Default for FrequentKeys {
    fn default() -> Self {
        Self::new(DEFAULT_COUNTERS)
    }
}

impl PartialEq for FrequentKeys {
    fn eq(&self, other: &Self) -> bool {
        (self.counters, self.count, self.short) == (other.counters, other.count, other.short)
            && self.descending() == other.descending()
    }
}

impl FrequentKeys {
    /// An empty sketch that keeps at least the `counters` most frequent keys; moved into 1 to 2^20.
    pub fn new(counters: u32) -> Self {
        Self {
            counters: counters.clamp(1, COUNTERS_MAX),
            count: 0,
            short: 0,
            kept: KeyMap::with_capacity(0),
        }
    }

    /// Adds a key `times` times; [`MISSING_KEY`] is none.
    #[inline]
    pub fn add(&mut self, key: u64, times: u64) {
        if times == 0 || key == MISSING_KEY {
            return;
        }
        *self.kept.entry(key) += times;
        self.count += times;
        if self.kept.len() > 2 * self.counters as usize {
            self.shrink();
        }
    }

    /// Adds all that `other` has seen.
    ///
    /// # Errors
    /// The two have different numbers of counters.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        if self.counters != other.counters {
            return Err(SketchError::new(
                "frequent keys",
                "counters",
                self.counters.to_string(),
                other.counters,
            ));
        }
        let count = sum("frequent keys", self.count, other.count)?;
        for FrequentKey { key, count } in other.descending() {
            *self.kept.entry(key) += count;
        }
        self.count = count;
        self.short += other.short;
        if self.kept.len() > 2 * self.counters as usize {
            self.shrink();
        }
        Ok(())
    }

    /// How many keys it has seen, repetitions included.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The most that a count is short of. A key that is not kept occurred no more often than this.
    pub fn short(&self) -> u64 {
        self.short
    }

    /// How often `key` occurred at least; at most [`Self::short`] more.
    pub fn at_least(&self, key: u64) -> u64 {
        self.kept.get(key).unwrap_or(0)
    }

    /// The kept keys, the most frequent first, then by key.
    pub fn descending(&self) -> Vec<FrequentKey> {
        let kept = self.kept.iter();
        let mut found: Vec<FrequentKey> = kept
            .map(|(key, count)| FrequentKey { key, count })
            .collect();
        found.sort_unstable_by_key(|entry| (std::cmp::Reverse(entry.count), entry.key));
        found
    }

    fn shrink(&mut self) {
        let found = self.descending();
        let taken = found[self.counters as usize].count;
        let mut kept = KeyMap::with_capacity(2 * self.counters as usize + 1);
        for FrequentKey { key, count } in found.into_iter().filter(|entry| entry.count > taken) {
            *kept.entry(key) = count - taken;
        }
        self.kept = kept;
        self.short += taken;
    }
}

impl From<FrequentKeys> for State {
    fn from(sketch: FrequentKeys) -> Self {
        Self {
            counters: sketch.counters,
            count: sketch.count,
            short: sketch.short,
            keys: sketch.descending(),
        }
    }
}

impl TryFrom<State> for FrequentKeys {
    type Error = SketchError;

    fn try_from(state: State) -> Result<Self, SketchError> {
        let refuse = |field, expected: String, got: String| {
            Err(SketchError::new("frequent keys", field, expected, got))
        };
        if !(1..=COUNTERS_MAX).contains(&state.counters) {
            let expected = format!("1 to {COUNTERS_MAX}");
            return refuse("counters", expected, state.counters.to_string());
        }
        let most = 2 * state.counters as usize;
        if state.keys.len() > most {
            return refuse(
                "keys",
                format!("at most {most}"),
                state.keys.len().to_string(),
            );
        }
        let mut kept: KeyMap<u64> = KeyMap::with_capacity(state.keys.len());
        let mut sum = 0u128;
        for &FrequentKey { key, count } in &state.keys {
            if key == MISSING_KEY || count == 0 || kept.get(key).is_some() {
                let expected = "each key once, more than 0 times".into();
                return refuse("keys", expected, format!("key {key} {count} times"));
            }
            *kept.entry(key) = count;
            sum += u128::from(count);
        }
        if sum > u128::from(state.count) || u128::from(state.short) > u128::from(state.count) - sum
        {
            let expected = format!("at least {sum} + {}", state.short);
            return refuse("count", expected, state.count.to_string());
        }
        Ok(Self {
            counters: state.counters,
            count: state.count,
            short: state.short,
            kept,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(sketch: &FrequentKeys, truth: &BTreeMap<u64, u64>) -> Result<(), TestCaseError> {
        let total: u64 = truth.values().sum();
        prop_assert_eq!(sketch.count(), total);
        prop_assert!(sketch.short() <= total / u64::from(sketch.counters));
        for (&key, &count) in truth {
            let found = sketch.at_least(key);
            prop_assert!(found <= count && count <= found + sketch.short(), "{}", key);
        }
        prop_assert!(sketch.descending().len() <= 2 * sketch.counters as usize);
        Ok(())
    }

    proptest! {
        #[test]
        fn counts_lie_within_the_bound_also_after_merges(
            keys in prop::collection::vec(0u64..60, 1..2000), cut in 1usize..700,
        ) {
            // Squares make some keys frequent.
            let keys: Vec<u64> = keys.into_iter().map(|key| key * key / 60).collect();
            let mut truth = BTreeMap::new();
            let (mut whole, mut merged) = (FrequentKeys::new(8), FrequentKeys::new(8));
            for part in keys.chunks(cut) {
                let mut sketch = FrequentKeys::new(8);
                for &key in part {
                    *truth.entry(key).or_insert(0) += 1;
                    whole.add(key, 1);
                    sketch.add(key, 1);
                }
                merged.merge(&sketch).unwrap();
            }
            check(&whole, &truth)?;
            check(&merged, &truth)?;
            let json = serde_json::to_string(&merged).unwrap();
            prop_assert_eq!(serde_json::from_str::<FrequentKeys>(&json).unwrap(), merged);
        }
    }

    #[test]
    fn a_sketch_that_contradicts_itself_is_refused() {
        for wrong in [
            r#"{"counters":0,"count":0,"short":0,"keys":[]}"#,
            r#"{"counters":1,"count":3,"short":0,"keys":[{"key":1,"count":1},{"key":1,"count":1}]}"#,
            r#"{"counters":1,"count":3,"short":0,"keys":[{"key":1,"count":0}]}"#,
            r#"{"counters":1,"count":3,"short":0,"keys":[{"key":1,"count":4}]}"#,
            r#"{"counters":1,"count":3,"short":2,"keys":[{"key":1,"count":2}]}"#,
            r#"{"counters":1,"count":9,"short":0,"keys":[{"key":1,"count":1},{"key":2,"count":1},{"key":3,"count":1}]}"#,
        ] {
            assert!(
                serde_json::from_str::<FrequentKeys>(wrong).is_err(),
                "{wrong}"
            );
        }
    }
}

//! Which rows train, which decide early stopping, and which judge.
//!
//! Shares are taken in whole millionths, so `floor(n * share)` is exact.

use serde::{Deserialize, Serialize};
use streamrec_artifact::key;

use crate::data::Split;

/// How rows are divided into train, valid and test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitSchema {
    /// In order of time. Of `n` rows, valid begins at `floor(n * (1 - valid - test))` and test at
    /// `floor(n * (1 - test))`, each moved later until it does not part rows of equal times.
    Time {
        /// The share of valid rows.
        #[serde(default = "tenth")]
        valid: f64,
        /// The share of test rows.
        #[serde(default = "tenth")]
        test: f64,
    },
    /// In order of the files, cut like `time`.
    Order {
        /// The share of valid rows.
        #[serde(default = "tenth")]
        valid: f64,
        /// The share of test rows.
        #[serde(default = "tenth")]
        test: f64,
    },
    /// The last rows of each key. Row `p` (from 0) of a key with `n` rows is test where
    /// `p >= n - floor(n * test)`, else valid where `p >= n - floor(n * test) - floor(n * valid)`.
    KeyTail {
        /// The key column, such as the user.
        key: String,
        /// The share of valid rows of each key.
        #[serde(default = "tenth")]
        valid: f64,
        /// The share of test rows of each key.
        #[serde(default = "tenth")]
        test: f64,
    },
    /// All rows of a key together, by the upper bits of XXH3-64 of its 8 little-endian bytes.
    Hash {
        /// The key column, such as the user.
        key: String,
        /// The share of keys whose rows are valid.
        #[serde(default = "tenth")]
        valid: f64,
        /// The share of keys whose rows are test.
        #[serde(default = "tenth")]
        test: f64,
    },
    /// All rows into one split, such as data imported only to judge a model.
    All {
        /// The split.
        into: Split,
    },
}

impl SplitSchema {
    /// What holds where a schema says nothing: by time where rows have one, else by order.
    pub(super) fn usual(has_time: bool) -> Self {
        let (valid, test) = (tenth(), tenth());
        if has_time {
            Self::Time { valid, test }
        } else {
            Self::Order { valid, test }
        }
    }
}

const MILLION: u64 = 1_000_000;

fn tenth() -> f64 {
    0.1
}

/// `floor(n * millionths / 1000000)`.
fn floor_share(n: u64, millionths: u64) -> u64 {
    (u128::from(n) * u128::from(millionths) / u128::from(MILLION)) as u64
}

fn millionths(share: f64) -> u64 {
    (share * MILLION as f64).round() as u64
}

impl SplitSchema {
    /// The shares of valid and test rows in millionths; `None` where there are none.
    fn shares(&self) -> Option<(u64, u64)> {
        match self {
            Self::Time { valid, test }
            | Self::Order { valid, test }
            | Self::KeyTail { valid, test, .. }
            | Self::Hash { valid, test, .. } => Some((millionths(*valid), millionths(*test))),
            Self::All { .. } => None,
        }
    }

    /// The key column that decides, if one does.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::KeyTail { key, .. } | Self::Hash { key, .. } => Some(key),
            _ => None,
        }
    }

    pub(super) fn check(&self, errors: &mut Vec<String>) {
        let (Self::Time { valid, test }
        | Self::Order { valid, test }
        | Self::KeyTail { valid, test, .. }
        | Self::Hash { valid, test, .. }) = self
        else {
            return;
        };
        let share = |value: &f64| (0.0..=1.0).contains(value);
        if !share(valid) || !share(test) || valid + test > 1.0 {
            errors.push(format!(
                "`split`: `valid` and `test` are shares from 0 to 1 that leave the rest to train, got {valid} and {test}"
            ));
        }
    }
}

/// Where valid and test begin among `rows` rows that are cut by their position.
pub(super) fn cuts(schema: &SplitSchema, rows: u64) -> [u64; 2] {
    let (valid, test) = schema.shares().unwrap_or_default();
    [valid + test, test].map(|held_out| floor_share(rows, MILLION.saturating_sub(held_out)))
}

/// Gives each row its split, in the order of the dataset.
#[derive(Debug)]
pub(super) enum Splitter {
    /// By position, never parting equal times.
    Cuts {
        valid_from: u64,
        test_from: u64,
        row: u64,
        split: Split,
        last_time: Option<i64>,
    },
    /// The tails of keys: rows still to come and rows of the key in all.
    KeyTail {
        key: usize,
        seen: std::collections::HashMap<u64, (u64, u64)>,
        valid: u64,
        test: u64,
    },
    /// By hash of a key.
    Hash { key: usize, valid: u64, test: u64 },
    /// All alike.
    All(Split),
}

impl Splitter {
    /// `rows` counts all rows; `key` is the place of the deciding column; `key_rows` counts the
    /// rows of each key (for `key_tail` only).
    pub(super) fn new(
        schema: &SplitSchema,
        rows: u64,
        key: Option<usize>,
        key_rows: std::collections::HashMap<u64, u64>,
    ) -> Self {
        let (valid, test) = schema.shares().unwrap_or_default();
        match (schema, key) {
            (SplitSchema::All { into }, _) => Self::All(*into),
            (SplitSchema::KeyTail { .. }, Some(key)) => Self::KeyTail {
                key,
                seen: key_rows
                    .into_iter()
                    .map(|(key, rows)| (key, (0, rows)))
                    .collect(),
                valid,
                test,
            },
            (SplitSchema::Hash { .. }, Some(key)) => Self::Hash { key, valid, test },
            _ => {
                let [valid_from, test_from] = cuts(schema, rows);
                Self::Cuts {
                    valid_from,
                    test_from,
                    row: 0,
                    split: Split::Train,
                    last_time: None,
                }
            }
        }
    }

    /// Which column it reads keys from.
    pub(super) fn key(&self) -> Option<usize> {
        match self {
            Self::KeyTail { key, .. } | Self::Hash { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// The split of the next row; `time` only where rows are cut by time.
    pub(super) fn next(&mut self, key: u64, time: Option<i64>) -> Split {
        match self {
            Self::All(split) => *split,
            Self::Hash { valid, test, .. } => {
                let bucket = ((u128::from(key::hash(key)) * u128::from(MILLION)) >> 64) as u64;
                if bucket >= MILLION - *test {
                    Split::Test
                } else if bucket >= MILLION - *test - *valid {
                    Split::Valid
                } else {
                    Split::Train
                }
            }
            Self::KeyTail {
                seen, valid, test, ..
            } => {
                let (position, rows) = seen.entry(key).or_insert((0, 1));
                let test_from = *rows - floor_share(*rows, *test);
                let valid_from = test_from.saturating_sub(floor_share(*rows, *valid));
                *position += 1;
                match *position - 1 {
                    p if p >= test_from => Split::Test,
                    p if p >= valid_from => Split::Valid,
                    _ => Split::Train,
                }
            }
            Self::Cuts {
                valid_from,
                test_from,
                row,
                split,
                last_time,
            } => {
                let tied = time.is_some() && time == *last_time;
                if !tied {
                    *split = if *row >= *test_from {
                        Split::Test
                    } else if *row >= *valid_from {
                        Split::Valid
                    } else {
                        Split::Train
                    };
                }
                *row += 1;
                *last_time = time;
                *split
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(schema: &SplitSchema, rows: &[(u64, Option<i64>)]) -> Vec<Split> {
        let mut key_rows = std::collections::HashMap::new();
        for (key, _) in rows {
            *key_rows.entry(*key).or_insert(0) += 1;
        }
        let mut splitter = Splitter::new(schema, rows.len() as u64, Some(0), key_rows);
        rows.iter()
            .map(|(key, time)| splitter.next(*key, *time))
            .collect()
    }

    fn counts(splits: &[Split]) -> [usize; 3] {
        [Split::Train, Split::Valid, Split::Test]
            .map(|s| splits.iter().filter(|x| **x == s).count())
    }

    #[test]
    fn tenths_of_ten_rows_are_one_row() {
        let rows: Vec<_> = (0..10).map(|t| (0, Some(t))).collect();
        for schema in [
            SplitSchema::Time {
                valid: 0.1,
                test: 0.1,
            },
            SplitSchema::KeyTail {
                key: "user".into(),
                valid: 0.1,
                test: 0.1,
            },
        ] {
            let splits = splits(&schema, &rows);
            assert_eq!(counts(&splits), [8, 1, 1], "{schema:?}");
            assert_eq!(splits[9], Split::Test);
            assert_eq!(splits[8], Split::Valid);
        }
    }

    #[test]
    fn equal_times_stay_together() {
        let times = [0, 1, 2, 3, 4, 5, 6, 7, 7, 7];
        let rows: Vec<_> = times.iter().map(|t| (0, Some(*t))).collect();
        let splits = splits(
            &SplitSchema::Time {
                valid: 0.2,
                test: 0.1,
            },
            &rows,
        );
        assert_eq!(
            counts(&splits),
            [7, 3, 0],
            "valid begins at row 7, test would part rows 8 and 9"
        );
    }

    #[test]
    fn tails_are_of_each_key() {
        let rows: Vec<_> = (0..15).map(|i| (u64::from(i >= 10), None)).collect();
        let schema = SplitSchema::KeyTail {
            key: "user".into(),
            valid: 0.2,
            test: 0.2,
        };
        let splits = splits(&schema, &rows);
        assert_eq!(counts(&splits[..10]), [6, 2, 2]);
        assert_eq!(counts(&splits[10..]), [3, 1, 1]);
    }

    #[test]
    fn hashes_keep_keys_together_and_shares_about_right() {
        let rows: Vec<_> = (0..20_000).map(|i| (i / 2, None)).collect();
        let splits = splits(
            &SplitSchema::Hash {
                key: "user".into(),
                valid: 0.1,
                test: 0.2,
            },
            &rows,
        );
        assert!(splits.chunks(2).all(|pair| pair[0] == pair[1]));
        let [_, valid, test] = counts(&splits);
        assert!(
            (1700..2300).contains(&valid) && (3600..4400).contains(&test),
            "{valid} {test}"
        );
    }
}

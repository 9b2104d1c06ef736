//! Fitting one table: its vocabulary or its bucket edges.

use crate::bounded_sample::{BoundedSample, quantile};
use crate::dense_column::numbers;
use crate::feature_schema::Encoding;
use crate::feature_spec::{BucketSpec, EncodingSpec};
use crate::key::MISSING_KEY;
use crate::key_map::KeyMap;
use crate::raw::{RawBatch, RawColumn};
use crate::vocabulary::{Vocabulary, VocabularyError};

/// The accumulators of one table, over all features that look it up.
#[derive(Debug, Clone)]
pub(crate) struct TableFit {
    pub(crate) name: String,
    pub(crate) spec: EncodingSpec,
    pub(crate) dim: Option<usize>,
    /// The inputs it is fitted on, each with how many elements of a list count.
    pub(crate) readers: Vec<(usize, usize)>,
    counts: KeyMap<u64>,
    sample: BoundedSample<f64>,
}

impl TableFit {
    pub(crate) fn new(name: String, spec: EncodingSpec, dim: Option<usize>) -> Self {
        let (counts, sample) = (KeyMap::with_capacity(0), BoundedSample::default());
        Self {
            name,
            spec,
            dim,
            readers: Vec::new(),
            counts,
            sample,
        }
    }

    /// Adds a batch that begins at row `first` of the split.
    pub(crate) fn observe(&mut self, raw: &RawBatch, first: u64) {
        let readers = self.readers.len() as u64;
        for (reader, &(input, max_length)) in (0..).zip(&self.readers) {
            match &self.spec {
                EncodingSpec::Vocabulary { .. } => {
                    count_keys(&mut self.counts, &raw.columns[input], max_length)
                }
                EncodingSpec::Buckets(BucketSpec::Quantiles(_)) => {
                    for (&value, row) in numbers(raw, input)
                        .iter()
                        .zip(first..)
                        .filter(|(x, _)| x.is_finite())
                    {
                        self.sample.offer(row * readers + reader, f64::from(value));
                    }
                }
                _ => {}
            }
        }
    }

    /// The fitted encoding, and its vocabulary where it has one.
    pub(crate) fn finish(&self) -> Result<(Encoding, Option<Vocabulary>), VocabularyError> {
        Ok(match &self.spec {
            EncodingSpec::Vocabulary {
                min_count,
                max_size,
                unseen_rows,
            } => {
                let keys = most_frequent(&self.counts, *min_count, max_size.unwrap_or(usize::MAX));
                (
                    Encoding::Vocabulary {
                        unseen_rows: *unseen_rows,
                    },
                    Some(Vocabulary::new(keys)?),
                )
            }
            EncodingSpec::Hash { rows } => (Encoding::Hash { rows: *rows }, None),
            EncodingSpec::Buckets(BucketSpec::Edges(edges)) => (
                Encoding::Buckets {
                    edges: edges.clone(),
                },
                None,
            ),
            EncodingSpec::Buckets(BucketSpec::Quantiles(count)) => (
                Encoding::Buckets {
                    edges: quantile_edges(&self.sample.sorted(), *count),
                },
                None,
            ),
            EncodingSpec::HourOfDay { time_zone } => (
                Encoding::HourOfDay {
                    time_zone: time_zone.clone(),
                },
                None,
            ),
            EncodingSpec::DayOfWeek { time_zone } => (
                Encoding::DayOfWeek {
                    time_zone: time_zone.clone(),
                },
                None,
            ),
        })
    }
}

fn count_keys(counts: &mut KeyMap<u64>, column: &RawColumn, max_length: usize) {
    let mut count = |keys: &[u64]| {
        for &key in keys.iter().filter(|&&key| key != MISSING_KEY) {
            *counts.entry(key) += 1;
        }
    };
    match column {
        RawColumn::Key(keys) => count(keys),
        RawColumn::KeyList { offsets, keys } => {
            for bounds in offsets.windows(2) {
                let list = &keys[bounds[0] as usize..bounds[1] as usize];
                // The elements that the encoder will look up, no others.
                count(&list[..list.len().min(max_length)]);
            }
        }
        // The plan let key columns through only.
        other => unreachable!("a {} column holds no keys", other.kind()),
    }
}

/// The keys counted at least `min_count` times, by descending count, then ascending key.
fn most_frequent(counts: &KeyMap<u64>, min_count: u64, max_size: usize) -> Vec<u64> {
    let mut counted: Vec<(u64, u64)> = counts
        .iter()
        .filter(|&(_, count)| count >= min_count)
        .collect();
    counted.sort_unstable_by_key(|&(key, count)| (std::cmp::Reverse(count), key));
    counted.truncate(max_size);
    counted.into_iter().map(|(key, _)| key).collect()
}

/// The edges of `count` intervals of equal counts; fewer where values repeat.
fn quantile_edges(ascending: &[f64], count: usize) -> Vec<f64> {
    let edges = (1..count).filter_map(|edge| quantile(ascending, edge as f64 / count as f64));
    // An edge at the least value would leave the first interval empty.
    let mut edges: Vec<f64> = edges.filter(|&edge| edge > ascending[0]).collect();
    edges.dedup();
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_edges_make_intervals_of_equal_counts() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(quantile_edges(&values, 4), [25.0, 50.0, 74.0]);
    }

    #[test]
    fn repeated_values_make_fewer_edges_and_no_empty_interval() {
        assert_eq!(quantile_edges(&[1.0, 1.0, 1.0, 1.0, 2.0], 10), [2.0]);
        assert_eq!(quantile_edges(&[5.0; 9], 4), [0.0; 0]);
        assert_eq!(quantile_edges(&[], 4), [0.0; 0]);
    }

    #[test]
    fn keys_come_by_descending_count_then_ascending_key() {
        let mut counts = KeyMap::with_capacity(0);
        for (key, count) in [(9, 5), (3, 2), (1, 2), (7, 1)] {
            *counts.entry(key) = count;
        }
        assert_eq!(most_frequent(&counts, 2, 10), [9, 1, 3]);
        assert_eq!(most_frequent(&counts, 1, 2), [9, 1]);
    }
}

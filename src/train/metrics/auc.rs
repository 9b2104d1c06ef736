//! Exact area under the ROC curve over all ranks.
//!
//! 1. Scores become integers of the same order, and all ranks add up a histogram of their upper
//!    16 bits.
//! 2. From it every rank derives the same cut points, and each takes one range of scores, so that
//!    equal scores meet on one rank (all-to-all). Where scores are fewer than the histogram's bins,
//!    the first rank takes all instead: it sorts them sooner than histograms are added up.
//! 3. Each rank sorts its range and counts pairs in 64-bit integers, a tie as half a pair.
//!
//! Ranks hold equal shares as far as scores differ in their upper 16 bits (1 in 128): a constant
//! model's scores all meet on one rank. The result does not depend on the order of rows or on the
//! number of ranks.

use super::{Predictions, ordered};
use tracing::trace_span;

use crate::comm::{CommError, Communicator, all_gather_pod, all_reduce_f64};

const BINS: usize = 1 << 16;

/// The probability that a random positive scores above a random negative, ties counting half;
/// 0.5 where one of the classes is missing. Collective.
///
/// # Errors
/// When a collective fails.
pub fn auc(comm: &dyn Communicator, local: &Predictions) -> Result<f64, CommError> {
    let (mut negatives, mut positives) = (Vec::new(), Vec::new());
    for (_, score, happened) in local.counted() {
        let side = if happened {
            &mut positives
        } else {
            &mut negatives
        };
        side.push(ordered(score));
    }
    if comm.size() > 1 {
        let cuts = cuts(comm, &negatives, &positives)?;
        negatives = exchange(comm, &negatives, &cuts)?;
        positives = exchange(comm, &positives, &cuts)?;
    }
    let twice_wins = twice_wins(&mut negatives, &mut positives);
    let local = [twice_wins, negatives.len() as u64, positives.len() as u64];
    let ranges = all_gather_pod(comm, &[local])?;
    Ok(combine(ranges.iter().flatten()))
}

/// The first bins of all ranks but the first, in order.
fn cuts(comm: &dyn Communicator, a: &[u32], b: &[u32]) -> Result<Vec<usize>, CommError> {
    // Counts in f64 are exact up to 2^53 rows.
    let mut total = [(a.len() + b.len()) as f64];
    all_reduce_f64(comm, &mut total)?;
    let [total] = total;
    let others = 1..comm.size();
    if total <= BINS as f64 {
        return Ok(others.map(|_| BINS).collect());
    }
    let mut histogram = vec![0f64; BINS];
    for &score in a.iter().chain(b) {
        histogram[bin(score)] += 1.0;
    }
    all_reduce_f64(comm, &mut histogram)?;
    let ends = histogram.iter().scan(0.0, |below, count| {
        *below += count;
        Some(*below)
    });
    let ends: Vec<f64> = ends.collect();
    Ok(others
        .map(|rank| {
            let share = total * rank as f64 / comm.size() as f64;
            ends.partition_point(|end| *end <= share)
        })
        .collect())
}

fn bin(score: u32) -> usize {
    (score >> 16) as usize
}

fn exchange(
    comm: &dyn Communicator,
    scores: &[u32],
    cuts: &[usize],
) -> Result<Vec<u32>, CommError> {
    let mut messages: Vec<_> = (0..comm.size()).map(|_| comm.message()).collect();
    for score in scores {
        let owner = cuts.partition_point(|cut| *cut <= bin(*score));
        messages[owner].extend_from_slice(&score.to_le_bytes());
    }
    let received =
        trace_span!("wait for predictions").in_scope(|| comm.all_to_all_bytes(messages).wait())?;
    let words = received
        .iter()
        .flat_map(|message| message.as_chunks::<4>().0);
    Ok(words.map(|word| u32::from_le_bytes(*word)).collect())
}

/// Twice the pairs (negative, positive) that the positive wins, plus the ties: an integer.
fn twice_wins(negatives: &mut [u32], positives: &mut [u32]) -> u64 {
    negatives.sort_unstable();
    positives.sort_unstable();
    let (mut below, mut not_above, mut sum) = (0, 0, 0u64);
    for &score in positives.iter() {
        while below < negatives.len() && negatives[below] < score {
            below += 1;
        }
        while not_above < negatives.len() && negatives[not_above] <= score {
            not_above += 1;
        }
        sum += (below + not_above) as u64;
    }
    sum
}

/// Adds the pairs across ranges: each positive also beats every negative of the ranges below.
fn combine<'a>(ranges: impl Iterator<Item = &'a [u64; 3]>) -> f64 {
    let (mut wins, mut negatives, mut positives) = (0u128, 0u64, 0u64);
    for [twice_wins, negatives_here, positives_here] in ranges {
        wins += u128::from(*twice_wins);
        wins += 2 * u128::from(negatives) * u128::from(*positives_here);
        negatives += negatives_here;
        positives += positives_here;
    }
    if negatives == 0 || positives == 0 {
        return 0.5;
    }
    wins as f64 / (2.0 * negatives as f64 * positives as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Settings, SharedMemory, SingleRank};

    fn predictions(rows: &[(f32, f32, f32)]) -> Predictions {
        let mut predictions = Predictions::default();
        for (probability, label, weight) in rows {
            predictions.push(*probability, *label, *weight, None);
        }
        predictions
    }

    /// Compares every pair, in floating point.
    fn by_pairs(rows: &[(f32, f32, f32)]) -> f64 {
        let of = |class| rows.iter().filter(move |r| r.1 == class && r.2 > 0.0);
        let pairs = of(1.0).flat_map(|p| of(0.0).map(move |n| (p.0, n.0)));
        let (mut sum, mut count) = (0.0, 0.0);
        for (p, n) in pairs {
            sum += if p > n {
                1.0
            } else if p == n {
                0.5
            } else {
                0.0
            };
            count += 1.0;
        }
        if count == 0.0 { 0.5 } else { sum / count }
    }

    fn single(rows: &[(f32, f32, f32)]) -> f64 {
        auc(&SingleRank, &predictions(rows)).expect("one rank cannot fail")
    }

    #[test]
    fn auc_counts_ties_half_and_ignores_padding() {
        let rows = [
            (0.1, 0.0, 1.0),
            (0.4, 0.0, 1.0),
            (0.4, 1.0, 1.0),
            (0.8, 1.0, 1.0),
            (0.0, 1.0, 0.0),
        ];
        assert_eq!(single(&rows), 0.875);
        assert_eq!(single(&rows[..2]), 0.5, "one class only");
        assert_eq!(single(&[]), 0.5);
    }

    #[test]
    fn ranks_count_what_one_counts_whether_rows_are_few_or_many() {
        for rows in [0, 1, 100, BINS + 4000] {
            // A few scores many times, many scores once.
            let row = |index: usize| {
                let score = match index % 3 {
                    0 => 0.25,
                    _ => (index * 7919 % 65_537) as f32 / 65_537.0,
                };
                (score, (index % 5 < 2) as u8 as f32, 1.0)
            };
            let rows: Vec<_> = (0..rows).map(row).collect();
            let expected = single(&rows);
            let ranks = SharedMemory::connect_threads(3, &Settings::default()).unwrap();
            std::thread::scope(|scope| {
                for comm in &ranks {
                    let own = rows.iter().skip(comm.rank()).step_by(3).copied();
                    let own = predictions(&own.collect::<Vec<_>>());
                    scope.spawn(move || assert_eq!(auc(comm, &own).unwrap(), expected));
                }
            });
        }
    }

    proptest::proptest! {
        #[test]
        fn auc_equals_the_count_of_all_pairs(
            rows in proptest::collection::vec((0..12u8, 0..2u8, 0..4u8), 0..80)
        ) {
            let rows: Vec<_> = rows
                .iter()
                .map(|(s, l, w)| (f32::from(*s) / 11.0, f32::from(*l), f32::from((*w).min(1))))
                .collect();
            proptest::prop_assert!((single(&rows) - by_pairs(&rows)).abs() < 1e-12);
        }
    }
}

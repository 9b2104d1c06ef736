//! How great an index is by chance alone.

use streamrec_artifact::InputSketch;

use super::BinShares;

/// Indices that chance alone makes as great as this say nothing: ids have a bin for each of hundreds, and few rows for
/// each.
const CHANCE_MAX: f64 = 0.05;

/// Whether a population stability index of two parts of the same data would be too great to judge by.
pub fn is_chance(then: &InputSketch, now: &InputSketch) -> bool {
    chance_level(then, now) > CHANCE_MAX
}

/// What a population stability index is by chance: about `(bins - 1) (1/n + 1/m)`, as it is a chi-squared statistic
/// over its rows (Yurdakul, "Statistical properties of population stability index", 2018,
/// <https://scholarworks.wmich.edu/dissertations/3208>).
fn chance_level(then: &InputSketch, now: &InputSketch) -> f64 {
    let level = |bins: usize, n: u64, m: u64| {
        (bins as f64 - 1.0).max(0.0) * (1.0 / n as f64 + 1.0 / m as f64)
    };
    match (&then.numbers, &now.numbers, &then.keys, &now.keys) {
        (Some(then), Some(now), ..) => {
            let (n, m) = (then.quantiles.count(), now.quantiles.count());
            let bins = BinShares::of_numbers(&then.quantiles, &now.quantiles);
            bins.map_or(0.0, |bins| level(bins.reference.len(), n, m))
        }
        (_, _, Some(then), Some(now)) => {
            let (n, m) = (then.frequent.count(), now.frequent.count());
            let bins = BinShares::of_keys(then, now);
            bins.map_or(0.0, |bins| level(bins.reference.len(), n, m))
        }
        _ => 0.0,
    }
}

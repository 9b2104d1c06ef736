//! Mann and Whitney's test: does one of two samples lie above the other?

use crate::validation::normal;

/// What the test says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MannWhitney {
    /// Pairs that the first sample wins, ties as halves.
    pub statistic: f64,
    /// How probable a first sample as low is.
    pub p_less: f64,
    /// How probable a first sample as high is.
    pub p_greater: f64,
    /// How probable samples as far apart are.
    pub p_two_sided: f64,
}

/// Compares two samples as `scipy.stats.mannwhitneyu` with `method="asymptotic"` does: normal, corrected for ties and
/// continuity. None where a sample is empty or all values are equal.
pub fn mann_whitney(first: &[f64], second: &[f64]) -> Option<MannWhitney> {
    let (n, m) = (first.len() as f64, second.len() as f64);
    let tagged = |values: &[f64], own: bool| -> Vec<(f64, bool)> {
        values.iter().map(|&value| (value, own)).collect()
    };
    let mut all = [tagged(first, true), tagged(second, false)].concat();
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut ranks, mut ties) = (0.0, 0.0, 0.0);
    for equal in all.chunk_by(|a, b| a.0 == b.0) {
        let count = equal.len() as f64;
        let own = equal.iter().filter(|(_, own)| *own).count() as f64;
        ranks += own * (below + (count + 1.0) / 2.0);
        ties += count.powi(3) - count;
        below += count;
    }
    let statistic = ranks - n * (n + 1.0) / 2.0;
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if n == 0.0 || m == 0.0 || variance.is_nan() || variance <= 0.0 {
        return None;
    }
    let tail = |statistic: f64| {
        let z = (statistic - n * m / 2.0 - 0.5) / variance.sqrt();
        normal::cumulative(-z)
    };
    let (p_greater, p_less) = (tail(statistic), tail(n * m - statistic));
    Some(MannWhitney {
        statistic,
        p_less,
        p_greater,
        p_two_sided: (2.0 * tail(statistic.max(n * m - statistic))).min(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(seed: u64, index: u64) -> f64 {
        let mut bits = seed
            .wrapping_mul(0x100_0000_01b3)
            .wrapping_add(index + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    #[test]
    fn statistics_and_probabilities_are_those_of_scipy() {
        let first: Vec<f64> = (0..60).map(|index| uniform(1, index)).collect();
        let second: Vec<f64> = (0..80).map(|index| uniform(2, index) + 0.1).collect();
        let tied = |values: &[f64]| -> Vec<f64> {
            values.iter().map(|value| (value * 6.0).floor()).collect()
        };
        // scipy 1.17.1, mannwhitneyu(x, y, alternative=..., method="asymptotic")
        let cases = [
            (
                mann_whitney(&first, &second),
                [
                    1714.0,
                    0.001_947_914_090_860_509,
                    0.998_077_992_952_518_1,
                    0.003_895_828_181_721_018,
                ],
            ),
            (
                mann_whitney(&tied(&first), &tied(&second)),
                [
                    1747.5,
                    0.002_584_089_254_353_355,
                    0.997_450_001_885_421_4,
                    0.005_168_178_508_706_71,
                ],
            ),
        ];
        for (found, expected) in cases {
            let found = found.expect("two samples");
            let found = [
                found.statistic,
                found.p_less,
                found.p_greater,
                found.p_two_sided,
            ];
            for (found, expected) in found.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-9, "{found}, {expected}");
            }
        }
        assert_eq!(mann_whitney(&[], &second), None);
        assert_eq!(mann_whitney(&[1.0, 1.0], &[1.0]), None);
    }
}

//! Pearson's test of homogeneity: do two samples of keys come from the same shares?

/// Bins of fewer expected keys join their neighbour (Cochran's rule).
const EXPECTED_MIN: f64 = 5.0;

/// How probable shares as far apart are of two samples with these counts, bin by bin; `weights` say how many
/// independent observations one of the counted ones is worth. None where fewer than two bins are left.
pub fn homogeneity(first: &[f64], second: &[f64], weights: [f64; 2]) -> Option<f64> {
    let mut bins: Vec<[f64; 2]> = first
        .iter()
        .zip(second)
        .map(|(&a, &b)| [a * weights[0], b * weights[1]])
        .collect();
    // The order of joining must not depend on which sample has more.
    bins.sort_unstable_by(|a, b| (b[0] + b[1]).total_cmp(&(a[0] + a[1])));
    let totals = bins
        .iter()
        .fold([0.0, 0.0], |sum, bin| [sum[0] + bin[0], sum[1] + bin[1]]);
    let all = totals[0] + totals[1];
    let share = totals[0].min(totals[1]) / all;
    let mut joined: Vec<[f64; 2]> = Vec::new();
    let mut open = [0.0, 0.0];
    for bin in bins {
        open = [open[0] + bin[0], open[1] + bin[1]];
        if (open[0] + open[1]) * share >= EXPECTED_MIN {
            joined.push(std::mem::take(&mut open));
        }
    }
    if let Some(last) = joined.last_mut() {
        *last = [last[0] + open[0], last[1] + open[1]];
    }
    if joined.len() < 2 {
        return None;
    }
    let statistic: f64 = joined
        .iter()
        .flat_map(|bin| [0, 1].map(|side| (bin, side)))
        .map(|(bin, side)| {
            let expected = (bin[0] + bin[1]) * totals[side] / all;
            (bin[side] - expected).powi(2) / expected
        })
        .sum();
    Some(chi_squared_tail(statistic, (joined.len() - 1) as f64))
}

/// The share of the chi-squared distribution above `statistic`.
pub fn chi_squared_tail(statistic: f64, freedom: f64) -> f64 {
    let (a, x) = (freedom / 2.0, statistic / 2.0);
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        // The series of the lower incomplete gamma function (Abramowitz and Stegun, 6.5.29).
        let (mut term, mut sum, mut step) = (1.0 / a, 1.0 / a, a);
        for _ in 0..10_000 {
            step += 1.0;
            term *= x / step;
            sum += term;
            if term < sum * 1e-16 {
                break;
            }
        }
        return (1.0 - scale * sum).clamp(0.0, 1.0);
    }
    // The continued fraction of the upper one (6.5.31), from its end.
    let mut fraction = 0.0;
    for step in (1..2_000).rev() {
        let step = f64::from(step);
        fraction = step * (a - step) / (x + 2.0 * step + 1.0 - a + fraction);
    }
    (scale / (x + 1.0 - a + fraction)).clamp(0.0, 1.0)
}

/// Stirling's series after a shift (Abramowitz and Stegun, 6.1.41).
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 12.0 {
        shift += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series =
        (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_scipy() {
        // scipy.stats.chi2.sf
        for (statistic, freedom, expected) in [
            (3.84, 1.0, 5.004_352_12e-2),
            (20.0, 10.0, 2.925_268_81e-2),
            (0.5, 4.0, 9.735_009_79e-1),
            (150.0, 99.0, 7.204_453_96e-4),
            (1e-3, 2.0, 0.999_500_124_979_169_3),
        ] {
            let found = chi_squared_tail(statistic, freedom);
            assert!((found / expected - 1.0).abs() < 1e-8, "{found}, {expected}");
        }
    }

    #[test]
    fn small_bins_join_and_one_bin_says_nothing() {
        // 60, 30, 10 of 100 against 40, 40, 20: chi2_contingency without correction.
        let p = homogeneity(&[60.0, 30.0, 10.0], &[40.0, 40.0, 20.0], [1.0, 1.0]);
        let expected = chi_squared_tail(4.0 + 100.0 / 70.0 + 100.0 / 30.0, 2.0);
        assert!((p.expect("bins") - expected).abs() < 1e-12);
        assert_eq!(homogeneity(&[100.0], &[50.0], [1.0, 1.0]), None);
        assert_eq!(homogeneity(&[3.0, 2.0], &[2.0, 2.0], [1.0, 1.0]), None);
    }
}

//! Confidence intervals by a paired bootstrap over units, such as users.
//!
//! A resample draws as many units as there are, with repetition; a unit's rows come along as often as it was
//! drawn. Both models are judged on the same draws, so what they share cancels out. Rows are sorted once; a
//! resample is then one pass over them, or over units for metrics that are sums.
//!
//! Intervals are percentiles, widened as if the bootstrap's normal were Student's t and its variance unbiased
//! (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 4.5, <https://arxiv.org/abs/1411.5279>).

use rayon::prelude::*;

use super::config::Metric;
use crate::validation::normal;

/// Bins of the calibration error.
const CALIBRATION_BINS: usize = 20;

/// Rows of one label with the scores of one model, ready to be resampled.
#[derive(Debug)]
pub(super) struct Resampled {
    metric: Metric,
    units: usize,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// Rows by ascending score: unit, label, and whether the score is that of the row before.
    Sorted(Vec<SortedRow>),
    /// For each unit with both classes, its AUC and rows.
    UnitAucs(Vec<(f64, f64)>),
    /// For each unit, sums over its rows.
    Sums(Vec<Sums>),
    /// For each bin, its rows' units, predictions less labels.
    Bins(Vec<Vec<(u32, f32)>>),
    /// Some score is no number.
    NotANumber,
}

#[derive(Debug, Clone, Copy)]
struct SortedRow {
    unit: u32,
    positive: bool,
    ties: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    rows: f64,
    loss: f64,
    predicted: f64,
    happened: f64,
}

impl Resampled {
    /// Rows `[rows]` of `unit_of` units, numbered from 0.
    pub(super) fn new(
        metric: Metric,
        units: usize,
        unit_of: &[u32],
        labels: &[f32],
        scores: &[f32],
    ) -> Self {
        let form = if scores.iter().chain(labels).any(|score| !score.is_finite()) {
            Form::NotANumber
        } else {
            match metric {
                Metric::Auc => Form::Sorted(sorted(unit_of, labels, scores)),
                Metric::Gauc => Form::UnitAucs(unit_aucs(units, unit_of, labels, scores)),
                Metric::CalibrationError => Form::Bins(bins(unit_of, labels, scores)),
                Metric::LogLoss | Metric::NormalisedEntropy | Metric::CalibrationBias => {
                    Form::Sums(sums(units, unit_of, labels, scores))
                }
            }
        };
        Self {
            metric,
            units,
            form,
        }
    }

    /// The metric of the rows as they are; NaN where it cannot be told.
    pub(super) fn value(&self) -> f64 {
        self.weighted(&vec![1; self.units])
    }

    /// The metric of rows that count as often as their unit.
    fn weighted(&self, weights: &[u16]) -> f64 {
        match &self.form {
            Form::Sorted(rows) => auc(rows, weights),
            Form::UnitAucs(units) => {
                let terms = units.iter().zip(weights).map(|((auc, rows), &weight)| {
                    let weight = f64::from(weight) * rows;
                    (weight * auc, weight)
                });
                let (sum, weight) = terms.fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
                sum / weight
            }
            Form::Sums(units) => {
                let mut all = Sums::default();
                for (unit, &weight) in units.iter().zip(weights) {
                    let weight = f64::from(weight);
                    all.rows += weight * unit.rows;
                    all.loss += weight * unit.loss;
                    all.predicted += weight * unit.predicted;
                    all.happened += weight * unit.happened;
                }
                all.metric(self.metric)
            }
            Form::Bins(bins) => calibration_error(bins, weights),
            Form::NotANumber => f64::NAN,
        }
    }
}

impl Sums {
    fn metric(&self, metric: Metric) -> f64 {
        let loss = self.loss / self.rows;
        match metric {
            Metric::LogLoss => loss,
            Metric::CalibrationBias => (self.predicted / self.happened - 1.0).abs(),
            _ => {
                let rate = self.happened / self.rows;
                loss / -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln())
            }
        }
    }
}

fn sorted(unit_of: &[u32], labels: &[f32], scores: &[f32]) -> Vec<SortedRow> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.par_sort_unstable_by(|&a, &b| {
        scores[a as usize]
            .total_cmp(&scores[b as usize])
            .then(a.cmp(&b))
    });
    let mut before = f32::NAN;
    let row = |row: u32| {
        let row = row as usize;
        let ties = scores[row] == before;
        before = scores[row];
        SortedRow {
            unit: unit_of[row],
            positive: labels[row] > 0.5,
            ties,
        }
    };
    order.into_iter().map(row).collect()
}

/// The weighted share of pairs of a positive and a negative in which the positive scores higher, ties half.
fn auc(rows: &[SortedRow], weights: &[u16]) -> f64 {
    let (mut below, mut wins, mut positives) = (0u64, 0u64, 0u64);
    let (mut tied_positives, mut tied_negatives) = (0u64, 0u64);
    for row in rows {
        if !row.ties {
            wins += tied_positives * (2 * below + tied_negatives);
            below += tied_negatives;
            positives += tied_positives;
            (tied_positives, tied_negatives) = (0, 0);
        }
        let weight = u64::from(weights[row.unit as usize]);
        if row.positive {
            tied_positives += weight;
        } else {
            tied_negatives += weight;
        }
    }
    wins += tied_positives * (2 * below + tied_negatives);
    below += tied_negatives;
    positives += tied_positives;
    wins as f64 / (2.0 * below as f64 * positives as f64)
}

fn unit_aucs(units: usize, unit_of: &[u32], labels: &[f32], scores: &[f32]) -> Vec<(f64, f64)> {
    let mut rows: Vec<Vec<(f32, bool)>> = vec![Vec::new(); units];
    for ((&unit, &label), &score) in unit_of.iter().zip(labels).zip(scores) {
        rows[unit as usize].push((score, label > 0.5));
    }
    let one = |rows: &Vec<(f32, bool)>| {
        let units = vec![0; rows.len()];
        let (scores, labels): (Vec<f32>, Vec<f32>) = rows
            .iter()
            .map(|(score, positive)| (*score, f32::from(u8::from(*positive))))
            .unzip();
        let auc = auc(&sorted(&units, &labels, &scores), &[1]);
        if auc.is_nan() {
            (0.0, 0.0)
        } else {
            (auc, rows.len() as f64)
        }
    };
    rows.iter().map(one).collect()
}

fn sums(units: usize, unit_of: &[u32], labels: &[f32], scores: &[f32]) -> Vec<Sums> {
    let mut sums = vec![Sums::default(); units];
    for ((&unit, &label), &score) in unit_of.iter().zip(labels).zip(scores) {
        let sum = &mut sums[unit as usize];
        let (p, y) = (f64::from(score), f64::from(label));
        let likelihood = if label > 0.5 { p } else { 1.0 - p };
        sum.rows += 1.0;
        sum.loss -= likelihood.max(f64::from(f32::EPSILON)).ln();
        sum.predicted += p;
        sum.happened += y;
    }
    sums
}

fn bins(unit_of: &[u32], labels: &[f32], scores: &[f32]) -> Vec<Vec<(u32, f32)>> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let size = scores.len().div_ceil(CALIBRATION_BINS).max(1);
    let bin = |rows: &[usize]| {
        let row = |&row: &usize| (unit_of[row], scores[row] - labels[row]);
        rows.iter().map(row).collect()
    };
    order.chunks(size).map(bin).collect()
}

fn calibration_error(bins: &[Vec<(u32, f32)>], weights: &[u16]) -> f64 {
    let (mut error, mut all) = (0.0, 0.0);
    for bin in bins {
        let mut distance = 0.0;
        for &(unit, difference) in bin {
            let weight = f64::from(weights[unit as usize]);
            distance += weight * f64::from(difference);
            all += weight;
        }
        error += distance.abs();
    }
    error / all
}

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// How intervals are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bootstrap {
    pub(super) confidence: f64,
    pub(super) resamples: u32,
    pub(super) seed: u64,
}

impl Bootstrap {
    /// The metric of one model, or how much more it is than that of another on the same rows.
    pub(super) fn estimate(&self, model: &Resampled, other: Option<&Resampled>) -> Estimate {
        let difference =
            |value: f64, other: Option<f64>| other.map_or(value, |other| value - other);
        let value = difference(model.value(), other.map(Resampled::value));
        let nothing = Estimate {
            value,
            low: f64::NAN,
            high: f64::NAN,
        };
        if !value.is_finite() {
            return nothing;
        }
        let resample = |number: u32| {
            let weights = draw(model.units, self.seed, number);
            difference(
                model.weighted(&weights),
                other.map(|other| other.weighted(&weights)),
            )
        };
        let mut values: Vec<f64> = (0..self.resamples).into_par_iter().map(resample).collect();
        values.retain(|value| value.is_finite());
        // Resamples without both classes say nothing; many of them, that there is too little.
        if values.len() * 10 < self.resamples as usize * 9 {
            return nothing;
        }
        values.sort_unstable_by(f64::total_cmp);
        let tail = widened_tail(1.0 - self.confidence, model.units);
        Estimate {
            value,
            low: percentile(&values, tail),
            high: percentile(&values, 1.0 - tail),
        }
    }
}

/// How often each unit is drawn in a resample.
fn draw(units: usize, seed: u64, number: u32) -> Vec<u16> {
    let mut weights = vec![0u16; units];
    let mut state = seed ^ (u64::from(number) + 1).wrapping_mul(0xd1b5_4a32_d192_ed03);
    for _ in 0..units {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // Lemire's multiplication: even to 2^-64 of a unit.
        let unit = ((u128::from(bits) * units as u128) >> 64) as usize;
        weights[unit] = weights[unit].saturating_add(1);
    }
    weights
}

/// The share beyond each end of the interval.
fn widened_tail(alpha: f64, units: usize) -> f64 {
    let freedom = (units.max(2) - 1) as f64;
    let t = normal::student_quantile(1.0 - alpha / 2.0, freedom);
    normal::cumulative(-t * (units as f64 / freedom).sqrt())
}

/// Of ascending values, by the rule (n + 1) p.
fn percentile(ascending: &[f64], share: f64) -> f64 {
    let place =
        (share * (ascending.len() + 1) as f64 - 1.0).clamp(0.0, (ascending.len() - 1) as f64);
    let (low, high) = (
        ascending[place.floor() as usize],
        ascending[place.ceil() as usize],
    );
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random.
    struct Draws(u64);

    impl Draws {
        fn uniform(&mut self) -> f64 {
            self.0 += 1;
            (streamrec_artifact::key::hash(self.0) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            radius * (std::f64::consts::TAU * self.uniform()).cos()
        }
    }

    /// Rows of `units` units, each with a rate of its own, scored by two models of different noise.
    fn simulate(units: usize, draws: &mut Draws) -> (Vec<u32>, Vec<f32>, Vec<f32>, Vec<f32>) {
        let (mut unit_of, mut labels, mut a, mut b) = (vec![], vec![], vec![], vec![]);
        for unit in 0..units as u32 {
            let bias = draws.normal();
            for _ in 0..1 + (draws.uniform() * 8.0) as usize {
                let logit = bias + draws.normal();
                let p = 1.0 / (1.0 + (-logit).exp());
                unit_of.push(unit);
                labels.push(f32::from(u8::from(draws.uniform() < p)));
                let score = |noise: f64| (1.0 / (1.0 + (-(logit + noise)).exp())) as f32;
                a.push(score(0.5 * draws.normal()));
                b.push(score(0.8 * draws.normal()));
            }
        }
        (unit_of, labels, a, b)
    }

    #[test]
    fn metrics_of_the_rows_as_they_are_equal_their_definitions() {
        let (unit_of, labels, scores, _) = simulate(50, &mut Draws(1));
        let value = |metric| Resampled::new(metric, 50, &unit_of, &labels, &scores).value();
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (p, _) in scores.iter().zip(&labels).filter(|(_, y)| **y == 1.0) {
            for (n, _) in scores.iter().zip(&labels).filter(|(_, y)| **y == 0.0) {
                wins += if p > n {
                    1.0
                } else if p == n {
                    0.5
                } else {
                    0.0
                };
                pairs += 1.0;
            }
        }
        assert!((value(Metric::Auc) - wins / pairs).abs() < 1e-12);
        let loss: f64 = scores
            .iter()
            .zip(&labels)
            .map(|(&p, &y)| -f64::from(if y == 1.0 { p } else { 1.0 - p }).ln())
            .sum();
        assert!((value(Metric::LogLoss) - loss / scores.len() as f64).abs() < 1e-6);
        let (p, y): (f64, f64) = (
            scores.iter().map(|&p| f64::from(p)).sum(),
            labels.iter().map(|&y| f64::from(y)).sum(),
        );
        assert!((value(Metric::CalibrationBias) - (p / y - 1.0).abs()).abs() < 1e-9);
        let mut wrong = scores.clone();
        wrong[3] = f32::NAN;
        assert!(
            Resampled::new(Metric::Auc, 50, &unit_of, &labels, &wrong)
                .value()
                .is_nan()
        );
    }

    #[test]
    fn ties_count_half() {
        let resampled = Resampled::new(
            Metric::Auc,
            4,
            &[0, 1, 2, 3],
            &[0.0, 1.0, 0.0, 1.0],
            &[0.5, 0.5, 0.5, 0.9],
        );
        assert_eq!(resampled.value(), 0.75);
        assert_eq!(resampled.weighted(&[1, 0, 3, 1]), 1.0);
    }

    /// The difference of the models by a metric on very many units.
    fn truth(metrics: &[Metric]) -> Vec<f64> {
        const PARTS: u64 = 4;
        let values: Vec<Vec<f64>> = (0..PARTS)
            .into_par_iter()
            .map(|part| {
                let (unit_of, labels, a, b) = simulate(100_000, &mut Draws((part + 1) << 48));
                let difference = |metric: &Metric| {
                    let of = |scores: &[f32]| {
                        Resampled::new(*metric, 100_000, &unit_of, &labels, scores).value()
                    };
                    of(&a) - of(&b)
                };
                metrics.iter().map(difference).collect()
            })
            .collect();
        let mean = |place: usize| values.iter().map(|of| of[place]).sum::<f64>() / PARTS as f64;
        (0..metrics.len()).map(mean).collect()
    }

    #[test]
    fn intervals_of_95_percent_cover_the_truth_in_94_to_96_percent() {
        const UNITS: usize = 200;
        const TRIALS: u64 = 3_000;
        let metrics = [Metric::Auc, Metric::LogLoss];
        let truth = truth(&metrics);
        let covers = |trial: u64| -> Vec<bool> {
            let (unit_of, labels, a, b) = simulate(UNITS, &mut Draws(trial << 32));
            let bootstrap = Bootstrap {
                confidence: 0.95,
                resamples: 199,
                seed: trial,
            };
            let covers = |(metric, truth): (&Metric, &f64)| {
                let of = |scores: &[f32]| Resampled::new(*metric, UNITS, &unit_of, &labels, scores);
                let found = bootstrap.estimate(&of(&a), Some(&of(&b)));
                (found.low..=found.high).contains(truth)
            };
            metrics.iter().zip(&truth).map(covers).collect()
        };
        let found: Vec<Vec<bool>> = (0..TRIALS).into_par_iter().map(covers).collect();
        for (place, metric) in metrics.iter().enumerate() {
            let covered = found.iter().filter(|covers| covers[place]).count();
            let share = covered as f64 / TRIALS as f64;
            assert!((0.94..=0.96).contains(&share), "{metric:?}: {share}");
        }
    }
}

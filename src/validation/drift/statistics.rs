//! How far two distributions are apart: PSI, Jensen-Shannon, Kolmogorov-Smirnov, Wasserstein.
//!
//! Definitions, bins and the place of empty bins are those of Evidently 0.7 and SciPy, so that figures can be
//! compared; they are computed from sketches and need no rows. Where a sketch no longer holds every value, bins
//! of less than it can resolve join their neighbours: a share of nothing would decide the index alone.

use streamrec_artifact::sketch::{FrequentKeys, QuantileSketch};
use streamrec_artifact::{KeySketch, NumberSketch};

/// Numbers with at most so many different values are compared value by value.
const CATEGORIES_MAX: usize = 20;
/// The share that an empty bin counts as in a population stability index.
const EMPTY_SHARE: f64 = 1e-4;
/// A key of a sketch that dropped others is a bin of its own from so many times on what its count may be short by.
const RESOLVED: f64 = 20.0;
/// The least standard deviation that a Wasserstein distance is divided by.
const STD_MIN: f64 = 1e-3;

/// Shares of the same bins in two distributions.
#[derive(Debug, Clone, PartialEq)]
pub struct BinShares {
    /// The reference's, which sum to 1.
    pub reference: Vec<f64>,
    /// The current ones.
    pub current: Vec<f64>,
}

impl BinShares {
    /// Of numbers: value by value where the reference has few, else in as many equal bins over both as Sturges's
    /// rule says.
    pub fn of_numbers(reference: &QuantileSketch, current: &QuantileSketch) -> Option<Self> {
        let low = reference.min()?.min(current.min()?);
        let high = reference.max()?.max(current.max()?);
        let values = values(reference);
        let (of_reference, of_current) = if values.len() <= CATEGORIES_MAX {
            let mut edges: Vec<f64> = values.into_iter().chain(self::values(current)).collect();
            edges.sort_unstable_by(f64::total_cmp);
            edges.dedup();
            let shares =
                |sketch: &QuantileSketch| differences(&sketch.shares_at_most(&edges), None);
            (shares(reference), shares(current))
        } else {
            let count = (reference.count() + current.count()) as f64;
            let bins = (count.log2() + 1.0).ceil() as usize;
            let edge = |place: usize| low + (high - low) * place as f64 / bins as f64;
            // A bin holds its lower edge; the last one its upper, too.
            let inner: Vec<f64> = (1..bins).map(edge).collect();
            let shares =
                |sketch: &QuantileSketch| differences(&sketch.shares_below(&inner), Some(1.0));
            (shares(reference), shares(current))
        };
        let shares = Self {
            reference: of_reference,
            current: of_current,
        };
        let resolution = reference.resolution().max(current.resolution());
        Some(shares.joined(resolution))
    }

    /// Neighbours joined until each bin holds at least `least` of both on average.
    fn joined(self, least: f64) -> Self {
        let (mut reference, mut current) = (Vec::new(), Vec::new());
        let mut open = [0.0; 2];
        for (r, c) in self.reference.iter().zip(&self.current) {
            open = [open[0] + r, open[1] + c];
            if (open[0] + open[1]) / 2.0 >= least {
                reference.push(open[0]);
                current.push(open[1]);
                open = [0.0; 2];
            }
        }
        match (reference.last_mut(), current.last_mut()) {
            (Some(r), Some(c)) => {
                *r += open[0];
                *c += open[1];
            }
            _ => {
                reference.push(open[0]);
                current.push(open[1]);
            }
        }
        Self { reference, current }
    }

    /// Of keys: each key that is frequent in either, and all others together; those, too, that the sketches do not
    /// resolve.
    pub fn of_keys(reference: &KeySketch, current: &KeySketch) -> Option<Self> {
        let (r, c) = (&reference.frequent, &current.frequent);
        if r.count() == 0 || c.count() == 0 {
            return None;
        }
        let mut keys: Vec<u64> = r
            .descending()
            .iter()
            .chain(&c.descending())
            .map(|entry| entry.key)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let share =
            |sketch: &FrequentKeys, key| sketch.at_least(key) as f64 / sketch.count() as f64;
        // What a sketch that dropped keys counts too few of is told apart from nothing by chance: it joins the others.
        let short = |sketch: &FrequentKeys| sketch.short() as f64 / sketch.count() as f64;
        let least = RESOLVED * short(r).max(short(c));
        keys.retain(|&key| least == 0.0 || share(r, key).max(share(c, key)) > least);
        let shares = |sketch: &FrequentKeys| {
            let mut shares: Vec<f64> = keys.iter().map(|&key| share(sketch, key)).collect();
            let rest = 1.0 - shares.iter().sum::<f64>();
            shares.push(if rest > 1e-12 { rest } else { 0.0 });
            shares
        };
        let (mut reference, mut current) = (shares(r), shares(c));
        if reference.last() == Some(&0.0) && current.last() == Some(&0.0) {
            reference.pop();
            current.pop();
        }
        Some(Self { reference, current })
    }

    /// The population stability index, `sum (r - c) ln(r / c)`; an empty bin counts as a ten-thousandth, or as a
    /// millionth of the least bin where that is as small.
    pub fn psi(&self) -> f64 {
        let (reference, current) = (filled(&self.reference), filled(&self.current));
        let terms = reference
            .iter()
            .zip(&current)
            .map(|(r, c)| (r - c) * (r / c).ln());
        terms.sum()
    }

    /// The Jensen-Shannon distance, the root of the divergence in nats: 0 to sqrt(ln 2).
    pub fn jensen_shannon(&self) -> f64 {
        let (r_sum, c_sum): (f64, f64) = (self.reference.iter().sum(), self.current.iter().sum());
        let divergence = |p: f64, m: f64| if p > 0.0 { p * (p / m).ln() } else { 0.0 };
        let terms = self.reference.iter().zip(&self.current).map(|(r, c)| {
            let (r, c) = (r / r_sum, c / c_sum);
            let middle = (r + c) / 2.0;
            divergence(r, middle) + divergence(c, middle)
        });
        (terms.sum::<f64>() / 2.0).max(0.0).sqrt()
    }
}

/// The different values that a sketch holds.
fn values(sketch: &QuantileSketch) -> Vec<f64> {
    let mut values: Vec<f64> = sketch
        .weighted()
        .into_iter()
        .map(|(value, _)| value)
        .collect();
    values.dedup();
    values
}

fn differences(shares: &[f64], end: Option<f64>) -> Vec<f64> {
    let mut before = 0.0;
    let difference = |share: f64| {
        let own = share - before;
        before = share;
        own.max(0.0)
    };
    shares.iter().copied().chain(end).map(difference).collect()
}

fn filled(shares: &[f64]) -> Vec<f64> {
    let least = shares
        .iter()
        .copied()
        .filter(|share| *share > 0.0)
        .fold(f64::INFINITY, f64::min);
    let empty = if least <= EMPTY_SHARE {
        least / 1e6
    } else {
        EMPTY_SHARE
    };
    shares
        .iter()
        .map(|&share| if share == 0.0 { empty } else { share })
        .collect()
}

/// The greatest distance of two cumulative distributions, and how probable one as great is of equal ones: as
/// `scipy.stats.ks_2samp` with `method="asymp"`. Stephens's approximation stands for the exact distribution of one
/// sample that SciPy uses; it is off by up to 0.01.
pub fn kolmogorov_smirnov(
    reference: &QuantileSketch,
    current: &QuantileSketch,
) -> Option<(f64, f64)> {
    let points = merged_points(reference, current)?;
    let (a, b) = (
        reference.shares_at_most(&points),
        current.shares_at_most(&points),
    );
    let distance = a
        .iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    let (n, m) = (reference.count() as f64, current.count() as f64);
    Some((distance, kolmogorov_p(distance, n, m)))
}

/// How probable cumulative distributions as far apart are of equal ones, from samples of `n` and `m`.
pub fn kolmogorov_p(distance: f64, n: f64, m: f64) -> f64 {
    let root = (n * m / (n + m)).sqrt();
    let lambda = (root + 0.12 + 0.11 / root) * distance;
    let mut p = 0.0;
    for step in 1..=100 {
        let step = f64::from(step);
        let term = 2.0 * (-2.0 * step * step * lambda * lambda).exp();
        p += if step % 2.0 == 1.0 { term } else { -term };
    }
    if lambda < 0.2 { 1.0 } else { p.clamp(0.0, 1.0) }
}

/// The area between two cumulative distributions, in standard deviations of the reference.
pub fn wasserstein(reference: &NumberSketch, current: &NumberSketch) -> Option<f64> {
    let points = merged_points(&reference.quantiles, &current.quantiles)?;
    let a = reference.quantiles.shares_at_most(&points);
    let b = current.quantiles.shares_at_most(&points);
    let pieces = points.windows(2).zip(a.iter().zip(&b));
    let area: f64 = pieces
        .map(|(ends, (a, b))| (a - b).abs() * (ends[1] - ends[0]))
        .sum();
    Some(area / reference.moments.std().max(STD_MIN))
}

fn merged_points(reference: &QuantileSketch, current: &QuantileSketch) -> Option<Vec<f64>> {
    let ends = [
        reference.min()?,
        reference.max()?,
        current.min()?,
        current.max()?,
    ];
    let mut points: Vec<f64> = values(reference)
        .into_iter()
        .chain(values(current))
        .chain(ends)
        .collect();
    points.sort_unstable_by(f64::total_cmp);
    points.dedup();
    Some(points)
}

//! Expectations of whole columns: what is gathered of each part of the rows, and added up.

use std::collections::HashMap;

use serde_json::{Value, json};
use streamrec_artifact::Moments;
use streamrec_artifact::sketch::QuantileSketch;

use super::kind::{Interpolation, Kind};
use super::literal::{Bounds, Literal};
use super::partition::{Partition, divergence};
use super::view::{Values, View, number_of};

/// The accuracy of the sketch that says where a quantile is looked for.
const QUANTILE_ACCURACY: u16 = 4096;
/// How many times the sketch's error the place of a quantile may be off: some nine standard deviations.
const BRACKET: f64 = 4.0;
/// The most different values that a partition of values does not name.
const OTHER_VALUES_MAX: usize = 1 << 20;

/// What is gathered of a column for one expectation.
#[derive(Debug, Clone)]
pub(super) enum Aggregate {
    /// Nothing but rows: row counts and types.
    Rows {
        rows: u64,
        missing: u64,
        dtype: CsvTypes,
    },
    Mean {
        moments: Moments,
    },
    Quantiles {
        sketch: Box<QuantileSketch>,
    },
    Values {
        counts: HashMap<String, u64>,
        missing: u64,
        rows: u64,
    },
    Bins {
        counts: Vec<u64>,
        rows: u64,
    },
}

/// What the texts of a CSV column all are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CsvTypes {
    pub(super) integers: bool,
    pub(super) numbers: bool,
    pub(super) booleans: bool,
}

impl Aggregate {
    /// Nothing seen yet; none of an expectation of single rows.
    pub(super) fn new(kind: &Kind) -> Option<Self> {
        Some(match kind {
            Kind::RowCount(_) | Kind::OfType { .. } | Kind::ColumnSet { .. } => Self::Rows {
                rows: 0,
                missing: 0,
                dtype: CsvTypes {
                    integers: true,
                    numbers: true,
                    booleans: true,
                },
            },
            Kind::Mean(..) => Self::Mean {
                moments: Moments::default(),
            },
            Kind::Quantiles { .. } => Self::Quantiles {
                sketch: Box::new(QuantileSketch::new(QUANTILE_ACCURACY)),
            },
            Kind::Divergence { partition, .. } => match partition {
                Partition::Values { .. } => Self::Values {
                    counts: HashMap::new(),
                    missing: 0,
                    rows: 0,
                },
                Partition::Bins { bins, .. } => Self::Bins {
                    counts: vec![0; bins.len() + 1],
                    rows: 0,
                },
            },
            _ => return None,
        })
    }

    /// Adds a batch of `rows` rows; `view` is that of the column, where there is one.
    pub(super) fn observe(
        &mut self,
        kind: &Kind,
        rows: usize,
        view: Option<&View>,
    ) -> Result<(), String> {
        match (self, view) {
            (
                Self::Rows {
                    rows: seen,
                    missing,
                    dtype,
                },
                view,
            ) => {
                *seen += rows as u64;
                if let Some(view) = view {
                    *missing += (view.rows() - view.valid_count) as u64;
                    dtype.observe(view);
                }
            }
            (Self::Mean { moments }, Some(view)) => moments.add(&numbers(view)?),
            (Self::Quantiles { sketch }, Some(view)) => {
                numbers(view)?.iter().for_each(|&number| sketch.add(number));
            }
            (
                Self::Values {
                    counts,
                    missing,
                    rows,
                },
                Some(view),
            ) => {
                *rows += view.valid_count as u64;
                *missing += (view.rows() - view.valid_count) as u64;
                for row in view.valid.set_indices() {
                    *counts.entry(view.json(row).to_string()).or_default() += 1;
                }
                if counts.len() > OTHER_VALUES_MAX {
                    return Err(format!(
                        "the column has more than {OTHER_VALUES_MAX} different values; use bins"
                    ));
                }
            }
            (Self::Bins { counts, rows }, Some(view)) => {
                let Kind::Divergence {
                    partition: Partition::Bins { bins, .. },
                    ..
                } = kind
                else {
                    return Ok(());
                };
                for number in numbers(view)? {
                    *rows += 1;
                    counts[bin_of(bins, number)] += 1;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds what another part of the rows gave.
    pub(super) fn merge(&mut self, other: Self) -> Result<(), String> {
        match (self, other) {
            (
                Self::Rows {
                    rows,
                    missing,
                    dtype,
                },
                Self::Rows {
                    rows: r,
                    missing: m,
                    dtype: d,
                },
            ) => {
                *rows += r;
                *missing += m;
                *dtype = CsvTypes {
                    integers: dtype.integers && d.integers,
                    numbers: dtype.numbers && d.numbers,
                    booleans: dtype.booleans && d.booleans,
                };
            }
            (Self::Mean { moments }, Self::Mean { moments: m }) => moments.merge(m),
            (Self::Quantiles { sketch }, Self::Quantiles { sketch: s }) => {
                sketch.merge(&s).map_err(|error| error.to_string())?;
            }
            (
                Self::Values {
                    counts,
                    missing,
                    rows,
                },
                Self::Values {
                    counts: c,
                    missing: m,
                    rows: r,
                },
            ) => {
                *rows += r;
                *missing += m;
                for (value, count) in c {
                    *counts.entry(value).or_default() += count;
                }
                if counts.len() > OTHER_VALUES_MAX {
                    return Err(format!(
                        "the column has more than {OTHER_VALUES_MAX} different values; use bins"
                    ));
                }
            }
            (Self::Bins { counts, rows }, Self::Bins { counts: c, rows: r }) => {
                *rows += r;
                counts
                    .iter_mut()
                    .zip(c)
                    .for_each(|(count, more)| *count += more);
            }
            _ => {}
        }
        Ok(())
    }
}

impl CsvTypes {
    fn observe(&mut self, view: &View) {
        let Values::Texts(texts, true) = &view.values else {
            return;
        };
        for row in view.valid.set_indices() {
            if !(self.integers || self.numbers || self.booleans) {
                return;
            }
            let text = texts.value(row);
            self.integers &= text.trim().parse::<i64>().is_ok();
            self.numbers &= number_of(text).is_some();
            self.booleans &= matches!(text, "True" | "true" | "TRUE" | "False" | "false" | "FALSE");
        }
    }
}

/// Below, the bins, above.
fn bin_of(bins: &[f64], number: f64) -> usize {
    match bins.last() {
        Some(last) if number == *last => bins.len() - 1,
        _ => bins.partition_point(|edge| *edge <= number),
    }
}

/// The numbers of a column that are there.
pub(super) fn numbers(view: &View) -> Result<Vec<f64>, String> {
    match &view.values {
        Values::Texts(_, false) | Values::Times(_) | Values::Opaque => {
            Err("the values are no numbers".into())
        }
        Values::Numbers(values) if view.valid_count == view.rows() => Ok(values.to_vec()),
        Values::Texts(texts, true) => {
            let number = |row| {
                let text = texts.value(row);
                number_of(text).ok_or_else(|| format!("{text:?} is no number"))
            };
            view.valid.set_indices().map(number).collect()
        }
        _ => Ok(view
            .valid
            .set_indices()
            .filter_map(|row| view.number(row))
            .collect()),
    }
}

/// Whether a mean is as expected, with what was observed.
pub(super) fn mean(moments: &Moments, bounds: &Bounds) -> (bool, Value) {
    if moments.count() == 0 {
        return (false, json!({"observed_value": null}));
    }
    let mean = moments.mean();
    (bounds.holds_number(mean), json!({"observed_value": mean}))
}

/// The divergence from a partition, with what was observed.
pub(super) fn kl_divergence(
    aggregate: &Aggregate,
    partition: &Partition,
    threshold: Option<f64>,
) -> (bool, Value) {
    let found = match (aggregate, partition) {
        (
            Aggregate::Values { counts, rows, .. },
            Partition::Values {
                values,
                weights,
                holdout,
            },
        ) => of_values(counts, *rows, values, weights, *holdout),
        (Aggregate::Bins { counts, rows }, Partition::Bins { expected, .. }) => {
            let observed: Vec<f64> = counts
                .iter()
                .map(|&count| count as f64 / *rows as f64)
                .collect();
            divergence(&observed, expected)
        }
        _ => f64::NAN,
    };
    let success = threshold.is_none_or(|threshold| found <= threshold);
    let observed = found.is_finite().then_some(found);
    (success, json!({"observed_value": observed}))
}

fn of_values(
    counts: &HashMap<String, u64>,
    rows: u64,
    values: &[Literal],
    weights: &[f64],
    holdout: f64,
) -> f64 {
    let mut others = counts.clone();
    let (mut observed, mut expected) = (Vec::new(), Vec::new());
    for (value, weight) in values.iter().zip(weights) {
        let forms = match value {
            Literal::Boolean(value) => vec![json!(value)],
            // A column of doubles may hold what the suite writes as an integer.
            Literal::Integer(value) => vec![json!(value), json!(*value as f64)],
            Literal::Number(value) => vec![json!(value)],
            Literal::Text(value) => vec![json!(value)],
        };
        let count: u64 = forms
            .iter()
            .filter_map(|form| others.remove(&form.to_string()))
            .sum();
        observed.push(count as f64 / rows as f64);
        expected.push(*weight);
    }
    if !others.is_empty() {
        expected
            .iter_mut()
            .for_each(|weight| *weight *= 1.0 - holdout);
        let each = holdout / others.len() as f64;
        for count in others.values() {
            observed.push(*count as f64 / rows as f64);
            expected.push(each);
        }
    }
    divergence(&observed, &expected)
}

/// Finds exact quantiles in a second scan, near where a sketch says they are.
#[derive(Debug, Clone)]
pub(super) struct ExactQuantiles {
    count: u64,
    sought: Vec<Bracket>,
}

/// Values around one place of the ascending order.
#[derive(Debug, Clone)]
struct Bracket {
    /// The place, from 0.
    place: u64,
    low: f64,
    high: f64,
    below: u64,
    at_low: u64,
    at_high: u64,
    between: Vec<f64>,
}

impl ExactQuantiles {
    pub(super) fn new(sketch: &QuantileSketch, quantiles: &[f64]) -> Self {
        let count = sketch.count();
        let slack = BRACKET * sketch.rank_error();
        let mut places: Vec<u64> = Vec::new();
        for share in quantiles.iter().filter(|_| count > 0) {
            let rank = share * (count - 1) as f64;
            places.extend([rank.floor() as u64, rank.ceil() as u64]);
        }
        places.sort_unstable();
        places.dedup();
        let bracket = |&place: &u64| {
            let share = place as f64 / count as f64;
            let ends = sketch.quantiles(&[share - slack, share + slack]);
            Bracket {
                place,
                low: ends[0],
                high: ends[1],
                below: 0,
                at_low: 0,
                at_high: 0,
                between: Vec::new(),
            }
        };
        Self {
            count,
            sought: places.iter().map(bracket).collect(),
        }
    }

    /// Nothing seen yet, of the same places.
    pub(super) fn fresh(&self) -> Self {
        self.clone()
    }

    pub(super) fn observe(&mut self, view: &View) -> Result<(), String> {
        let numbers = numbers(view)?;
        for bracket in &mut self.sought {
            for &number in &numbers {
                if number < bracket.low {
                    bracket.below += 1;
                } else if number == bracket.low {
                    bracket.at_low += 1;
                } else if number < bracket.high {
                    bracket.between.push(number);
                } else if number == bracket.high {
                    bracket.at_high += 1;
                }
            }
        }
        Ok(())
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (bracket, more) in self.sought.iter_mut().zip(other.sought) {
            bracket.below += more.below;
            bracket.at_low += more.at_low;
            bracket.at_high += more.at_high;
            bracket.between.extend(more.between);
        }
    }

    /// The quantiles; none of no values.
    pub(super) fn finish(
        mut self,
        quantiles: &[f64],
        interpolation: Interpolation,
    ) -> Result<Option<Vec<f64>>, String> {
        if self.count == 0 {
            return Ok(None);
        }
        let mut found: HashMap<u64, f64> = HashMap::new();
        for bracket in &mut self.sought {
            found.insert(bracket.place, bracket.value()?);
        }
        let value = |share: &f64| {
            let rank = share * (self.count - 1) as f64;
            let (low, high) = (found[&(rank.floor() as u64)], found[&(rank.ceil() as u64)]);
            match interpolation {
                Interpolation::Lower => low,
                Interpolation::Higher => high,
                Interpolation::Midpoint => (low + high) / 2.0,
                Interpolation::Linear => low + (high - low) * rank.fract(),
                // Half-way, the even place, as numpy rounds.
                Interpolation::Nearest if rank.round_ties_even() == rank.floor() => low,
                Interpolation::Nearest => high,
            }
        };
        Ok(Some(quantiles.iter().map(value).collect()))
    }
}

impl Bracket {
    fn value(&mut self) -> Result<f64, String> {
        let missed = || "a quantile was not where the sketch said; validate again".to_owned();
        let mut place = self.place.checked_sub(self.below).ok_or_else(missed)?;
        if place < self.at_low {
            return Ok(self.low);
        }
        place -= self.at_low;
        if place < self.between.len() as u64 {
            let (_, value, _) = self
                .between
                .select_nth_unstable_by(place as usize, f64::total_cmp);
            return Ok(*value);
        }
        place -= self.between.len() as u64;
        if place < self.at_high {
            Ok(self.high)
        } else {
            Err(missed())
        }
    }
}

/// Whether quantiles are as expected, with what was observed.
pub(super) fn quantiles_held(
    found: Option<Vec<f64>>,
    quantiles: &[f64],
    ranges: &[[f64; 2]],
) -> (bool, Value) {
    // As Great Expectations: equal to a limit within 1e-4 of it is inside.
    let close = |a: f64, b: f64| a == b || (b.is_finite() && (a - b).abs() <= 1e-4 * b.abs());
    let values = found
        .clone()
        .unwrap_or_else(|| vec![f64::NAN; quantiles.len()]);
    let held: Vec<bool> = values
        .iter()
        .zip(ranges)
        .map(|(&value, &[low, high])| {
            close(value, low) || close(value, high) || (low..=high).contains(&value)
        })
        .collect();
    let success = held.iter().all(|held| *held);
    let observed = json!({
        "observed_value": {"quantiles": quantiles, "values": found},
        "details": {"success_details": held},
    });
    (success, observed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array};
    use proptest::prelude::*;

    use super::*;

    fn view(values: &[f64]) -> View {
        let array: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        View::new(&array, false).unwrap()
    }

    proptest! {
        #[test]
        fn quantiles_of_two_scans_are_exact(
            values in prop::collection::vec(-50i32..50, 1..400), share in 0.0f64..=1.0, repeat in 1usize..200,
        ) {
            let values: Vec<f64> = values.iter().cycle().take(values.len() * repeat)
                .enumerate().map(|(index, value)| f64::from(*value) + (index % 3) as f64 / 4.0).collect();
            let mut sketch = QuantileSketch::new(64);
            values.iter().for_each(|&value| sketch.add(value));
            let mut exact = ExactQuantiles::new(&sketch, &[share]);
            let mut part = exact.fresh();
            let (first, second) = values.split_at(values.len() / 3);
            exact.observe(&view(first)).unwrap();
            part.observe(&view(second)).unwrap();
            exact.merge(part);
            let mut ascending = values.clone();
            ascending.sort_unstable_by(f64::total_cmp);
            let rank = share * (values.len() - 1) as f64;
            let found = exact.finish(&[share], Interpolation::Lower).unwrap().unwrap();
            prop_assert_eq!(found[0], ascending[rank.floor() as usize]);
        }
    }

    #[test]
    fn bins_hold_their_lower_edge_and_the_last_both() {
        let bins = [0.0, 1.0, 2.0];
        let found: Vec<usize> = [-1.0, 0.0, 0.5, 1.0, 2.0, 2.5]
            .iter()
            .map(|x| bin_of(&bins, *x))
            .collect();
        assert_eq!(found, [0, 1, 1, 2, 2, 3]);
    }
}

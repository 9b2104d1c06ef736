//! Expectations of whole columns: what is gathered of each part of the rows, and added up.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Value, json};
use streamrec_artifact::Moments;
use streamrec_artifact::sketch::QuantileSketch;

use super::kind::Kind;
use super::literal::{Bounds, Literal};
use super::partition::{Partition, divergence};
use super::view::{Values, View, number_of};

/// The accuracy of the sketch that says where a quantile is looked for.
const QUANTILE_ACCURACY: u16 = 4096;
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
                sketch.add_all(&numbers(view)?);
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
                for &number in numbers(view)?.iter() {
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
pub(super) fn numbers(view: &View) -> Result<Cow<'_, [f64]>, String> {
    match &view.values {
        Values::Texts(_, false) | Values::Times(_) | Values::Opaque => {
            Err("the values are no numbers".into())
        }
        Values::Numbers(values) if view.valid_count == view.rows() => Ok(Cow::Borrowed(values)),
        Values::Texts(texts, true) => {
            let number = |row| {
                let text = texts.value(row);
                number_of(text).ok_or_else(|| format!("{text:?} is no number"))
            };
            view.valid
                .set_indices()
                .map(number)
                .collect::<Result<_, _>>()
                .map(Cow::Owned)
        }
        _ => Ok(view
            .valid
            .set_indices()
            .filter_map(|row| view.number(row))
            .collect::<Vec<f64>>()
            .into()),
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

#[cfg(test)]
mod tests {
    use super::*;

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

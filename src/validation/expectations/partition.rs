//! Partitions: the expected distribution of a Kullback-Leibler divergence.

use serde_json::Value;

use super::kwargs::Kwargs;
use super::literal::Literal;

/// How far sums of weights may be from 1, as numpy's `allclose`.
const WEIGHT_TOLERANCE: f64 = 1e-5 + 1e-8;

/// What is expected of the distribution of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Partition {
    /// A weight for each value.
    Values {
        /// The values.
        values: Vec<Literal>,
        /// Their weights.
        weights: Vec<f64>,
        /// The weight shared by values that are not named.
        holdout: f64,
    },
    /// A weight for each interval.
    Bins {
        /// The edges, ascending; each interval holds its lower edge, the last both.
        bins: Vec<f64>,
        /// The weights that are expected, of below, each interval, and above; infinite ends have nothing beyond.
        expected: Vec<f64>,
    },
}

impl Partition {
    pub(super) fn parse(kwargs: &mut Kwargs) -> Result<Self, String> {
        let written = kwargs.take("partition_object").ok_or(
            "`partition_object` is missing; a partition of the data itself would always pass",
        )?;
        let tail = share(kwargs, "tail_weight_holdout")?;
        let internal = share(kwargs, "internal_weight_holdout")?;
        let bucketize = kwargs.flag("bucketize_data")?.unwrap_or(true);
        for name in ["min_value", "max_value"] {
            if kwargs.take(name).is_some() {
                return Err(format!("its argument `{name}` is not supported"));
            }
        }
        let wrong = |problem: &str| format!("partition_object: {problem}");
        let numbers = |name: &str| -> Result<Option<Vec<f64>>, String> {
            let Some(list) = written.get(name) else {
                return Ok(None);
            };
            let list = list
                .as_array()
                .and_then(|list| list.iter().map(Value::as_f64).collect());
            list.map(Some)
                .ok_or_else(|| wrong(&format!("expected numbers as `{name}`")))
        };
        let weights = numbers("weights")?.ok_or_else(|| wrong("`weights` are missing"))?;
        if weights.iter().any(|weight| *weight < 0.0) {
            return Err(wrong("weights are at least 0"));
        }
        if let Some(values) = written.get("values") {
            let values = values
                .as_array()
                .ok_or_else(|| wrong("expected a list as `values`"))?;
            let literals = values.iter().map(Literal::of);
            let values: Vec<Literal> = literals
                .collect::<Result<Option<_>, _>>()?
                .ok_or_else(|| wrong("null is no value"))?;
            if internal > 0.0 {
                return Err("internal_weight_holdout cannot be used with values".into());
            }
            sums_to_one(&weights, values.len(), "values")?;
            return Ok(Self::Values {
                values,
                weights,
                holdout: tail,
            });
        }
        let bins = numbers("bins")?.ok_or_else(|| wrong("expected `values` or `bins`"))?;
        if !bucketize {
            return Err("bucketize_data = false cannot be used with bins".into());
        }
        let tails = numbers("tail_weights")?;
        if !bins.is_sorted_by(|a, b| a < b) {
            return Err(wrong("bins ascend"));
        }
        let expected = expected_weights(&bins, &weights, tails, tail, internal)?;
        Ok(Self::Bins { bins, expected })
    }
}

/// The weights below, in and above the bins, what was held out included.
fn expected_weights(
    bins: &[f64],
    weights: &[f64],
    tails: Option<Vec<f64>>,
    tail: f64,
    internal: f64,
) -> Result<Vec<f64>, String> {
    let all: Vec<f64> = tails.iter().flatten().chain(weights).copied().collect();
    let count = bins.len().saturating_sub(1) + tails.as_ref().map_or(0, Vec::len);
    sums_to_one(&all, count, "bins less one")?;
    let open = [bins.first(), bins.last()].map(|edge| edge.is_some_and(|edge| edge.is_infinite()));
    if tails.as_ref().is_some_and(|tails| tails.len() != 2) {
        return Err("partition_object: there are two tail_weights".into());
    }
    if tails.is_some() && (tail > 0.0 || open != [false; 2]) {
        return Err("tail_weights need finite bins and no tail_weight_holdout".into());
    }
    if tail > 0.0 && open == [true; 2] {
        return Err("tail_weight_holdout cannot be used with infinite bins at both ends".into());
    }
    let zeros = weights.iter().filter(|weight| **weight == 0.0).count();
    let inside = weights.iter().map(|&weight| match weight {
        0.0 if internal > 0.0 => internal / zeros as f64,
        weight => weight * (1.0 - tail - internal),
    });
    let [below, above] = match (tails.as_deref(), open) {
        (Some([below, above]), _) => [*below, *above],
        (_, [false, false]) => [tail / 2.0; 2],
        // Beyond the infinite end lies nothing; all that is held out belongs to the other.
        (_, [open_below, open_above]) => [
            if open_below { 0.0 } else { tail },
            if open_above { 0.0 } else { tail },
        ],
    };
    Ok([below].into_iter().chain(inside).chain([above]).collect())
}

fn share(kwargs: &mut Kwargs, name: &str) -> Result<f64, String> {
    match kwargs.number(name)? {
        None => Ok(0.0),
        Some(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Some(share) => Err(format!("{name}: expected 0 to 1, got {share}")),
    }
}

fn sums_to_one(weights: &[f64], count: usize, of: &str) -> Result<(), String> {
    let sum: f64 = weights.iter().sum();
    if weights.len() != count || (sum - 1.0).abs() > WEIGHT_TOLERANCE {
        return Err(format!(
            "partition_object: expected as many weights as {of} ({count}), which sum to 1; got {}, which sum to {sum}",
            weights.len()
        ));
    }
    Ok(())
}

/// `sum p ln(p / q)` of the two scaled to a sum of 1, as SciPy's `entropy(p, q)`.
pub(super) fn divergence(observed: &[f64], expected: &[f64]) -> f64 {
    let (p_sum, q_sum): (f64, f64) = (observed.iter().sum(), expected.iter().sum());
    let terms = observed.iter().zip(expected).map(|(p, q)| {
        let (p, q) = (p / p_sum, q / q_sum);
        if p == 0.0 && q >= 0.0 {
            0.0
        } else {
            p * (p / q).ln()
        }
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_scipy() {
        // scipy.stats.entropy([1, 2, 3], [3, 2, 1])
        let found = divergence(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]);
        assert!((found - 0.366_204_096_222_703_2).abs() < 1e-12, "{found}");
        assert_eq!(divergence(&[1.0, 1.0], &[1.0, 0.0]), f64::INFINITY);
    }
}

//! Exact quantiles: a sketch of the first scan says where, the second looks there.

use std::collections::HashMap;

use serde_json::{Value, json};
use streamrec_artifact::sketch::QuantileSketch;

use super::aggregate::numbers;
use super::kind::Interpolation;
use super::view::View;

/// How many times the sketch's error the place of a quantile may be off: some nine standard deviations.
const BRACKET: f64 = 4.0;

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
            for &number in numbers.iter() {
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
}

//! In what two trainees differ after the same steps.

use std::fmt;

use crate::config::Precision;
use crate::train::{TrainError, Trainee};

/// Weights and optimiser state by name.
pub(super) type Tensors = Vec<(String, Vec<f32>)>;

/// Those of a trainee, of the moment.
pub(super) fn tensors(trainee: &mut dyn Trainee) -> Result<Tensors, TrainError> {
    let slices = trainee.named_slices()?.into_iter();
    Ok(slices
        .map(|slice| (slice.name, slice.values.to_f32()))
        .collect())
}

/// How far a device's losses, predictions and weights may be from the CPU's after one step, by the type of the activations.
pub(super) fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::Fp32 => 2e-5,
        Precision::Bf16 => 2e-2,
        Precision::Fp16 => 4e-3,
    }
}

/// A number of a device that is not the CPU's.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// What it is, such as `prediction 3` or `top.0.weight[17]`.
    pub what: String,
    /// The step behind which it was found.
    pub step: u64,
    /// The CPU's.
    pub expected: f64,
    /// The device's.
    pub got: f64,
    /// How far both are apart, in the measure of `allowed`.
    pub error: f64,
    /// How far they may be.
    pub allowed: f64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after step {}: expected {} as on the CPU, got {} (off by {:.1e}, allowed {:.1e})",
            self.what, self.step, self.expected, self.got, self.error, self.allowed
        )
    }
}

impl Difference {
    /// Of one number, if it is further from the CPU's than `allowed`.
    pub(super) fn of_number(
        what: &str,
        step: u64,
        [got, expected]: [f64; 2],
        allowed: f64,
    ) -> Option<Self> {
        let error = (got - expected).abs();
        // Also where it is no number, unless both are none.
        let same = error <= allowed || got.is_nan() && expected.is_nan() || got == expected;
        (!same).then(|| Self {
            what: what.to_owned(),
            step,
            expected,
            got,
            error,
            allowed,
        })
    }

    /// Of the first value that is off by more than `tolerance`, of the largest of all but at least of 0.1.
    pub(super) fn of_values(
        name: &str,
        step: u64,
        [got, expected]: [&[f32]; 2],
        tolerance: f32,
    ) -> Option<Self> {
        let counts = [got.len(), expected.len()].map(|count| count as f64);
        if let Some(count) = Self::of_number(&format!("the length of {name}"), step, counts, 0.0) {
            return Some(count);
        }
        let scale = expected.iter().fold(0.1f32, |scale, x| scale.max(x.abs()));
        let allowed = f64::from(tolerance * scale);
        got.iter()
            .zip(expected)
            .enumerate()
            .find_map(|(index, (&got, &expected))| {
                let numbers = [got, expected].map(f64::from);
                Self::of_number(&format!("{name}[{index}]"), step, numbers, allowed)
            })
    }

    /// Of a tensor whose change is off by more than `tolerance`: the norm of what differs, of the norm of the CPU's change.
    /// Names the element that is off most.
    ///
    /// A norm, and no largest element: where the input of a ReLU is within rounding of 0, one device lets a sample pass
    /// that another does not, which moves some elements by the whole of that sample's part.
    pub(super) fn of_change(
        name: &str,
        step: u64,
        before: &[f32],
        [got, expected]: [&[f32]; 2],
        tolerance: f64,
    ) -> Option<Self> {
        let [mut apart, mut change, mut values, mut worst] = [0.0f64; 4];
        let mut at = 0;
        for (index, ((&got, &expected), &before)) in
            got.iter().zip(expected).zip(before).enumerate()
        {
            let [got, expected, before] = [got, expected, before].map(f64::from);
            let error = (got - expected).powi(2);
            apart += error;
            change += (expected - before).powi(2);
            values += expected * expected;
            if error > worst || !error.is_finite() && worst.is_finite() {
                (worst, at) = (error, index);
            }
        }
        // Values are rounded to float32 behind each change.
        let rounding = 4.0 * f64::from(f32::EPSILON) * values.sqrt();
        let [error, allowed] = [apart.sqrt(), tolerance * change.sqrt() + rounding];
        // Also where it is no number.
        let same = error <= allowed;
        (!same).then(|| Self {
            what: format!("{name}[{at}]"),
            step,
            expected: f64::from(expected[at]),
            got: f64::from(got[at]),
            error: error / change.sqrt().max(f64::MIN_POSITIVE),
            allowed: tolerance,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_no_number_differs() {
        let of = |numbers| Difference::of_number("loss", 1, numbers, 0.5);
        assert_eq!(of([1.0, 1.4]), None);
        assert_eq!(of([f64::NAN, f64::NAN]), None, "both skipped it");
        assert!(of([1.0, 1.6]).is_some() && of([f64::NAN, 1.0]).is_some());
        let got = [0.5, f32::NAN, 0.5];
        let change = Difference::of_change("w", 2, &[0.0; 3], [&got, &[0.5; 3]], 0.1).unwrap();
        assert_eq!(change.what, "w[1]");
    }

    #[test]
    fn a_change_is_held_against_the_whole_change_and_the_worst_element_is_named() {
        let before = [1.0; 100];
        let expected = [1.01; 100];
        let mut got = expected;
        got[7] += 0.002;
        // 0.002 of 0.01 * sqrt(100)
        let of = |tolerance| Difference::of_change("w", 1, &before, [&got, &expected], tolerance);
        assert_eq!(of(0.03), None);
        let difference = of(0.01).unwrap();
        assert_eq!(difference.what, "w[7]");
        assert!((difference.error - 0.02).abs() < 1e-3, "{difference}");
        // What must not change may not, but for rounding.
        let frozen = |got: &[f32]| Difference::of_change("w", 1, &before, [got, &before], 0.1);
        assert_eq!(frozen(&before), None);
        assert!(frozen(&got).is_some());
    }
}

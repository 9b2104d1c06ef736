use crate::config::optimizer::ScheduleConfig;

/// The factor on learning rates, by step.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    config: ScheduleConfig,
}

impl Schedule {
    /// The schedule of a checked config.
    pub fn new(config: ScheduleConfig) -> Self {
        Self { config }
    }

    /// The factor in `step`, from 1.
    ///
    /// In the warm-up of `n` steps it is `step / n`, so that the last of them is the first at full
    /// rate. With `p` the part of the fall's steps that lie behind, it then is
    /// `end + (1 - end) (1 - p)^power`, or `end + (1 - end) (1 + cos(pi p)) / 2`.
    pub fn factor(&self, step: u64) -> f64 {
        let (warmup, start, decay) = match self.config {
            ScheduleConfig::Constant {} => return 1.0,
            ScheduleConfig::WarmupPolynomial {
                warmup_steps,
                decay_start_step,
                decay_steps,
                ..
            }
            | ScheduleConfig::WarmupCosine {
                warmup_steps,
                decay_start_step,
                decay_steps,
                ..
            } => (
                warmup_steps,
                decay_start_step.unwrap_or(warmup_steps),
                decay_steps,
            ),
        };
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let behind = step.saturating_sub(start) as f64 / decay.max(1) as f64;
        let behind = behind.min(1.0);
        match self.config {
            ScheduleConfig::WarmupPolynomial {
                power, end_factor, ..
            } => end_factor + (1.0 - end_factor) * (1.0 - behind).powf(power),
            ScheduleConfig::WarmupCosine { end_factor, .. } => {
                let cosine = (std::f64::consts::PI * behind).cos();
                end_factor + (1.0 - end_factor) * (1.0 + cosine) / 2.0
            }
            ScheduleConfig::Constant {} => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(config: ScheduleConfig, steps: &[u64]) -> Vec<f64> {
        steps
            .iter()
            .map(|&step| Schedule::new(config).factor(step))
            .collect()
    }

    #[test]
    fn warm_up_is_linear_then_constant_until_the_fall() {
        let config = ScheduleConfig::WarmupPolynomial {
            warmup_steps: 4,
            decay_start_step: Some(10),
            decay_steps: 10,
            power: 2.0,
            end_factor: 0.0,
        };
        let expected = [0.25, 0.75, 1.0, 1.0, 1.0, 0.81, 0.25, 0.0, 0.0];
        let got = factors(config, &[1, 3, 4, 5, 10, 11, 15, 20, 1000]);
        assert!(
            got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
            "{got:?}"
        );
    }

    #[test]
    fn a_cosine_falls_to_its_end() {
        let config = ScheduleConfig::WarmupCosine {
            warmup_steps: 0,
            decay_start_step: None,
            decay_steps: 4,
            end_factor: 0.2,
        };
        let got = factors(config, &[1, 2, 4, 9]);
        let expected = [0.2 + 0.4 * (1.0 + 0.5f64.sqrt()), 0.6, 0.2, 0.2];
        assert!(
            got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
            "{got:?}"
        );
    }

    #[test]
    fn without_a_schedule_the_factor_is_one() {
        assert_eq!(
            factors(ScheduleConfig::Constant {}, &[1, 1 << 40]),
            [1.0, 1.0]
        );
    }
}

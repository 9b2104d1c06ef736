use serde::{Deserialize, Serialize};

use crate::config::LossScaleConfig;

/// Dynamic loss scaling (Micikevicius et al., "Mixed Precision Training",
/// <https://arxiv.org/abs/1710.03740>, section 3.2; the rule is that of PyTorch's `GradScaler`).
///
/// Gradients are computed of the loss times a factor, so that small ones do not vanish in fp16.
/// Before an update they are divided by it. Where one is infinite or NaN on any rank, no rank
/// updates anything, and the factor is halved; after a number of clean steps it doubles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScaler {
    growth_steps: u64,
    state: LossScalerState,
}

/// What a checkpoint holds of a [`LossScaler`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScalerState {
    /// The factor of the next step.
    pub scale: f64,
    /// Steps with finite gradients since the factor changed.
    pub clean_steps: u64,
    /// Steps that updated nothing, of the whole run.
    pub skipped_steps: u64,
}

impl LossScaler {
    /// Before the first step.
    pub fn new(config: LossScaleConfig) -> Self {
        Self {
            growth_steps: config.growth_steps,
            state: LossScalerState {
                scale: config.initial,
                clean_steps: 0,
                skipped_steps: 0,
            },
        }
    }

    /// What to save.
    pub fn state(&self) -> LossScalerState {
        self.state
    }

    /// Goes on from what was saved.
    pub fn restore(&mut self, state: LossScalerState) {
        self.state = state;
    }

    /// The factor on the loss.
    pub fn scale(&self) -> f64 {
        self.state.scale
    }

    /// The factor that undoes it, taken in double precision.
    pub fn inverse(&self) -> f64 {
        1.0 / self.state.scale
    }

    /// Takes note of a step: whether any gradient of any rank was not finite.
    pub fn note(&mut self, overflow: bool) {
        let state = &mut self.state;
        if overflow {
            state.scale *= 0.5;
            state.clean_steps = 0;
            state.skipped_steps += 1;
            return;
        }
        state.clean_steps += 1;
        if state.clean_steps == self.growth_steps {
            state.scale = (state.scale * 2.0).min(LossScaleConfig::MAX);
            state.clean_steps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_doubles_after_clean_steps_and_halves_after_an_overflow() {
        let mut scaler = LossScaler::new(LossScaleConfig::default());
        for _ in 0..1_999 {
            scaler.note(false);
        }
        assert_eq!(scaler.scale(), 65_536.0);
        scaler.note(false);
        assert_eq!(scaler.scale(), 131_072.0);
        scaler.note(false);
        scaler.note(true);
        let expected = LossScalerState {
            scale: 65_536.0,
            clean_steps: 0,
            skipped_steps: 1,
        };
        assert_eq!(scaler.state(), expected);
        assert_eq!(scaler.inverse() * scaler.scale(), 1.0);
    }

    #[test]
    fn a_saved_state_goes_on_to_the_bit() {
        let config = LossScaleConfig {
            initial: 1024.0,
            growth_steps: 3,
        };
        let mut one = LossScaler::new(config);
        let verdicts = [false, false, true, false, false, false, true, false];
        verdicts.iter().for_each(|&overflow| one.note(overflow));
        let saved = serde_json::to_string(&one.state()).unwrap();
        let mut other = LossScaler::new(config);
        other.restore(serde_json::from_str(&saved).unwrap());
        assert_eq!(one, other);
    }

    #[test]
    fn growth_ends_before_the_factor_is_infinite() {
        let mut scaler = LossScaler::new(LossScaleConfig {
            initial: LossScaleConfig::MAX,
            growth_steps: 1,
        });
        scaler.note(false);
        assert_eq!(scaler.scale(), LossScaleConfig::MAX);
    }
}

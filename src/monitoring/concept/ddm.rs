//! DDM: the error rate of a learner that learns only falls (Gama, Medas, Castillo and Rodrigues, "Learning with
//! drift detection", SBIA 2004, <https://doi.org/10.1007/978-3-540-28645-5_29>).

use serde::{Deserialize, Serialize};

/// Errors before anything is judged.
const WARM_UP: u64 = 30;
const WARNING_SIGMAS: f64 = 2.0;
const DRIFT_SIGMAS: f64 = 3.0;

/// What an update came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DdmState {
    /// Nothing to tell.
    Stable,
    /// Two standard deviations above the least error rate.
    Warning,
    /// Three.
    Drift,
}

/// Detects that a share of errors has risen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ddm {
    count: u64,
    rate: f64,
    /// The rate and its standard deviation where their sum was least.
    least: Option<[f64; 2]>,
    state: DdmState,
}

impl Default for Ddm {
    fn default() -> Self {
        Self {
            count: 0,
            rate: 0.0,
            least: None,
            state: DdmState::Stable,
        }
    }
}

impl Ddm {
    /// Adds whether the model was wrong.
    pub fn update(&mut self, wrong: bool) -> DdmState {
        if self.state == DdmState::Drift {
            *self = Self::default();
        }
        self.count += 1;
        self.rate += (f64::from(u8::from(wrong)) - self.rate) / self.count as f64;
        let deviation = (self.rate * (1.0 - self.rate) / self.count as f64).sqrt();
        if self.count > WARM_UP {
            let now = self.rate + deviation;
            let [rate, sigma] = match self.least {
                Some(least) if now > least[0] + least[1] => least,
                _ => [self.rate, deviation],
            };
            self.least = Some([rate, sigma]);
            self.state = if now > rate + DRIFT_SIGMAS * sigma {
                DdmState::Drift
            } else if now > rate + WARNING_SIGMAS * sigma {
                DdmState::Warning
            } else {
                DdmState::Stable
            };
        }
        self.state
    }
}

//! Where a figure becomes too much.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::monitoring::significance::Correction;

/// The side of normal values on which a figure is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Above.
    Above,
    /// Below.
    Below,
    /// Either.
    #[default]
    Both,
}

/// A threshold as it stands in the file; exactly one of its forms is filled.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawThreshold {
    above: Option<f64>,
    below: Option<f64>,
    clear: Option<f64>,
    sigmas: Option<f64>,
    clear_sigmas: Option<f64>,
    windows: Option<usize>,
    side: Option<Side>,
    false_alarm: Option<f64>,
    correction: Option<Correction>,
}

/// When a figure is too much, and when a firing alert is over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Threshold {
    /// A fixed one.
    Fixed {
        /// Above it, or below.
        above: bool,
        /// The figure.
        value: f64,
        /// A firing alert ends on the good side of this.
        clear: f64,
    },
    /// So many standard deviations from the mean of windows before.
    Sigmas {
        /// Standard deviations.
        sigmas: f64,
        /// A firing alert ends within so many.
        clear: f64,
        /// Windows before: as many as there are up to this, and at least half of it.
        windows: usize,
        /// Which side.
        side: Side,
    },
    /// A probability that is too small for chance, among those of all inputs of the window.
    FalseAlarm {
        /// What the correction promises.
        rate: f64,
        /// The correction.
        correction: Correction,
    },
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fixed {
                above,
                value,
                clear,
            } => {
                let side = if above { "above" } else { "below" };
                write!(f, "{side} {value}")?;
                if clear != value {
                    write!(f, ", until it is {clear} again")?;
                }
                Ok(())
            }
            Self::Sigmas {
                sigmas,
                clear,
                windows,
                side,
            } => {
                let side = match side {
                    Side::Above => "above",
                    Side::Below => "below",
                    Side::Both => "from",
                };
                write!(
                    f,
                    "{sigmas} standard deviations {side} the mean of {windows} windows before"
                )?;
                if clear != sigmas {
                    write!(f, ", until it is {clear}")?;
                }
                Ok(())
            }
            Self::FalseAlarm { rate, correction } => {
                let correction = match correction {
                    Correction::None => "each input by itself",
                    Correction::Bonferroni => "all inputs together, by Bonferroni",
                    Correction::Holm => "all inputs together, by Holm",
                    Correction::BenjaminiHochberg => "all inputs together, by Benjamini-Hochberg",
                };
                let percent = rate * 100.0;
                write!(
                    f,
                    "unlike chance, at {percent} % of false alarms, {correction}"
                )
            }
        }
    }
}

impl RawThreshold {
    /// The threshold, or what is wrong with it.
    pub(super) fn check(&self) -> Result<Threshold, String> {
        let forms = [self.above, self.below, self.sigmas, self.false_alarm];
        if forms.iter().flatten().count() != 1 {
            return Err(
                "threshold: expected exactly one of above, below, sigmas, false_alarm".into(),
            );
        }
        let of_sigmas = [
            ("windows", self.windows.is_some()),
            ("side", self.side.is_some()),
            ("clear_sigmas", self.clear_sigmas.is_some()),
        ];
        let clear = ("clear", self.clear.is_some());
        let correction = ("correction", self.correction.is_some());
        let foreign = |form: &str, fields: &[(&str, bool)]| {
            let found = fields.iter().find(|(_, filled)| *filled);
            found.map_or(Ok(()), |(name, _)| {
                Err(format!("threshold: `{name}` does not go with {form}"))
            })
        };
        if let Some(rate) = self.false_alarm {
            foreign("false_alarm", &[&of_sigmas[..], &[clear]].concat())?;
            return self.of_false_alarms(rate);
        }
        if let Some(sigmas) = self.sigmas {
            foreign("sigmas, which has clear_sigmas", &[clear, correction])?;
            return self.of_sigmas(sigmas);
        }
        foreign("above and below", &[&of_sigmas[..], &[correction]].concat())?;
        self.fixed()
    }

    fn of_false_alarms(&self, rate: f64) -> Result<Threshold, String> {
        if !(rate > 0.0 && rate < 1.0) {
            let problem = format!("threshold.false_alarm: expected between 0 and 1, got {rate}");
            return Err(problem);
        }
        let correction = self.correction.unwrap_or(Correction::Holm);
        Ok(Threshold::FalseAlarm { rate, correction })
    }

    fn of_sigmas(&self, sigmas: f64) -> Result<Threshold, String> {
        let clear = self.clear_sigmas.unwrap_or(sigmas);
        let windows = self.windows.unwrap_or(24);
        if !(sigmas > 0.0 && sigmas.is_finite() && (0.0..=sigmas).contains(&clear)) {
            return Err(
                "threshold: expected sigmas above 0 and clear_sigmas from 0 to sigmas".into(),
            );
        }
        if !(4..=2000).contains(&windows) {
            return Err(format!(
                "threshold.windows: expected 4 to 2000, got {windows}"
            ));
        }
        let side = self.side.unwrap_or_default();
        Ok(Threshold::Sigmas {
            sigmas,
            clear,
            windows,
            side,
        })
    }

    fn fixed(&self) -> Result<Threshold, String> {
        let above = self.above.is_some();
        let value = self.above.or(self.below).unwrap_or_default();
        let clear = self.clear.unwrap_or(value);
        let good = if above {
            clear <= value
        } else {
            clear >= value
        };
        if !good || !value.is_finite() || !clear.is_finite() {
            let problem = "threshold.clear: expected a number on the good side of the threshold";
            return Err(problem.into());
        }
        Ok(Threshold::Fixed {
            above,
            value,
            clear,
        })
    }
}

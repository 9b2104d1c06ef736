//! The states of an alert.
//!
//! ```text
//!           too much          for so long
//! (none) ──────────► pending ────────────► firing ──── clear ──► resolved (none)
//!    ▲───────────────────┘ no longer, or nothing known   │  ▲ between threshold and clear,
//!                                                        └──┘ or nothing known
//! ```

use serde::{Deserialize, Serialize};

use crate::monitoring::rules::{AlertKey, Judgement, Rule};

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Too much, but not for long enough.
    Pending,
    /// Too much for long enough, and not over.
    Firing,
}

/// One alert of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Its rule.
    pub rule: String,
    /// Where it stands.
    pub phase: Phase,
    /// The end of the first window that was too much.
    pub since_ms: i64,
    /// The end of the window with which it began to fire.
    pub fired_ms: Option<i64>,
    /// What was said last.
    pub judgement: Judgement,
}

/// A change that people are told of.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// It fires now.
    Fired(Alert),
    /// It fired, and is over.
    Resolved(Alert),
}

/// Takes the judgements of a rule on a window that ends at `end_ms`; `alerts` are those of all rules.
pub fn step(
    rule: &Rule,
    judgements: &[Judgement],
    end_ms: i64,
    alerts: &mut Vec<Alert>,
) -> Vec<Transition> {
    let mut transitions = Vec::new();
    alerts.retain_mut(|alert| {
        if alert.rule != rule.name {
            return true;
        }
        let own = |judgement: &&Judgement| judgement.key == alert.judgement.key;
        let judgement = judgements.iter().find(own);
        match (alert.phase, judgement) {
            (Phase::Firing, Some(judgement)) => {
                alert.judgement = judgement.clone();
                if judgement.clear && !judgement.breach {
                    transitions.push(Transition::Resolved(alert.clone()));
                    return false;
                }
                true
            }
            // What is not known is not over.
            (Phase::Firing, None) => true,
            (Phase::Pending, Some(judgement)) if judgement.breach => {
                alert.judgement = judgement.clone();
                true
            }
            (Phase::Pending, _) => false,
        }
    });
    for judgement in judgements.iter().filter(|judgement| judgement.breach) {
        let known = |alert: &Alert| is(alert, &rule.name, &judgement.key);
        if !alerts.iter().any(known) {
            alerts.push(Alert {
                rule: rule.name.clone(),
                phase: Phase::Pending,
                since_ms: end_ms,
                fired_ms: None,
                judgement: judgement.clone(),
            });
        }
    }
    for alert in alerts.iter_mut().filter(|alert| alert.rule == rule.name) {
        if alert.phase == Phase::Pending && end_ms - alert.since_ms >= rule.for_ms {
            alert.phase = Phase::Firing;
            alert.fired_ms = Some(end_ms);
            transitions.push(Transition::Fired(alert.clone()));
        }
    }
    transitions
}

fn is(alert: &Alert, rule: &str, key: &AlertKey) -> bool {
    alert.rule == rule && alert.judgement.key == *key
}

impl Transition {
    /// The alert.
    pub fn alert(&self) -> &Alert {
        match self {
            Self::Fired(alert) | Self::Resolved(alert) => alert,
        }
    }
}

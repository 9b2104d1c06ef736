//! Rules: what is an alert, in TOML.

mod config;
mod history;
mod judge;
#[cfg(test)]
mod tests;
mod threshold;

pub use config::{RULES_VERSION, Rule, Rules, Severity, Webhook, WindowSettings};
pub use history::{HISTORY_VERSION, JudgedHour, Pass, RuleBook, RuleHour};
pub use judge::{AlertKey, Judgement, judge};
pub use threshold::{Side, Threshold};

//! The release gate: what a challenger must show, by typed criteria with confidence intervals.
//!
//! ```text
//! gate.toml ─┐
//! artifacts ─┼─► evidence on the same rows ─► paired bootstrap over users ─► pass, hold or fail
//! data ──────┘
//! ```
//!
//! A challenger is compared with the champion and with a frozen reference: a champion that decays lets each
//! challenger pass, the reference does not.

mod bootstrap;
mod config;
mod evidence;
mod finding;
mod judge;
#[cfg(test)]
mod tests;

pub use config::{
    Against, Criterion, GATE_VERSION, GateConfig, GateConfigError, Metric, Segment, SegmentValue,
};
pub use evidence::{Evidence, EvidenceError, Models};
pub use finding::Finding;
pub use judge::{judge, outcome};

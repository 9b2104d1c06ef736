//! Concept drift: has what follows from the inputs changed, by the model's errors in the order of time?
//!
//! Each detector takes one error at a time, keeps a bounded state, and begins anew after an alarm. Parameters and
//! alarms are those of river 0.26.

mod adwin;
mod ddm;
mod detectors;
mod page_hinkley;
#[cfg(test)]
mod tests;

pub use adwin::Adwin;
pub use ddm::{Ddm, DdmState};
pub use detectors::{ConceptCounts, Detectors};
pub use page_hinkley::PageHinkley;

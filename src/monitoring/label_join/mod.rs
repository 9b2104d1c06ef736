//! Labels that come late, joined with what was predicted.

mod join;
mod labels;
mod predictions;

pub use join::{JoinReport, join};
pub use labels::{LabelFile, LabelReader};
pub(super) use predictions::newest_label_ms;

//! A dataset: a folder with a description, `dataset.json`, and one packed file a split.
//!
//! The folder appears under its name only when it is whole. Its fields are specified in
//! `docs/formats/dataset.md`.

mod description;
mod writer;

pub(in crate::data) use description::refuse_leak;
pub use description::{
    Dataset, HeldOutCounts, History, Provenance, SourceFile, Split, SplitFile, TimeSpan,
    TrailingSpec,
};
pub use writer::DatasetWriter;

#[cfg(test)]
mod tests;

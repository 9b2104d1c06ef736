//! What must hold of every parser of bytes from outside, whatever the bytes: it ends, it does not panic, it takes no more
//! memory than its input justifies, and what it accepts works.
//!
//! Each module has one function `check(data)`. The targets of `cargo fuzz` call it with what a fuzzer invents;
//! `tests/it/untrusted_bytes.rs` with edits drawn at random and with every input that ever failed.

pub mod artifact;
pub mod checkpoint;
pub mod dataset;
pub mod edits;
pub mod host;
pub mod input_rows;
pub mod labels;
pub mod pack_reader;
pub mod prediction_log;
pub mod request;
pub mod settings;
pub mod sketches;
pub mod tcp;

/// A check by the name of its target.
pub type Check = fn(&[u8]);

/// All of them.
pub const CHECKS: [(&str, Check); 12] = [
    ("artifact", artifact::check),
    ("checkpoint", checkpoint::check),
    ("dataset", dataset::check),
    ("host", host::check),
    ("input_rows", input_rows::check),
    ("labels", labels::check),
    ("pack_reader", pack_reader::check),
    ("prediction_log", prediction_log::check),
    ("request", request::check),
    ("settings", settings::check),
    ("sketches", sketches::check),
    ("tcp", tcp::check),
];

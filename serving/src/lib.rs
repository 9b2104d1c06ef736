//! Serves a StreamRec artifact: raw features by name in, probabilities out, over the Open Inference
//! Protocol v2 (REST).
//!
//! ```text
//! HTTP ─► protocol: tensors to raw rows ─► queue ─► scorer threads: batch ▸ encode ▸ forward
//!      ◄─ protocol: probabilities ◄──────────────── one answer a request
//! ```
//!
//! | module | what it answers |
//! |---|---|
//! | [`ranker`] | what does this artifact say of these rows, and does it still say what it said in training? |
//! | [`protocol`] | what do requests and answers look like? |
//! | [`queue`] | which requests are scored together, and when is it too many? |
//! | [`repository`] | which version answers now? |
//! | [`http`] | which path does what? |
//! | [`metrics`] | how is it going? |
//! | `forward`, `oracle` | what are the logits, by the kernels of the trainer and by candle? |
//!
//! Never does: train, fetch features, or answer with a model whose golden examples it cannot
//! reproduce.
#![forbid(unsafe_code)]

mod error_chain;
mod forward;
pub mod http;
pub mod metrics;
mod oracle;
pub mod protocol;
pub mod queue;
pub mod ranker;
pub mod repository;

pub use forward::ForwardError;

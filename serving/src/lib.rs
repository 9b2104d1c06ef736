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
//! | [`scorer`] | what does this model say of these rows? |
//! | [`ranker`] | and does this artifact still say what it said in training? |
//! | [`protocol`] | what do requests and answers look like? |
//! | [`queue`] | which requests are scored together, and when is it too many? |
//! | [`repository`] | which version answers now? |
//! | [`http`] | which path does what? |
//! | [`metrics`] | how is it going? |
//! | [`prediction_log`] | what was asked and answered? |
//! | `forward`, `oracle` | what are the logits, by the kernels of the trainer and by candle? |
//!
//! Never does: train, fetch features, or answer with a model whose golden examples it cannot
//! reproduce.
//!
//! Without the feature `http`, which is on by default, only the model is left: for programs that
//! score without a server.
#![forbid(unsafe_code)]

#[cfg(feature = "http")]
mod error_chain;
mod forward;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
pub mod metrics;
mod oracle;
pub mod prediction_log;
#[cfg(feature = "http")]
pub mod protocol;
#[cfg(feature = "http")]
pub mod queue;
pub mod ranker;
#[cfg(feature = "http")]
pub mod repository;
pub mod scorer;

pub use forward::ForwardError;

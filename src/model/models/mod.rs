//! The models, one file each, and how a config chooses among them.
//!
//! A model is a function from settings and features to a [`Graph`]. One of your own is any
//! function `fn(&FeatureSchema) -> Result<Graph, ModelError>`, written with
//! [`GraphBuilder`](super::GraphBuilder); see `examples/own_model.rs`.
//!
//! With several labels the last layers have as many outputs, one logit each.

mod dcn_v2;
mod deepfm;
mod dlrm;
mod table_dims;
mod wide_deep;

use streamrec_artifact::{FeatureSchema, Graph};
use table_dims::TableDims;

use super::ModelError;
use crate::config::model::ModelConfig;

pub use dcn_v2::build as dcn_v2;
pub use deepfm::build as deepfm;
pub use dlrm::build as dlrm;
pub use wide_deep::build as wide_deep;

/// The graph of the model that the config names.
///
/// # Errors
/// When the settings do not fit the features.
pub fn build(config: &ModelConfig, schema: &FeatureSchema) -> Result<Graph, ModelError> {
    match config {
        ModelConfig::Dlrm(config) => dlrm(config, schema),
        ModelConfig::DcnV2(config) => dcn_v2(config, schema),
        ModelConfig::DeepFm(config) => deepfm(config, schema),
        ModelConfig::WideDeep(config) => wide_deep(config, schema),
    }
}

#[cfg(test)]
mod tests;

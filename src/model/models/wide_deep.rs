//! Wide & Deep: <https://arxiv.org/abs/1606.07792>.
//!
//! ```text
//! F bags ─► tables [rows, labels] ─► sum over features [B, labels] ─┐  wide
//! dense [B, dense] ─► linear ─► [B, labels] ────────────────────────┤
//! F bags ─► embeddings [B, sum] ─┬─► deep MLP ─► [B, labels] ───────┤  deep
//! dense ─────────────────────────┘                                  └─► sum = logits
//! ```
//!
//! Both parts are trained jointly. The paper's cross-product transformations are features: a column
//! that combines others is looked up like any other. The paper trains the wide part with another
//! optimiser: give its parameters (`wide.*`, `embedding.*.wide`) a group of their own.

use streamrec_artifact::{Activation, FeatureSchema, Graph};

use super::{ModelError, TableDims};
use crate::{config::model::WideDeepConfig, model::GraphBuilder};

/// The graph of a Wide & Deep.
///
/// # Errors
/// When there are no features.
pub fn build(config: &WideDeepConfig, schema: &FeatureSchema) -> Result<Graph, ModelError> {
    let labels = schema.labels.len();
    let dims = TableDims::new("wide_deep", config.embedding_dim, &config.dims, schema)?;
    let mut graph = GraphBuilder::new(schema);
    let (mut terms, mut deep_inputs) = (Vec::new(), Vec::new());
    if !schema.categorical.is_empty() {
        let weights = graph.more_embeddings("wide.embeddings", "wide", |_| labels);
        terms.push(graph.sum_features("wide.sparse", weights, labels));
    }
    if !schema.dense.is_empty() {
        let dense = graph.dense();
        terms.push(graph.linear("wide.dense", dense, labels, false, Activation::None));
        deep_inputs.push(dense);
    }
    if !schema.categorical.is_empty() {
        deep_inputs.push(graph.embeddings("embeddings", |table| dims.of(table)));
    }
    if deep_inputs.is_empty() {
        let problem = "there are no features, so add some".into();
        return Err(ModelError::Build {
            kind: "wide_deep",
            problem,
        });
    }
    let deep = graph.concat("deep.input", &deep_inputs);
    let deep = graph.mlp("deep", deep, &config.deep);
    terms.push(graph.logits("deep.logits", deep));
    let logits = graph.add("logits", &terms);
    graph.finish(logits)
}

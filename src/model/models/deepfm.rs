//! DeepFM: <https://arxiv.org/abs/1703.04247>.
//!
//! ```text
//! F bags ─► tables [rows, labels] ─► sum over features [B, labels] ─┐  first order
//! dense [B, dense] ─► linear ─► [B, labels] ────────────────────────┤
//! F bags ─► tables [rows, dim] ─► embeddings [B, F dim]             │
//!                      ├─► factorization machine [B, 1] ────────────┤  second order
//!                      └─► with dense ─► deep MLP ─► [B, labels] ───┤  higher orders
//!                                                                   └─► sum = logits
//! ```
//!
//! The embeddings are shared by the factorization machine and the deep network. With several labels
//! each has first-order weights of its own, and the second-order term is added to all.

use streamrec_artifact::{Activation, FeatureSchema, Graph};

use super::{ModelError, TableDims};
use crate::{config::model::DeepFmConfig, model::GraphBuilder};

/// The graph of a DeepFM.
///
/// # Errors
/// When there is no categorical feature.
pub fn build(config: &DeepFmConfig, schema: &FeatureSchema) -> Result<Graph, ModelError> {
    if schema.categorical.is_empty() {
        let problem = "it factorizes embeddings, so add a categorical feature".into();
        return Err(ModelError::Build {
            kind: "deepfm",
            problem,
        });
    }
    let (dim, labels) = (config.embedding_dim, schema.labels.len());
    let dims = TableDims::new("deepfm", dim, &config.dims, schema)?;
    let mut graph = GraphBuilder::new(schema);
    let vectors = dims.of_one_width(&mut graph);
    let embeddings = graph.concat("vectors", &vectors);
    let weights = graph.more_embeddings("first_order.embeddings", "first_order", |_| labels);
    let mut terms = vec![graph.sum_features("first_order.sparse", weights, labels)];
    let mut deep_inputs = vec![embeddings];
    if !schema.dense.is_empty() {
        let dense = graph.dense();
        let linear = graph.linear("first_order.dense", dense, labels, false, Activation::None);
        terms.push(linear);
        deep_inputs.insert(0, dense);
    }
    terms.push(graph.factorization_machine("second_order", embeddings, dim));
    let deep = graph.concat("deep.input", &deep_inputs);
    let deep = graph.mlp("deep", deep, &config.deep);
    terms.push(graph.logits("deep.logits", deep));
    let logits = graph.add("logits", &terms);
    graph.finish(logits)
}

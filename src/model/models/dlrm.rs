//! DLRM: <https://arxiv.org/abs/1906.00091>.
//!
//! ```text
//! dense [B, dense] ─► bottom MLP ─► [B, dim] ─┐
//!                                             ├─► features [B, (1+F) dim]
//! F bags ─► tables ─► embeddings [B, F dim] ──┘            │
//!                                              dot products of all pairs
//!                                                          ▼
//!        logits [B, labels] ◄─ top MLP ◄─ [B, dim + (1+F)F/2]
//! ```
//!
//! The result of the bottom MLP is vector 0 of the interaction, and also goes past it into the top
//! MLP. Products are the strict lower triangle, row by row, as in the reference implementation.
//! Without dense features, the first embedding takes the place of vector 0.

use streamrec_artifact::{FeatureSchema, Graph};

use super::{ModelError, TableDims};
use crate::{config::model::DlrmConfig, model::GraphBuilder};

/// The graph of a DLRM.
///
/// # Errors
/// When there is no categorical feature, or no bottom MLP for dense ones.
pub fn build(config: &DlrmConfig, schema: &FeatureSchema) -> Result<Graph, ModelError> {
    let refuse = |problem: String| {
        Err(ModelError::Build {
            kind: "dlrm",
            problem,
        })
    };
    let dim = config.embedding_dim;
    if schema.categorical.is_empty() {
        return refuse("it interacts embeddings, so add a categorical feature".into());
    }
    let dims = TableDims::new("dlrm", dim, &config.dims, schema)?;
    let mut graph = GraphBuilder::new(schema);
    let mut vectors = Vec::new();
    if !schema.dense.is_empty() {
        if config.bottom.last() != Some(&dim) {
            return refuse(format!(
                "there are dense features, so expected a `model.bottom` that ends in {dim} \
                 (`model.embedding_dim`), got {:?}",
                config.bottom
            ));
        }
        let dense = graph.dense();
        vectors.push(graph.mlp("bottom", dense, &config.bottom));
    }
    vectors.extend(dims.of_one_width(&mut graph));
    let features = graph.concat("features", &vectors);
    let interaction = graph.dot_interaction("interaction", features, dim);
    let hidden = graph.mlp("top", interaction, &config.top);
    let logits = graph.logits("logits", hidden);
    graph.finish(logits)
}

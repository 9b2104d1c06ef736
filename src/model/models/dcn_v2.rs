//! DCN-v2: <https://arxiv.org/abs/2008.13535>.
//!
//! ```text
//! dense [B, dense] ─ (bottom MLP) ─┐
//!                                  ├─► x0 [B, N]
//! F bags ─► embeddings [B, sum] ───┘    │
//!
//! parallel:  x0 ─► cross layers ─► [B, N] ─┐               stacked:  x0 ─► cross layers
//!            x0 ─► deep MLP ─► [B, H] ─────┴─► logits                         ─► deep MLP ─► logits
//!
//! cross layer:  x' = x0 * (W x + b) + x,  or of low rank  x' = x0 * (W (V x) + b) + x
//! ```
//!
//! Dense features come first in `x0`. Nothing stands between the two products of a low-rank layer.

use streamrec_artifact::{FeatureSchema, Graph};

use super::{ModelError, TableDims};
use crate::{
    config::model::{DcnV2Config, Structure},
    model::{GraphBuilder, Value},
};

/// The graph of a DCN-v2.
///
/// # Errors
/// When there are no features.
pub fn build(config: &DcnV2Config, schema: &FeatureSchema) -> Result<Graph, ModelError> {
    let dims = TableDims::new("dcn_v2", config.embedding_dim, &config.dims, schema)?;
    let mut graph = GraphBuilder::new(schema);
    let mut values = Vec::new();
    if !schema.dense.is_empty() {
        let dense = graph.dense();
        values.push(graph.mlp("bottom", dense, &config.bottom));
    }
    if !schema.categorical.is_empty() {
        values.push(graph.embeddings("embeddings", |table| dims.of(table)));
    }
    if values.is_empty() {
        let problem = "there are no features, so add some".into();
        return Err(ModelError::Build {
            kind: "dcn_v2",
            problem,
        });
    }
    let x0 = graph.concat("x0", &values);
    let crossed = cross_network(&mut graph, config, x0);
    let last = match config.structure {
        Structure::Stacked => graph.mlp("deep", crossed, &config.deep),
        Structure::Parallel if config.deep.is_empty() => crossed,
        Structure::Parallel => {
            let deep = graph.mlp("deep", x0, &config.deep);
            graph.concat("combined", &[crossed, deep])
        }
    };
    let logits = graph.logits("logits", last);
    graph.finish(logits)
}

fn cross_network(graph: &mut GraphBuilder<'_>, config: &DcnV2Config, x0: Value) -> Value {
    (0..config.cross_layers).fold(x0, |x, layer| {
        let name = format!("cross.{layer}");
        match config.cross_rank {
            0 => graph.cross(&name, x0, x),
            rank => graph.cross_low_rank(&name, x0, x, rank),
        }
    })
}

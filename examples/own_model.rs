//! A model of one's own: a function from the features to a graph.
//!
//! This one is a DLRM whose interaction goes through a low-rank cross layer, with a linear part
//! beside it, as in Wide & Deep. It trains like the built-in ones, on one rank or under the
//! launcher; the `model` section of the experiment is ignored:
//!
//! ```text
//! cargo run --release --example own_model -- EXPERIMENT.toml
//! streamrec launch --nproc 2 --program target/release/examples/own_model EXPERIMENT.toml
//! ```

use std::process::ExitCode;

use streamrec::model::{GraphBuilder, ModelError};
use streamrec::run::train_command_line;
use streamrec_artifact::{FeatureSchema, Graph};

/// The width of embedding vectors, and of what interacts with them.
const DIM: usize = 16;

/// The model. Names given here become the names of its weights.
///
/// # Errors
/// When the graph does not fit the features.
pub fn own_model(features: &FeatureSchema) -> Result<Graph, ModelError> {
    let mut graph = GraphBuilder::new(features);
    let labels = features.labels.len();

    let dense = graph.dense();
    let bottom = graph.mlp("bottom", dense, &[64, DIM]);
    let embeddings = graph.embeddings("embeddings", |_| DIM);
    let vectors = graph.concat("vectors", &[bottom, embeddings]);
    let interaction = graph.dot_interaction("interaction", vectors, DIM);
    let crossed = graph.cross_low_rank("cross", interaction, interaction, 8);
    let top = graph.mlp("top", crossed, &[64]);
    let deep = graph.logits("deep", top);

    // A weight a row and label, in tables of their own over the same rows.
    let weights = graph.more_embeddings("wide", "wide", |_| labels);
    let wide = graph.sum_features("wide.sum", weights, labels);

    let logits = graph.add("logits", &[deep, wide]);
    graph.finish(logits)
}

fn main() -> ExitCode {
    train_command_line(own_model)
}

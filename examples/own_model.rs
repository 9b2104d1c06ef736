//! A model of one's own: a function from the features to a graph.
//!
//! This one is a DLRM whose interaction is followed by a low-rank cross layer, with a linear part
//! beside it, as in Wide & Deep. Prints what it consists of for three features:
//!
//! ```text
//! cargo run --example own_model
//! ```

use anyhow::Result;
use streamrec::model::{GraphBuilder, ModelError};
use streamrec_artifact::{
    CategoricalFeature, DenseFeature, DenseSource, Encoding, FeatureSchema, Graph, Pooling,
    TableSchema,
};

/// The width of embedding vectors, and of what interacts with them.
const DIM: usize = 16;

/// The model. Names given here are the names of its weights.
fn own_model(features: &FeatureSchema) -> Result<Graph, ModelError> {
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

fn main() -> Result<()> {
    let features = features();
    let graph = own_model(&features)?;
    let rows = graph.validate(&features)?.table_rows;
    let tables = graph
        .tables
        .iter()
        .zip(rows)
        .map(|(table, rows)| table.parameter(rows));
    for parameter in graph.parameters().into_iter().chain(tables) {
        println!("{:28} {:?}", parameter.name, parameter.shape);
    }
    Ok(())
}

/// What a dataset would give: one dense feature, and two identifiers.
fn features() -> FeatureSchema {
    let identifier = |name: &str| CategoricalFeature {
        name: name.into(),
        input: name.into(),
        encoding: Encoding::Hash { rows: 1000 },
        table: name.into(),
        pooling: Pooling::Sum,
        max_length: None,
    };
    let table = |name: &str| TableSchema {
        name: name.into(),
        rows: 1000,
        dim: None,
    };
    FeatureSchema {
        dense: vec![DenseFeature {
            name: "duration".into(),
            source: DenseSource::Column("duration".into()),
            steps: Vec::new(),
            fill: 0.0,
        }],
        categorical: vec![identifier("user_id"), identifier("video_id")],
        tables: vec![table("user_id"), table("video_id")],
        labels: vec!["click".into()],
        ..FeatureSchema::default()
    }
}

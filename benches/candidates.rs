//! The time of the model for requests of 500 candidates on one thread, as one JSON line.
//!
//! `STREAMREC_MODEL` is `dlrm`, `dcn_v2` or `streamrec`, the shapes of `docs/benchmarks.md`;
//! `STREAMREC_FOLDER` takes weights, graph and requests, for `benches/peers/onnx_candidates.py`, which
//! runs the same model on the same requests with ONNX Runtime and compares the scores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use streamrec::config::model::{DcnV2Config, DlrmConfig, ModelConfig, Structure};
use streamrec::data::counter::Stream;
use streamrec::export;
use streamrec::model::{GraphBuilder, models};
use streamrec::train::Predictor;
use streamrec_artifact::{
    CategoricalFeature, ColumnKind, DenseFeature, DenseSource, Encoded, Encoding, FeatureSchema,
    Golden, Graph, InputColumn, Pooling, RawBatch, SourceType, TableSchema, Vocabularies, Weights,
};
use streamrec_kernels::Context;
use streamrec_serving::scorer::{Scorer, Scratch};

const CANDIDATES: usize = 500;
/// Requests that differ, taken in turn.
const REQUESTS: usize = 32;
const WARM_UP: usize = 64;
const TIMED: usize = 1000;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A model by name: dense features, rows of the tables, graph.
fn model(name: &str) -> Result<(FeatureSchema, Graph)> {
    let dims = BTreeMap::new();
    let config = match name {
        "dlrm" => ModelConfig::Dlrm(DlrmConfig {
            embedding_dim: 64,
            dims,
            bottom: vec![512, 256, 64],
            top: vec![512, 256],
        }),
        "dcn_v2" => ModelConfig::DcnV2(DcnV2Config {
            embedding_dim: 64,
            dims,
            bottom: vec![64],
            cross_layers: 3,
            cross_rank: 128,
            deep: vec![512, 256],
            structure: Structure::Stacked,
        }),
        "streamrec" => {
            let schema = schema(0, &[200_000, 50_000, 1000, 1000, 1000, 1000, 1000, 1000]);
            let mut graph = GraphBuilder::new(&schema);
            let vectors = graph.embeddings("embeddings", |_| 32);
            let deep = graph.mlp("deep", vectors, &[256, 128, 64]);
            let logits = graph.logits("logits", deep);
            let graph = graph.finish(logits)?;
            return Ok((schema, graph));
        }
        other => {
            return Err(format!(
                "STREAMREC_MODEL: expected dlrm, dcn_v2 or streamrec, got `{other}`"
            )
            .into());
        }
    };
    let schema = schema(13, &[100_000; 26]);
    let graph = models::build(&config, &schema)?;
    Ok((schema, graph))
}

fn schema(dense: usize, tables: &[usize]) -> FeatureSchema {
    let input = |name: String, kind, source| InputColumn {
        name,
        kind,
        source,
        unit: None,
        range: None,
        required: false,
    };
    let number = |index| format!("dense_{index}");
    let id = |index| format!("id_{index}");
    let numbers =
        (0..dense).map(|index| input(number(index), ColumnKind::Dense, SourceType::Float));
    let ids = (0..tables.len()).map(|index| input(id(index), ColumnKind::Key, SourceType::Integer));
    FeatureSchema {
        inputs: numbers.chain(ids).collect(),
        dense: (0..dense)
            .map(|index| DenseFeature {
                name: number(index),
                source: DenseSource::Column(number(index)),
                steps: Vec::new(),
                fill: 0.0,
            })
            .collect(),
        categorical: tables
            .iter()
            .enumerate()
            .map(|(index, &rows)| CategoricalFeature {
                name: id(index),
                input: id(index),
                encoding: Encoding::Hash { rows },
                table: id(index),
                pooling: Pooling::Sum,
                max_length: None,
            })
            .collect(),
        tables: tables
            .iter()
            .enumerate()
            .map(|(index, &rows)| TableSchema {
                name: id(index),
                rows,
                dim: None,
            })
            .collect(),
        labels: vec!["click".into()],
    }
}

/// Requests with ids of which few are frequent.
fn requests(schema: &FeatureSchema) -> Vec<Encoded> {
    let mut random = Stream::new(&[3]);
    let request = |_| Encoded {
        rows: CANDIDATES,
        dense: (0..CANDIDATES * schema.dense.len())
            .map(|_| random.normal() as f32)
            .collect(),
        ids: schema
            .tables
            .iter()
            .flat_map(|table| [table.rows; CANDIDATES])
            .map(|rows| (rows as f64 * random.uniform().powi(4)) as i64)
            .collect(),
        offsets: (0..=(CANDIDATES * schema.tables.len()) as i64).collect(),
    };
    (0..REQUESTS).map(request).collect()
}

/// Weights as training begins with, but biases that are not zero.
fn weights(schema: &FeatureSchema, graph: &Graph) -> Result<Weights> {
    let mut predictor = Predictor::new(Context::cpu(1, false)?, graph, schema, 1)?;
    let mut random = Stream::new(&[5]);
    for mut slice in predictor.parameters_mut().named_slices_mut() {
        if slice.extent.shape.len() == 1 {
            let values: Vec<f32> = (0..slice.extent.len())
                .map(|_| 0.1 * random.normal() as f32)
                .collect();
            slice.values.set_f32(&values);
        }
    }
    Ok(export::weights(predictor.parameters()))
}

/// What the peer needs: `model.safetensors`, `graph.json` and `requests.safetensors`.
fn write(
    folder: &Path,
    graph: &Graph,
    schema: &FeatureSchema,
    weights: &Weights,
    requests: &[Encoded],
    scores: &[f32],
) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let bytes = |values: &[f32]| -> Vec<u8> { bytemuck::cast_slice(values).to_vec() };
    let model: Vec<_> = weights
        .iter()
        .map(|(name, weight)| (name, &weight.shape, bytes(&weight.values)))
        .collect();
    let mut views = Vec::new();
    for (name, shape, bytes) in &model {
        views.push((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?));
    }
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))?;
    let graph = serde_json::json!({"graph": graph, "features": schema.categorical});
    std::fs::write(
        folder.join("graph.json"),
        serde_json::to_vec_pretty(&graph)?,
    )?;
    let dense: Vec<f32> = requests
        .iter()
        .flat_map(|r| r.dense.iter().copied())
        .collect();
    let ids: Vec<i64> = requests
        .iter()
        .flat_map(|r| r.ids.iter().copied())
        .collect();
    let (dense, scores) = (bytes(&dense), bytes(scores));
    let count = requests.len();
    let shape = |more: &[usize]| [&[count], more].concat();
    let ids_shape = shape(&[schema.tables.len(), CANDIDATES]);
    let dense_shape = shape(&[CANDIDATES, schema.dense.len()]);
    let views = [
        ("dense", TensorView::new(Dtype::F32, dense_shape, &dense)?),
        (
            "ids",
            TensorView::new(Dtype::I64, ids_shape, bytemuck::cast_slice(&ids))?,
        ),
        (
            "scores",
            TensorView::new(Dtype::F32, shape(&[CANDIDATES]), &scores)?,
        ),
    ];
    safetensors::serialize_to_file(views, None, &folder.join("requests.safetensors"))?;
    Ok(())
}

fn main() -> Result<()> {
    let name = std::env::var("STREAMREC_MODEL").unwrap_or_else(|_| "dlrm".into());
    let (schema, graph) = model(&name)?;
    let (requests, weights) = (requests(&schema), weights(&schema, &graph)?);
    let probes = Golden::with_probes(&RawBatch::new(&schema.inputs));
    let vocabularies = Vocabularies::new();
    let scorer = Scorer::checked(&graph, &schema, &vocabularies, weights.clone(), &probes)?;
    let mut scratch = Scratch::default();
    let mut scores = Vec::new();
    for request in &requests {
        scores.extend_from_slice(scorer.score_encoded(request, &mut scratch)?);
    }
    if let Some(folder) = std::env::var_os("STREAMREC_FOLDER").map(PathBuf::from) {
        write(&folder, &graph, &schema, &weights, &requests, &scores)?;
    }
    drop(weights);
    let mut times_us = Vec::with_capacity(TIMED);
    for number in 0..WARM_UP + TIMED {
        let began = Instant::now();
        scorer.score_encoded(&requests[number % REQUESTS], &mut scratch)?;
        if number >= WARM_UP {
            times_us.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    times_us.sort_by(f64::total_cmp);
    let at = |share: f64| times_us[(share * TIMED as f64) as usize].round();
    let line = serde_json::json!({
        "side": "StreamRec", "model": name, "candidates": CANDIDATES, "threads": 1,
        "p50_us": at(0.5), "p99_us": at(0.99), "requests": TIMED,
    });
    println!("{line}");
    Ok(())
}

//! A small model with every operation, two labels and every encoding of keys and times.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use streamrec_artifact::{
    Activation, Artifact, CategoricalFeature, DenseFeature, DenseSource, DenseStep, Encoded,
    Encoder, Encoding, FORMAT_VERSION, FeatureSchema, Golden, Graph, GraphTable, LookupSpec,
    Manifest, Node, Op, Pooling, ProfileBuilder, TableSchema, TrainingSummary, Vocabularies,
    Vocabulary, Weights, key,
};

use crate::reference;
use crate::row::{Row, inputs, raw};

/// Users that own a row of the table.
pub const USERS: [u64; 5] = [3, 1, 4, 0, 5];
/// Devices that own a row of the table.
pub const DEVICES: [&str; 3] = ["phone", "tablet", "television"];

fn schema() -> FeatureSchema {
    let dense = |name: &str, source, steps: &[DenseStep], fill| DenseFeature {
        name: name.into(),
        source,
        steps: steps.to_vec(),
        fill,
    };
    let age = DenseSource::Column("age".into());
    let rate = DenseSource::Rate {
        positives: "clicks".into(),
        count: "views".into(),
        strength: 20.0,
        prior: 0.1,
    };
    let standardise = DenseStep::Standardise {
        mean: 3.5,
        std: 0.5,
    };
    let categorical =
        |name: &str, input: &str, table: &str, encoding, pooling, max_length| CategoricalFeature {
            name: name.into(),
            input: input.into(),
            encoding,
            table: table.into(),
            pooling,
            max_length,
        };
    let known = |unseen_rows| Encoding::Vocabulary { unseen_rows };
    let hour = Encoding::HourOfDay {
        time_zone: "UTC".into(),
    };
    let table = |name: &str, rows| TableSchema {
        name: name.into(),
        rows,
        dim: None,
    };
    FeatureSchema {
        inputs: inputs(),
        dense: vec![
            dense("age", age, &[DenseStep::Log1p, standardise], 0.0),
            dense(
                "age.missing",
                DenseSource::Missing(vec!["age".into()]),
                &[],
                0.0,
            ),
            dense("rate", rate, &[DenseStep::Logit], -2.0),
            dense("premium", DenseSource::Column("premium".into()), &[], 0.25),
            dense("bid", DenseSource::Column("bid".into()), &[], 0.0),
        ],
        categorical: vec![
            categorical("user", "user_id", "user", known(2), Pooling::Sum, None),
            categorical("device", "device", "device", known(1), Pooling::Sum, None),
            categorical(
                "tags",
                "tags",
                "tags",
                Encoding::Hash { rows: 11 },
                Pooling::Mean,
                Some(3),
            ),
            categorical("friends", "friends", "user", known(2), Pooling::Sum, None),
            categorical("hour", "at", "hour", hour, Pooling::Sum, None),
        ],
        tables: vec![
            table("user", 1 + 2 + USERS.len()),
            table("device", 1 + 1 + DEVICES.len()),
            table("tags", 11),
            table("hour", 25),
        ],
        labels: vec!["click".into(), "like".into()],
    }
}

fn graph() -> Graph {
    let table = |name: &str, rows_of: &str, dim| GraphTable {
        name: name.into(),
        rows_of: rows_of.into(),
        dim,
    };
    let node = |name: &str, inputs: &[&str], op| Node {
        name: name.into(),
        inputs: inputs.iter().map(|&input| input.into()).collect(),
        op,
    };
    let lookup = |feature: &str, table: &str, pooling| LookupSpec {
        feature: feature.into(),
        table: table.into(),
        pooling,
    };
    let bags = Op::EmbeddingBag {
        lookups: vec![
            lookup("user", "user", Pooling::Sum),
            lookup("device", "device", Pooling::Sum),
            lookup("tags", "tags", Pooling::Mean),
            lookup("friends", "user", Pooling::Sum),
            lookup("hour", "hour", Pooling::Sum),
        ],
    };
    let wide = Op::EmbeddingBag {
        lookups: vec![
            lookup("user", "user.wide", Pooling::Sum),
            lookup("friends", "user.wide", Pooling::Mean),
        ],
    };
    let linear = |inputs, outputs, bias, activation| Op::Linear {
        inputs,
        outputs,
        bias,
        activation,
    };
    Graph {
        tables: vec![
            table("user", "user", 4),
            table("user.wide", "user", 2),
            table("device", "device", 4),
            table("tags", "tags", 4),
            table("hour", "hour", 4),
        ],
        nodes: vec![
            node("dense", &[], Op::Dense),
            node("bottom", &["dense"], linear(5, 4, true, Activation::Relu)),
            node("bags", &[], bags),
            node("vectors", &["bottom", "bags"], Op::Concat),
            node(
                "dots",
                &["vectors"],
                Op::DotInteraction {
                    features: 6,
                    dim: 4,
                },
            ),
            node("cross", &["vectors", "vectors"], Op::Cross { dim: 24 }),
            node(
                "cross_low",
                &["vectors", "cross"],
                Op::CrossLowRank { dim: 24, rank: 3 },
            ),
            node(
                "sum",
                &["bags"],
                Op::SumFeatures {
                    features: 5,
                    dim: 4,
                },
            ),
            node("all", &["dots", "cross_low", "sum"], Op::Concat),
            node("deep", &["all"], linear(47, 6, true, Activation::Relu)),
            node("top", &["deep"], linear(6, 2, false, Activation::None)),
            node("wide", &[], wide),
            node(
                "wide_sum",
                &["wide"],
                Op::SumFeatures {
                    features: 2,
                    dim: 2,
                },
            ),
            node(
                "fm",
                &["bags"],
                Op::FactorizationMachine {
                    features: 5,
                    dim: 4,
                },
            ),
            node("logits", &["fm", "top", "wide_sum"], Op::Add),
        ],
        output: "logits".into(),
    }
}

fn weights(graph: &Graph, schema: &FeatureSchema, seed: u64) -> Weights {
    let rows = graph.validate(schema).unwrap().table_rows;
    let tables = graph.tables.iter().zip(rows);
    let tables = tables.map(|(table, rows)| table.parameter(rows));
    let mut weights = Weights::new();
    for parameter in graph.parameters().into_iter().chain(tables) {
        let start = key::from_text(&format!("{seed} {}", parameter.name));
        let value = |index: usize| {
            let random = key::hash(start.wrapping_add(index as u64)) >> 40;
            (random as f64 / (1u64 << 24) as f64 - 0.5) as f32
        };
        let values = (0..parameter.len()).map(value).collect();
        weights.insert(parameter.name, parameter.shape, values);
    }
    weights
}

/// The model of a seed: another seed has other weights. Its golden scores are the reference's.
pub fn artifact(seed: u64) -> Artifact {
    let (schema, graph) = (schema(), graph());
    let weights = weights(&graph, &schema, seed);
    let mut vocabularies = Vocabularies::new();
    let devices = DEVICES.map(key::from_text).to_vec();
    vocabularies.insert("user", Vocabulary::new(USERS.to_vec()).unwrap());
    vocabularies.insert("device", Vocabulary::new(devices).unwrap());
    let rows = Golden::with_probes(&raw(&Row::many(0, 20)));
    let mut encoded = Encoded::default();
    let encoder = Encoder::new(&schema, &vocabularies).unwrap();
    encoder.encode(&rows, &mut encoded).unwrap();
    let logits = reference::logits(&weights, &rows);
    let mut profile = ProfileBuilder::new(&schema.inputs, &schema.labels);
    profile.observe(&rows).unwrap();
    let golden = Golden {
        probabilities: logits
            .iter()
            .map(|&logit| reference::sigmoid(logit) as f32)
            .collect(),
        logits: logits.iter().map(|&logit| logit as f32).collect(),
        raw: rows,
        encoded,
    };
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        name: "videos".into(),
        created: "2026-01-02T03:04:05Z".parse().unwrap(),
        data_version: "invented@1".into(),
        code_version: "0.1.0".into(),
        seed,
        metrics: BTreeMap::new(),
        training: TrainingSummary::default(),
        schema,
        graph,
        files: BTreeMap::new(),
    };
    Artifact {
        manifest,
        weights,
        vocabularies,
        golden,
        profile: profile.finish(),
    }
}

/// The probabilities that a model must answer, `[rows, labels]`.
pub fn expected(artifact: &Artifact, rows: &[Row]) -> Vec<f64> {
    let logits = reference::logits(&artifact.weights, &raw(rows));
    logits.into_iter().map(reference::sigmoid).collect()
}

/// A temporary folder with an artifact.
pub struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    /// A folder that holds `artifact`.
    pub fn with(artifact: &Artifact) -> Self {
        let folder = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        artifact.write(&folder.path()).unwrap();
        folder
    }

    /// The artifact's path.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("artifact")
    }

    /// A path beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts another artifact in its place, as a deployment does: by renaming folders.
    pub fn replace(&self, artifact: &Artifact) {
        let (next, before) = (self.beside("next"), self.beside("before"));
        artifact.write(&next).unwrap();
        rename(&self.path(), &before);
        rename(&next, &self.path());
        std::fs::remove_dir_all(before).unwrap();
    }
}

fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}

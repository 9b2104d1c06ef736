//! A small fitted model over invented videos, with every kind of feature.

use std::collections::BTreeMap;

use streamrec_artifact::fit::{ColumnInfo, Fitter};
use streamrec_artifact::{
    Activation, Artifact, ColumnKind, Encoded, Encoder, FORMAT_VERSION, FeatureSchema, FeatureSpec,
    Golden, Graph, GraphTable, LookupSpec, MISSING_KEY, Manifest, Node, Op, Pooling,
    ProfileBuilder, RawBatch, RawColumn, SourceType, TrainingSummary, Vocabularies, Weights, key,
};

pub fn column(name: &str, kind: ColumnKind, source: SourceType) -> ColumnInfo {
    ColumnInfo {
        name: name.into(),
        kind,
        source,
        unit: None,
        range: None,
        usable: Ok(()),
    }
}

pub fn columns() -> Vec<ColumnInfo> {
    let outcome = Err("it is known only after the outcome".to_owned());
    vec![
        column("user_id", ColumnKind::Key, SourceType::Integer),
        column("tags", ColumnKind::KeyList, SourceType::Text),
        column("duration", ColumnKind::Dense, SourceType::Float),
        column("clicks", ColumnKind::Dense, SourceType::Integer),
        column("views", ColumnKind::Dense, SourceType::Integer),
        column("time", ColumnKind::Time, SourceType::Timestamp),
        ColumnInfo {
            usable: outcome,
            ..column("watched", ColumnKind::Dense, SourceType::Float)
        },
    ]
}

pub fn specs() -> Vec<FeatureSpec> {
    serde_json::from_value(serde_json::json!([
        {"kind": "dense", "name": "duration", "column": "duration", "log1p": true, "indicator": true},
        {"kind": "dense", "name": "rate", "rate": {"positives": "clicks", "count": "views", "strength": 10.0},
         "logit": true, "missing": 0.5},
        {"kind": "categorical", "name": "user", "column": "user_id", "encoding": "vocabulary", "min_count": 2,
         "unseen_rows": 2, "dim": 4},
        {"kind": "categorical", "name": "tags", "column": "tags", "encoding": "hash", "rows": 50,
         "pooling": "mean", "max_length": 3},
        {"kind": "categorical", "name": "length", "column": "duration", "encoding": "buckets", "quantiles": 4},
        {"kind": "categorical", "name": "hour", "column": "time", "encoding": "hour_of_day",
         "time_zone": "Asia/Shanghai"},
        {"kind": "categorical", "name": "day", "column": "time", "encoding": "day_of_week", "time_zone": "UTC"},
    ]))
    .unwrap()
}

/// `rows` rows from row `first` on, in the order of the fitter's inputs: duration, clicks, views, user_id, tags, time.
pub fn raw(first: u64, rows: u64) -> RawBatch {
    let all = || first..first + rows;
    let random = |row: u64, salt: u64| key::hash(row * 8 + salt);
    let duration = |row| {
        if row % 10 == 9 {
            f32::NAN
        } else {
            (random(row, 0) % 500) as f32
        }
    };
    let views = |row| (random(row, 1) % 40) as f32;
    let clicks = |row| (views(row) * 0.25).floor();
    let user = |row| {
        if row % 7 == 6 {
            MISSING_KEY
        } else {
            random(row, 2) % 30
        }
    };
    let mut offsets = vec![0];
    let mut tags = Vec::new();
    for row in all() {
        tags.extend((0..random(row, 3) % 5).map(|tag| random(row, 4) % 20 + tag));
        offsets.push(tags.len() as u32);
    }
    let columns = vec![
        RawColumn::Dense(all().map(duration).collect()),
        RawColumn::Dense(all().map(clicks).collect()),
        RawColumn::Dense(all().map(views).collect()),
        RawColumn::Key(all().map(user).collect()),
        RawColumn::KeyList {
            offsets,
            keys: tags,
        },
        RawColumn::Time(all().map(|row| (row as i64) * 3_600_000).collect()),
    ];
    RawBatch {
        rows: rows as usize,
        columns,
    }
}

pub fn fitted(rows: u64, batch: u64) -> (FeatureSchema, Vocabularies) {
    let mut fitter = Fitter::new(&specs(), &columns()).unwrap();
    for first in (0..rows).step_by(batch as usize) {
        fitter
            .observe(&raw(first, batch.min(rows - first)))
            .unwrap();
    }
    fitter.finish(vec!["click".into()]).unwrap()
}

pub fn graph() -> Graph {
    let lookup = |name: &str| LookupSpec {
        feature: name.into(),
        table: name.into(),
        pooling: Pooling::Sum,
    };
    let names = ["user", "tags", "length", "hour", "day"];
    let table = |name: &str| GraphTable {
        name: name.into(),
        rows_of: name.into(),
        dim: 4,
    };
    let node = |name: &str, inputs: &[&str], op| Node {
        name: name.into(),
        inputs: inputs.iter().map(|&input| input.into()).collect(),
        op,
    };
    let top = Op::Linear {
        inputs: 23,
        outputs: 1,
        bias: true,
        activation: Activation::None,
    };
    Graph {
        tables: names.map(table).to_vec(),
        nodes: vec![
            node("dense", &[], Op::Dense),
            node(
                "bags",
                &[],
                Op::EmbeddingBag {
                    lookups: names.map(lookup).to_vec(),
                },
            ),
            node("stack", &["dense", "bags"], Op::Concat),
            node("top", &["stack"], top),
        ],
        output: "top".into(),
    }
}

pub fn artifact() -> Artifact {
    let (schema, vocabularies) = fitted(500, 100);
    let graph = graph();
    let shapes = graph.validate(&schema).unwrap();
    let tables = graph
        .tables
        .iter()
        .zip(&shapes.table_rows)
        .map(|(table, &rows)| table.parameter(rows));
    let mut weights = Weights::new();
    for parameter in graph.parameters().into_iter().chain(tables) {
        let values = (0..parameter.len())
            .map(|index| index as f32 * 0.01 - 0.3)
            .collect();
        weights.insert(parameter.name.clone(), parameter.shape.clone(), values);
    }
    let encoder = Encoder::new(&schema, &vocabularies).unwrap();
    let rows = Golden::with_probes(&raw(0, 6));
    let mut encoded = Encoded::default();
    encoder.encode(&rows, &mut encoded).unwrap();
    let logits: Vec<f32> = (0..rows.rows).map(|row| row as f32 - 2.0).collect();
    let probabilities = logits
        .iter()
        .map(|logit| 1.0 / (1.0 + (-logit).exp()))
        .collect();
    let mut profile = ProfileBuilder::new(&schema.inputs, &schema.labels);
    profile.observe(&raw(0, 500)).unwrap();
    profile.observe_scores(&[0.0, 1.0], &[0.2, 0.6]);
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        name: "videos".into(),
        created: "2026-01-02T03:04:05Z".parse().unwrap(),
        data_version: "invented@1".into(),
        code_version: "0.1.0+abc".into(),
        seed: u64::MAX,
        metrics: BTreeMap::from([("test.auc".to_owned(), 0.1 + 0.2)]),
        training: TrainingSummary {
            model: "wide".into(),
            precision: "fp32".into(),
            ranks: 1,
            ..Default::default()
        },
        schema,
        graph,
        files: BTreeMap::new(),
    };
    Artifact {
        manifest,
        weights,
        vocabularies,
        golden: Golden {
            raw: rows,
            encoded,
            logits,
            probabilities,
        },
        profile: profile.finish(),
    }
}

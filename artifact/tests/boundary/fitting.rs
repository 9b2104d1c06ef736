//! Fitting: what it learns, and what it refuses.

use std::collections::HashMap;

use streamrec_artifact::fit::{ColumnInfo, FitError, Fitter, SpecError};
use streamrec_artifact::{
    ColumnKind, DenseSource, DenseStep, Encoded, Encoder, Encoding, FeatureSpec, MISSING_KEY,
    RawBatch, RawColumn, SchemaError, SourceType, Vocabularies, Vocabulary,
};

use crate::fixture::{column, columns, fitted, raw, specs};

fn spec(json: serde_json::Value) -> FeatureSpec {
    serde_json::from_value(json).unwrap()
}

#[test]
fn batches_do_not_change_the_fit_of_keys_and_edges() {
    let (whole, whole_keys) = fitted(1000, 1000);
    let (parts, parts_keys) = fitted(1000, 37);
    assert_eq!(whole_keys, parts_keys);
    assert_eq!(whole.categorical, parts.categorical);
    assert_eq!(whole.tables, parts.tables);
}

#[test]
fn standardised_training_values_have_mean_zero_and_deviation_one() {
    let (schema, vocabularies) = fitted(2000, 300);
    let encoder = Encoder::new(&schema, &vocabularies).unwrap();
    let mut encoded = Encoded::default();
    encoder.encode(&raw(0, 2000), &mut encoded).unwrap();
    let names: Vec<_> = schema
        .dense
        .iter()
        .map(|feature| feature.name.as_str())
        .collect();
    assert_eq!(names, ["duration", "duration.missing", "rate"]);
    for feature in [0, 2] {
        let observed = encoded
            .dense
            .chunks(3)
            .filter(|row| feature != 0 || row[1] == 0.0);
        let values: Vec<f64> = observed.map(|row| f64::from(row[feature])).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / values.len() as f64;
        assert!(
            mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4,
            "{feature}: {mean} {variance}"
        );
    }
    let filled = encoded.dense.chunks(3).filter(|row| row[1] == 1.0);
    assert_eq!(filled.inspect(|row| assert_eq!(row[0], 0.0)).count(), 200);
}

#[test]
fn vocabularies_hold_exact_counts_in_order() {
    let (schema, vocabularies) = fitted(40, 7);
    let batch = raw(0, 40);
    let RawColumn::Key(users) = &batch.columns[3] else {
        panic!("users are keys")
    };
    let mut counts = HashMap::new();
    users
        .iter()
        .filter(|&&user| user != MISSING_KEY)
        .for_each(|&user| *counts.entry(user).or_insert(0) += 1);
    let mut expected: Vec<_> = counts
        .into_iter()
        .filter(|&(_, count)| count >= 2)
        .collect();
    expected.sort_by_key(|&(user, count)| (std::cmp::Reverse(count), user));
    let expected: Vec<u64> = expected.into_iter().map(|(user, _)| user).collect();
    assert_eq!(vocabularies.get("user").unwrap().keys(), expected);
    assert_eq!(schema.table("user").unwrap().rows, 3 + expected.len());
}

#[test]
fn an_input_is_required_where_training_never_lacked_it() {
    let (schema, _) = fitted(100, 50);
    let required: Vec<_> = schema
        .inputs
        .iter()
        .filter(|input| input.required)
        .map(|input| input.name.as_str())
        .collect();
    assert_eq!(required, ["clicks", "views", "time"]);
}

#[test]
fn constant_and_empty_columns_are_harmless() {
    let columns = [("constant", 7.3), ("empty", f32::NAN)];
    let specs = columns
        .map(|(name, _)| spec(serde_json::json!({"kind": "dense", "name": name, "column": name})));
    let infos = columns.map(|(name, _)| column(name, ColumnKind::Dense, SourceType::Float));
    let mut fitter = Fitter::new(&specs, &infos).unwrap();
    let batch = RawBatch {
        rows: 1000,
        columns: columns
            .map(|(_, value)| RawColumn::Dense(vec![value; 1000]))
            .to_vec(),
    };
    fitter.observe(&batch).unwrap();
    let (schema, vocabularies) = fitter.finish(vec!["click".into()]).unwrap();
    let stds = schema
        .dense
        .iter()
        .map(|feature| match feature.steps.as_slice() {
            [DenseStep::Standardise { std, .. }] => *std,
            other => panic!("{other:?}"),
        });
    assert_eq!(stds.collect::<Vec<_>>(), [1.0, 1.0]);
    let mut encoded = Encoded::default();
    Encoder::new(&schema, &vocabularies)
        .unwrap()
        .encode(&batch, &mut encoded)
        .unwrap();
    assert!(encoded.dense.iter().all(|value| value.abs() < 1e-6));
}

#[test]
fn a_rate_falls_back_to_its_prior() {
    let (schema, _) = fitted(1000, 100);
    let DenseSource::Rate { prior, .. } = schema.dense[2].source else {
        panic!("a rate")
    };
    // A click is a quarter of the views, rounded down: less, the fewer the views.
    assert!((0.1..0.25).contains(&prior), "{prior}");
}

#[test]
fn tables_shared_by_features_are_fitted_on_the_union() {
    let shared = |name: &str, column: &str| {
        spec(
            serde_json::json!({"kind": "categorical", "name": name, "column": column, "encoding": "vocabulary",
            "table": "video", "max_length": if column == "history" { Some(2) } else { None }}),
        )
    };
    let infos = [
        column("video_id", ColumnKind::Key, SourceType::Integer),
        column("history", ColumnKind::KeyList, SourceType::Integer),
    ];
    let mut fitter = Fitter::new(
        &[shared("video", "video_id"), shared("seen", "history")],
        &infos,
    )
    .unwrap();
    let history = RawColumn::KeyList {
        offsets: vec![0, 3, 3],
        keys: vec![5, 6, 7],
    };
    fitter
        .observe(&RawBatch {
            rows: 2,
            columns: vec![RawColumn::Key(vec![5, 9]), history],
        })
        .unwrap();
    let (schema, vocabularies) = fitter.finish(vec!["click".into()]).unwrap();
    // 5 occurs in both, 7 stands behind `max_length`.
    assert_eq!(vocabularies.get("video").unwrap().keys(), [5, 6, 9]);
    assert_eq!(schema.tables.len(), 1);
}

#[test]
fn every_fault_is_reported_at_once() {
    let specs = [
        spec(serde_json::json!({"kind": "dense", "name": "a", "column": "duratoin"})),
        spec(serde_json::json!({"kind": "dense", "name": "a", "column": "user_id"})),
        spec(serde_json::json!({"kind": "dense", "name": "b", "column": "watched"})),
        spec(serde_json::json!({"kind": "dense", "name": "c"})),
        spec(
            serde_json::json!({"kind": "dense", "name": "d", "column": "duration", "clip": [2.0, 1.0]}),
        ),
        spec(
            serde_json::json!({"kind": "categorical", "name": "e", "column": "user_id", "encoding": "hash", "rows": 1}),
        ),
        spec(
            serde_json::json!({"kind": "categorical", "name": "f", "column": "time", "encoding": "hour_of_day",
            "time_zone": "Asia/Shangai"}),
        ),
        spec(
            serde_json::json!({"kind": "categorical", "name": "g", "column": "tags", "encoding": "hash", "rows": 9,
            "table": "e"}),
        ),
        spec(
            serde_json::json!({"kind": "categorical", "name": "h", "column": "duration", "encoding": "buckets",
            "edges": [1.0, 1.0]}),
        ),
    ];
    let errors = Fitter::new(&specs, &columns()).unwrap_err();
    let messages: Vec<String> = errors.iter().map(SpecError::to_string).collect();
    let expected = [
        "feature `a` is defined twice",
        "`duratoin`, which the data does not have; did you mean `duration`?",
        "it needs a dense column, this is a key column",
        "cannot read column `watched`: it is known only after the outcome",
        "needs either `column` or `rate`, it has neither",
        "`clip` is [2, 1], expected two finite ascending numbers",
        "`rows` is 1, expected 2",
        "`time_zone` is \"Asia/Shangai\"",
        "features `e` and `g` share table `e` and differ in encoding",
        "`edges` is [1.0, 1.0]",
    ];
    assert_eq!(messages.len(), expected.len(), "{messages:#?}");
    for (message, expected) in messages.iter().zip(expected) {
        assert!(
            message.contains(expected),
            "{message:?} should contain {expected:?}"
        );
    }
}

#[test]
fn a_fit_of_nothing_is_refused() {
    let fitter = Fitter::new(&specs(), &columns()).unwrap();
    assert_eq!(
        fitter.finish(vec!["click".into()]).unwrap_err(),
        FitError::NoRows
    );
}

#[test]
fn a_warm_start_keeps_rows_and_appends_new_keys() {
    let (schema, fitted_keys) = fitted(500, 100);
    let previous_keys = vec![1_000_000, 3, 29];
    let mut previous = Vocabularies::new();
    previous.insert("user", Vocabulary::new(previous_keys.clone()).unwrap());
    let grown = Vocabularies::grow(&previous, &fitted_keys).unwrap();
    let keys = grown.get("user").unwrap().keys();
    assert_eq!(keys[..3], previous_keys);
    assert!(
        fitted_keys
            .get("user")
            .unwrap()
            .keys()
            .iter()
            .all(|key| keys.contains(key))
    );
    let warm = schema.clone().grow(&schema, &grown).unwrap();
    warm.validate(&grown).unwrap();
    assert_eq!(warm.table("user").unwrap().rows, 3 + keys.len());

    let mut coarse = schema.clone();
    coarse.categorical[2].encoding = Encoding::Buckets { edges: vec![1.0] };
    let warm = schema.clone().grow(&coarse, &grown).unwrap();
    assert_eq!(
        warm.categorical[2].encoding,
        Encoding::Buckets { edges: vec![1.0] }
    );
    assert_eq!(warm.table("length").unwrap().rows, 3);

    let mut changed = schema.clone();
    changed.categorical[0].encoding = Encoding::Vocabulary { unseen_rows: 9 };
    let error = schema.grow(&changed, &grown).unwrap_err();
    assert_eq!(
        error,
        SchemaError::EncodingChanged {
            table: "user".into()
        }
    );
}

#[test]
fn quantile_buckets_hold_equal_shares() {
    let (schema, vocabularies) = fitted(4000, 500);
    let mut encoded = Encoded::default();
    Encoder::new(&schema, &vocabularies)
        .unwrap()
        .encode(&raw(0, 4000), &mut encoded)
        .unwrap();
    let mut counts = [0; 5];
    (0..4000).for_each(|row| counts[encoded.bag(2, row)[0] as usize] += 1);
    assert_eq!(counts[0], 400, "missing");
    assert!(
        counts[1..].iter().all(|count| (850..=950).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn a_column_of_an_unusable_name_is_not_suggested() {
    let infos: Vec<ColumnInfo> = columns();
    let specs = [spec(
        serde_json::json!({"kind": "dense", "name": "a", "column": "watchd"}),
    )];
    let errors = Fitter::new(&specs, &infos).unwrap_err();
    assert!(
        matches!(&errors[0], SpecError::UnknownColumn { nearest: None, .. }),
        "{errors:?}"
    );
}

#[test]
fn a_vocabulary_without_a_table_is_refused() {
    let (schema, mut vocabularies) = fitted(100, 50);
    vocabularies.insert("stranger", Vocabulary::new(vec![1]).unwrap());
    let error = schema.validate(&vocabularies).unwrap_err();
    assert_eq!(
        error,
        SchemaError::Vocabulary {
            table: "stranger".into(),
            needed: false
        }
    );
}

//! Ranks in a mesh, dp x tp, train the model that one rank trains.

use crate::workbench::{Workbench, expect_success, said, streamrec};

const SETTINGS: [&str; 4] = [
    "train.global_batch=509",
    "train.max_steps=50",
    "train.log_every_steps=1",
    "parallel.first_bucket_bytes=4096",
];

/// A field of each step's record.
fn curve(bench: &Workbench, run: &str, field: &str) -> Vec<f64> {
    let records = bench.records(run, "train");
    let value = |record: &serde_json::Value| record[field].as_f64().expect("a number");
    records.iter().map(value).collect()
}

/// Sums in another order differ in their last bits, and each step carries that on.
fn assert_same_curve(what: &str, one: &[f64], other: &[f64]) {
    assert_eq!(one.len(), other.len(), "{what}");
    for (index, (a, b)) in one.iter().zip(other).enumerate() {
        let (step, difference) = (index + 1, (a - b).abs() / a.abs().max(1.0));
        let tolerance = 2e-5 * (1.0 + step as f64 / 5.0);
        assert!(difference < tolerance, "{what}, step {step}: {a} and {b}");
    }
}

/// Trains on each mesh with tables in each placement, and compares with one rank. What travels takes turns, so that each
/// placement does both on some meshes, and each mesh both in some placements.
fn agree(config: &str) {
    let bench = Workbench::with_events(30_000);
    bench.launch(1, config, "alone", &SETTINGS);
    let [alone, norms] = ["loss", "gradient_norm"].map(|field| curve(&bench, "alone", field));
    assert!(alone.len() == 50 && alone[49] < alone[0], "it learns");
    let meshes = [(2, 1), (4, 1), (1, 2), (2, 2), (4, 2)];
    let placements = [
        "replicated",
        "table_wise",
        "row_wise",
        "column_wise",
        "auto",
    ];
    for (mesh, (dp, tp)) in meshes.into_iter().enumerate() {
        for (index, placement) in placements.into_iter().enumerate() {
            let exchange = ["pooled", "unique"][(mesh + index) % 2];
            let run = format!("{dp}x{tp}-{placement}-{exchange}");
            let own = [
                format!("parallel.tp={tp}"),
                format!("parallel.embeddings.placement={placement}"),
                format!("parallel.embeddings.exchange={exchange}"),
            ];
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            bench.launch(dp * tp, config, &run, &[&SETTINGS[..], &own].concat());
            assert_same_curve(&run, &alone, &curve(&bench, &run, "loss"));
            // Before rounding adds up: shared weights count once in the norm, replicated ones once.
            let first = curve(&bench, &run, "gradient_norm")[0];
            let error = (first / norms[0] - 1.0).abs();
            assert!(error < 1e-5, "{run}: {first}, {}", norms[0]);
            let auc = |run: &str| bench.records(run, "valid/click")[0]["auc"].as_f64();
            let (one, many) = (auc("alone").expect("AUC"), auc(&run).expect("AUC"));
            assert!((one - many).abs() < 3e-4, "{run}: AUC {one} and {many}");
        }
    }
}

#[test]
fn half_precision_payloads_learn_what_full_ones_learn() {
    let bench = Workbench::with_events(30_000);
    let config = "synthetic_dlrm.toml";
    let train = |run: &str, own: &[&str]| {
        let own = [
            &SETTINGS[..],
            &["parallel.embeddings.placement=row_wise"],
            own,
        ]
        .concat();
        bench.launch(2, config, run, &own);
        curve(&bench, run, "loss")
    };
    let full = train("fp32", &[]);
    for payload in ["bf16", "fp16"] {
        let [vectors, gradients] =
            ["vectors", "gradients"].map(|way| format!("parallel.embeddings.{way}={payload}"));
        let half = train(payload, &[&vectors, &gradients]);
        let apart = full
            .iter()
            .zip(&half)
            .map(|(full, half)| (full - half).abs());
        let apart = apart.fold(0.0, f64::max);
        assert!(apart > 0.0 && apart < 1e-2, "{payload}: {apart}");
    }
}

#[test]
fn meshes_agree_on_dlrm() {
    agree("synthetic_dlrm.toml");
}

#[test]
fn meshes_agree_on_dcn_v2() {
    agree("synthetic_dcn_v2.toml");
}

#[test]
fn meshes_agree_on_deepfm() {
    agree("synthetic_deepfm.toml");
}

#[test]
fn meshes_agree_on_wide_deep_with_two_labels() {
    agree("synthetic_wide_deep.toml");
}

/// With `parallel.reduction = "invariant"` the model is the same to the bit, whatever ranks, threads and
/// placements train it.
fn agree_to_the_bit(config: &str) {
    const OWN: [&str; 4] = [
        // No multiple of 8, and a last batch that is not full.
        "train.global_batch=509",
        "train.epochs=1",
        "optimizer.clip_norm=0.3",
        "parallel.reduction=invariant",
    ];
    let bench = Workbench::with_events(6_000);
    bench.launch(1, config, "alone", &OWN);
    let alone = bench.newest_tensors("alone");
    for (ranks, threads, placement) in [
        (1, 3, "replicated"),
        (2, 1, "replicated"),
        (4, 2, "replicated"),
        (8, 1, "replicated"),
        (2, 1, "table_wise"),
        (4, 1, "table_wise"),
        (2, 2, "row_wise"),
        (8, 1, "row_wise"),
        (2, 1, "column_wise"),
        (4, 2, "column_wise"),
    ] {
        let run = format!("{ranks}-{threads}-{placement}");
        let own = [
            format!("train.threads={threads}"),
            format!("parallel.embeddings.placement={placement}"),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        bench.launch(ranks, config, &run, &[&OWN[..], &own].concat());
        let tensors = bench.newest_tensors(&run);
        assert!(tensors.keys().eq(alone.keys()));
        for (name, bits) in &tensors {
            let differ = bits
                .iter()
                .zip(&alone[name])
                .filter(|(a, b)| a != b)
                .count();
            assert_eq!(
                differ, 0,
                "{config}, {run}: {name} differs in {differ} values"
            );
        }
    }
}

#[test]
fn invariant_ranks_pair_what_they_predicted_with_its_labels() {
    let bench = Workbench::with_events(6_000);
    let own = [
        "train.global_batch=509",
        "train.max_steps=4",
        "train.log_every_steps=1",
    ];
    bench.launch(1, "synthetic_dlrm.toml", "alone", &own);
    // Of eight ranks each has one micro-shard, so together they predict the whole batch; some are padded.
    let invariant = [&own[..], &["parallel.reduction=invariant"]].concat();
    bench.launch(8, "synthetic_dlrm.toml", "ranks", &invariant);
    let [alone, ranks] = ["alone", "ranks"].map(|run| curve(&bench, run, "auc"));
    assert_eq!(alone.len(), 4);
    for (one, many) in alone.iter().zip(&ranks) {
        assert!((one - many).abs() < 1e-3, "{alone:?} {ranks:?}");
    }
}

#[test]
fn invariant_dlrm_is_the_same_to_the_bit() {
    agree_to_the_bit("synthetic_dlrm.toml");
}

#[test]
fn invariant_dcn_v2_is_the_same_to_the_bit() {
    agree_to_the_bit("synthetic_dcn_v2.toml");
}

#[test]
fn invariant_deepfm_is_the_same_to_the_bit() {
    agree_to_the_bit("synthetic_deepfm.toml");
}

#[test]
fn invariant_wide_deep_is_the_same_to_the_bit() {
    agree_to_the_bit("synthetic_wide_deep.toml");
}

#[test]
fn a_run_goes_on_in_another_mesh_and_becomes_an_artifact() {
    let bench = Workbench::with_events(30_000);
    let config = "synthetic_dcn_v2.toml";
    bench.launch(1, config, "whole", &SETTINGS);
    let begun = [&SETTINGS[..3], &["parallel.tp=2", "train.max_steps=20"]].concat();
    bench.launch(4, config, "run", &begun);
    let go_on = |ranks, settings: &[&str]| {
        let mut command = bench.launch_command(ranks, config, "run", settings);
        expect_success(&command.arg("--resume").output().expect("starts"));
    };
    go_on(
        3,
        &[
            &SETTINGS[..3],
            &[
                "parallel.tp=1",
                "train.max_steps=35",
                "parallel.embeddings.placement=row_wise",
            ],
        ]
        .concat(),
    );
    go_on(
        2,
        &[
            &SETTINGS[..3],
            &["parallel.tp=2", "parallel.embeddings.placement=column_wise"],
        ]
        .concat(),
    );
    assert_same_curve(
        "resumed",
        &curve(&bench, "whole", "loss"),
        &curve(&bench, "run", "loss"),
    );
    let run = bench.path("run");
    expect_success(&streamrec(&["evaluate", &run]));
    expect_success(&streamrec(&["export", &run, "--out", &bench.path("out")]));
}

#[test]
fn what_does_not_divide_is_refused_with_the_numbers() {
    let bench = Workbench::with_events(3_000);
    let refused = |ranks, setting: &str, expected: &[&str]| {
        let settings = [&SETTINGS[..], &[setting]].concat();
        let output = bench
            .launch_command(ranks, "synthetic_dlrm.toml", "run", &settings)
            .arg("--overwrite")
            .output()
            .expect("starts");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for text in expected {
            assert!(said.contains(text), "expected `{text}` in:\n{said}");
        }
    };
    refused(3, "parallel.tp=2", &["`parallel.tp` = 2", "3 ranks"]);
    refused(2, "parallel.tp=0", &["`parallel.tp`", "at least 1"]);
    refused(
        3,
        "parallel.reduction=invariant",
        &["1, 2, 4 or 8", "got 3"],
    );
    let layers = "parallel.layers={\"top.9\"=\"row\"}";
    let settings = ["parallel.tp=2", layers];
    let output = bench
        .launch_command(2, "synthetic_dlrm.toml", "run", &settings)
        .arg("--overwrite")
        .output()
        .expect("starts");
    let said = said(&output);
    assert!(
        said.contains("layer `top.9`: the model has no such layer"),
        "{said}"
    );
    refused(
        3,
        "parallel.tp=3",
        &["which 3 ranks cannot share equally", "\"replicated\""],
    );
}

//! Training in bf16 and fp16: what fp32 learns, resumed to the bit, exported as ever.

use crate::workbench::{Workbench, expect_success, said, streamrec};

const CONFIG: &str = "synthetic_dlrm.toml";

fn setting(precision: &str) -> String {
    format!("train.precision={precision}")
}

#[test]
fn half_precision_learns_what_fp32_learns() {
    let bench = Workbench::with_events(100_000);
    // What is recorded of each with this seed; processors round otherwise, which is some 0.0001.
    for (config, recorded) in [(CONFIG, 0.70256), ("synthetic_dcn_v2.toml", 0.70815)] {
        let auc = |precision: &str| {
            let run = format!("{config}-{precision}");
            let own = [
                "train.global_batch=1024",
                "train.epochs=1",
                &setting(precision),
            ];
            bench.launch(1, config, &run, &own);
            let records = bench.records(&run, "valid/click");
            records
                .last()
                .and_then(|record| record["auc"].as_f64())
                .expect("an AUC")
        };
        let full = auc("fp32");
        assert!(
            (full - recorded).abs() < 1e-3,
            "{config}: AUC {full}, recorded {recorded}"
        );
        for precision in ["bf16", "fp16"] {
            let half = auc(precision);
            assert!(
                (full - half).abs() < 1e-3,
                "{config}, {precision}: AUC {half}, fp32 {full}"
            );
        }
    }
}

#[test]
fn an_fp16_run_that_resumes_equals_an_uninterrupted_one() {
    let bench = Workbench::with_events(20_000);
    let settings = |steps: &'static str| {
        [
            "train.precision=fp16",
            // The factor doubles until gradients overflow: several steps are skipped on the way.
            "train.loss_scale.growth_steps=1",
            "train.global_batch=512",
            "train.log_every_steps=1",
            "parallel.embeddings.placement=row_wise",
            steps,
        ]
    };
    bench.launch(2, CONFIG, "whole", &settings("train.max_steps=30"));
    bench.launch(2, CONFIG, "parts", &settings("train.max_steps=13"));
    let mut again = bench.launch_command(2, CONFIG, "parts", &settings("train.max_steps=30"));
    expect_success(&again.arg("--resume").output().expect("starts"));
    let field = |run: &str, field: &str| -> Vec<f64> {
        let records = bench.records(run, "train");
        records
            .iter()
            .map(|record| record[field].as_f64().unwrap_or(-1.0))
            .collect()
    };
    let scales = field("whole", "loss_scale");
    assert_eq!(scales.len(), 30);
    let skipped = field("whole", "skipped_steps");
    assert!(skipped[29] > 1.0 && skipped[29] < 20.0, "{skipped:?}");
    for name in ["loss_scale", "skipped_steps", "loss"] {
        assert_eq!(field("parts", name), field("whole", name), "{name}");
    }
    let (whole, parts) = (bench.newest_tensors("whole"), bench.newest_tensors("parts"));
    assert!(whole == parts, "weights and state differ");
}

#[test]
fn invariant_reduction_holds_in_half_precision() {
    let bench = Workbench::with_events(6_000);
    for precision in ["bf16", "fp16"] {
        let run = |ranks: usize| {
            let run = format!("{precision}-{ranks}");
            let own = [
                "train.global_batch=509",
                "train.epochs=1",
                "parallel.reduction=invariant",
                &setting(precision),
            ];
            bench.launch(ranks, CONFIG, &run, &own);
            bench.newest_tensors(&run)
        };
        assert!(run(1) == run(4), "{precision}: ranks change the model");
    }
}

#[test]
fn runs_in_half_precision_are_exported_and_evaluated() {
    let bench = Workbench::with_events(6_000);
    for precision in ["bf16", "fp16"] {
        let own = [
            "train.global_batch=512",
            "train.epochs=1",
            &setting(precision),
        ];
        bench.launch(1, CONFIG, precision, &own);
        let (run, out) = (
            bench.path(precision),
            bench.path(&format!("{precision}-artifact")),
        );
        expect_success(&streamrec(&["export", &run, "--out", &out]));
        let artifact = streamrec_artifact::Artifact::read(out.as_ref()).expect("an artifact");
        assert_eq!(artifact.manifest.training.precision, precision);
        streamrec_serving::ranker::Ranker::load(out.as_ref()).expect("a server takes it");
        expect_success(&streamrec(&["evaluate", &run]));
    }
}

#[test]
fn a_loss_scale_without_fp16_is_refused() {
    let bench = Workbench::new();
    let settings = ["train.precision=bf16", "train.loss_scale.initial=1024"];
    let mut arguments = vec!["train".to_owned()];
    arguments.extend(bench.experiment(CONFIG, "run", &settings));
    let output = streamrec(&arguments);
    assert!(!output.status.success());
    let text = said(&output);
    assert!(
        text.contains("train.loss_scale") && text.contains("bf16"),
        "{text}"
    );
}

//! Embedding tables stored in bf16 and fp16: what fp32 tables learn, the same bits on any number of ranks and threads,
//! resumed to the bit, exported as ever.

use std::fs;
use std::path::Path;

use crate::workbench::{Workbench, expect_success, said, streamrec};

const CONFIG: &str = "synthetic_dlrm.toml";
const HALVES: [&str; 2] = ["bf16", "fp16"];

fn setting(precision: &str) -> String {
    format!("train.table_precision={precision}")
}

#[test]
fn tables_in_half_precision_learn_what_fp32_tables_learn() {
    let bench = Workbench::with_events(100_000);
    let auc = |tables: &str| {
        let own = [
            "train.global_batch=1024",
            "train.epochs=1",
            &setting(tables),
        ];
        bench.launch(1, CONFIG, tables, &own);
        let records = bench.records(tables, "valid/click");
        records
            .last()
            .and_then(|record| record["auc"].as_f64())
            .expect("an AUC")
    };
    let full = auc("fp32");
    assert!(full > 0.6, "it learns: {full}");
    for tables in HALVES {
        let half = auc(tables);
        assert!(
            (full - half).abs() < 1e-3,
            "{tables}: AUC {half}, fp32 {full}"
        );
    }
}

#[test]
fn neither_ranks_nor_threads_nor_placement_change_a_bit() {
    let bench = Workbench::with_events(6_000);
    for tables in HALVES {
        let run = |ranks: usize, own: &[&str]| {
            let run = format!(
                "{tables}-{ranks}-{}",
                own.join("-").replace(['.', '='], "_")
            );
            let common = [
                "train.global_batch=509",
                "train.epochs=1",
                "parallel.reduction=invariant",
                &setting(tables),
            ];
            bench.launch(ranks, CONFIG, &run, &[&common, own].concat());
            bench.newest_tensors(&run)
        };
        let expected = run(1, &["train.threads=1"]);
        assert!(
            expected == run(1, &["train.threads=2"]),
            "{tables}: threads"
        );
        let unique = "parallel.embeddings.exchange=unique";
        for placement in ["replicated", "table_wise", "row_wise", "column_wise"] {
            let placed = format!("parallel.embeddings.placement={placement}");
            assert!(
                expected == run(2, &[&placed, unique]),
                "{tables}: two ranks, {placement}"
            );
        }
    }
}

#[test]
fn a_run_that_resumes_equals_an_uninterrupted_one() {
    let bench = Workbench::with_events(20_000);
    for (precision, tables, placement) in
        [("fp16", "fp16", "row_wise"), ("fp32", "bf16", "replicated")]
    {
        let run = |run: &str, steps: usize, resume: bool| {
            let own = [
                format!("train.precision={precision}"),
                setting(tables),
                format!("parallel.embeddings.placement={placement}"),
                format!("train.max_steps={steps}"),
                "train.global_batch=512".into(),
            ];
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            let mut command = bench.launch_command(2, CONFIG, run, &own);
            if resume {
                command.arg("--resume");
            }
            expect_success(&command.output().expect("starts"));
        };
        let (whole, parts) = (format!("{tables}-whole"), format!("{tables}-parts"));
        run(&whole, 24, false);
        run(&parts, 11, false);
        run(&parts, 24, true);
        let shards = [&whole, &parts].map(|run| bench.newest_shards(run));
        assert!(shards[0] == shards[1], "{tables}: shards differ");
    }
}

/// A checkpoint keeps tables as they are, in half the bytes, and a run goes on with its own type alone.
#[test]
fn a_checkpoint_keeps_tables_as_they_are_and_goes_on_with_their_type_alone() {
    let bench = Workbench::with_events(6_000);
    let run = |run: &str, tables: &str, steps: usize, resume: bool| {
        let steps = format!("train.max_steps={steps}");
        let own = ["train.global_batch=512", &setting(tables), &steps];
        let mut arguments = vec!["train".to_owned()];
        arguments.extend(bench.experiment(CONFIG, run, &own));
        if resume {
            arguments.push("--resume".into());
        }
        streamrec(&arguments)
    };
    expect_success(&run("half", "bf16", 4, false));
    expect_success(&run("full", "fp32", 4, false));
    let bytes = |run: &str| -> usize {
        let (_, shards) = bench.newest_shards(run);
        shards.values().map(Vec::len).sum()
    };
    let tables = bench.newest_tensors("half").into_iter();
    let tables = tables.filter(|(name, _)| name.starts_with("embedding."));
    let numbers: usize = tables.map(|(_, values)| values.len()).sum();
    let saved = bytes("full") - bytes("half");
    // But for a few bytes of the header.
    assert!(saved.abs_diff(2 * numbers) < 256, "{saved} of {numbers}");
    for (from, own, to) in [("full", "fp32", "fp16"), ("half", "bf16", "fp32")] {
        let output = run(from, to, 6, true);
        assert!(!output.status.success());
        let text = said(&output);
        for value in [own, to] {
            let told = format!("`table_precision = \"{value}\"`");
            assert!(text.contains(&told), "expected {told} in {text}");
        }
    }
    expect_success(&run("half", "bf16", 6, true));
}

/// An artifact holds float32: every number of a table is one that the half type has, and servers score as ever.
#[test]
fn runs_are_exported_evaluated_and_begun_from() {
    let bench = Workbench::with_events(6_000);
    for tables in HALVES {
        let own = ["train.global_batch=512", "train.epochs=1", &setting(tables)];
        bench.launch(1, CONFIG, tables, &own);
        let (run, out) = (
            bench.path(tables),
            bench.path(&format!("{tables}-artifact")),
        );
        expect_success(&streamrec(&["export", &run, "--out", &out]));
        expect_success(&streamrec(&["evaluate", &run]));
        let artifact = streamrec_artifact::Artifact::read(out.as_ref()).expect("an artifact");
        let tensors = bench.newest_tensors(tables);
        let mut checked = 0;
        for (name, bits) in &tensors {
            let Some(weight) = artifact.weights.get(name) else {
                continue;
            };
            let own: Vec<u32> = weight.values.iter().map(|value| value.to_bits()).collect();
            assert!(own == *bits, "{name} is exported as it is");
            if name.starts_with("embedding.") {
                let dropped = if tables == "bf16" { 0xffff } else { 0x1fff };
                let normal = |bits: &&u32| f32::from_bits(**bits).abs() > 1e-4;
                assert!(bits.iter().filter(normal).all(|bits| bits & dropped == 0));
                checked += 1;
            }
        }
        assert!(checked > 0);
        streamrec_serving::ranker::Ranker::load(out.as_ref()).expect("a server takes it");
        let mut arguments = vec!["train".to_owned()];
        let steps = "train.max_steps=2";
        arguments.extend(bench.experiment(
            CONFIG,
            &format!("{tables}-warm"),
            &[&own[..], &[steps]].concat(),
        ));
        arguments.extend(["--warm-start".to_owned(), out.clone()]);
        expect_success(&streamrec(&arguments));
        assert!(fs::exists(Path::new(&bench.path(&format!("{tables}-warm")))).unwrap_or(false));
    }
}

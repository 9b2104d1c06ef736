//! Whole runs on an emulated device, whose steps are told one step late, against runs on the CPU.

use std::path::{Path, PathBuf};

use serde_json::Value;
use streamrec_emulation::Emulator;

use super::*;
use crate::checkpoint::CheckpointFolder;
use crate::data::generator::{GeneratorSettings, generate};

/// An epoch and a bit of the next: evaluations, checkpoints, and lines of the journal at steps of their own.
const SETTINGS: [&str; 10] = [
    "train.early_stopping.patience=20",
    "train.global_batch=16",
    "train.max_steps=53",
    "train.epochs=3",
    "train.log_every_steps=3",
    "train.evaluate_every_steps=7",
    "checkpoint.every_steps=5",
    "checkpoint.keep=20",
    "model.bottom=[8, 16]",
    "model.top=[8]",
];

struct Run {
    /// Of the journal, without what depends on the clock.
    lines: Vec<Value>,
    /// Steps that were saved.
    saved: Vec<u64>,
    outcome: TrainOutcome,
}

fn run(
    dataset: &Path,
    output: &Path,
    (device, profile): (Device, Option<Profile>),
    resume: bool,
) -> Run {
    let config = Path::new("configs/synthetic_dlrm.toml");
    let mut set: Vec<String> = SETTINGS.map(str::to_owned).to_vec();
    set.push(format!("data.dataset={}", dataset.display()));
    set.push(format!("output={}", output.display()));
    if resume {
        set.push("train.max_steps=61".to_owned());
    }
    let experiment = Experiment::load(config, &set).unwrap();
    let args = TrainArgs {
        config: config.to_owned(),
        set,
        resume,
        overwrite: false,
        warm_start: None,
        profile: profile.is_some(),
    };
    let rank = Rank::alone().unwrap();
    let signal = StopSignal::watch(&rank.environment).unwrap();
    let ranks = (rank, device);
    let graph = &trainee::built_in;
    let outcome = train_rank(ranks, &experiment, &args, graph, profile, &signal).unwrap();
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for clock in ["elapsed_s", "samples_per_s", "waited_ms", "input_waited_ms"] {
            line.as_object_mut().unwrap().remove(clock);
        }
        line
    };
    let folder = CheckpointFolder::new(RunFolder::new(output).checkpoints().root().to_owned());
    Run {
        lines: text.lines().map(line).collect(),
        saved: folder.complete().unwrap(),
        outcome,
    }
}

/// Numbers may differ a little; everything else is the same.
#[track_caller]
fn assert_near(what: &str, got: &Value, expected: &Value) {
    match (got, expected) {
        (Value::Object(got), Value::Object(expected)) => {
            assert_eq!(
                got.keys().collect::<Vec<_>>(),
                expected.keys().collect::<Vec<_>>()
            );
            for (key, expected) in expected {
                assert_near(&format!("{what}.{key}"), &got[key], expected);
            }
        }
        (Value::Number(got), Value::Number(expected)) if expected.is_f64() => {
            let [got, expected] = [got, expected].map(|number| number.as_f64().unwrap());
            let error = (got - expected).abs();
            assert!(error < 2e-3, "{what}: {got}, on the CPU {expected}");
        }
        _ => assert_eq!(got, expected, "{what}"),
    }
}

fn generated(folder: &Path) -> PathBuf {
    let dataset = folder.join("data");
    let settings = GeneratorSettings {
        impressions: 800,
        users: Some(40),
        items: Some(30),
        threads: 1,
        ..GeneratorSettings::default()
    };
    generate(&settings, &dataset, |_, _| ()).unwrap();
    dataset
}

#[test]
fn a_run_on_a_device_writes_the_lines_and_checkpoints_of_a_run_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = generated(folder.path());
    let (on_cpu, on_device) = (folder.path().join("cpu"), folder.path().join("device"));
    for resume in [false, true] {
        let emulated = Device::Emulated(Box::new(Emulator::new(0)));
        let expected = run(&dataset, &on_cpu, (Device::Cpu, None), resume);
        let got = run(&dataset, &on_device, (emulated, None), resume);
        assert_eq!(got.saved, expected.saved);
        assert_eq!(got.lines.len(), expected.lines.len(), "{:?}", got.lines);
        for (got, expected) in got.lines.iter().zip(&expected.lines) {
            assert_near(&format!("step {}", expected["step"]), got, expected);
        }
        let epochs = got.lines.iter().filter_map(|line| line["epoch"].as_u64());
        assert!(epochs.max() > Some(0), "more than one epoch");
        let steps = |run: &Run| match run.outcome {
            TrainOutcome::Finished { steps, .. } => steps,
            TrainOutcome::Stopped { .. } => panic!("nobody asked"),
        };
        assert_eq!(
            [steps(&got), steps(&expected)],
            [[53; 2], [61; 2]][usize::from(resume)]
        );
    }
}

/// Kernels and products of the steps that are profiled, on a track of their own.
#[test]
fn a_profile_of_a_run_on_a_device_tells_of_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let (dataset, output) = (generated(folder.path()), folder.path().join("run"));
    let emulated = Device::Emulated(Box::new(Emulator::new(0)));
    run(&dataset, &output, (emulated, Some(Profile::new())), false);
    let trace = std::fs::read(output.join("profile/rank-0.json")).unwrap();
    let trace: Value = serde_json::from_slice(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |name: &str| {
        let of_name = |event: &&Value| {
            event["name"]
                .as_str()
                .is_some_and(|own| own.starts_with(name))
        };
        let on_device = events.iter().filter(|event| event["tid"] == "device");
        on_device.filter(of_name).count()
    };
    // Of 53 steps ten come before.
    for once_a_step in ["judge", "bce<", "update_dense<"] {
        assert_eq!(count(once_a_step), 43, "{once_a_step}");
    }
    assert!(count("product [") > 43 && count("embedding_bag<") >= 43);
}

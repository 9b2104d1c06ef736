//! `scripts/gpu-check`, which runs unattended where nobody can look twice: one verdict a section, whatever fails in another.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::workbench::said;

/// A bundle of programs that answer as told, with the real runner.
struct Bundle {
    folder: TempDir,
}

/// `doctor` sees a GPU, training leaves ten losses.
const STREAMREC: &str = r#"
case $1 in
doctor) echo "  NCCL           ${NCCL:-2.30.1} (libnccl.so.2)"; echo "  GPU            a GPU, 139 GiB, sm_90" ;;
data) mkdir -p "$4" ;;
launch)
    for argument; do case $argument in output=*) run=${argument#output=} ;; train.device=*) device=$argument ;; esac; done
    mkdir -p "$run"
    for loss in 1 2 3 4 5 6 7 8 9 "${LAST_LOSS:-1}0"; do
        [ "$device" = 'train.device="cpu"' ] && loss=${loss%00}
        echo "{\"kind\":\"train\",\"loss\":$loss.5,\"gradient_norm\":2.5}" >>"$run/metrics.jsonl"
    done ;;
esac
"#;
const TESTS_PASS: &str = "echo 'test result: ok. 3 passed; 0 failed'";
const SECTIONS: [&str; 7] = [
    "parity",
    "curves",
    "ranks",
    "sanitizer",
    "bench",
    "step",
    "peers",
];

impl Bundle {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        fs::copy(scripts.join("gpu-check"), folder.path().join("gpu-check")).unwrap();
        let own = Self { folder };
        own.program("streamrec", STREAMREC);
        own.program("kernels", TESTS_PASS);
        own.program("steps", TESTS_PASS);
        own.program("device", "echo '{\"kernel\":\"add\",\"us\":3}'");
        let rate = r#"echo "{\"device\":\"cuda\",\"host_us_per_step\":40.5,\"model\":\"$STREAMREC_MODEL\",\"samples_per_s\":9000000}""#;
        own.program("ranker", rate);
        own
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.folder.path().join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn results(&self) -> PathBuf {
        self.folder.path().join("results")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command.arg(self.folder.path().join("gpu-check"));
        command.args(arguments).arg("--out").arg(self.results());
        // Its scratch folder.
        command.env("TMPDIR", self.folder.path());
        command
    }

    fn check(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("bash")
    }

    fn results_file(&self, name: &str) -> String {
        fs::read_to_string(self.results().join(name)).unwrap()
    }
}

/// The verdict on a section, in the summary.
#[track_caller]
fn verdict(output: &Output, section: &str) -> String {
    let text = said(output);
    let (_, verdicts) = text.split_once("== verdicts").expect(&text);
    let mut lines = verdicts.lines();
    let line = lines.find(|line| line.starts_with(&format!("{section} ")));
    line.unwrap_or_else(|| panic!("{section} in {text}"))
        .to_owned()
}

#[test]
fn without_a_gpu_nothing_is_checked_and_each_section_says_why() {
    if !streamrec_kernels::cuda::gpus().is_empty() {
        eprintln!("NOT TESTED: this machine has a GPU");
        return;
    }
    let bundle = Bundle::new();
    let streamrec = bundle.folder.path().join("streamrec");
    fs::remove_file(&streamrec).unwrap();
    symlink(env!("CARGO_BIN_EXE_streamrec"), &streamrec).unwrap();
    let output = bundle.check(&[]);
    for section in SECTIONS {
        let verdict = verdict(&output, section);
        assert!(verdict.contains("NOT CHECKED"), "{verdict}");
        assert!(verdict.contains("no GPU is seen"), "{verdict}");
    }
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(bundle.results_file("verdicts.tsv").lines().count(), 7);
}

#[test]
fn a_section_that_fails_stops_no_other() {
    let bundle = Bundle::new();
    bundle.program("steps", "echo 'a test failed'; exit 101");
    let output = bundle
        .command(&["parity", "curves", "bench", "step"])
        .output();
    let output = output.expect("bash");
    let parity = verdict(&output, "parity");
    assert!(parity.contains("FAILED"), "{parity}");
    assert!(parity.contains("steps ended with 101"), "{parity}");
    for section in ["curves", "bench", "step"] {
        let verdict = verdict(&output, section);
        assert!(verdict.contains("PASSED"), "{}", said(&output));
    }
    assert_eq!(output.status.code(), Some(1));
    // Kept from call to call, beside all that was said.
    bundle.check(&["bench"]);
    assert_eq!(bundle.results_file("verdicts.tsv").lines().count(), 5);
    assert_eq!(bundle.results_file("measured.jsonl").lines().count(), 4);
    assert!(
        bundle
            .results_file("output.log")
            .contains("losses at most 0 apart")
    );
    let text = said(&output);
    assert!(
        text.contains("9,000,000 samples/s, goal 8,000,000: met"),
        "{text}"
    );
    assert!(text.contains("40.5 us a step, goal 50: met"), "{text}");
}

#[test]
fn a_gpu_that_fails_the_self_check_fails_before_any_test() {
    let bundle = Bundle::new();
    let fails = r#"[ "$2" = --check ] && { echo "it fails the self-check"; exit 2; }"#;
    bundle.program("streamrec", &format!("{fails}\n{STREAMREC}"));
    let output = bundle.check(&["parity"]);
    let parity = verdict(&output, "parity");
    assert!(parity.contains("FAILED"), "{parity}");
    assert!(parity.contains("self-check ended with 2"), "{parity}");
    assert!(said(&output).contains("ok: kernels"), "the rest goes on");
}

#[test]
fn losses_that_leave_the_cpus_fail() {
    let bundle = Bundle::new();
    let output = bundle.command(&["curves"]).env("LAST_LOSS", "30").output();
    let output = output.expect("bash");
    let curves = verdict(&output, "curves");
    assert!(curves.contains("FAILED"), "{curves}");
    assert!(
        curves.contains("fp32 on cuda, fp32 on the CPU: 10 losses"),
        "{curves}"
    );
    let text = said(&output);
    let tables = "FAILED: bf16, and tables in it, on cuda, fp32 on the CPU: 10 losses";
    assert!(text.contains(tables), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn with_an_early_nccl_one_rank_is_checked_and_several_are_not() {
    let bundle = Bundle::new();
    let output = bundle.command(&["ranks"]).env("NCCL", "2.28.9").output();
    let output = output.expect("bash");
    let ranks = verdict(&output, "ranks");
    assert!(ranks.contains("NOT CHECKED"), "{ranks}");
    assert!(ranks.contains("NCCL 2.30, here is 22809"), "{ranks}");
    assert!(said(&output).contains("ok: collectives of one rank"));
    assert_eq!(output.status.code(), Some(3));
    let output = bundle.check(&["ranks"]);
    assert!(
        verdict(&output, "ranks").contains("PASSED"),
        "{}",
        said(&output)
    );
}

#[test]
fn what_hangs_is_cut_off_before_the_budget_ends() {
    let bundle = Bundle::new();
    bundle.program("device", "sleep 600");
    let output = bundle.check(&["bench", "step", "--budget", "12"]);
    let bench = verdict(&output, "bench");
    assert!(bench.contains("NOT CHECKED"), "{bench}");
    assert!(bench.contains("was cut off"), "{bench}");
    let step = verdict(&output, "step");
    assert!(step.contains("the budget of 12 s is spent"), "{step}");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn names_that_match_no_test_and_sections_that_are_none_are_refused() {
    let bundle = Bundle::new();
    bundle.program("steps", "echo 'test result: ok. 0 passed; 0 failed'");
    let output = bundle.check(&["parity"]);
    let parity = verdict(&output, "parity");
    assert!(parity.contains("steps: no test is called so"), "{parity}");
    let output = bundle.check(&["paritty"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("usage: gpu-check"));
}

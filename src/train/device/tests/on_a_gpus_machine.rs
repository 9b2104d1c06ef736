//! What `scripts/gpu-check` asks of these tests, where there may be no C++ compiler, and no source to compile.

use std::path::PathBuf;
use std::process::Command;

use super::case::emulation;

const SCRIPT: &str = include_str!("../../../../scripts/gpu-check");

/// The arguments that name tests of steps in the section `parity`.
fn arguments() -> Vec<&'static str> {
    let (_, call) = SCRIPT
        .split_once("\"steps\" steps train::device::tests:: ")
        .expect("a call of the steps");
    let (call, _) = call.split_once("\n}").expect("the end of the section");
    let words = call.split_whitespace().filter(|word| *word != "\\");
    std::iter::once("train::device::tests::")
        .chain(words)
        .collect()
}

/// This program under another name, where the emulation finds nothing that was compiled before.
struct Elsewhere(PathBuf);

impl Elsewhere {
    fn new() -> Self {
        let own = std::env::current_exe().unwrap();
        let folder = format!("elsewhere-{}", std::process::id());
        // Of the folders above it the emulation keeps its libraries in the third.
        let folder = own.parent().unwrap().join(folder);
        let inner = folder.join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::hard_link(&own, inner.join("steps")).unwrap();
        Self(folder)
    }

    fn program(&self) -> PathBuf {
        self.0.join("a/b/steps")
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Each asks for a GPU, or says that it is not tested there; none falls back on the emulation.
#[test]
fn what_a_gpu_is_asked_to_run_needs_no_compiler() {
    if emulation().is_none() || !streamrec_kernels::cuda::gpus().is_empty() {
        return;
    }
    let elsewhere = Elsewhere::new();
    let said = |tests: &[&str], device: Option<&str>| {
        let mut command = Command::new(elsewhere.program());
        command.args(tests).arg("--nocapture");
        command.args(["--skip", "on_a_gpus_machine"]);
        command.env("CXX", "/there/is/no/compiler");
        device.map(|device| command.env("STREAMREC_TEST_DEVICE", device));
        let output = command.output().unwrap();
        let all = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&all).into_owned()
    };
    const NO_COMPILER: &str = "cannot run the C++ compiler";
    let on_a_gpu = said(&arguments(), Some("cuda"));
    for expected in ["NOT TESTED on a GPU", "a GPU: "] {
        assert!(on_a_gpu.contains(expected), "{expected} in {on_a_gpu}");
    }
    assert!(!on_a_gpu.contains(NO_COMPILER), "{on_a_gpu}");
    // What would have been said.
    let emulated = said(&["train::device::tests::one_step"], None);
    assert!(emulated.contains(NO_COMPILER), "{emulated}");
}

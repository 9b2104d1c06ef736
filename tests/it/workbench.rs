//! A folder with a small dataset, and the commands to work in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use streamrec::checkpoint::{Checkpoint, CheckpointFolder, Index, IndexedTensor};
use streamrec::model::Extent;
use streamrec_kernels::TensorMut;

/// One test's folder; removed when it drops.
pub struct Workbench {
    folder: tempfile::TempDir,
}

impl Workbench {
    /// An empty folder.
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// A folder with generated events in `data`.
    pub fn with_events(impressions: usize) -> Self {
        let bench = Self::new();
        let (out, count) = (bench.path("data"), impressions.to_string());
        let arguments = ["data", "generate", "--out", &out, "--impressions", &count];
        expect_success(&streamrec(&arguments));
        bench
    }

    /// A path in the folder, as an argument.
    pub fn path(&self, name: &str) -> String {
        self.folder
            .path()
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }

    /// Arguments for an experiment of `configs/` on this folder's data, into `run`.
    pub fn experiment(&self, name: &str, run: &str, settings: &[&str]) -> Vec<String> {
        let config = config(name);
        let mut arguments = vec![config.to_str().expect("UTF-8").to_owned()];
        let own = [
            format!("data.dataset={}", self.path("data")),
            format!("output={}", self.path(run)),
        ];
        for setting in own
            .into_iter()
            .chain(settings.iter().map(ToString::to_string))
        {
            arguments.extend(["--set".to_owned(), setting]);
        }
        arguments
    }

    /// Trains with `ranks` ranks and expects success.
    pub fn launch(&self, ranks: usize, name: &str, run: &str, settings: &[&str]) -> Output {
        let output = self.launch_command(ranks, name, run, settings).output();
        let output = output.expect("the program starts");
        expect_success(&output);
        output
    }

    /// The command of [`Workbench::launch`].
    pub fn launch_command(
        &self,
        ranks: usize,
        name: &str,
        run: &str,
        settings: &[&str],
    ) -> Command {
        let mut command = command();
        command.args(["launch", "--nproc", &ranks.to_string(), "--no-pin"]);
        command.args(self.experiment(name, run, settings));
        command
    }

    /// Records of one kind in a run's `metrics.jsonl`.
    pub fn records(&self, run: &str, kind: &str) -> Vec<Value> {
        let path = Path::new(&self.path(run)).join("metrics.jsonl");
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["kind"] == kind).collect()
    }

    /// Waits until the run has taken `step` steps.
    pub fn wait_for_step(&self, run: &str, step: u64) {
        wait(Duration::from_secs(60), || {
            let last = self
                .records(run, "train")
                .last()
                .and_then(|line| line["step"].as_u64());
            last.is_some_and(|last| last >= step)
        });
    }

    /// Every tensor of a run's newest checkpoint, whoever wrote it, as bits.
    pub fn newest_tensors(&self, run: &str) -> BTreeMap<String, Vec<u32>> {
        let folder = PathBuf::from(self.path(run)).join("checkpoints");
        let folder = CheckpointFolder::new(folder);
        let step = folder.latest().expect("listed").expect("a checkpoint");
        let checkpoint = Checkpoint::open(&folder, step).expect("opened");
        let index = Index::read(&checkpoint.folder().join("index.json")).expect("an index");
        let tensor = |(name, tensor): (String, IndexedTensor)| {
            let extent = Extent::whole(&tensor.shape);
            let mut values = vec![0.0; extent.len()];
            let into = TensorMut::from_f32(&mut values, &tensor.shape);
            checkpoint.read(&name, &extent, into).expect("read");
            (name, values.into_iter().map(f32::to_bits).collect())
        };
        index.tensors.into_iter().map(tensor).collect()
    }

    /// The bytes of each shard of a run's newest checkpoint.
    pub fn newest_shards(&self, run: &str) -> (u64, BTreeMap<String, Vec<u8>>) {
        let folder = PathBuf::from(self.path(run)).join("checkpoints");
        let entries = fs::read_dir(&folder).expect("checkpoints").flatten();
        let newest = entries
            .map(|entry| entry.path())
            .filter(|path| path.join("index.json").exists())
            .max()
            .expect("a checkpoint");
        let step = newest
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("step-")?.parse().ok());
        let shards = fs::read_dir(&newest)
            .expect("shards")
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let shard = name.ends_with(".safetensors");
                shard.then(|| (name, fs::read(entry.path()).expect("a shard")))
            });
        (step.expect("a step"), shards.collect())
    }
}

/// The program under test, quiet but for what it says itself.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamrec"));
    command
        .stdin(Stdio::null())
        .env_remove("RANK")
        .env_remove("WORLD_SIZE");
    command
}

/// Runs the program to its end.
pub fn streamrec<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> Output {
    command()
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// The server's program, which stands beside the other.
pub fn server_program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_streamrec")).with_file_name("streamrec-serve");
    assert!(
        program.exists(),
        "{} is not built: test the whole workspace",
        program.display()
    );
    program
}

/// An experiment of the project.
pub fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("configs")
        .join(name)
}

/// What a program said.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Fails with what the program said unless it succeeded.
pub fn expect_success(output: &Output) {
    assert!(
        output.status.success(),
        "{:?}\n{}",
        output.status,
        said(output)
    );
}

/// Waits for a condition, up to `patience`.
pub fn wait(patience: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < patience, "waited {patience:?} in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child that is killed when it drops.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process of `rank` below the launcher `parent`, or below an `mpirun` of it.
pub fn rank_process(parent: u32, rank: usize) -> i32 {
    let mut found = None;
    wait(Duration::from_secs(20), || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        found = processes
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .find(|pid| rank_of(*pid) == Some(rank) && descends_from(*pid, parent));
        found.is_some()
    });
    found.expect("waited for it")
}

fn descends_from(pid: i32, ancestor: u32) -> bool {
    let parents = std::iter::successors(parent_of(pid), |parent| parent_of(*parent as i32));
    parents.into_iter().any(|parent| parent == ancestor)
}

fn parent_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}

fn rank_of(pid: i32) -> Option<usize> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let names: [&[u8]; 3] = [b"RANK=", b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK="];
    let rank = variables
        .find_map(|variable| names.iter().find_map(|name| variable.strip_prefix(*name)))?;
    std::str::from_utf8(rank).ok()?.parse().ok()
}

/// Sends a signal by name, such as `KILL`.
pub fn send(signal: &str, pid: i32) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status();
    assert!(status.expect("kill").success(), "kill -{signal} {pid}");
}

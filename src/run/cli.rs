//! The command line: what there is to say, with an example each.

mod doctor;
mod kernels;
mod monitor;
mod plan;
mod prune;
mod validate;
mod watch;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::score::ScoreArgs;
pub use doctor::*;
pub use kernels::*;
pub use monitor::*;
pub use plan::*;
pub use prune::*;
pub use validate::*;
pub use watch::*;

/// Trains ranking models of recommender systems: data in, a served artifact out.
#[derive(Debug, Parser)]
#[command(
    name = "streamrec",
    version,
    propagate_version = true,
    after_help = "\
Example, from nothing to a served model:
  streamrec data generate --out data/synthetic --impressions 200000
  streamrec launch --nproc 2 configs/synthetic_dlrm.toml
  streamrec evaluate runs/synthetic_dlrm --split test
  streamrec export runs/synthetic_dlrm --out artifacts/synthetic_dlrm
  streamrec-serve artifacts/synthetic_dlrm --listen 127.0.0.1:8080"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Import, generate and look at datasets.
    #[command(subcommand)]
    Data(DataCommand),
    /// Train with several ranks, watched and restarted, on this host or several.
    #[command(after_help = "\
Examples:
  streamrec launch --nproc 2 configs/kuairand_dcn_v2.toml --set train.global_batch=4096
  streamrec launch --nproc 4 --nnodes 2 --node-rank 0 --rdzv-endpoint node-a:29400 EXPERIMENT.toml
  streamrec launch --nproc 8 --print slurm --cores 4 --minutes 240 EXPERIMENT.toml > job.sbatch
  streamrec launch --nproc 2 --program target/release/examples/own_model configs/goodbooks_dlrm.toml
Each rank's output is kept in RUN/logs/attempt-K/rank-N.log.")]
    Launch(LaunchArgs),
    /// Train as one rank: alone, or the rank that the environment says (torchrun, Slurm, mpirun).
    #[command(after_help = "\
Examples:
  streamrec train configs/synthetic_dlrm.toml
  streamrec train configs/synthetic_dlrm.toml --resume
  streamrec train tomorrow.toml --warm-start artifacts/today
  torchrun --no-python --nproc-per-node 2 streamrec train configs/synthetic_dlrm.toml
  mpirun -n 2 streamrec train configs/synthetic_dlrm.toml")]
    Train(TrainArgs),
    /// Place an experiment's embedding tables on some ranks, and estimate memory and time of a step there.
    #[command(after_help = "\
Examples:
  streamrec plan configs/kuairand_dcn_v2.toml --world 2
  streamrec plan configs/kuairand_dcn_v2.toml --world 8 --gpu-memory 80GiB --set train.global_batch=65536
Hotness is measured on the first batch of the experiment's own data. Tables that
`parallel.embeddings.tables` names stay where it says.")]
    Plan(PlanArgs),
    /// Score a dataset's split with a trained run and print its metrics.
    #[command(after_help = "\
Examples:
  streamrec evaluate runs/kuairand_dcn_v2 --split test
  streamrec evaluate runs/kuairand_dcn_v2 --data data/later_days")]
    Evaluate(EvaluateArgs),
    /// Turn a trained run into an artifact that `streamrec-serve` loads.
    #[command(after_help = "\
Example:
  streamrec export runs/kuairand_dcn_v2 --out artifacts/kuairand_dcn_v2")]
    Export(ExportArgs),
    /// Score every row of files with an artifact or a run, and write the scores as Parquet.
    #[command(after_help = "\
Examples:
  streamrec score artifacts/videos candidates.parquet --key user_id,video_id --out scores.parquet
  streamrec score artifacts/videos day_1.csv.gz day_2.csv.gz --key user_id --out scores.parquet
  streamrec score runs/kuairand_dcn_v2 data/later --split test --key user_id --out scores.parquet
OUT holds the key columns as they came, and `score_LABEL` for each label, row by row as in the input.
The columns of Parquet and text have the names of the model's inputs; null and an empty field are
missing values. Text of a packed dataset is its 64-bit hash there.")]
    Score(ScoreArgs),
    /// Ask a server for the scores of an artifact's golden examples and compare them.
    #[command(after_help = "\
Example:
  streamrec request artifacts/kuairand_dcn_v2 --server http://127.0.0.1:8080")]
    Request(RequestArgs),
    /// Judge data and models before they go live.
    #[command(subcommand)]
    Validate(ValidateCommand),
    /// Watch what is served: logs into tables, late labels, a dashboard.
    #[command(subcommand)]
    Monitor(MonitorCommand),
    /// Write a run's report, one HTML file that needs no network.
    #[command(after_help = "\
Examples:
  streamrec report runs/kuairand_dcn_v2
  streamrec report runs/kuairand_dcn_v2 --artifact artifacts/kuairand_dcn_v2 --segment platform")]
    Report(ReportArgs),
    /// Tell what of this machine a run can use, and what to install for more.
    #[command(after_help = "\
Examples:
  streamrec doctor
  streamrec doctor --check")]
    Doctor(DoctorArgs),
    /// Compile the CUDA kernels ahead, for GPU machines without NVRTC. Needs NVRTC, and no GPU.
    Kernels(KernelsArgs),
    /// Run a command on another host of a job, through its launcher; mpirun calls this.
    #[command(hide = true)]
    NodeShell {
        /// The host, as mpirun calls it.
        host: String,
        /// The command, for its shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Commands on data.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Read files as their authors publish them and write a packed dataset.
    #[command(after_help = "\
Examples:
  streamrec data import --format kuairand KuaiRand-Pure --out data/kuairand
  streamrec data import --format csv clicks.csv.gz --schema clicks.toml --out data/clicks
  streamrec data import --format kuairand LATER --split test --history data/kuairand --out data/later")]
    Import(ImportArgs),
    /// Write a dataset of StreamRec events whose true probabilities are known.
    #[command(after_help = "\
Example:
  streamrec data generate --out data/synthetic --impressions 1000000 --seed 7")]
    Generate(GenerateArgs),
    /// Print the import schema of a built-in format, to adapt it.
    #[command(after_help = "\
Example:
  streamrec data schema kuairand > my_schema.toml")]
    Schema {
        /// The format.
        format: String,
    },
    /// Show what a packed dataset holds.
    #[command(after_help = "\
Example:
  streamrec data show data/kuairand")]
    Show {
        /// The dataset's folder.
        dataset: PathBuf,
    },
}

/// Arguments of `data import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// kuairand, goodbooks, movielens, criteo, open-bandit, parquet or csv.
    #[arg(long)]
    pub format: String,
    /// The file or folder to read; .gz and .zst are read as they are.
    pub input: PathBuf,
    /// The dataset's folder.
    #[arg(long)]
    pub out: PathBuf,
    /// An import schema; needed for csv and parquet, and replaces the built-in one elsewhere.
    #[arg(long)]
    pub schema: Option<PathBuf>,
    /// Malformed lines that are tolerated, as a share of all lines.
    #[arg(long, default_value_t = 0.001)]
    pub max_malformed: f64,
    /// How rows are split, in place of the schema's way: train, valid or test (every row there),
    /// time, order, key_tail:KEY or hash:KEY, the last four with :VALID,TEST, such as time:0.1,0.1.
    #[arg(long)]
    pub split: Option<String>,
    /// What rows of valid and test know in their trailing columns, in place of the schema's choice.
    #[arg(long, value_enum)]
    pub held_out_counts: Option<CountsName>,
    /// Continue trailing counts from this dataset, which holds the time before.
    #[arg(long)]
    pub history: Option<PathBuf>,
    /// Replace the dataset if the folder exists.
    #[arg(long)]
    pub overwrite: bool,
}

/// Arguments of `data generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The dataset's folder.
    #[arg(long)]
    pub out: PathBuf,
    /// Impressions to write.
    #[arg(long, default_value_t = 1_000_000)]
    pub impressions: u64,
    /// Decides everything that is random.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Users; grows with the impressions where unset.
    #[arg(long)]
    pub users: Option<u64>,
    /// Items; grows with the impressions where unset.
    #[arg(long)]
    pub items: Option<u64>,
    /// Let tastes and popularity drift over time.
    #[arg(long)]
    pub drift: bool,
    /// Replace the dataset if the folder exists.
    #[arg(long)]
    pub overwrite: bool,
}

/// Arguments of `launch`.
#[derive(Debug, Clone, Args)]
pub struct LaunchArgs {
    /// Ranks to start on this host.
    #[arg(long, default_value_t = 1)]
    pub nproc: usize,
    /// Restarts from the last checkpoint after a rank died or hung.
    #[arg(long, default_value_t = 3)]
    pub max_restarts: u32,
    /// Seconds without progress after which a rank counts as stuck.
    #[arg(long, default_value_t = 60.0)]
    pub stuck_after: f64,
    /// Seconds that ranks have to save and leave after SIGTERM or SIGINT, before they are killed.
    #[arg(long, default_value_t = 30.0)]
    pub stop_grace: f64,
    /// Do not bind ranks to cores.
    #[arg(long)]
    pub no_pin: bool,
    /// What carries data between ranks, in place of `parallel.backend`; with mpi, mpirun starts them.
    #[arg(long, value_enum)]
    pub backend: Option<BackendName>,
    /// The program of each rank, in place of `streamrec train`: your own model's, which takes the
    /// arguments of `train`.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The job's hosts, where there are several.
    #[command(flatten)]
    pub hosts: HostArgs,
    /// Print what a scheduler needs to start this job elsewhere, and start nothing here.
    #[arg(long, value_name = "SCHEDULER")]
    pub print: Option<Scheduler>,
    /// What a scheduler needs to know.
    #[command(flatten)]
    pub submission: SubmissionArgs,
    /// What each rank does.
    #[command(flatten)]
    pub train: TrainArgs,
}

/// Arguments of `launch` for a job over several hosts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Several hosts")]
pub struct HostArgs {
    /// Hosts; each has a launcher, and as many ranks as that one's --nproc.
    #[arg(long, default_value_t = 1)]
    pub nnodes: usize,
    /// This host, from 0; a launcher runs on each.
    #[arg(long, default_value_t = 0)]
    pub node_rank: usize,
    /// Where the launchers meet: a name or address of host 0 and a free port, such as node-a:29400.
    #[arg(long, value_name = "HOST:PORT")]
    pub rdzv_endpoint: Option<String>,
    /// The address by which others reach this host; that of its way to host 0 where unset.
    #[arg(long)]
    pub node_address: Option<Ipv4Addr>,
    /// Seconds that launchers wait for one another, at the start and after one was lost.
    #[arg(long, default_value_t = 300.0)]
    pub join_timeout: f64,
}

/// A backend, as `parallel.backend` calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum BackendName {
    /// What fits the hosts and whoever starts the ranks.
    Auto,
    /// The memory of this host.
    SharedMemory,
    /// TCP, over any hosts.
    Tcp,
    /// Open MPI or MPICH.
    Mpi,
}

impl BackendName {
    /// The setting that chooses it.
    pub(super) fn setting(self) -> String {
        let name = self.to_possible_value();
        let name = name.as_ref().map_or("auto", |value| value.get_name());
        format!("parallel.backend={name}")
    }
}

/// Who starts a job elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// A batch script for sbatch.
    Slurm,
    /// A TrainingRuntime over a JobSet, and its TrainJob (Kubeflow Trainer 2).
    Kubernetes,
    /// A command for Open MPI's mpirun.
    Mpirun,
}

/// Arguments of `launch --print`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "With --print")]
pub struct SubmissionArgs {
    /// Cores of each rank.
    #[arg(long, default_value_t = 1, requires = "print")]
    pub cores: usize,
    /// Memory of each host, such as 64GiB.
    #[arg(long, requires = "print")]
    pub memory: Option<String>,
    /// Time limit in minutes.
    #[arg(long, requires = "print")]
    pub minutes: Option<u64>,
    /// Names of the hosts for mpirun, such as node-a,node-b.
    #[arg(long, value_delimiter = ',', requires = "print")]
    pub host_names: Vec<String>,
    /// The container's image for Kubernetes; its PATH leads to streamrec.
    #[arg(long, requires = "print")]
    pub image: Option<String>,
    /// The claim of the volume with experiments, data and runs for Kubernetes; paths are relative to it.
    #[arg(long, requires = "print")]
    pub volume_claim: Option<String>,
}

/// Arguments of `train`, and of `launch` for each rank.
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The experiment, a TOML file.
    pub config: PathBuf,
    /// Override one field, such as train.global_batch=4096; may be given several times.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// Continue the run in the output folder from its last checkpoint.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Remove a run that is already in the output folder.
    #[arg(long)]
    pub overwrite: bool,
    /// Start from the weights and vocabularies of an earlier artifact; new ids are added.
    #[arg(long, value_name = "ARTIFACT")]
    pub warm_start: Option<PathBuf>,
    /// Tell where the time of a step goes, by operation, and write RUN/profile/rank-N.json for Perfetto.
    #[arg(long)]
    pub profile: bool,
}

impl TrainArgs {
    /// The words that parse to these arguments.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.config.clone().into()];
        for entry in &self.set {
            words.extend(["--set".into(), entry.into()]);
        }
        if self.resume {
            words.push("--resume".into());
        }
        if self.overwrite {
            words.push("--overwrite".into());
        }
        if self.profile {
            words.push("--profile".into());
        }
        if let Some(artifact) = &self.warm_start {
            words.extend(["--warm-start".into(), artifact.clone().into()]);
        }
        words
    }
}

/// The command line of a program that trains a model of its own.
#[derive(Debug, Parser)]
#[command(
    version,
    about = "Trains a model of one's own, as `streamrec train` does."
)]
pub struct TrainCli {
    /// What to train.
    #[command(flatten)]
    pub train: TrainArgs,
}

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// The run's folder.
    pub run: PathBuf,
    /// Which split to score; test where unset.
    #[arg(long, value_enum)]
    pub split: Option<SplitName>,
    /// Another dataset, scored with the run's own vocabularies and transforms: all of it unless
    /// --split says otherwise. Trailing counts that begin at zero there go on from the run's own.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Samples a batch.
    #[arg(long, default_value_t = 4096)]
    pub batch: usize,
    /// The checkpoint of this step instead of the best one.
    #[arg(long)]
    pub step: Option<u64>,
    /// Print the metrics as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The run's folder.
    pub run: PathBuf,
    /// The artifact's folder.
    #[arg(long)]
    pub out: PathBuf,
    /// The checkpoint of this step instead of the best one.
    #[arg(long)]
    pub step: Option<u64>,
    /// Profile the rows of each value of this input by themselves, too; may be given several times.
    #[arg(long, value_name = "INPUT")]
    pub segment: Vec<String>,
    /// Golden examples to store.
    #[arg(long, default_value_t = 64)]
    pub golden: usize,
    /// Replace the artifact if the folder exists.
    #[arg(long)]
    pub overwrite: bool,
}

/// Arguments of `request`.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// The artifact's folder.
    pub artifact: PathBuf,
    /// The server's address.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// Golden examples to send.
    #[arg(long, default_value_t = 10)]
    pub rows: usize,
}

/// What rows of valid and test know in their trailing columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CountsName {
    /// All rows before them, of whatever split.
    Progressive,
    /// The rows of train: what a service knows whose counts were made when the model was.
    Frozen,
}

/// A split of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitName {
    /// What the model is trained on.
    Train,
    /// What decides when to stop.
    Valid,
    /// What decides nothing.
    Test,
}

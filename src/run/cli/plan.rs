//! The command line of `streamrec plan`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::parallel::planner::Gpu;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The experiment.
    pub config: PathBuf,
    /// Set a field of the experiment.
    #[arg(long, value_name = "SECTION.FIELD=VALUE")]
    pub set: Vec<String>,
    /// Ranks of the job.
    #[arg(long)]
    pub world: usize,
    /// Plan for GPUs of this kind, eight in a host, by their datasheet.
    #[arg(long, value_enum)]
    pub gpu: Option<GpuKind>,
    /// Memory of a GPU, such as 80GiB; the kind is h100 where none is named.
    #[arg(long)]
    pub gpu_memory: Option<String>,
    /// Memory of a rank on CPUs, whose speed is measured here.
    #[arg(long, default_value = "8GiB", conflicts_with_all = ["gpu", "gpu_memory"])]
    pub memory: String,
    /// Tables by their declared sizes, in TOML, where there is no data yet.
    #[arg(long, value_name = "FILE")]
    pub tables: Option<PathBuf>,
}

/// GPUs whose datasheet is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GpuKind {
    /// NVIDIA A100 SXM, 80 GB.
    A100,
    /// NVIDIA H100 SXM.
    H100,
    /// NVIDIA H200 SXM.
    H200,
}

impl From<GpuKind> for Gpu {
    fn from(kind: GpuKind) -> Self {
        match kind {
            GpuKind::A100 => Self::A100,
            GpuKind::H100 => Self::H100,
            GpuKind::H200 => Self::H200,
        }
    }
}

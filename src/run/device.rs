//! Where a rank computes: `train.device`.

use std::path::PathBuf;

use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};
use streamrec_kernels::cuda::{DeviceError, gpus};

use super::RunError;
use super::rank::Rank;
use crate::config::{DeviceChoice, Experiment};

/// What a rank computes on.
pub(super) enum Device {
    /// The CPU.
    Cpu,
    /// A GPU that is ready: its libraries are found, all kernels are compiled.
    Cuda(Box<GpuExecutor>),
}

impl Device {
    /// Opens the device that the experiment asks for, and says which. Before anything else of a run, so that nothing is
    /// begun on a machine that cannot go on.
    ///
    /// # Errors
    /// When a GPU is asked for and cannot be used, in words that tell what to install or to set.
    pub(super) fn open(
        rank: &Rank,
        experiment: &Experiment,
        profiled: bool,
    ) -> Result<Self, RunError> {
        match experiment.train.device {
            DeviceChoice::Cpu => Ok(Self::Cpu),
            DeviceChoice::Auto => {
                if rank.is_first() {
                    announce_unused_gpus();
                }
                Ok(Self::Cpu)
            }
            DeviceChoice::Cuda => {
                if profiled {
                    tracing::warn!(
                        "--profile tells how long the host asks for work, not how long the GPU works"
                    );
                }
                Self::cuda(rank)
            }
        }
    }

    fn cuda(rank: &Rank) -> Result<Self, RunError> {
        let ranks = rank.mesh.world.size();
        if ranks > 1 {
            return Err(refused(&format!(
                "{ranks} ranks train together, and a GPU trains one alone yet; start one rank"
            )));
        }
        let open = || -> Result<(Gpu, GpuExecutor), DeviceError> {
            let gpu = Gpu::new(rank.environment.local_rank, &cache())?;
            let executor = GpuExecutor::new(&gpu)?;
            gpu.compile()?;
            Ok((gpu, executor))
        };
        let (gpu, executor) = open().map_err(|error| {
            let mut chain = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                chain = format!("{chain}: {cause}");
                source = cause.source();
            }
            refused(&chain)
        })?;
        let (rank, architecture) = (rank.environment.rank, gpu.architecture());
        tracing::info!(rank, architecture, "training runs on a GPU");
        tracing::warn!(
            "this path has been tested by emulation only, on no GPU: compare its losses with those of \
             `train.device = \"cpu\"` (docs/cuda-kernels.md)"
        );
        Ok(Self::Cuda(Box::new(executor)))
    }
}

/// `auto` takes no path that no GPU has run: it says so where there is a GPU.
fn announce_unused_gpus() {
    if let Some(gpu) = gpus().first() {
        tracing::info!(
            "training runs on the CPU; there is a GPU ({}), which `train.device = \"cuda\"` uses: \"auto\" will when the \
             step has been checked on one (docs/cuda-kernels.md)",
            gpu.name
        );
    }
}

fn refused(problem: &str) -> RunError {
    RunError::Usage(format!(
        "`train.device` = \"cuda\": {problem}; or set \"cpu\" (`streamrec doctor` tells what this machine has)"
    ))
}

/// Where compiled kernels are kept from run to run.
fn cache() -> PathBuf {
    let absolute = |name: &str| {
        let folder = std::env::var_os(name).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    let folder = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    folder.join("streamrec").join("cuda")
}

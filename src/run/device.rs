//! Where a rank computes: `train.device`.

use std::time::Duration;

use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor, Nccl};
use streamrec_kernels::cuda::{CudaLibrary, DeviceError, cache_folder, gpus};

use super::RunError;
use super::rank::Rank;
use crate::comm::{Communicator, broadcast_bytes};
use crate::config::{DeviceChoice, Experiment};

/// NCCL's variable that lets ranks share a GPU, from version 2.30 on.
const SHARED_GPU_VARIABLE: &str = "NCCL_MULTI_RANK_GPU_ENABLE";

/// What a rank computes on.
pub(super) enum Device {
    /// The CPU.
    Cpu,
    /// A GPU that is ready: its libraries are found, all kernels are compiled.
    Cuda(Box<GpuExecutor>),
    /// A CPU that does what a GPU would, in tests.
    #[cfg(test)]
    Emulated(Box<streamrec_emulation::Emulator>),
}

impl Device {
    /// Opens the device that the experiment asks for, and says which. Before anything else of a run, so that nothing is
    /// begun on a machine that cannot go on.
    ///
    /// # Errors
    /// When a GPU is asked for and cannot be used, in words that tell what to install or to set.
    pub(super) fn open(rank: &Rank, experiment: &Experiment) -> Result<Self, RunError> {
        match experiment.train.device {
            DeviceChoice::Cpu => Ok(Self::Cpu),
            DeviceChoice::Auto => {
                if rank.is_first() {
                    announce_unused_gpus();
                }
                Ok(Self::Cpu)
            }
            DeviceChoice::Cuda => Self::cuda(rank, experiment),
        }
    }

    fn cuda(rank: &Rank, experiment: &Experiment) -> Result<Self, RunError> {
        let mut opened = None;
        let own = open(rank).map(|gpu| opened = Some(gpu));
        // One that fails is missed by none for long.
        rank.agree(own)?;
        let Some((gpu, mut executor)) = opened else {
            return Ok(Self::Cpu);
        };
        if rank.mesh.world.size() > 1 {
            executor = connected(rank, experiment, &gpu, executor)?;
        }
        let (rank, architecture) = (rank.environment.rank, gpu.architecture());
        tracing::info!(rank, architecture, "training runs on a GPU");
        tracing::warn!(
            "this path has been tested by emulation only, on no GPU: compare its losses with those of \
             `train.device = \"cpu\"` (docs/cuda-kernels.md)"
        );
        Ok(Self::Cuda(Box::new(executor)))
    }
}

/// This rank's GPU: that of its number on the host, unless several ranks are to share one.
fn open(rank: &Rank) -> Result<(Gpu, GpuExecutor), RunError> {
    let open = || -> Result<(Gpu, GpuExecutor), DeviceError> {
        let shared = std::env::var_os(SHARED_GPU_VARIABLE).is_some_and(|value| value == "1");
        let gpus = if shared {
            gpus().len().max(1)
        } else {
            usize::MAX
        };
        let gpu = Gpu::new(rank.environment.local_rank % gpus, &cache_folder())?;
        let executor = GpuExecutor::new(&gpu)?;
        for two in CudaLibrary::ALL
            .into_iter()
            .filter_map(CudaLibrary::two_versions)
        {
            tracing::warn!("{two}");
        }
        if let Some(not_kept) = gpu.compile()? {
            tracing::warn!("{not_kept}");
        }
        Ok((gpu, executor))
    };
    open().map_err(|error| refused(&with_causes(&error)))
}

/// The GPUs of all ranks, which meet by an id that goes through the ranks' own communicator. Collective.
fn connected(
    rank: &Rank,
    experiment: &Experiment,
    gpu: &Gpu,
    executor: GpuExecutor,
) -> Result<GpuExecutor, RunError> {
    let mesh = &rank.mesh;
    let world = joined(rank, experiment, gpu, mesh.world.as_ref())?;
    let mut own = None;
    let with_ranks = executor.with_ranks(world).map(|it| own = Some(it));
    rank.agree(with_ranks.map_err(|error| refused(&with_causes(&error))))?;
    let executor = own.ok_or_else(|| refused(APART))?;
    if mesh.tp.size() == 1 {
        return Ok(executor);
    }
    let dp = joined(rank, experiment, gpu, mesh.dp.as_ref())?;
    let tp = joined(rank, experiment, gpu, mesh.tp.as_ref())?;
    Ok(executor.with_mesh(dp, tp))
}

/// What is said where a rank failed, which the others are told of.
const APART: &str = "the ranks' GPUs did not meet";

/// The GPUs of the ranks of `comm`. Collective, in the world.
fn joined(
    rank: &Rank,
    experiment: &Experiment,
    gpu: &Gpu,
    comm: &dyn Communicator,
) -> Result<Nccl, RunError> {
    let refuse = |error: DeviceError| refused(&with_causes(&error));
    let mut id = Vec::new();
    // Also where another rank makes the id: one without NCCL is told of now.
    let own = match comm.rank() {
        0 => Nccl::unique_id().map(|own| id = own),
        _ => Nccl::probe().map(|_| ()),
    };
    rank.agree(own.map_err(refuse))?;
    let id = broadcast_bytes(comm, id, 0)?;
    let timeout = Duration::from_secs_f64(experiment.parallel.timeout_s);
    let mut connected = None;
    let outcome = Nccl::connect(gpu, &id, [comm.rank(), comm.size()], timeout);
    let outcome = outcome.map(|nccl| connected = Some(nccl));
    rank.agree(outcome.map_err(refuse))?;
    connected.ok_or_else(|| refused(APART))
}

fn with_causes(error: &DeviceError) -> String {
    let mut chain = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        chain = format!("{chain}: {cause}");
        source = cause.source();
    }
    chain
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

#[cfg(test)]
mod tests {
    use super::*;
    use streamrec_kernels::cuda::CompileError;

    #[test]
    fn what_is_missing_on_a_gpus_machine_is_named_with_what_to_do() {
        let said = |error: DeviceError| refused(&with_causes(&error)).to_string();
        let nccl = said(DeviceError::Missing(CudaLibrary::Nccl));
        assert!(
            nccl.starts_with("`train.device` = \"cuda\": NCCL is not found; install"),
            "{nccl}"
        );
        let nvrtc = said(CompileError::NoCompiler.into());
        assert!(
            nvrtc.contains("NVRTC, which compiles the CUDA kernels, is not found"),
            "{nvrtc}"
        );
        let gpu = said(DeviceError::NoGpu {
            ordinal: 3,
            count: 2,
        });
        assert!(
            gpu.contains("there is no GPU 3: this process sees 2"),
            "{gpu}"
        );
        for said in [nccl, nvrtc, gpu] {
            assert!(
                said.ends_with("or set \"cpu\" (`streamrec doctor` tells what this machine has)"),
                "{said}"
            );
        }
    }
}

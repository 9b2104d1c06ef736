//! Where a rank computes: `train.device`.
//!
//! ```text
//! open     a GPU for each rank, its libraries and kernels; the GPUs meet ─► before anything of a run is begun
//! checked  each trains the run's model in small, as the CPU does         ─► before the run's own model is built
//! ```
//!
//! Where a rank's GPU cannot be used, all ranks hear it at the same time: with `"auto"` all go on on their CPUs, with `"cuda"`
//! all end.

mod time_limit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use streamrec_kernels::Context;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor, Nccl};
use streamrec_kernels::cuda::{CudaLibrary, DeviceError, Executor, cache_folder, gpus};

use super::RunError;
use super::rank::Rank;
use crate::comm::{CommError, Communicator, broadcast_bytes};
use crate::config::{DeviceChoice, Experiment};
use crate::train::{SelfCheck, SelfCheckError};

/// NCCL's variable that lets ranks share a GPU, from version 2.30 on.
const SHARED_GPU_VARIABLE: &str = "NCCL_MULTI_RANK_GPU_ENABLE";

/// A self-check that takes longer is a device that does not answer.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

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

/// Why ranks do not train on GPUs, as all of them know.
enum Failure {
    /// One cannot use its own.
    Unusable {
        rank: usize,
        /// It is this one.
        own: bool,
        problem: String,
    },
    /// They lost one another.
    Ranks(CommError),
}

impl From<CommError> for Failure {
    fn from(error: CommError) -> Self {
        Self::Ranks(error)
    }
}

/// What a rank has, once all know that each has it. Collective.
fn agreed<T>(rank: &Rank, own: Result<T, String>) -> Result<T, Failure> {
    let problem = own.as_ref().err().cloned().unwrap_or_default();
    let problems = rank.comm.all_gather_bytes(problem.into_bytes()).wait()?;
    let first = problems.iter().position(|problem| !problem.is_empty());
    let failed = |of: usize, problem| Failure::Unusable {
        rank: of,
        own: of == rank.comm.rank(),
        problem,
    };
    match (own, first) {
        (Err(problem), _) => Err(failed(rank.comm.rank(), problem)),
        (Ok(_), Some(of)) => {
            let problem = String::from_utf8_lossy(&problems[of]).into_owned();
            Err(failed(of, problem))
        }
        (Ok(value), None) => Ok(value),
    }
}

impl Device {
    /// Opens the device that the experiment asks for. Before anything else of a run, so that nothing is begun on a machine
    /// that cannot go on. Collective.
    ///
    /// # Errors
    /// When a GPU is asked for and cannot be used, in words that tell what to install or to set.
    pub(super) fn open(rank: &Rank, experiment: &Experiment) -> Result<Self, RunError> {
        let choice = experiment.train.device;
        let looks = match choice {
            DeviceChoice::Cpu => false,
            DeviceChoice::Auto => any_sees_a_gpu(rank)?,
            DeviceChoice::Cuda => true,
        };
        match looks {
            true => open_all(rank, experiment).or_else(|failure| on_cpus(rank, choice, failure)),
            false => Ok(Self::Cpu),
        }
    }

    /// Whether ranks train on devices of their own.
    pub(super) fn is_cpu(&self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// The device, if it computes what the CPU computes: `check` is asked of it, alone, in memory of its own. Else the CPU, where
    /// the experiment leaves the choice. The same kind on all ranks. Collective.
    ///
    /// # Errors
    /// When a device fails that the experiment insists on, or ranks lose one another.
    pub(super) fn checked(
        self,
        rank: &Rank,
        experiment: &Experiment,
        check: SelfCheck,
    ) -> Result<Self, RunError> {
        if self.is_cpu() {
            return Ok(self);
        }
        let (began, limit) = (Instant::now(), check_limit(experiment));
        let (context, device) = (rank.context()?, self.architecture());
        let own = match &self {
            Self::Cpu => Ok(()),
            Self::Cuda(executor) => {
                let gpu = executor.stream().gpu().clone();
                passes(context, check, limit, move || GpuExecutor::new(&gpu))
            }
            #[cfg(test)]
            Self::Emulated(emulator) => passes(context, check, limit, emulator.maker()),
        };
        if let Err(failure) = agreed(rank, own) {
            return on_cpus(rank, experiment.train.device, failure);
        }
        if rank.is_first() {
            tracing::info!(
                ranks = rank.comm.size(),
                device,
                check_s = began.elapsed().as_secs_f64(),
                "training runs on GPUs: each trained this model in small as the CPU does; no GPU had run this program when it \
                 was released (docs/cuda-kernels.md)"
            );
        }
        Ok(self)
    }

    fn architecture(&self) -> String {
        match self {
            Self::Cpu => "cpu".to_owned(),
            Self::Cuda(executor) => executor.stream().gpu().architecture().to_owned(),
            #[cfg(test)]
            Self::Emulated(_) => "emulated".to_owned(),
        }
    }
}

/// Whether a device passes a check, in time.
pub(super) fn passes<E: Executor + 'static>(
    context: Context,
    check: SelfCheck,
    limit: Duration,
    open: impl FnMut() -> Result<E, DeviceError> + Send + 'static,
) -> Result<(), String> {
    time_limit::within(limit, move || {
        let outcome = check.run(&context, open);
        outcome.map_err(|error| failed_check(&error))
    })
}

/// Others wait in a collective meanwhile.
fn check_limit(experiment: &Experiment) -> Duration {
    CHECK_LIMIT.min(Duration::from_secs_f64(experiment.parallel.timeout_s) / 2)
}

fn failed_check(error: &SelfCheckError) -> String {
    format!(
        "it fails the self-check, which trains this model in small on it and on the CPU: {}",
        with_causes(error)
    )
}

/// Goes on without GPUs where the experiment leaves the choice.
fn on_cpus(rank: &Rank, choice: DeviceChoice, failure: Failure) -> Result<Device, RunError> {
    let (of, own, problem) = match failure {
        Failure::Ranks(error) => return Err(error.into()),
        Failure::Unusable { rank, own, problem } => (rank, own, problem),
    };
    if choice != DeviceChoice::Cuda {
        if rank.is_first() {
            let ranks = rank.comm.size();
            let whose = match ranks {
                1 => String::new(),
                _ => format!("rank {of} of {ranks} cannot use its GPU, so none does: "),
            };
            tracing::warn!(
                "training runs on the CPU, though there is a GPU: {whose}{problem} (`train.device` = \"cuda\" insists on it, \
                 \"cpu\" looks for none; `streamrec doctor --check` tells more)"
            );
        }
        return Ok(Device::Cpu);
    }
    let refused = refused(&problem);
    match own {
        true => Err(refused),
        false => Err(RunError::OtherRank {
            rank: of,
            reason: refused.message(),
        }),
    }
}

/// What each rank made on its device: a model, for which there may be no room. Nothing, on all ranks, where one failed and the
/// experiment leaves the choice. Collective.
///
/// # Errors
/// When this rank failed on a device that the experiment insists on, or ranks lose one another.
pub(super) fn made_by_all<T>(
    rank: &Rank,
    experiment: &Experiment,
    own: Result<T, RunError>,
) -> Result<Option<T>, RunError> {
    let choice = experiment.train.device;
    let own = match own {
        Err(RunError::Train(error)) if error.comm().is_some() => return Err(error.into()),
        own if choice == DeviceChoice::Cuda => return own.map(Some),
        own => own.map_err(|error| error.message()),
    };
    match agreed(rank, own) {
        Ok(made) => Ok(Some(made)),
        Err(failure) => on_cpus(rank, choice, failure).map(|_| None),
    }
}

/// Whether any rank's host has a GPU. Collective.
fn any_sees_a_gpu(rank: &Rank) -> Result<bool, CommError> {
    let own = vec![u8::from(!gpus().is_empty())];
    let all = rank.comm.all_gather_bytes(own).wait()?;
    Ok(all.iter().any(|sees| *sees == [1]))
}

/// The GPUs of all ranks, which have met. Collective.
fn open_all(rank: &Rank, experiment: &Experiment) -> Result<Device, Failure> {
    let (gpu, mut executor) = agreed(rank, open(rank))?;
    if rank.mesh.world.size() > 1 {
        executor = connected(rank, experiment, &gpu, executor)?;
    }
    let (rank, architecture) = (rank.environment.rank, gpu.architecture());
    tracing::debug!(rank, architecture, "a GPU is ready");
    Ok(Device::Cuda(Box::new(executor)))
}

/// This rank's GPU: that of its number on the host, unless several ranks are to share one.
fn open(rank: &Rank) -> Result<(Gpu, GpuExecutor), String> {
    let shared = std::env::var_os(SHARED_GPU_VARIABLE).is_some_and(|value| value == "1");
    let (there, own) = (gpus().len(), rank.environment.local_rank);
    if there > 0 && own >= there && !shared {
        return Err(too_few(there, rank.environment.local_world_size));
    }
    let ordinal = if shared { own % there.max(1) } else { own };
    ready(ordinal).map_err(|error| with_causes(&error))
}

fn too_few(there: usize, ranks: usize) -> String {
    format!(
        "{ranks} ranks of its host see {there} GPU{}; start no more ranks than GPUs (`--nproc {there}`), look at \
         CUDA_VISIBLE_DEVICES, or let ranks share GPUs by {SHARED_GPU_VARIABLE}=1 with NCCL 2.30 or later",
        if there == 1 { "" } else { "s" }
    )
}

/// A GPU with its libraries and all kernels.
pub(super) fn ready(ordinal: usize) -> Result<(Gpu, GpuExecutor), DeviceError> {
    let gpu = Gpu::new(ordinal, &cache_folder())?;
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
}

/// The GPUs of all ranks, which meet by an id that goes through the ranks' own communicator. Collective.
fn connected(
    rank: &Rank,
    experiment: &Experiment,
    gpu: &Gpu,
    executor: GpuExecutor,
) -> Result<GpuExecutor, Failure> {
    let mesh = &rank.mesh;
    let join = |comm: &Arc<dyn Communicator>| joined(rank, experiment, gpu, comm.as_ref());
    let with_ranks = executor.with_ranks(join(&mesh.world)?);
    let executor = agreed(rank, with_ranks.map_err(|error| with_causes(&error)))?;
    if mesh.tp.size() == 1 {
        return Ok(executor);
    }
    let dp = join(&mesh.dp)?;
    Ok(executor.with_mesh(dp, join(&mesh.tp)?))
}

/// The GPUs of the ranks of `comm`. Collective, in the world.
fn joined(
    rank: &Rank,
    experiment: &Experiment,
    gpu: &Gpu,
    comm: &dyn Communicator,
) -> Result<Nccl, Failure> {
    // Also where another rank makes the id: one without NCCL is told of now.
    let own = match comm.rank() {
        0 => Nccl::unique_id(),
        _ => Nccl::probe().map(|_| Vec::new()),
    };
    let id = agreed(rank, own.map_err(|error| with_causes(&error)))?;
    let id = broadcast_bytes(comm, id, 0)?;
    let timeout = Duration::from_secs_f64(experiment.parallel.timeout_s);
    let connected = Nccl::connect(gpu, &id, [comm.rank(), comm.size()], timeout);
    agreed(rank, connected.map_err(|error| with_causes(&error)))
}

/// What went wrong, and why, each once.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !chain.contains(&text) {
            chain = format!("{chain}: {text}");
        }
        source = cause.source();
    }
    chain
}

fn refused(problem: &str) -> RunError {
    RunError::Usage(format!(
        "`train.device` = \"cuda\": {problem}; or set \"cpu\" (`streamrec doctor` tells what this machine has)"
    ))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::comm::{Settings, SharedMemory};
    use crate::model::models;
    use crate::run::trainee;
    use streamrec_emulation::{Emulator, Peers, ThreadPeers, Work};
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
        let few = refused(&too_few(2, 4)).to_string();
        assert!(few.contains("4 ranks of its host see 2 GPUs"), "{few}");
        for said in [nccl, nvrtc, gpu, few] {
            assert!(
                said.ends_with("or set \"cpu\" (`streamrec doctor` tells what this machine has)"),
                "{said}"
            );
        }
    }

    fn experiment(device: &str) -> Experiment {
        let set = [
            format!("train.device='{device}'"),
            "model.bottom=[8, 16]".to_owned(),
            "model.top=[8]".to_owned(),
        ];
        Experiment::load(Path::new("configs/synthetic_dlrm.toml"), &set).unwrap()
    }

    fn check(experiment: &Experiment) -> SelfCheck {
        let schema = crate::model::tests::fixture::schema(3, &[("a", 9), ("b", 5)], 1);
        let graph = models::build(&experiment.model, &schema).unwrap();
        trainee::self_check(experiment, &graph, &schema, 16).unwrap()
    }

    /// A device that never updates a dense weight, where it is broken.
    fn emulated(broken: bool) -> Device {
        let mut device = Emulator::new(0);
        device.spoils = Some(Arc::new(move |work| match work {
            Work::Launch(launch) => broken && launch.kernel.name.starts_with("update_dense"),
            _ => false,
        }));
        Device::Emulated(Box::new(device))
    }

    fn on_two_ranks<T: Send>(work: impl Fn(&Rank) -> T + Sync) -> Vec<T> {
        let comms = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        std::thread::scope(|scope| {
            let start = |comm: SharedMemory| {
                let work = &work;
                scope.spawn(move || work(&Rank::of(Arc::new(comm)).unwrap()))
            };
            let threads: Vec<_> = comms.into_iter().map(start).collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap());
            results.collect()
        })
    }

    #[test]
    fn ranks_train_on_their_devices_where_each_passes_the_check() {
        let experiment = experiment("auto");
        let on_devices = on_two_ranks(|rank| {
            let device = emulated(false).checked(rank, &experiment, check(&experiment));
            !device.unwrap().is_cpu()
        });
        assert_eq!(on_devices, [true; 2]);
    }

    #[test]
    fn all_ranks_train_on_their_cpus_where_the_device_of_one_fails() {
        let experiment = experiment("auto");
        let on_cpus = on_two_ranks(|rank| {
            let device = emulated(rank.comm.rank() == 1);
            let device = device.checked(rank, &experiment, check(&experiment));
            device.unwrap().is_cpu()
        });
        assert_eq!(on_cpus, [true; 2]);
    }

    #[test]
    fn all_ranks_train_on_their_cpus_where_one_has_no_room_for_the_model() {
        let experiment = experiment("auto");
        let schema = crate::model::tests::fixture::schema(3, &[("a", 9), ("b", 5)], 1);
        let graph = models::build(&experiment.model, &schema).unwrap();
        let peers = Mutex::new(ThreadPeers::connect(2));
        let planned = on_two_ranks(|rank| {
            let mut peers = peers.lock().unwrap();
            let own = peers
                .iter()
                .position(|own| own.rank()[0] == rank.comm.rank());
            let own = peers.swap_remove(own.unwrap());
            drop(peers);
            let mut emulator = Emulator::new(0).with_peers(Box::new(own));
            emulator.room = (rank.comm.rank() == 1).then_some(10_000);
            let device = Device::Emulated(Box::new(emulator));
            let mut asks = false;
            let planned = || {
                asks = true;
                Ok(Cow::Borrowed(&experiment))
            };
            trainee::trainer(rank, device, &experiment, (&graph, &schema), 16, planned).unwrap();
            asks
        });
        assert_eq!(planned, [true; 2]);
    }

    #[test]
    fn a_device_that_is_insisted_on_and_fails_ends_the_run_and_is_named() {
        let experiment = experiment("cuda");
        let told = on_two_ranks(|rank| {
            let device = emulated(rank.comm.rank() == 1);
            let device = device.checked(rank, &experiment, check(&experiment));
            let error = device.err().expect("it computes something else");
            (matches!(error, RunError::Usage(_)), error.message())
        });
        assert!(told[1].0, "a restart cannot help");
        for (_, message) in &told {
            assert!(message.contains("it fails the self-check"), "{message}");
            assert!(
                message.contains(".weight[") || message.contains(".bias["),
                "{message}"
            );
            assert!(message.contains("after step 1: expected "), "{message}");
        }
        assert!(told[0].1.starts_with("rank 1 failed: "), "{}", told[0].1);
    }
}

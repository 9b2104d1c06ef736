//! `streamrec doctor`: what of this machine a run can use, and what to install for more.

mod models;

use std::time::{Duration, Instant};

use streamrec_kernels::cuda::gpu::{GpuExecutor, Nccl};
use streamrec_kernels::cuda::{AHEAD_VARIABLE, AheadFolder, CudaLibrary, driver_release, gpus};
use streamrec_kernels::{Amx, Context};

use super::RunError;
use super::cli::DoctorArgs;
use super::device;

/// How long a GPU may take for all models.
const CHECK_LIMIT: Duration = Duration::from_secs(300);

pub(super) fn run(args: &DoctorArgs) -> Result<(), RunError> {
    println!("streamrec {}", env!("CARGO_PKG_VERSION"));
    row("CPU", &cpu());
    row("bf16 products", streamrec_kernels::bf16_products().unit);
    row("AMX", told_of(streamrec_kernels::amx()));
    row("shared memory", &shared_memory());
    row("MPI", &mpi());
    for library in CudaLibrary::ALL {
        row(library.name(), &found(library));
        if let Some(two) = library.two_versions() {
            row("", &two.to_string());
        }
    }
    if let Some(folder) = AheadFolder::look() {
        row("kernels", &ahead(&folder));
    }
    if CudaLibrary::Nccl.find().is_some() {
        row("NCCL ranks", &nccl());
    }
    let gpus = gpus();
    if gpus.is_empty() {
        row("GPUs", "none");
    }
    let mut failed = Vec::new();
    for (ordinal, gpu) in gpus.iter().enumerate() {
        let [major, minor] = gpu.capability;
        let gibibytes = gpu.memory_bytes as f64 / f64::from(1 << 30);
        row(
            "GPU",
            &format!("{}, {gibibytes:.0} GiB, sm_{major}{minor}", gpu.name),
        );
        if args.check {
            let outcome = check(ordinal);
            let (Ok(said) | Err(said)) = &outcome;
            row("", said);
            failed.extend(outcome.is_err().then_some(ordinal));
        }
    }
    println!(
        "`train.device` = \"auto\" trains on GPUs where each rank finds one that passes a self-check at the start of a run, else \
         on CPUs. No GPU had run any of this when this version was released; tests emulate one (docs/cuda-kernels.md)."
    );
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(RunError::Usage(format!(
            "GPUs {failed:?} cannot be trained on; set `train.device = \"cpu\"`, or hide them by CUDA_VISIBLE_DEVICES"
        ))),
    }
}

/// Whether a GPU trains every kind of model, in every precision, as the CPU does.
fn check(ordinal: usize) -> Result<String, String> {
    let opened = device::ready(ordinal).map_err(|error| device::with_causes(&error))?;
    let (gpu, context) = (opened.0, Context::cpu(1, false));
    let context = context.map_err(|error| device::with_causes(&error))?;
    let began = Instant::now();
    let checks = models::all().map_err(|error| error.message())?;
    let count = checks.len();
    for (name, check) in checks {
        let gpu = gpu.clone();
        let limit = CHECK_LIMIT.saturating_sub(began.elapsed());
        let open = move || GpuExecutor::new(&gpu);
        device::passes(context.clone(), check, limit, open)
            .map_err(|problem| format!("{name}: {problem}"))?;
    }
    Ok(format!(
        "passes the self-check: {count} models and precisions, {:.1} s",
        began.elapsed().as_secs_f64()
    ))
}

fn found(library: CudaLibrary) -> String {
    let Some(found) = library.find() else {
        return format!("not found; {}", library.remedy());
    };
    let version = found.version.as_deref().unwrap_or("unknown version");
    let release = match library {
        CudaLibrary::Driver => driver_release(),
        _ => None,
    };
    let release = release.map_or(String::new(), |release| format!(", release {release}"));
    format!("{version}{release} ({})", found.path.display())
}

/// What serves of the kernels that were compiled ahead.
fn ahead(folder: &AheadFolder) -> String {
    let path = folder.path.display();
    match folder.targets.as_slice() {
        [] => format!(
            "{AHEAD_VARIABLE}: {path} holds no kernels of this version; run `streamrec kernels --out {path}` where NVRTC is"
        ),
        targets => format!("compiled ahead for {} ({path})", targets.join(", ")),
    }
}

/// Whether NCCL has all that ranks on GPUs need, which it shows without a GPU.
fn nccl() -> String {
    match Nccl::unique_id() {
        Ok(_) => "GPUs of several ranks can meet".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn row(name: &str, value: &str) {
    println!("  {name:<14} {value}");
}

fn cpu() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores that this process may use")
}

/// What bf16 products on this CPU could be faster with.
fn told_of(amx: Amx) -> &'static str {
    match amx {
        Amx::InUse => "multiplies bf16 matrices",
        Amx::Absent => {
            "none: this CPU has no tiles of bf16, or its system or hypervisor does not pass them on"
        }
        Amx::NotPermitted => {
            "there, and the system does not let this process use it: Linux does from 5.16 on"
        }
        Amx::Wrong => "there, and put aside, for it gives other results than it should",
        Amx::LeftOut => "there, and left out by STREAMREC_BF16_UNIT",
    }
}

/// Ranks of one host meet in memory that has no name; see `comm::shared_memory`.
fn shared_memory() -> String {
    match rustix::fs::memfd_create("streamrec-doctor", rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(_) => "ranks of this host can share memory".to_owned(),
        Err(error) => format!("no memory without a name ({error}): one rank a host"),
    }
}

#[cfg(feature = "mpi")]
fn mpi() -> String {
    format!("built in, {}", crate::comm::mpi_version())
}

#[cfg(not(feature = "mpi"))]
fn mpi() -> String {
    "not built in; build with `--features mpi` where mpicc and libclang are installed".to_owned()
}

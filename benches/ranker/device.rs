//! What a ranker is trained on.

use rustix::time::{ClockId, clock_gettime};
use streamrec::config::{OptimizerConfig, Precision};
use streamrec::parallel::Mesh;
use streamrec::train::{DeviceTrainer, Trainee, Trainer, TrainerSettings};
use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_emulation::Emulator;
use streamrec_kernels::Context;
use streamrec_kernels::cuda::cache_folder;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};

use crate::Result;
use crate::idle::Idle;

/// Steps over which the host's time is taken.
const HOST_STEPS: u64 = 400;

/// `STREAMREC_DEVICE`.
pub enum Device {
    Cpu,
    Cuda(Gpu),
    Emulated,
    /// Which does nothing.
    Idle,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            Self::Emulated => "emulated",
            Self::Idle => "idle",
        })
    }
}

impl Device {
    pub fn open(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => {
                let open = || {
                    let gpu = Gpu::new(0, &cache_folder())?;
                    gpu.compile().map(|_| gpu)
                };
                // `main` shows an error as it is written in code.
                let opened = open().map_err(|error| error.to_string());
                Ok(Self::Cuda(opened?))
            }
            "emulated" => Ok(Self::Emulated),
            "idle" => Ok(Self::Idle),
            _ => Err(format!(
                "STREAMREC_DEVICE: expected cpu, cuda, emulated or idle, got `{name}`"
            )
            .into()),
        }
    }

    pub fn trainer(
        &self,
        threads: usize,
        graph: &Graph,
        schema: &FeatureSchema,
        optimizer: &OptimizerConfig,
        settings: TrainerSettings,
    ) -> Result<Box<dyn Trainee>> {
        let (context, mesh) = (Context::cpu(threads, true)?, Mesh::single());
        Ok(match self {
            Self::Cpu => Box::new(Trainer::new(
                context, mesh, graph, schema, optimizer, settings,
            )?),
            Self::Cuda(gpu) => Box::new(DeviceTrainer::new(
                GpuExecutor::new(gpu)?,
                &context,
                &mesh,
                graph,
                schema,
                optimizer,
                &settings,
            )?),
            Self::Emulated => Box::new(DeviceTrainer::new(
                Emulator::new(0),
                &context,
                &mesh,
                graph,
                schema,
                optimizer,
                &settings,
            )?),
            // Its zeros would be an error in other types.
            Self::Idle if settings.precision != Precision::Fp16 => {
                return Err("STREAMREC_DEVICE=idle: expected STREAMREC_PRECISION=fp16".into());
            }
            Self::Idle => Box::new(DeviceTrainer::new(
                Idle::default(),
                &context,
                &mesh,
                graph,
                schema,
                optimizer,
                &settings,
            )?),
        })
    }

    /// Whether the batch after this one is copied ahead.
    pub fn knows_the_next_batch(&self) -> bool {
        !matches!(self, Self::Cpu)
    }

    pub fn window_steps(&self) -> u64 {
        match self {
            Self::Cpu => 5,
            Self::Cuda(_) | Self::Idle => 50,
            Self::Emulated => 1,
        }
    }

    /// Processor time in microseconds a step: of the thread that asks for steps, and of all others, which pack batches. On a
    /// GPU, where the thread sleeps while it waits meanwhile, so that waiting counts nothing; and on a device that does
    /// nothing.
    pub fn host_us_per_step(
        &self,
        train: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Option<[f64; 2]>> {
        match self {
            Self::Cpu | Self::Emulated => return Ok(None),
            Self::Cuda(gpu) => gpu.sleep_while_waiting()?,
            Self::Idle => {}
        }
        train(10)?;
        let before = processor_us();
        train(HOST_STEPS)?;
        let [own, all] = [0, 1].map(|of| (processor_us()[of] - before[of]) / HOST_STEPS as f64);
        Ok(Some([own, all - own]))
    }
}

/// What this thread has computed, and all threads of this process.
fn processor_us() -> [f64; 2] {
    [ClockId::ThreadCPUTime, ClockId::ProcessCPUTime].map(|clock| {
        let told = clock_gettime(clock);
        told.tv_sec as f64 * 1e6 + told.tv_nsec as f64 / 1e3
    })
}

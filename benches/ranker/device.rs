//! What a ranker is trained on.

use streamrec::config::OptimizerConfig;
use streamrec::parallel::Mesh;
use streamrec::train::{DeviceTrainer, Trainee, Trainer, TrainerSettings};
use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_emulation::Emulator;
use streamrec_kernels::Context;
use streamrec_kernels::cuda::cache_folder;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};

use crate::Result;

/// Steps over which the host's time is taken: the system counts it in ticks of some milliseconds.
const HOST_STEPS: u64 = 400;

/// `STREAMREC_DEVICE`.
pub enum Device {
    Cpu,
    Cuda(Gpu),
    Emulated,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            Self::Emulated => "emulated",
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
            _ => Err(
                format!("STREAMREC_DEVICE: expected cpu, cuda or emulated, got `{name}`").into(),
            ),
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
        })
    }

    /// Whether the batch after this one is copied ahead.
    pub fn knows_the_next_batch(&self) -> bool {
        !matches!(self, Self::Cpu)
    }

    pub fn window_steps(&self) -> u64 {
        match self {
            Self::Cpu => 5,
            Self::Cuda(_) => 50,
            Self::Emulated => 1,
        }
    }

    /// Processor time of the thread that asks for steps, in microseconds a step. On a GPU alone: the thread sleeps where it
    /// waits meanwhile, so that waiting counts nothing.
    pub fn host_us_per_step(
        &self,
        train: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Option<f64>> {
        let Self::Cuda(gpu) = self else {
            return Ok(None);
        };
        gpu.sleep_while_waiting()?;
        train(10)?;
        let Some(before) = processor_ns() else {
            return Ok(None);
        };
        train(HOST_STEPS)?;
        let after = processor_ns();
        Ok(after.map(|after| (after - before) as f64 / 1e3 / HOST_STEPS as f64))
    }
}

/// What this thread has computed, where the system tells it.
fn processor_ns() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split_whitespace().next()?.parse().ok()
}

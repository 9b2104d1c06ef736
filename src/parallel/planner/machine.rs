use std::time::Instant;

use streamrec_kernels::{
    Context, TensorMut, TensorRef,
    linear::{self, Activation},
};

use crate::comm::{CommError, Communicator, ReduceOp, Settings, SharedMemory};

/// What a rank can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Ranks of the job.
    pub ranks: usize,
    /// Bytes that a rank may hold.
    pub memory_bytes: u64,
    /// Bytes a second that a rank reads or writes.
    pub memory_bytes_per_s: f64,
    /// Bytes a second that a rank sends while it receives as many.
    pub link_bytes_per_s: f64,
    /// Float operations a second of matrix products.
    pub flops_per_s: f64,
    /// Seconds until the first byte of a message arrives.
    pub latency_s: f64,
}

impl Machine {
    /// A GPU of NVIDIA's H100 SXM class inside one host: 3.35 TB/s of memory and 450 GB/s of NVLink each
    /// way (NVIDIA, "H100 Tensor Core GPU datasheet"), of which 70 % are assumed; products in TF32 at
    /// 300 TFLOP/s.
    pub fn gpu(ranks: usize, memory_bytes: u64) -> Self {
        Self {
            ranks,
            memory_bytes,
            memory_bytes_per_s: 0.7 * 3.35e12,
            link_bytes_per_s: 0.7 * 450e9,
            flops_per_s: 300e12,
            latency_s: 20e-6,
        }
    }

    /// One core of this machine a rank, measured in about a second.
    ///
    /// # Errors
    /// When two ranks cannot communicate.
    pub fn measured(ranks: usize, memory_bytes: u64) -> Result<Self, CommError> {
        Ok(Self {
            ranks,
            memory_bytes,
            memory_bytes_per_s: memory_bytes_per_s(),
            link_bytes_per_s: link_bytes_per_s()?,
            flops_per_s: flops_per_s(),
            latency_s: 20e-6,
        })
    }
}

/// The best of a few runs: others' work on the machine only slows them down.
fn best_seconds(mut run: impl FnMut()) -> f64 {
    let mut time = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| time()).fold(f64::INFINITY, f64::min)
}

/// Bytes read plus bytes written by a copy that no cache holds.
fn memory_bytes_per_s() -> f64 {
    let from = vec![1u8; 64 << 20];
    let mut to = vec![0u8; from.len()];
    let seconds = best_seconds(|| to.copy_from_slice(std::hint::black_box(&from)));
    std::hint::black_box(&to);
    2.0 * from.len() as f64 / seconds
}

/// Of an all-reduce between two ranks each sends, and receives, as many bytes as the buffer has.
fn link_bytes_per_s() -> Result<f64, CommError> {
    let len = 4 << 20;
    let ranks = SharedMemory::connect_threads(2, &Settings::default())?;
    let run = |comm: &SharedMemory| -> Result<f64, CommError> {
        let mut buffer = Some(comm.allocate(len)?);
        let mut failure = None;
        let seconds = best_seconds(|| {
            let Some(own) = buffer.take() else { return };
            match comm.all_reduce(own, ReduceOp::Sum).wait() {
                Ok(back) => buffer = Some(back),
                Err(error) => failure = Some(error),
            }
        });
        failure.map_or(Ok(seconds), Err)
    };
    let seconds = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = ranks
            .iter()
            .map(|comm| scope.spawn(move || run(comm)))
            .collect();
        let seconds = threads.into_iter().map(|thread| match thread.join() {
            Ok(seconds) => seconds,
            Err(_) => Err(CommError::Abandoned),
        });
        seconds.collect::<Result<Vec<f64>, _>>()
    })?;
    let slowest = seconds.into_iter().fold(0.0, f64::max);
    Ok((len * size_of::<f32>()) as f64 / slowest)
}

fn flops_per_s() -> f64 {
    let size = 512;
    let (x, w) = (vec![0.5f32; size * size], vec![0.25f32; size * size]);
    let mut y = vec![0.0f32; size * size];
    let shape = [size, size];
    let Ok(context) = Context::cpu(1, false) else {
        // Without threads nothing else will run either; any figure does.
        return 1e10;
    };
    let seconds = best_seconds(|| {
        let (x, w) = (
            TensorRef::from_f32(&x, &shape),
            TensorRef::from_f32(&w, &shape),
        );
        let y = TensorMut::from_f32(&mut y, &shape);
        // Shapes fit, so there is nothing to report.
        let _ = linear::forward(&context, x, w, None, Activation::None, y);
    });
    2.0 * (size * size * size) as f64 / seconds
}

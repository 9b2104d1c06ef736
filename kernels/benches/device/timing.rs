use std::time::Instant;

use streamrec_kernels::cuda::Executor;
use streamrec_kernels::cuda::gpu::GpuExecutor;

use super::operations::{Operation, Outcome, Work};

const WINDOWS: usize = 9;
/// What a window takes at least on a GPU, beside which its launch is nothing.
pub const WINDOW_US: f64 = 5000.0;
/// Launches of one graph.
const NODES_MAX: usize = 4000;
/// Repetitions that are measured by events.
const REPETITIONS: usize = 7;

/// In microseconds, ascending.
pub struct Times {
    /// One repetition, by each window.
    pub windows: Vec<f64>,
    /// Each kernel of several, in their order.
    pub kernels: Vec<Vec<f64>>,
}

fn ascending(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    times
}

/// The one in the middle.
pub fn median(ascending: &[f64]) -> f64 {
    ascending
        .get(ascending.len() / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

/// What a graph takes on the host's clock, which waits for the device.
fn replay<E: Executor>(executor: &mut E, graph: &E::Graph) -> Outcome<f64> {
    let began = Instant::now();
    executor.replay(graph)?;
    executor.synchronize()?;
    Ok(began.elapsed().as_secs_f64() * 1e6)
}

/// Measures in windows of at least so many microseconds.
pub fn measure<E: Executor>(
    executor: &mut E,
    operation: &Operation,
    window_us: f64,
) -> Outcome<Times> {
    operation.prepare(executor)?;
    // Kernels are loaded before they are recorded.
    operation.run(executor)?;
    executor.synchronize()?;
    let once = executor.record(&mut |own| operation.run(own))?;
    let mut took = f64::INFINITY;
    for _ in 0..3 {
        took = took.min(replay(executor, &once)?);
    }
    let nodes: usize = operation.variants.iter().map(Vec::len).sum();
    let rounds = (window_us / took).ceil() as usize;
    let rounds = rounds.clamp(1, (NODES_MAX / nodes.max(1)).max(1));
    let graph = executor.record(&mut |own| (0..rounds).try_for_each(|_| operation.run(own)))?;
    replay(executor, &graph)?;
    let repetitions = (rounds * operation.variants.len()) as f64;
    let mut windows = Vec::with_capacity(WINDOWS);
    for _ in 0..WINDOWS {
        windows.push(replay(executor, &graph)? / repetitions);
    }
    Ok(Times {
        windows: ascending(windows),
        kernels: kernels(executor, operation)?,
    })
}

/// Each kernel between events, where there are several.
fn kernels<E: Executor>(executor: &mut E, operation: &Operation) -> Outcome<Vec<Vec<f64>>> {
    let count = operation.kernels().count();
    if count < 2 {
        return Ok(Vec::new());
    }
    executor.measure(true)?;
    for _ in 0..REPETITIONS {
        operation.run(executor)?;
    }
    let measured = executor.measured()?;
    executor.measure(false)?;
    let of_kernel = |index: usize| {
        let own = measured.iter().skip(index).step_by(count);
        ascending(own.map(|piece| piece.took_us).collect())
    };
    Ok((0..count).map(of_kernel).collect())
}

/// Bytes a second that the driver copies in the GPU's memory, of which half are read and half are written.
pub fn copy(executor: &mut GpuExecutor) -> Outcome<f64> {
    const BYTES: usize = 2 << 30;
    const COPIES: usize = 8;
    let (from, to) = (executor.allocate(BYTES)?, executor.allocate(BYTES)?);
    executor.zero(from, BYTES)?;
    let mut seconds = Vec::new();
    for _ in 0..=WINDOWS {
        executor.synchronize()?;
        let began = Instant::now();
        for _ in 0..COPIES {
            executor.copy(from, to, BYTES)?;
        }
        executor.synchronize()?;
        seconds.push(began.elapsed().as_secs_f64() / COPIES as f64);
    }
    // The first one found the memory untouched.
    let seconds = ascending(seconds.split_off(1));
    Ok(2.0 * BYTES as f64 / median(&seconds))
}

/// Bytes that lie between two runs of a kernel on the same operands, at least: those of the kernel that touches most.
pub fn working_set(operation: &Operation) -> usize {
    let most = |variant: &Vec<Work>| {
        let bytes = variant.iter().map(|work| match work {
            Work::Kernel(_, bytes) => *bytes,
            Work::Zero(..) => 0,
        });
        bytes.max().unwrap_or(0)
    };
    operation.variants.iter().map(most).sum()
}

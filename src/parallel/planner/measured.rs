use std::sync::Barrier;
use std::time::Instant;

use streamrec_kernels::{
    Context, TensorMut, TensorRef,
    linear::{self, Activation},
};

use super::{Collectives, Line, Rates};
use crate::comm::{CommError, Communicator, ReduceOp, Settings, SharedMemory};

/// Threads of this process that measure collectives: more would not fit one machine's cores.
const MOST_RANKS: usize = 8;
/// Sizes of messages that give a line, in bytes: in a cache, and out of it.
const SIZES: [usize; 2] = [32 << 10, 8 << 20];
/// Rows of a table that no cache holds, 64 floats each.
const TABLE_ROWS: usize = 1 << 20;
const DIM: usize = 64;

impl Rates {
    /// Of a rank of so many threads, while `busy` threads of this process do the same.
    pub fn measured(threads: usize, busy: usize) -> Self {
        let one = Self::of_threads(busy.max(threads));
        let all = |rate: f64| threads as f64 * rate;
        Self {
            flops_per_s: all(one.flops_per_s),
            lookup_bytes_per_s: all(one.lookup_bytes_per_s),
            update_bytes_per_s: all(one.update_bytes_per_s),
            copy_bytes_per_s: all(one.copy_bytes_per_s),
            operation_s: one.operation_s,
        }
    }

    /// The mean of so many threads at once.
    fn of_threads(busy: usize) -> Self {
        let together = Barrier::new(busy);
        let all: Vec<Self> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..busy).map(|_| scope.spawn(|| one(&together))).collect();
            // A thread that panics has no figures.
            threads
                .into_iter()
                .filter_map(|own| own.join().ok())
                .collect()
        });
        let mean =
            |rate: fn(&Self) -> f64| all.iter().map(rate).sum::<f64>() / all.len().max(1) as f64;
        Self {
            flops_per_s: mean(|own| own.flops_per_s),
            lookup_bytes_per_s: mean(|own| own.lookup_bytes_per_s),
            update_bytes_per_s: mean(|own| own.update_bytes_per_s),
            copy_bytes_per_s: mean(|own| own.copy_bytes_per_s),
            operation_s: 0.0,
        }
    }
}

/// The best of a few runs: others' work on the machine only slows them down.
fn best_seconds(together: &Barrier, mut run: impl FnMut()) -> f64 {
    let mut time = || {
        together.wait();
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| time()).fold(f64::INFINITY, f64::min)
}

/// One thread's rates.
fn one(together: &Barrier) -> Rates {
    let mut table = vec![0.5f32; TABLE_ROWS * DIM];
    let mut vectors = vec![0.0f32; (TABLE_ROWS / 8) * DIM];
    // A full period over the rows of a power of two: no row comes twice, and none follows its neighbour.
    let row = |index: usize| (index * 0x9e3b1 + 0x7f4a7) % TABLE_ROWS * DIM;
    let moved = 2.0 * size_of_val(vectors.as_slice()) as f64;
    let lookup_s = best_seconds(together, || {
        for (index, vector) in vectors.chunks_exact_mut(DIM).enumerate() {
            vector.copy_from_slice(&table[row(index)..][..DIM]);
        }
    });
    let update_s = best_seconds(together, || {
        for (index, vector) in vectors.chunks_exact(DIM).enumerate() {
            let weights = &mut table[row(index)..][..DIM];
            for (weight, gradient) in weights.iter_mut().zip(vector) {
                *weight -= 1e-3 * gradient;
            }
        }
    });
    let copy_s = best_seconds(together, || {
        vectors.copy_from_slice(std::hint::black_box(&table[..(TABLE_ROWS / 8) * DIM]));
    });
    std::hint::black_box(&vectors);
    Rates {
        flops_per_s: flops_per_s(together),
        lookup_bytes_per_s: moved / lookup_s,
        // Reads the gradient and the row, and writes the row.
        update_bytes_per_s: 1.5 * moved / update_s,
        copy_bytes_per_s: moved / copy_s,
        operation_s: 0.0,
    }
}

fn flops_per_s(together: &Barrier) -> f64 {
    let size = 512;
    let (x, w) = (vec![0.5f32; size * size], vec![0.25f32; size * size]);
    let mut y = vec![0.0f32; size * size];
    let shape = [size, size];
    let context = Context::cpu(1, false);
    let seconds = best_seconds(together, || {
        let (x, w) = (
            TensorRef::from_f32(&x, &shape),
            TensorRef::from_f32(&w, &shape),
        );
        let y = TensorMut::from_f32(&mut y, &shape);
        if let Ok(context) = &context {
            // Shapes fit, so there is nothing to report.
            let _ = linear::forward(context, x, w, None, Activation::None, y);
        }
    });
    2.0 * (size * size * size) as f64 / seconds
}

impl Collectives {
    /// Of so many ranks, as threads of this process.
    ///
    /// # Errors
    /// When they cannot communicate.
    pub fn of_threads(ranks: usize) -> Result<Self, CommError> {
        if ranks < 2 {
            return Ok(Self::ALONE);
        }
        let ranks = SharedMemory::connect_threads(ranks.min(MOST_RANKS), &Settings::default())?;
        let lines = std::thread::scope(|scope| {
            let threads: Vec<_> = ranks
                .iter()
                .map(|comm| scope.spawn(|| Self::measured(comm)))
                .collect();
            let lines = threads.into_iter().map(|thread| match thread.join() {
                Ok(lines) => lines,
                Err(_) => Err(CommError::Abandoned),
            });
            lines.collect::<Result<Vec<_>, _>>()
        })?;
        // All ranks end a collective at nearly the same time: any of them tells.
        lines.into_iter().next().ok_or(CommError::Abandoned)
    }

    /// Of the ranks of a communicator. Collective.
    ///
    /// # Errors
    /// When they cannot communicate.
    pub fn measured(comm: &dyn Communicator) -> Result<Self, CommError> {
        let others = comm.size() - 1;
        if others == 0 {
            return Ok(Self::ALONE);
        }
        let all_reduce = |bytes: usize| {
            let mut buffer = Some(comm.allocate(bytes / size_of::<f32>())?);
            median_seconds(comm, || {
                let own = buffer.take().ok_or(CommError::Abandoned)?;
                buffer = Some(comm.all_reduce(own, ReduceOp::Sum).wait()?);
                Ok(())
            })
        };
        let all_gather = |bytes: usize| {
            let mut message = vec![1u8; bytes / others];
            median_seconds(comm, || {
                let own = std::mem::take(&mut message);
                let mut received = comm.all_gather_bytes(own).wait()?;
                message = received.swap_remove(comm.rank());
                Ok(())
            })
        };
        let all_to_all = |bytes: usize| {
            let mut messages = vec![vec![1u8; bytes / others]; comm.size()];
            median_seconds(comm, || {
                messages = comm
                    .all_to_all_bytes(std::mem::take(&mut messages))
                    .wait()?;
                Ok(())
            })
        };
        Ok(Self {
            all_reduce: line(all_reduce)?,
            all_gather: line(all_gather)?,
            all_to_all: line(all_to_all)?,
        })
    }
}

fn line(measure: impl Fn(usize) -> Result<f64, CommError>) -> Result<Line, CommError> {
    let [small, large] = SIZES;
    let (few, many) = (measure(small)?, measure(large)?);
    Ok(Line::through((small as f64, few), (large as f64, many)))
}

/// Of some runs that all ranks begin together.
fn median_seconds(
    comm: &dyn Communicator,
    mut run: impl FnMut() -> Result<(), CommError>,
) -> Result<f64, CommError> {
    let mut seconds = Vec::new();
    for _ in 0..9 {
        comm.barrier().wait()?;
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    // The first ones touch their memory for the first time.
    let warm = &mut seconds[2..];
    warm.sort_by(f64::total_cmp);
    Ok(warm[warm.len() / 2])
}

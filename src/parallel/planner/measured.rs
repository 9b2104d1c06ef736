use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use streamrec_kernels::{
    Context, DType, Tensor, TensorMut, TensorRef,
    embedding_bag::{self, BagSource, Bags, Groups, Lookup, Pooling},
    linear::{self, Activation},
    sparse_optimizer::{self, SparseGradient, SparseRule, SparseState, SparseStep},
};

use super::{Collectives, Line, Rates, RowRate, RowWork};
use crate::comm::{CommError, Communicator, Message, ReduceOp, Settings, SharedMemory};
use crate::config::Precision;
use crate::model::dtype;

/// Threads of this process that measure collectives: more would not fit one machine's cores.
const MOST_RANKS: usize = 8;
/// Sizes of messages that give a line, in bytes: in a cache, and out of it.
const SIZES: [usize; 2] = [32 << 10, 8 << 20];
/// Rows of a table that no cache holds.
const TABLE_ROWS: usize = 1 << 19;
/// Rows that are read and updated in a run, none of them twice.
const ROWS: usize = TABLE_ROWS / 8;
/// Widths of rows that tell what a row costs and what its bytes do.
const DIMS: [usize; 2] = [16, 64];
/// What a row holds.
const HALVES: [f32; DIMS[1]] = [0.5; DIMS[1]];

impl Rates {
    /// Of a rank of so many threads, while `busy` threads of this process do the same, with tables of a type.
    pub fn measured(threads: usize, busy: usize, stored: Precision) -> Self {
        let one = Self::of_threads(busy.max(threads), dtype(stored));
        let all = |rate: f64| threads as f64 * rate;
        let rows = |rate: RowRate| rate.slower(1.0 / threads as f64);
        Self {
            flops_per_s: all(one.flops_per_s),
            lookup: rows(one.lookup),
            grouped_id_s: one.grouped_id_s / threads as f64,
            update: rows(one.update),
            // Messages are packed by one thread.
            pooled: one.pooled,
            unique: one.unique,
            copy_bytes_per_s: all(one.copy_bytes_per_s),
            operation_s: one.operation_s,
        }
    }

    /// The mean of so many threads at once.
    fn of_threads(busy: usize, stored: DType) -> Self {
        let together = Barrier::new(busy);
        let all: Vec<Self> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..busy)
                .map(|_| scope.spawn(|| one(&together, stored)))
                .collect();
            // A thread that panics has no figures.
            threads
                .into_iter()
                .filter_map(|own| own.join().ok())
                .collect()
        });
        let mean =
            |rate: &dyn Fn(&Self) -> f64| all.iter().map(rate).sum::<f64>() / all.len() as f64;
        let rows = |rate: fn(&Self) -> RowRate| RowRate {
            row_s: mean(&|own| rate(own).row_s),
            bytes_per_s: mean(&|own| rate(own).bytes_per_s),
        };
        Self {
            flops_per_s: mean(&|own| own.flops_per_s),
            lookup: rows(|own| own.lookup),
            grouped_id_s: mean(&|own| own.grouped_id_s),
            update: rows(|own| own.update),
            pooled: rows(|own| own.pooled),
            unique: rows(|own| own.unique),
            copy_bytes_per_s: mean(&|own| own.copy_bytes_per_s),
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
fn one(together: &Barrier, stored: DType) -> Rates {
    let [narrow, wide] = DIMS.map(|dim| rows_of(together, dim, stored));
    let lookup = RowRate::through(narrow.lookup, wide.lookup);
    let copy_bytes_per_s = copy_bytes_per_s(together);
    // Until an experiment has been measured, packing an id costs what finding its row does.
    let packing = RowRate {
        row_s: lookup.row_s,
        bytes_per_s: copy_bytes_per_s,
    };
    Rates {
        flops_per_s: flops_per_s(together),
        lookup,
        grouped_id_s: wide.grouped_id_s,
        update: RowRate::through(narrow.update, wide.update),
        pooled: packing,
        unique: packing,
        copy_bytes_per_s,
        operation_s: 0.0,
    }
}

/// What rows of one width take: the work, and its seconds.
struct OfRows {
    lookup: (RowWork, f64),
    update: (RowWork, f64),
    grouped_id_s: f64,
}

/// Looks up rows of a table, each once, groups their ids and updates them.
fn rows_of(together: &Barrier, dim: usize, stored: DType) -> OfRows {
    // A kernel's errors are of shapes, which fit: a run that failed would take no time, and show.
    let Ok(context) = Context::cpu(1, false) else {
        return OfRows {
            lookup: (RowWork::default(), 0.0),
            update: (RowWork::default(), 0.0),
            grouped_id_s: 0.0,
        };
    };
    let mut table = Tensor::zeros(&context, stored, &[TABLE_ROWS, dim]);
    // Memory that nobody wrote would be one page of zeros.
    let mut all = table.view_mut();
    (0..TABLE_ROWS).for_each(|row| all.reborrow().rows(row..row + 1).set_f32(&HALVES[..dim]));
    let mut vectors = vec![0.25f32; ROWS * dim];
    // A full period over the rows of a power of two: no row comes twice, and none follows its neighbour.
    let row = |index: usize| ((index * 0x9e3b1 + 0x7f4a7) % TABLE_ROWS) as i64;
    let (ids, offsets): (Vec<i64>, Vec<i64>) =
        ((0..ROWS).map(row).collect(), (0..=ROWS as i64).collect());
    let bags = Bags {
        ids: &ids,
        offsets: &offsets,
        weights: None,
        batch: ROWS,
        features: 1,
    };
    let bytes = |of_number: usize| (ROWS * dim * of_number) as f64;
    let (rows, stored, full) = (ROWS as f64, bytes(stored.bytes()), bytes(size_of::<f32>()));
    let lookup_s = best_seconds(together, || {
        let lookups = [Lookup {
            feature: 0,
            table: table.view(),
            pooling: Pooling::Sum,
            column: 0,
        }];
        let out = TensorMut::from_f32(&mut vectors, &[ROWS, dim]);
        let _ = embedding_bag::forward(&context, &bags, &lookups, out);
    });
    let mut groups = Groups::default();
    let group_s = best_seconds(together, || {
        let _ = groups.build(&context, &bags, &[0], TABLE_ROWS);
    });
    let sources = [BagSource {
        feature: 0,
        pooling: Pooling::Sum,
        column: 0,
    }];
    let rule = SparseRule::Sgd {
        weight_decay: 0.0,
        max_row_norm: None,
    };
    let mut state = SparseState::new(&context, &rule, TABLE_ROWS, dim);
    let update_s = best_seconds(together, || {
        let gradient = SparseGradient::Bags {
            groups: &groups,
            sources: &sources,
            dout: TensorRef::from_f32(&vectors, &[ROWS, dim]),
        };
        let weights = table.view_mut();
        let step = SparseStep::new(1e-3, 1);
        let _ = sparse_optimizer::update(&context, &rule, step, weights, &mut state, gradient);
    });
    OfRows {
        lookup: (RowWork::new(rows, stored + full), lookup_s),
        // Reads the gradient and the row, and writes the row.
        update: (RowWork::new(rows, full + 2.0 * stored), update_s),
        grouped_id_s: group_s / rows,
    }
}

fn copy_bytes_per_s(together: &Barrier) -> f64 {
    let from = vec![0.5f32; ROWS * DIMS[1]];
    let mut to = vec![0.0f32; from.len()];
    let seconds = best_seconds(together, || {
        to.copy_from_slice(std::hint::black_box(&from));
    });
    std::hint::black_box(&to);
    2.0 * size_of_val(from.as_slice()) as f64 / seconds
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
                buffer = Some(comm.reduce_now(own, ReduceOp::Sum)?);
                Ok(())
            })
        };
        let all_gather = |bytes: usize| {
            let mut message = vec![1u8; bytes / others];
            median_seconds(comm, || {
                let own = std::mem::take(&mut message);
                let mut received = comm.gather_now(own)?;
                message = received.swap_remove(comm.rank());
                Ok(())
            })
        };
        let all_to_all = |bytes: usize| {
            let part = vec![1u8; bytes / others];
            let messages = (0..comm.size()).map(|_| {
                let mut message = comm.message();
                message.extend_from_slice(&part);
                message
            });
            let mut messages: Vec<_> = messages.collect();
            median_seconds(comm, || {
                messages = comm.exchange_now(std::mem::take(&mut messages))?;
                messages.iter().for_each(read);
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

/// Reads a message as who needs it would: memory that has changed hands is copied by nobody before.
fn read(message: &Message) {
    let sum = message
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    black_box(sum);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of rows are those that a plan counts; the work is really done.
    #[test]
    fn rows_of_each_type_are_measured_with_the_bytes_that_they_move() {
        let together = Barrier::new(1);
        for (stored, of_number) in [(DType::F32, 4), (DType::Bf16, 2), (DType::F16, 2)] {
            let found = rows_of(&together, DIMS[0], stored);
            let bytes = |of_numbers: usize| (ROWS * DIMS[0] * of_numbers) as f64;
            assert_eq!(
                found.lookup.0,
                RowWork::new(ROWS as f64, bytes(of_number + 4))
            );
            assert_eq!(
                found.update.0,
                RowWork::new(ROWS as f64, bytes(2 * of_number + 4))
            );
            // A row takes more than a nanosecond, where a call that was refused takes none.
            let least = ROWS as f64 * 1e-9;
            assert!(found.lookup.1 > least && found.update.1 > least, "{stored}");
        }
    }
}

use std::sync::Arc;

use super::{Rank, config, model};
use crate::{
    comm::{Communicator, Settings, SharedMemory, SingleRank},
    config::optimizer::OptimizerConfig,
    model::{MicroBatch, tests::fixture::Batch},
};

const GLOBAL: usize = 13;
const STEPS: u64 = 5;

fn settings() -> OptimizerConfig {
    config(
        "kind = 'adagrad'\nlearning_rate = 0.05\ninitial_accumulator = 0.01",
        "kind = 'row_wise_adagrad'\nlearning_rate = 0.05\ninitial_accumulator = 0.01",
        "clip_norm = 0.5",
    )
}

fn global_batch(step: u64) -> Batch {
    Batch::random(&model().1, GLOBAL, 100 + step)
}

/// What rank `rank` of `ranks` reads: its rows, padded to those of the largest share.
fn share(batch: &Batch, rank: usize, ranks: usize) -> Batch {
    batch.slice(
        MicroBatch::rows(rank, ranks, GLOBAL),
        GLOBAL.div_ceil(ranks),
    )
}

/// Trains on `ranks` ranks, each in `pieces` micro-batches; returns the tensors of each rank.
fn train(ranks: usize, pieces: usize) -> Vec<Vec<(String, Vec<f32>)>> {
    let comms: Vec<Arc<dyn Communicator>> = if ranks == 1 {
        vec![Arc::new(SingleRank)]
    } else {
        let connected = SharedMemory::connect_threads(ranks, &Settings::default()).unwrap();
        connected
            .into_iter()
            .map(|comm| Arc::new(comm) as Arc<dyn Communicator>)
            .collect()
    };
    let run = |comm: Arc<dyn Communicator>| {
        let rank = comm.rank();
        let mut trainer = Rank::new(&settings(), comm, GLOBAL);
        for step in 1..=STEPS {
            let batch = global_batch(step);
            let own = share(&batch, rank, ranks);
            let cut = |piece| {
                let rows = MicroBatch::rows(piece, pieces, own.rows);
                own.slice(rows.clone(), rows.len())
            };
            trainer.train(
                &(0..pieces).map(cut).collect::<Vec<_>>(),
                batch.weight_sum(),
            );
        }
        trainer.tensors()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = comms
            .into_iter()
            .map(|comm| scope.spawn(|| run(comm)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

fn close(one: &[(String, Vec<f32>)], other: &[(String, Vec<f32>)]) {
    assert_eq!(one.len(), other.len());
    for ((name, one), (other_name, other)) in one.iter().zip(other) {
        assert_eq!((name, one.len()), (other_name, other.len()));
        for (index, (a, b)) in one.iter().zip(other).enumerate() {
            assert!((a - b).abs() <= 1e-6, "{name}[{index}]: {a} and {b}");
        }
    }
}

#[test]
fn two_and_three_ranks_equal_one() {
    let one = train(1, 1);
    for ranks in [2, 3] {
        let several = train(ranks, 1);
        close(&one[0], &several[0]);
        for rank in &several[1..] {
            assert!(*rank == several[0], "ranks must stay identical to the bit");
        }
    }
}

#[test]
fn micro_batches_equal_one_batch() {
    let one = train(1, 1);
    close(&one[0], &train(1, 3)[0]);
    close(&one[0], &train(2, 2)[1]);
}

#[test]
fn a_row_that_two_ranks_touch_is_updated_once() {
    // With max_row_norm, two updates of half the gradient would move the row further.
    let config = config(
        "kind = 'sgd'\nlearning_rate = 0.1",
        "kind = 'sgd'\nlearning_rate = 0.1\nmax_row_norm = 1e-4",
        "",
    );
    let batch = global_batch(1);
    // Both ranks read the same rows.
    let ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
    std::thread::scope(|scope| {
        for comm in ranks {
            let (config, batch) = (&config, &batch);
            scope.spawn(move || {
                let mut trainer = Rank::new(config, Arc::new(comm), GLOBAL);
                let table = trainer.model.parameters.find_table("embedding.a").unwrap();
                let rows = |trainer: &Rank| -> Vec<Vec<f32>> {
                    let view = trainer.model.parameters.table(table).view();
                    (0..view.shape()[0])
                        .map(|row| view.row(row).to_vec())
                        .collect()
                };
                let before = rows(&trainer);
                trainer.train(std::slice::from_ref(batch), 2.0 * batch.weight_sum());
                let mut moved = 0;
                for (before, after) in before.iter().zip(rows(&trainer)) {
                    let squares = before
                        .iter()
                        .zip(&after)
                        .map(|(a, b)| f64::from(a - b).powi(2));
                    let distance = squares.sum::<f64>().sqrt();
                    assert!(distance < 1.05e-5, "{distance}");
                    moved += usize::from(distance > 0.9e-5);
                }
                assert!(moved > 3, "{moved}");
            });
        }
    });
}

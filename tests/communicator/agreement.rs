//! Every collective gives what its definition says, for any number of ranks and any size.

use proptest::prelude::*;
use streamrec::comm::{Communicator, Event, Message, ReduceOp, chunk_range};

use crate::on_all_ranks;

/// The value at `index` of rank's input: of mixed sign and scale, so that the order of a sum
/// shows in its bits.
fn input(rank: usize, index: usize) -> f32 {
    let mut bits = (rank as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index as u64;
    bits = (bits ^ (bits >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let scale = [1e-3, 1.0, 1e4][(bits >> 60) as usize % 3];
    ((bits >> 20) as u32 as f32 / u32::MAX as f32 - 0.5) * scale
}

fn inputs(rank: usize, len: usize) -> Vec<f32> {
    (0..len).map(|index| input(rank, index)).collect()
}

/// The plain sum in rank order, or by halves.
fn expected(size: usize, len: usize, op: ReduceOp) -> Vec<f32> {
    fn by_halves(values: &[f32]) -> f32 {
        match values {
            [one] => *one,
            _ => {
                let (left, right) = values.split_at(values.len() / 2);
                by_halves(left) + by_halves(right)
            }
        }
    }
    let reduced = |index| {
        let values: Vec<f32> = (0..size).map(|rank| input(rank, index)).collect();
        match op {
            ReduceOp::Sum => values.into_iter().reduce(|a, b| a + b),
            ReduceOp::Max => values.into_iter().reduce(f32::max),
            ReduceOp::TreeSum => Some(by_halves(&values)),
        }
        .unwrap()
    };
    (0..len).map(reduced).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Sizes around the limits: of small messages (4096 f32), blocks, cache lines and ranks.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        0usize..40,
        2040usize..2060,
        4090usize..4110,
        9_000usize..30_000
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn all_reduce_sums_in_a_known_order_bit_for_bit(
        size in 1usize..=5, len in length(), op in 0usize..3,
    ) {
        let op = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::TreeSum][op];
        let results = on_all_ranks(size, |comm| {
            let mut buffer = comm.allocate(len).unwrap();
            assert!(buffer.iter().all(|value| *value == 0.0));
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            buffer.copy_from_slice(&inputs(comm.rank(), len));
            bits(&comm.all_reduce(buffer, op).wait().unwrap())
        });
        let expected = bits(&expected(size, len, op));
        for result in results {
            prop_assert_eq!(&result, &expected);
        }
    }

    #[test]
    fn all_reduce_is_close_to_the_sum_in_float64(size in 1usize..=5, len in length()) {
        let results = on_all_ranks(size, |comm| {
            let mut buffer = comm.allocate(len).unwrap();
            buffer.copy_from_slice(&inputs(comm.rank(), len));
            comm.all_reduce(buffer, ReduceOp::Sum).wait().unwrap().to_vec()
        });
        for (index, value) in results.iter().flat_map(|result| result.iter().enumerate()) {
            let terms = || (0..size).map(|rank| f64::from(input(rank, index)));
            let (sum, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            let bound = magnitude * size as f64 * f64::from(f32::EPSILON);
            prop_assert!((f64::from(*value) - sum).abs() <= bound);
        }
    }

    #[test]
    fn reduce_scatter_then_all_gather_is_all_reduce(size in 1usize..=5, len in length()) {
        let expected = bits(&expected(size, len, ReduceOp::Sum));
        let results = on_all_ranks(size, |comm| {
            let mut buffer = comm.allocate(len).unwrap();
            buffer.copy_from_slice(&inputs(comm.rank(), len));
            let buffer = comm.reduce_scatter(buffer, ReduceOp::Sum).wait().unwrap();
            let own = chunk_range(len, comm.rank(), size);
            assert_eq!(bits(&buffer[own.clone()]), expected[own]);
            bits(&comm.all_gather(buffer).wait().unwrap())
        });
        for result in results {
            prop_assert_eq!(&result, &expected);
        }
    }

    #[test]
    fn broadcast_copies_the_root(size in 1usize..=5, root in 0usize..5, len in length()) {
        let root = root % size;
        let results = on_all_ranks(size, |comm| {
            let mut buffer = comm.allocate(len).unwrap();
            buffer.copy_from_slice(&inputs(comm.rank(), len));
            bits(&comm.broadcast(buffer, root).wait().unwrap())
        });
        for result in results {
            prop_assert_eq!(result, bits(&inputs(root, len)));
        }
    }

    #[test]
    fn messages_of_any_size_arrive(
        size in 1usize..=5,
        rounds in proptest::collection::vec((0usize..3, 0usize..200_000), 1..4),
    ) {
        // In round i, rank s sends r a message of its own length and contents.
        let message = |round: usize, sender: usize, receiver: usize| {
            let (factor, base) = rounds[round];
            let len = (base + 7 * receiver) * (sender * factor) / 4;
            vec![(round * 31 + sender * 7 + receiver) as u8; len]
        };
        on_all_ranks(size, |comm| {
            let rank = comm.rank();
            for round in 0..rounds.len() {
                let outgoing = (0..size).map(|to| sent(comm, &message(round, rank, to), to));
                let exchanged = comm.all_to_all_bytes(outgoing.collect());
                let gathered = comm.all_gather_bytes(message(round, rank, 0));
                let expected: Vec<_> = (0..size).map(|from| message(round, from, rank)).collect();
                let exchanged = exchanged.wait().unwrap();
                assert!(exchanged.into_iter().map(Message::into_bytes).eq(expected));
                let expected: Vec<_> = (0..size).map(|from| message(round, from, 0)).collect();
                assert_eq!(gathered.wait().unwrap(), expected);
            }
        });
    }
}

/// A message to rank `to`: to even ones in memory that changes hands, to others one that is copied.
fn sent(comm: &dyn Communicator, bytes: &[u8], to: usize) -> Message {
    let mut message = match to % 2 {
        0 => comm.message(),
        _ => Message::default(),
    };
    message.extend_from_slice(bytes);
    message
}

#[test]
fn messages_come_back_in_the_memory_in_which_they_went() {
    on_all_ranks(2, |comm| {
        let mut messages = Vec::from([0, 1].map(|_| comm.message()));
        for round in 0..5u8 {
            for message in &mut messages {
                message.clear();
                message.extend_from_slice(&vec![round; 1000 << (2 * round)]);
            }
            messages = comm.exchange_now(messages).unwrap();
            for message in &messages {
                assert!(**message == vec![round; 1000 << (2 * round)]);
            }
        }
    });
}

#[test]
fn messages_of_another_communicator_arrive() {
    on_all_ranks(3, |comm| {
        let group = comm.split(0, comm.rank()).unwrap();
        let messages = (0..3).map(|to| {
            let mut message = group.message();
            message.extend_from_slice(&[comm.rank() as u8, to]);
            message
        });
        let received = comm.all_to_all_bytes(messages.collect()).wait().unwrap();
        for (from, message) in received.iter().enumerate() {
            assert_eq!(**message, [from as u8, comm.rank() as u8]);
        }
    });
}

#[test]
fn messages_of_several_rounds_arrive() {
    on_all_ranks(3, |comm| {
        let message = |from: usize, to: usize| -> Vec<u8> {
            let len = [0, 700_001, 3_000_000][(from + 2 * to) % 3];
            (0..len)
                .map(|index| (index * 7 + from * 3 + to) as u8)
                .collect()
        };
        for _ in 0..2 {
            let outgoing = (0..3).map(|to| sent(comm, &message(comm.rank(), to), to));
            let incoming = comm.all_to_all_bytes(outgoing.collect()).wait().unwrap();
            for (from, received) in incoming.iter().enumerate() {
                assert!(**received == message(from, comm.rank()), "from rank {from}");
            }
        }
    });
}

#[test]
fn events_in_flight_complete_in_the_order_of_submission() {
    on_all_ranks(3, |comm| {
        let lens = [5000, 1, 0, 70_000, 4096, 4097];
        let fill = |len| {
            let mut buffer = comm.allocate(len).unwrap();
            buffer.fill((comm.rank() + 1) as f32);
            buffer
        };
        let buffers: Vec<_> = lens.into_iter().map(fill).collect();
        let mut events: Vec<_> = (buffers.into_iter())
            .map(|buffer| comm.all_reduce(buffer, ReduceOp::Sum))
            .collect();
        comm.barrier().wait().unwrap();
        assert!(
            events.iter().all(Event::is_ready),
            "the barrier was submitted last"
        );
        // Waiting in another order gives each its own result.
        events.reverse();
        for (event, len) in events.into_iter().zip(lens.into_iter().rev()) {
            assert_eq!(*event.wait().unwrap(), vec![6.0; len][..]);
        }
    });
}

#[test]
fn a_buffer_serves_many_collectives() {
    on_all_ranks(4, |comm| {
        let mut small = comm.allocate(100).unwrap();
        let mut large = comm.allocate(10_000).unwrap();
        for step in 1..=200 {
            small.fill(step as f32);
            large.fill(step as f32);
            let events = [small, large].map(|buffer| comm.all_reduce(buffer, ReduceOp::Sum));
            [small, large] = events.map(|event| event.wait().unwrap());
            assert!(
                small
                    .iter()
                    .chain(large.iter())
                    .all(|value| *value == 4.0 * step as f32)
            );
        }
    });
}

#[test]
fn groups_communicate_apart_and_at_the_same_time() {
    on_all_ranks(5, |comm| {
        let rank = comm.rank();
        // Even ranks in reverse order, odd ranks in order.
        let (color, key) = if rank % 2 == 0 {
            (0, 10 - rank)
        } else {
            (1, rank)
        };
        let group = comm.split(color, key).unwrap();
        let members = if color == 0 {
            vec![4, 2, 0]
        } else {
            vec![1, 3]
        };
        assert_eq!(group.size(), members.len());
        assert_eq!(members[group.rank()], rank);

        let mut buffer = group.allocate(6000).unwrap();
        buffer.fill(rank as f32);
        let sum = group.all_reduce(buffer, ReduceOp::Sum);
        let gathered = comm.all_gather_bytes(vec![rank as u8]);
        let expected: usize = members.iter().sum();
        assert_eq!(sum.wait().unwrap()[5999], expected as f32);
        assert_eq!(gathered.wait().unwrap(), [[0], [1], [2], [3], [4]]);

        // A group of a group, and a rank alone.
        let alone = group.split(rank, 0).unwrap();
        assert_eq!((alone.rank(), alone.size()), (0, 1));
        let message = alone.all_gather_bytes(vec![7]).wait().unwrap();
        assert_eq!(message, [[7]]);
    });
}

crate::also_over_tcp! {
    all_reduce_sums_in_a_known_order_bit_for_bit,
    all_reduce_is_close_to_the_sum_in_float64,
    reduce_scatter_then_all_gather_is_all_reduce,
    broadcast_copies_the_root,
    messages_of_any_size_arrive,
    messages_of_another_communicator_arrive,
    messages_of_several_rounds_arrive,
    events_in_flight_complete_in_the_order_of_submission,
    a_buffer_serves_many_collectives,
    groups_communicate_apart_and_at_the_same_time,
}

/// All of the above, for a rank that `mpirun` started.
#[cfg(feature = "mpi")]
pub fn all() {
    all_reduce_sums_in_a_known_order_bit_for_bit();
    all_reduce_is_close_to_the_sum_in_float64();
    reduce_scatter_then_all_gather_is_all_reduce();
    broadcast_copies_the_root();
    messages_of_any_size_arrive();
    messages_of_several_rounds_arrive();
    events_in_flight_complete_in_the_order_of_submission();
    a_buffer_serves_many_collectives();
    groups_communicate_apart_and_at_the_same_time();
}

//! Collectives of several devices: of emulated ones in threads, and by NCCL where this machine has GPUs.

use std::time::Duration;

use bytemuck::Pod;
use streamrec_emulation::{Emulator, ThreadPeers};
use streamrec_kernels::cuda::collective::{Element, Reduce};
use streamrec_kernels::cuda::gpu::{GpuExecutor, Nccl};
use streamrec_kernels::cuda::{Address, Collective, DeviceError, Executor, Group};
use streamrec_kernels::{bf16, f16};

use crate::device::gpu_if_any;

/// Runs a claim on the devices of so many ranks, each in a thread.
fn emulated(ranks: usize, claim: impl Fn(Emulator) + Sync) {
    std::thread::scope(|scope| {
        for peers in ThreadPeers::connect(ranks) {
            let claim = &claim;
            scope.spawn(move || claim(Emulator::new(0).with_peers(Box::new(peers))));
        }
    });
}

/// Likewise on one GPU, which has to be told by `NCCL_MULTI_RANK_GPU_ENABLE=1` to serve several ranks.
fn on_a_gpu(claim: impl Fn(GpuExecutor) + Sync) {
    let Some(gpu) = gpu_if_any() else {
        return;
    };
    let shared = std::env::var_os("NCCL_MULTI_RANK_GPU_ENABLE").is_some_and(|set| set == "1");
    let ranks = if shared { 2 } else { 1 };
    let id = Nccl::unique_id().unwrap();
    std::thread::scope(|scope| {
        for rank in 0..ranks {
            let (claim, id) = (&claim, &id);
            scope.spawn(move || {
                let timeout = Duration::from_secs(60);
                let nccl = Nccl::connect(gpu, id, [rank, ranks], timeout).unwrap();
                claim(GpuExecutor::new(gpu).unwrap().with_ranks(nccl).unwrap());
            });
        }
    });
}

fn upload<T: Pod>(device: &mut impl Executor, values: &[T]) -> Address {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let at = device.allocate(bytes.len()).unwrap();
    device.upload(bytes, at).unwrap();
    at
}

fn download<T: Pod>(device: &mut impl Executor, at: Address, len: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); len];
    let bytes = bytemuck::cast_slice_mut(&mut values);
    device.download(at, bytes).unwrap();
    values
}

fn now(device: &mut impl Executor, collectives: &[Collective]) {
    let begun = device.begin(Group::World, "a test", collectives).unwrap();
    device.finish(begun).unwrap();
}

/// Sums and maxima of a type, of `[rank + 1, 10 - rank]`.
fn reduces<T: Pod + PartialEq + std::fmt::Debug>(
    device: &mut impl Executor,
    element: Element,
    of: impl Fn(usize) -> T,
) {
    let [rank, ranks] = device.rank(Group::World);
    let expected = |reduce| match reduce {
        Reduce::Sum => [(1..=ranks).sum(), (0..ranks).map(|rank| 10 - rank).sum()],
        Reduce::Max => [ranks, 10],
    };
    for reduce in [Reduce::Sum, Reduce::Max] {
        let own = [of(rank + 1), of(10 - rank)];
        let (at, from, to) = (
            upload(device, &own),
            upload(device, &vec![own; ranks]),
            upload(device, &own),
        );
        let (len, expected) = (2, expected(reduce).map(&of));
        let whole = Collective::AllReduce {
            at,
            len,
            element,
            reduce,
        };
        let part = Collective::ReduceScatter {
            from,
            to,
            len,
            element,
            reduce,
        };
        now(device, &[whole, part]);
        assert_eq!(download::<T>(device, at, 2), expected, "{element:?}");
        assert_eq!(download::<T>(device, to, 2), expected, "{element:?}");
    }
}

fn all_reductions<E: Executor>(mut device: E) {
    let device = &mut device;
    reduces(device, Element::F32, |x| x as f32);
    reduces(device, Element::Bf16, |x| bf16::from_f32(x as f32));
    reduces(device, Element::F16, |x| f16::from_f32(x as f32));
    reduces(device, Element::F64, |x| x as f64);
    reduces(device, Element::U32, |x| x as u32);
    reduces(device, Element::U64, |x| x as u64);
    reduces(device, Element::U8, |x| x as u8);
}

#[test]
fn values_of_every_type_are_added_and_compared_over_ranks() {
    for ranks in [1, 2, 3] {
        emulated(ranks, all_reductions);
    }
    on_a_gpu(all_reductions);
}

/// Rank r sends r + s + 1 elements to rank s.
fn moves<E: Executor>(mut device: E) {
    let device = &mut device;
    let [rank, ranks] = device.rank(Group::World);
    let value = |from: usize, to: usize| (100 * from + to) as u32;
    let sends: Vec<usize> = (0..ranks).map(|to| rank + to + 1).collect();
    let own: Vec<u32> = (0..ranks)
        .flat_map(|to| vec![value(rank, to); rank + to + 1])
        .collect();
    let (from, to) = (upload(device, &own), upload(device, &own));
    let element = Element::U32;
    let exchange = Collective::AllToAll {
        from,
        to,
        receives: sends.clone(),
        sends,
        element,
    };
    now(device, &[exchange]);
    let expected: Vec<u32> = (0..ranks)
        .flat_map(|from| vec![value(from, rank); rank + from + 1])
        .collect();
    assert_eq!(download::<u32>(device, to, own.len()), expected);

    let (from, to) = (
        upload(device, &[rank as u32; 3]),
        upload(device, &vec![0u32; 3 * ranks]),
    );
    let root = ranks - 1;
    let shared = upload(device, &[7 + rank as u64]);
    let gather = Collective::AllGather {
        from,
        to,
        len: 3,
        element,
    };
    let broadcast = Collective::Broadcast {
        at: shared,
        len: 1,
        element: Element::U64,
        root,
    };
    now(device, &[gather, broadcast]);
    let expected: Vec<u32> = (0..ranks as u32).flat_map(|rank| [rank; 3]).collect();
    assert_eq!(download::<u32>(device, to, 3 * ranks), expected);
    assert_eq!(download::<u64>(device, shared, 1), [7 + root as u64]);
}

#[test]
fn values_are_gathered_broadcast_and_exchanged_in_rank_order() {
    for ranks in [1, 2, 4] {
        emulated(ranks, moves);
    }
    on_a_gpu(moves);
}

fn sum(at: Address, len: usize) -> Collective {
    Collective::AllReduce {
        at,
        len,
        element: Element::F32,
        reduce: Reduce::Sum,
    }
}

/// Two collectives are under way while other memory is cleared, and are finished in the other order.
fn records<E: Executor>(mut device: E) {
    let device = &mut device;
    let [rank, ranks] = device.rank(Group::World);
    let [a, b, other] = [0, 1, 2].map(|_| upload(device, &[0.0f32; 2]));
    let graph = device.record(&mut |own| {
        let first = own.begin(Group::World, "first", &[sum(a, 2)])?;
        let second = own.begin(Group::World, "second", &[sum(b, 2)])?;
        own.zero(other, 8)?;
        own.finish(second)?;
        own.finish(first)
    });
    let graph = graph.unwrap();
    for step in 1..=3 {
        let own = (step * (rank + 1)) as f32;
        for (at, values) in [(a, [own, 1.0]), (b, [2.0, own]), (other, [5.0; 2])] {
            device.upload(bytemuck::cast_slice(&values), at).unwrap();
        }
        device.replay(&graph).unwrap();
        let all = (step * ranks * (ranks + 1) / 2) as f32;
        assert_eq!(download::<f32>(device, a, 2), [all, ranks as f32]);
        assert_eq!(download::<f32>(device, b, 2), [2.0 * ranks as f32, all]);
        assert_eq!(download::<f32>(device, other, 2), [0.0; 2]);
        assert!(device.is_done().unwrap());
        assert_eq!(device.last_begun(), Some("second"));
    }
}

#[test]
fn collectives_are_recorded_and_replayed_beside_other_work() {
    for ranks in [1, 2, 3] {
        emulated(ranks, records);
    }
    on_a_gpu(records);
}

/// Three times two ranks, in the order of a mesh: those of one batch stand side by side.
#[test]
fn groups_of_a_mesh_exchange_among_themselves() {
    let (dp, tp) = (3, 2);
    let mut world = ThreadPeers::connect(dp * tp);
    let mut columns: Vec<_> = (0..tp).map(|_| ThreadPeers::connect(dp)).collect();
    let mut rows: Vec<_> = (0..dp).map(|_| ThreadPeers::connect(tp)).collect();
    std::thread::scope(|scope| {
        for rank in (0..dp * tp).rev() {
            let all = world.pop().unwrap();
            let [own_dp, own_tp] = [columns[rank % tp].pop(), rows[rank / tp].pop()];
            let [own_dp, own_tp] = [own_dp, own_tp].map(Option::unwrap).map(Box::new);
            scope.spawn(move || {
                let device = Emulator::new(0).with_peers(Box::new(all));
                let mut device = device.with_mesh(own_dp, own_tp);
                assert_eq!(device.rank(Group::World), [rank, dp * tp]);
                assert_eq!(device.rank(Group::DataParallel), [rank / tp, dp]);
                assert_eq!(device.rank(Group::TensorParallel), [rank % tp, tp]);
                for (group, expected) in [
                    (Group::World, (0..6).sum()),
                    (
                        Group::DataParallel,
                        (0..dp).map(|row| row * tp + rank % tp).sum(),
                    ),
                    (Group::TensorParallel, rank / tp * tp * 2 + 1),
                ] {
                    let at = upload(&mut device, &[rank as f32]);
                    let begun = device.begin(group, "a sum", &[sum(at, 1)]).unwrap();
                    device.finish(begun).unwrap();
                    let got: Vec<f32> = download(&mut device, at, 1);
                    assert_eq!(got, [expected as f32], "{group:?} of rank {rank}");
                }
            });
        }
    });
}

#[test]
fn nothing_is_there_before_it_is_waited_for() {
    emulated(2, |mut device| {
        let at = upload(&mut device, &[1.0f32; 4]);
        let begun = device.begin(Group::World, "a sum", &[sum(at, 4)]).unwrap();
        let early: Vec<f32> = download(&mut device, at, 4);
        assert!(early.iter().all(|x| x.is_nan()));
        device.finish(begun).unwrap();
        assert_eq!(download::<f32>(&mut device, at, 4), [2.0; 4]);
    });
}

#[test]
fn whoever_writes_memory_in_flight_is_told() {
    for offset in [0, 16] {
        emulated(2, |mut device| {
            let (from, to) = (
                upload(&mut device, &[1.0f32; 4]),
                upload(&mut device, &[0.0f32; 8]),
            );
            let gather = Collective::AllGather {
                from,
                to,
                len: 4,
                element: Element::F32,
            };
            let begun = device.begin(Group::World, "a gather", &[gather]).unwrap();
            let at = if offset == 0 {
                from
            } else {
                Address(to.0 + offset)
            };
            device.zero(at, 4).unwrap();
            let error = device.finish(begun).unwrap_err();
            let expected = "a gather (all_gather of 4 f32): memory in flight was written";
            assert_eq!(error.to_string(), expected);
        });
    }
}

#[test]
fn ranks_that_are_asked_for_different_things_get_an_error_that_names_both() {
    emulated(2, |mut device| {
        let [rank, _] = device.rank(Group::World);
        let at = upload(&mut device, &[1.0f32; 4]);
        let begun = device
            .begin(Group::World, "a sum", &[sum(at, 4 - rank)])
            .unwrap();
        let error = device.finish(begun).unwrap_err();
        assert!(matches!(error, DeviceError::Collective { .. }));
        let text = error.to_string();
        let told = ["all_reduce of 4 f32 (sum)", "all_reduce of 3 f32 (sum)"];
        assert!(told.iter().all(|call| text.contains(call)), "{text}");
    });
}

#[test]
fn a_device_that_is_alone_says_so() {
    let mut device = Emulator::new(0);
    let at = upload(&mut device, &[1.0f32]);
    let error = device
        .begin(Group::World, "a sum", &[sum(at, 1)])
        .unwrap_err();
    assert!(error.to_string().contains("no other ranks"), "{error}");
    for group in [Group::World, Group::DataParallel, Group::TensorParallel] {
        assert_eq!(device.rank(group), [0, 1]);
    }
}

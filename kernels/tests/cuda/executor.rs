//! The emulation as what runs launches and products, and a step that is recorded and replayed.

use std::path::Path;

use streamrec_emulation::Emulator;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};
use streamrec_kernels::cuda::{Address, CudaLibrary, Executor, cache_folder, gpus};

/// The test's body for the GPU of this machine, where it has one.
fn on_a_gpu(test: impl FnOnce(GpuExecutor)) {
    if gpus().is_empty() {
        eprintln!("NOT TESTED: this machine has no GPU");
        return;
    }
    let gpu = Gpu::new(0, &cache_folder()).unwrap();
    test(GpuExecutor::new(&gpu).unwrap());
}

fn bytes(device: &mut impl Executor, at: Address) -> [u8; 32] {
    let mut bytes = [0; 32];
    device.download(at, &mut bytes).unwrap();
    bytes
}

fn records_and_replays<E: Executor>(mut device: E) {
    let at = device.allocate(32).unwrap();
    device.upload(&[7; 32], at).unwrap();
    let graph = device.record(&mut |own| own.zero(at, 16)).unwrap();
    assert_eq!(bytes(&mut device, at), [7; 32]);
    for _ in 0..2 {
        device.upload(&[9; 32], at).unwrap();
        device.replay(&graph).unwrap();
        let after = bytes(&mut device, at);
        assert_eq!((&after[..16], &after[16..]), (&[0; 16][..], &[9; 16][..]));
    }
}

#[test]
fn what_is_recorded_runs_when_it_is_replayed_and_not_before() {
    records_and_replays(Emulator::new(0));
    on_a_gpu(records_and_replays);
}

fn refuses_what_waits<E: Executor>(mut device: E) {
    let error = device.record(&mut |own| own.synchronize()).err().unwrap();
    let expected = "waiting cannot be part of a recorded step";
    assert!(error.to_string().contains(expected), "{error}");
    let allocate = device.record(&mut |own| own.allocate(1).map(|_| ()));
    let error = allocate.err().unwrap();
    assert!(error.to_string().contains("allocating memory"), "{error}");
    // The recording that failed is over.
    device.synchronize().unwrap();
}

#[test]
fn what_waits_or_allocates_cannot_be_recorded() {
    refuses_what_waits(Emulator::new(0));
    on_a_gpu(refuses_what_waits);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_tells_what_to_do() {
    let error = Gpu::new(4096, Path::new("never-written")).unwrap_err();
    let expected = match CudaLibrary::Driver.find() {
        None => "driver is not found; install NVIDIA's driver",
        Some(_) => "there is no GPU 4096",
    };
    let told = error.to_string();
    assert!(
        told.contains(expected) || told.contains("starting the driver"),
        "{told}"
    );
}

//! The emulation as what runs launches and products, and a step that is recorded and replayed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use streamrec_emulation::Emulator;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};
use streamrec_kernels::cuda::{Address, CudaLibrary, Executor, SOURCES, gpus};

use crate::device::{KERNELS_VARIABLE, VARIABLE, asks_for_a_gpu, gpu_if_any};

/// The test's body for the GPU of this machine, where it has one.
fn on_a_gpu(test: impl FnOnce(GpuExecutor)) {
    if let Some(gpu) = gpu_if_any() {
        test(GpuExecutor::new(gpu).unwrap());
    }
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

/// Some of these tests, in a process of their own that runs them on another device.
fn tests_on(device: &str, tests: &[&str]) -> (bool, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(tests)
        .env(VARIABLE, device)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), told)
}

#[test]
fn tests_that_are_to_run_on_a_gpu_fail_where_there_is_none() {
    if asks_for_a_gpu() {
        eprintln!("NOT TESTED on a GPU: whose machine may have no C++ compiler");
        return;
    }
    let tests = ["cast::casts_round_as_the_cpu_does", "--exact"];
    let (passes, told) = tests_on("emulated", &tests);
    assert!(passes && told.contains("1 passed"), "{told}");
    let (passes, told) = tests_on("gpu", &tests);
    let expected = "STREAMREC_TEST_DEVICE=gpu: expected `cuda` or `emulated`";
    assert!(!passes && told.contains(expected), "{told}");
    if gpus().is_empty() {
        let (passes, told) = tests_on("cuda", &tests);
        let expected = "STREAMREC_TEST_DEVICE=cuda asks for a GPU: ";
        assert!(!passes && told.contains(expected), "{told}");
    }
}

/// Everything that tests do with a GPU, but the GPU. No kernel is left out: each is held against the CPU.
#[test]
fn tests_of_all_kernels_pass_with_the_emulation_in_place_of_a_gpu() {
    if asks_for_a_gpu() {
        eprintln!("NOT TESTED on a GPU: whose machine may have no C++ compiler");
        return;
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = file.join(format!("kernels-{}", std::process::id()));
    let others = [
        "executor::",
        "benchmark::",
        "collective::",
        "nccl::",
        "nvrtc::",
    ];
    let skips = others.into_iter().flat_map(|name| ["--skip", name]);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(skips)
        .env(VARIABLE, "in-place-of-a-gpu")
        .env(KERNELS_VARIABLE, &file)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    let ran = std::fs::read_to_string(&file).unwrap();
    let ran: BTreeSet<&str> = ran.lines().collect();
    for source in SOURCES {
        for kernel in source.kernels {
            let name = format!("{}: {kernel}", source.name);
            assert!(ran.contains(name.as_str()), "no test runs {name}");
        }
    }
    std::fs::remove_file(&file).unwrap();
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

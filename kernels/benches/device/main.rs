//! Every CUDA kernel on a GPU: how long it takes, and at which share of the rate at which the GPU copies memory.
//!
//! `cargo bench -p streamrec-kernels --bench device [-- WORD...]` measures the operations whose name, shape or kernel has
//! one of the words. It prints one line of JSON for each operation and each kernel of one that has several, and a table
//! of all at the end. `STREAMREC_BENCH_DEVICE=cuda` makes it an error that there is no GPU; with `emulated`, tiny shapes
//! run under the emulation, once and unmeasured, to show that the launches are right.
//!
//! Times are medians of several windows, each of many repetitions that were recorded as one graph; those of the kernels
//! of one operation lie between events. Bytes are what an operation reads and writes at least: rows that are looked up
//! several times count once. Operands are larger than the GPU's cache where the line does not say otherwise.

mod operations;
#[path = "../../tests/random/mod.rs"]
mod random;
mod report;
mod timing;

use std::process::ExitCode;

use operations::{Memory, Operation, Outcome, Part, Shapes, parts};
use report::{Line, Report};
use streamrec_emulation::Emulator;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};
use streamrec_kernels::cuda::{Executor, cache_folder, gpus};

const VARIABLE: &str = "STREAMREC_BENCH_DEVICE";

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let outcome = match std::env::var(VARIABLE).as_deref() {
        Ok("emulated") => emulated(&words),
        Ok("cuda") => measured(&words),
        Err(_) if gpus().is_empty() => {
            println!(
                "NOT MEASURED: this machine has no GPU; {VARIABLE}=emulated runs tiny shapes without one"
            );
            Ok(())
        }
        Err(_) => measured(&words),
        Ok(other) => Err(format!("{VARIABLE}={other}: expected `cuda` or `emulated`").into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn is_meant(operation: &Operation, words: &[String]) -> bool {
    let has = |word: &String| {
        operation.name.contains(word)
            || operation.shape.contains(word)
            || operation
                .kernels()
                .any(|(kernel, _)| kernel.name.contains(word))
    };
    words.is_empty() || words.iter().any(has)
}

/// Runs all operations of a part that are meant.
fn each<E: Executor>(
    part: &Part<E>,
    mut executor: E,
    (shapes, words): (&Shapes, &[String]),
    mut work: impl FnMut(&mut E, &Operation) -> Outcome<()>,
) -> Outcome<()> {
    let mut visit = |executor: &mut E, operation: Operation| -> Outcome<()> {
        if is_meant(&operation, words) {
            let told = |error| format!("{}, {}: {error}", operation.name, operation.shape);
            work(executor, &operation).map_err(told)?;
        }
        Ok(())
    };
    let outcome = (part.each)(&mut Memory::new(&mut executor), shapes, &mut visit);
    outcome.map_err(|error| format!("{}: {error}", part.name).into())
}

fn emulated(words: &[String]) -> Outcome<()> {
    for part in parts() {
        each(
            &part,
            Emulator::new(1),
            (&Shapes::TINY, words),
            |executor, operation| {
                timing::measure(executor, operation, 0.0)?;
                operation.check(executor)?;
                println!("{}", report::unmeasured(operation));
                Ok(())
            },
        )?;
    }
    println!("all launches ran under the emulation; nothing was measured");
    Ok(())
}

fn measured(words: &[String]) -> Outcome<()> {
    let gpu = Gpu::new(0, &cache_folder())
        .map_err(|error| format!("there is no GPU to measure: {error}"))?;
    gpu.compile()?;
    let copy = timing::copy(&mut GpuExecutor::new(&gpu)?)?;
    let mut report = Report::new(gpu.architecture().to_owned(), copy);
    for part in parts() {
        each(
            &part,
            GpuExecutor::new(&gpu)?,
            (&Shapes::LARGE, words),
            |executor, operation| {
                let times = timing::measure(executor, operation, timing::WINDOW_US)?;
                operation.check(executor)?;
                for line in Line::of(operation, &times) {
                    report.add(line);
                }
                Ok(())
            },
        )?;
    }
    report.print_table();
    Ok(())
}

//! Every operation, and which share of the roofline it reaches.
//!
//! The least time that an operation can take is the greater of its bytes over the memory's bandwidth
//! and its FLOPs over the arithmetic's peak (Williams, Waterman and Patterson, "Roofline", CACM 2009),
//! both measured here, in this run, with the same threads. Operands that fit a cache can do better.

mod catalogue;

use std::time::{Duration, Instant};

use criterion::Criterion;
use rayon::prelude::*;
use streamrec_kernels::Context;

const BATCH: usize = 8192;
/// Rows of the table: more than any cache holds.
const ROWS: usize = 1 << 20;
/// Floats of each of the three arrays: far beyond any cache.
const TRIAD_LEN: usize = 1 << 24;

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let context = Context::cpu(threads, true).expect("a context of this machine's threads");
    let (bandwidth, peak) = (triad(), fused_multiply_adds(threads));
    println!(
        "{threads} threads: triad {:.1} GB/s, fused multiply-adds {:.0} GFLOP/s\n",
        bandwidth / 1e9,
        peak / 1e9
    );
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut rows = Vec::new();
    for mut operation in catalogue::operations(&context, BATCH, ROWS, None) {
        let mut fastest_s = f64::INFINITY;
        criterion.bench_function(&operation.name, |bench| {
            bench.iter_custom(|iterations| {
                let began = Instant::now();
                for _ in 0..iterations {
                    (operation.run)();
                }
                let took = began.elapsed();
                fastest_s = fastest_s.min(took.as_secs_f64() / iterations as f64);
                took
            });
        });
        if fastest_s.is_finite() {
            rows.push((operation, fastest_s));
        }
    }
    println!("\n| operation | µs | GB/s | GFLOP/s | bound | share of the roofline |");
    println!("|---|---|---|---|---|---|");
    for (operation, fastest_s) in rows {
        let (memory_s, arithmetic_s) = (operation.bytes / bandwidth, operation.flops / peak);
        let bound = if memory_s > arithmetic_s {
            "memory"
        } else {
            "arithmetic"
        };
        println!(
            "| {} | {:.0} | {:.1} | {:.1} | {bound} | {:.0} % |",
            operation.name,
            fastest_s * 1e6,
            operation.bytes / fastest_s / 1e9,
            operation.flops / fastest_s / 1e9,
            100.0 * memory_s.max(arithmetic_s) / fastest_s,
        );
    }
}

/// Bytes a second of `a = b + s c` over arrays beyond the caches; what the stores read first counts
/// too (McCalpin's STREAM leaves it out).
fn triad() -> f64 {
    let (b, c) = (vec![1.0f32; TRIAD_LEN], vec![2.0f32; TRIAD_LEN]);
    let mut a = vec![0.0f32; TRIAD_LEN];
    let piece = TRIAD_LEN / 64;
    let mut fastest_s = f64::INFINITY;
    for _ in 0..10 {
        let began = Instant::now();
        a.par_chunks_mut(piece)
            .zip(b.par_chunks(piece))
            .zip(c.par_chunks(piece))
            .for_each(|((a, b), c)| {
                for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                    *a = b + 3.0 * c;
                }
            });
        fastest_s = fastest_s.min(began.elapsed().as_secs_f64());
        std::hint::black_box(&a);
    }
    (4 * 4 * TRIAD_LEN) as f64 / fastest_s
}

/// FLOPs a second of independent chains of fused multiply-adds in registers, on all threads.
fn fused_multiply_adds(threads: usize) -> f64 {
    const ROUNDS: u64 = 2_000_000;
    let mut best = 0.0f64;
    for _ in 0..5 {
        let began = Instant::now();
        let flops: u64 = std::thread::scope(|scope| {
            let spawn = |_| scope.spawn(|| chains(ROUNDS));
            let threads: Vec<_> = (0..threads).map(spawn).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|flops| flops.expect("no panic")).sum()
        });
        best = best.max(flops as f64 / began.elapsed().as_secs_f64());
    }
    best
}

/// Runs `rounds` rounds of the widest multiply-adds of this CPU, and gives their FLOPs.
fn chains(rounds: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512.
            return unsafe { chains_of_16(rounds) };
        }
        if std::is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX and FMA.
            return unsafe { chains_of_8(rounds) };
        }
    }
    let mut sums = std::hint::black_box([1.0f32; 64]);
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = *sum * 0.999 + 0.001);
    }
    std::hint::black_box(sums);
    rounds * 2 * 64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_of_16(rounds: u64) -> u64 {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    // More chains than the latency of an instruction times the units that run it.
    // Hidden from the compiler, which computes equal chains once.
    let mut sums = std::hint::black_box([_mm512_set1_ps(1.0); 12]);
    let (a, b) = (_mm512_set1_ps(0.999), _mm512_set1_ps(0.001));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    for sum in sums {
        std::hint::black_box(_mm512_reduce_add_ps(sum));
    }
    rounds * 12 * 16 * 2
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,fma")]
fn chains_of_8(rounds: u64) -> u64 {
    use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let mut sums = std::hint::black_box([_mm256_set1_ps(1.0); 12]);
    let (a, b) = (_mm256_set1_ps(0.999), _mm256_set1_ps(0.001));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    for sum in sums {
        std::hint::black_box(_mm256_cvtss_f32(sum));
    }
    rounds * 12 * 8 * 2
}

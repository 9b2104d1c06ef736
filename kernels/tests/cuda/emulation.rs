//! The emulation itself: what a GPU leaves undefined is an error, and results are known. The kernels whose results are
//! known run on a GPU too: the emulation is what it is taken for.

use std::panic::{AssertUnwindSafe, catch_unwind};

use streamrec_emulation::Emulator;
use streamrec_kernels::cuda::{Launch, Source};
use streamrec_kernels::{DType, bf16, f16};

use crate::device::{Device, SEEDS, emulation};
use crate::values::{Random, narrow, widen};

/// The kernels of `emulation.cu`.
const KERNELS: &[&str] = &[
    "without_barrier",
    "divergent_barrier",
    "two_barriers",
    "missing_lane",
    "wrong_mask",
    "lane_outside_mask",
    "reads_after_end",
    "writes_before_start",
    "misaligned",
    "warp_operations",
    "sums",
    "philox_words",
    "conversions<bfloat16>",
    "conversions<float16>",
    "rounded<bfloat16>",
    "rounded<float16>",
];

pub const SOURCE: Source = Source {
    name: "emulation",
    text: include_str!("emulation.cu"),
    kernels: KERNELS,
};
const FILE: &str = "tests/cuda/emulation.cu";

fn device(seed: u64) -> Option<Device> {
    Device::with_source(&SOURCE, FILE, seed)
}

fn launch(name: &'static str, blocks: u32, threads: u32) -> Launch {
    streamrec_emulation::add_source(SOURCE.name, FILE, KERNELS);
    Launch::custom(SOURCE.name, name, blocks, threads)
}

/// What a kernel with one buffer of 64 words did wrong.
fn error_of(emulator: &mut Emulator, name: &'static str) -> String {
    let out = emulator.empty("out", 64 * 4);
    emulator
        .try_run(launch(name, 1, 64).argument(out.0))
        .expect_err("a kernel that is wrong")
}

#[test]
fn a_missing_barrier_shows_in_another_order_of_threads() {
    if emulation(0).is_none() {
        return;
    }
    let results: Vec<Vec<u32>> = SEEDS
        .iter()
        .map(|&seed| {
            let mut emulator = Emulator::new(seed);
            let out = emulator.empty("out", 64 * 4);
            emulator.run([launch("without_barrier", 1, 64).argument(out.0)]);
            emulator.download(out)
        })
        .collect();
    assert_ne!(results[0], results[1]);
}

#[test]
fn divergent_barriers_are_errors() {
    let Some(mut emulator) = emulation(0) else {
        return;
    };
    let error = error_of(&mut emulator, "divergent_barrier");
    assert!(
        error.contains("threads wait for others that do not come"),
        "{error}"
    );
    assert!(error.contains("__syncthreads in line 14"), "{error}");
    assert!(error.contains("thread 40 on has ended"), "{error}");
    let error = error_of(&mut emulator, "two_barriers");
    assert!(error.contains("do not come"), "{error}");
}

#[test]
fn lanes_that_a_mask_names_must_come() {
    let Some(mut emulator) = emulation(0) else {
        return;
    };
    let error = error_of(&mut emulator, "missing_lane");
    assert!(error.contains("__ballot_sync in line 28"), "{error}");
    assert!(error.contains("thread 5 on has ended"), "{error}");
    let error = error_of(&mut emulator, "wrong_mask");
    assert!(
        error.contains("lane 16 is not in its own mask 0000ffff"),
        "{error}"
    );
    let error = error_of(&mut emulator, "lane_outside_mask");
    assert!(
        error.contains("reads lane 20, which is not in the mask"),
        "{error}"
    );
}

#[test]
fn accesses_outside_of_buffers_are_errors() {
    let Some(mut emulator) = emulation(0) else {
        return;
    };
    let (input, out) = (
        emulator.upload("input", &[7u32; 64]),
        emulator.empty("out", 256),
    );
    let read = |len: u32| {
        launch("reads_after_end", 1, 64)
            .argument(input.0)
            .argument(out.0)
            .argument(len)
    };
    emulator.run([read(0)]);
    assert_eq!(emulator.download::<u32>(out), [7; 64]);
    let error = emulator.try_run(read(64)).expect_err("reads outside");
    let expected = "reads_after_end, block (0, 0, 0), thread (0, 0, 0): reads memory outside of its \
                    buffers, 0 bytes after the end of `input` of 256 bytes";
    assert_eq!(error, expected);
    // Buffers of 256 bytes start in the middle of a page: go far enough.
    let before = Emulator::new(0).try_run(launch("writes_before_start", 1, 1).argument(64u64));
    let error = before.expect_err("writes outside");
    assert!(
        error.contains("writes memory outside of its buffers"),
        "{error}"
    );
}

/// On a GPU the tests' own check does this.
#[test]
fn writes_to_the_slack_of_a_buffer_are_errors() {
    let Some(mut device) = device(0) else {
        return;
    };
    let input = device.upload("input", &[1u32; 64]);
    let out = device.empty("out", 63 * 4);
    let read = launch("reads_after_end", 1, 64)
        .argument(input.0)
        .argument(out.0)
        .argument(0u32);
    let panics = catch_unwind(AssertUnwindSafe(|| device.run([read]))).unwrap_err();
    let told = panics.downcast::<String>().unwrap();
    assert_eq!(*told, "bytes after the end of `out` were written");
}

#[test]
fn misaligned_vectors_are_errors() {
    let Some(mut emulator) = emulation(0) else {
        return;
    };
    let input = emulator.upload("input", &[0f32; 8]);
    let error = emulator
        .try_run(
            launch("misaligned", 1, 1)
                .argument(input.0)
                .argument(input.0),
        )
        .expect_err("a vector at 4 bytes");
    assert!(
        error.contains("a vector of 16 bytes at an address that is no multiple"),
        "{error}"
    );
}

#[test]
fn warp_operations_follow_the_manual() {
    for seed in SEEDS {
        let Some(mut device) = device(seed) else {
            return;
        };
        let out = device.empty("out", 7 * 32 * 4);
        device.run([launch("warp_operations", 1, 32).argument(out.0)]);
        let got: Vec<u32> = device.download(out);
        let lanes = || 0..32u32;
        let group = |lane: u32| lane / 8 * 8;
        let expected: Vec<u32> = lanes()
            .map(|lane| 3 * (group(lane) + (lane + 1) % 8))
            .chain(lanes().map(|lane| 3 * if lane % 8 < 2 { lane } else { lane - 2 }))
            .chain(lanes().map(|lane| 3 * if lane % 8 > 5 { lane } else { lane + 2 }))
            .chain(lanes().map(|lane| 3 * (lane ^ 5)))
            .chain(lanes().map(|_| (0..32).step_by(3).map(|lane| 1u32 << lane).sum()))
            .chain(lanes().map(|lane| 8 * group(lane) + 28))
            .chain(lanes().map(|lane| (lane % 5..32).step_by(5).map(|lane| 1u32 << lane).sum()))
            .collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn sums_over_blocks_and_grids_are_exact() {
    let Some(mut device) = device(5) else {
        return;
    };
    let (atomics, blocks) = (
        device.upload("atomics", &[0u64]),
        device.upload("blocks", &[0f64]),
    );
    device.run([launch("sums", 7, 96).argument(atomics.0).argument(blocks.0)]);
    let expected = (7 * 96) * (7 * 96 - 1) / 2;
    assert_eq!(device.download::<u64>(atomics), [expected]);
    assert_eq!(device.download::<f64>(blocks), [expected as f64]);
}

/// The known answers of the Random123 library (`kat_vectors`, philox4x32 with 10 rounds).
#[test]
fn philox_gives_the_known_answers() {
    let all = u32::MAX;
    let counters = [
        [0, 0, 0, 0, 0, 0],
        [all, all, all, all, all, all],
        [
            0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
        ],
    ];
    let expected = [
        [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
        [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
        [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1u32],
    ];
    let Some(mut device) = device(0) else {
        return;
    };
    let (input, out) = (
        device.upload("counters", &counters),
        device.empty("out", 48),
    );
    device.run([launch("philox_words", 1, 3)
        .argument(input.0)
        .argument(out.0)]);
    assert_eq!(device.download::<u32>(out), expected.as_flattened());
}

/// Numbers around every boundary of half precision, and random ones.
fn hard_numbers() -> Vec<u32> {
    let mut random = Random(3);
    let mut numbers: Vec<u32> = (0..40_000).map(|_| random.bits() as u32).collect();
    for half in (0..=u16::MAX).step_by(7) {
        let around = [
            f16::from_bits(half).to_f32(),
            bf16::from_bits(half).to_f32(),
        ];
        for bits in around.map(f32::to_bits) {
            numbers.extend([
                bits,
                bits.wrapping_add(0x1000),
                bits.wrapping_add(0xfff),
                bits.wrapping_sub(1),
            ]);
        }
    }
    for exponent in 0..=255u32 {
        numbers.extend(
            [0, 1, 0x0fff, 0x1000, 0x7fff, 0x8000, 0x7f_ffff].map(|low| exponent << 23 | low),
        );
    }
    numbers
}

#[test]
fn half_types_convert_as_the_crate_half_does() {
    let numbers = hard_numbers();
    for (name, dtype) in [
        ("conversions<bfloat16>", DType::Bf16),
        ("conversions<float16>", DType::F16),
    ] {
        let Some(mut device) = device(0) else {
            return;
        };
        let input = device.upload("numbers", &numbers);
        let (wide, out) = (
            device.empty("wide", 65536 * 4),
            device.empty("out", numbers.len() * 2),
        );
        let blocks = numbers.len().max(65536).div_ceil(1024) as u32;
        let len = numbers.len() as u32;
        device.run([launch(name, blocks, 1024)
            .argument(input.0)
            .argument(len)
            .argument(wide.0)
            .argument(out.0)]);
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (index, (got, expected)) in device
            .download::<f32>(wide)
            .iter()
            .zip(widen(&all, dtype))
            .enumerate()
        {
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(same, "{dtype} {index:#06x}: {got} is not {expected}");
        }
        let floats: Vec<f32> = numbers.iter().map(|&bits| f32::from_bits(bits)).collect();
        let got = widen(&device.download::<u8>(out), dtype);
        for ((x, got), expected) in floats
            .iter()
            .zip(got)
            .zip(widen(&narrow(&floats, dtype), dtype))
        {
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(
                same,
                "{dtype} of {x:e} ({:#x}): {got:e} is not {expected:e}",
                x.to_bits()
            );
        }
    }
}

#[test]
fn stochastic_rounding_is_unbiased_and_keeps_what_fits() {
    const DRAWS: usize = 20_000;
    for (name, dtype) in [
        ("rounded<bfloat16>", DType::Bf16),
        ("rounded<float16>", DType::F16),
    ] {
        for x in [0.1f32, -3.7, 1.0, 1e-6, -2.5e-7, 0.0, 65519.0, 1000.3] {
            let Some(mut device) = device(0) else {
                return;
            };
            let input = device.upload("x", &[x; DRAWS]);
            let out = device.empty("out", DRAWS * 2);
            let blocks = DRAWS.div_ceil(256) as u32;
            device.run([launch(name, blocks, 256)
                .argument(input.0)
                .argument(out.0)
                .argument(DRAWS as u32)]);
            let got = widen(&device.download::<u8>(out), dtype);
            let nearest = widen(&narrow(&[x], dtype), dtype)[0];
            let low = got.iter().copied().fold(f32::INFINITY, f32::min);
            let high = got.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if nearest == x || (dtype == DType::F16 && x > 65504.0) {
                assert_eq!([low, high], [nearest; 2], "{dtype} of {x}");
                continue;
            }
            assert!(
                low < x && x < high,
                "{dtype} of {x}: between {low} and {high}"
            );
            assert!(
                got.iter().all(|&y| y == low || y == high),
                "{dtype} of {x}: neighbours only"
            );
            let mean = got.iter().map(|&y| f64::from(y)).sum::<f64>() / DRAWS as f64;
            let error = (mean - f64::from(x)).abs() / f64::from(high - low);
            assert!(
                error < 4.0 * 0.5 / (DRAWS as f64).sqrt(),
                "{dtype} of {x}: mean {mean}"
            );
        }
    }
}

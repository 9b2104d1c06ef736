use streamrec_kernels::DType;
use streamrec_kernels::cuda::cast::{cast, largest, narrow_scaled, widen_scaled};

use crate::device::Device;
use crate::values::{Random, narrow, widen};

pub fn check(len: usize) {
    let x = Random(1).floats(len);
    for dtype in [DType::Bf16, DType::F16] {
        let mut device = Device::new(1);
        let from = device.upload("x", &x);
        let half = device.empty("half", len * 2);
        let back = device.empty("back", len * 4);
        device.run([
            cast((from, DType::F32), (half, dtype), len).unwrap(),
            cast((half, dtype), (back, DType::F32), len).unwrap(),
        ]);
        let expected = narrow(&x, dtype);
        assert_eq!(device.download::<u8>(half), expected);
        assert_eq!(device.download::<f32>(back), widen(&expected, dtype));
    }
}

#[test]
fn casts_round_as_the_cpu_does() {
    for len in [0, 1, 7, 8, 9, 2048, 5001] {
        check(len);
    }
}

/// Numbers of this power of two.
pub fn check_scaled(len: usize, exponent: i32) {
    let power = 2f32.powi(exponent);
    let mut x: Vec<f32> = Random(len as u64)
        .floats(len)
        .iter()
        .map(|x| x * power)
        .collect();
    let bad = (len > 20).then_some([(3, f32::NAN), (17, f32::NEG_INFINITY)]);
    bad.into_iter()
        .flatten()
        .for_each(|(at, value)| x[at] = value);
    let mut device = Device::new(2);
    let from = device.upload("x", &x);
    let (half, back) = (device.empty("half", len * 2), device.empty("back", len * 4));
    let (top, inverse) = (device.upload("top", &[0u32]), device.empty("inverse", 4));
    device.run([
        largest(from, len, top),
        narrow_scaled(from, half, len, [top, inverse]),
        widen_scaled(half, back, len, inverse),
    ]);
    let most = x
        .iter()
        .filter(|x| x.is_finite())
        .fold(0f32, |most, x| most.max(x.abs()));
    let halves = widen(&device.download::<u8>(half), DType::F16);
    let finite = halves.iter().filter(|half| half.is_finite());
    let largest = finite.fold(0f32, |most, x| most.max(x.abs()));
    let subnormal = most < f32::MIN_POSITIVE;
    assert!(
        subnormal || (16384.0..=32768.0).contains(&largest),
        "{len}: {largest}"
    );
    for (was, is) in x.iter().zip(device.download::<f32>(back)) {
        let bound = (was.abs() * 2f32.powi(-11)).max(most * 2f32.powi(-39));
        let same = if was.is_finite() {
            (was - is).abs() <= bound
        } else {
            is.is_nan() || is == *was
        };
        assert!(same, "{was} became {is}");
    }
}

/// As messages between CPUs are: the largest number comes to half of what binary16 holds, whatever it was.
#[test]
fn scaled_halves_keep_their_precision_and_tell_what_is_no_number() {
    for (len, exponent) in [
        (1, 0),
        (9, -60),
        (700, -3),
        (5001, 40),
        (33, 126),
        (40, -126),
    ] {
        check_scaled(len, exponent);
    }
}

#[test]
fn casts_between_half_types_are_refused() {
    let mut device = Device::new(0);
    let x = device.empty("x", 16);
    let error = cast((x, DType::Bf16), (x, DType::F16), 8).unwrap_err();
    assert!(
        error.to_string().contains("holds f16, expected f32"),
        "{error}"
    );
}

//! Messages of float32 that travel in half the bytes.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::wire::{Words, corrupt, put};
use crate::{comm::Message, config::Payload, model::ModelError};

/// The exponent of the largest number of a scaled message: half of what binary16 can hold.
const TOP_EXPONENT: i32 = 14;

/// Rounds a message of float32, to nearest, ties to even.
pub(super) fn narrow(mut message: Message, payload: Payload) -> Message {
    if payload == Payload::Fp32 {
        return message;
    }
    let mut values = floats(&message);
    message.clear();
    if payload == Payload::Bf16 {
        let mut halves = vec![bf16::ZERO; values.len()];
        halves.convert_from_f32_slice(&values);
        put(&mut message, &halves);
        return message;
    }
    let exponent = top_exponent(&values);
    let scale = 2f32.powi(TOP_EXPONENT - exponent);
    values.iter_mut().for_each(|value| *value *= scale);
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(&values);
    put(&mut message, &[2f32.powi(exponent - TOP_EXPONENT)]);
    put(&mut message, &halves);
    message
}

/// The message of `rank` as float32 again.
pub(super) fn widen(
    rank: usize,
    mut message: Message,
    payload: Payload,
) -> Result<Message, ModelError> {
    let values = match payload {
        Payload::Fp32 => return Ok(message),
        Payload::Bf16 => Words::<bf16>::new(rank, &message)?.rest().to_f32_vec(),
        Payload::Fp16 => {
            let split = message.split_at_checked(size_of::<f32>());
            let problem = || format!("{} bytes hold no scale", message.len());
            let (scale, halves) = split.ok_or_else(|| corrupt(rank, problem()))?;
            let scale: f32 = bytemuck::pod_read_unaligned(scale);
            let mut values = Words::<f16>::new(rank, halves)?.rest().to_f32_vec();
            values.iter_mut().for_each(|value| *value *= scale);
            values
        }
    };
    message.clear();
    put(&mut message, &values);
    Ok(message)
}

/// The numbers of a message, which may begin anywhere.
fn floats(message: &[u8]) -> Vec<f32> {
    let words = message.as_chunks().0.iter();
    words.map(|&word| f32::from_ne_bytes(word)).collect()
}

/// The exponent of the largest finite number, as far as both its powers of two are normal numbers; that of 1 where
/// all are 0 or none is finite.
fn top_exponent(values: &[f32]) -> i32 {
    let finite = values.iter().map(|value| value.abs());
    let top = finite.filter(|value| value.is_finite()).fold(0.0, f32::max);
    match top {
        0.0 => 0,
        top => ((top.to_bits() >> 23) as i32 - 127).max(TOP_EXPONENT - 126),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn travel(values: &[f32], payload: Payload) -> Vec<f32> {
        let mut message = Message::default();
        put(&mut message, values);
        let narrowed = narrow(message, payload);
        let header = if payload == Payload::Fp16 { 4 } else { 0 };
        assert_eq!(narrowed.len(), header + values.len() * payload.bytes());
        floats(&widen(3, narrowed, payload).unwrap())
    }

    proptest! {
        #[test]
        fn numbers_keep_their_precision(
            values in prop::collection::vec(-1f32..1.0, 0..40), exponent in -60i32..60,
        ) {
            let values: Vec<f32> = values.iter().map(|v| v * 2f32.powi(exponent)).collect();
            prop_assert_eq!(&travel(&values, Payload::Fp32), &values);
            let top = values.iter().fold(0f32, |top, v| top.max(v.abs()));
            for (payload, of_own, of_top) in [
                // Half a unit in the last place.
                (Payload::Bf16, 2f32.powi(-8), 0.0),
                // Small numbers of a message are as exact as subnormal ones can be.
                (Payload::Fp16, 2f32.powi(-11), 2f32.powi(-14 - 25)),
            ] {
                for (was, is) in values.iter().zip(travel(&values, payload)) {
                    let bound = (was.abs() * of_own).max(top * of_top);
                    prop_assert!((was - is).abs() <= bound, "{payload}: {was} became {is}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_so_and_spoils_no_other() {
        for payload in [Payload::Bf16, Payload::Fp16] {
            let [nan, infinite, small] = travel(&[f32::NAN, f32::NEG_INFINITY, 1e-3], payload)[..]
            else {
                panic!("three numbers");
            };
            assert!(nan.is_nan() && infinite == f32::NEG_INFINITY, "{payload}");
            assert!((small - 1e-3).abs() < 4e-6, "{payload}: {small}");
        }
        // The largest itself is rounded up, to infinity, as by bfloat16.
        let extremes = [f32::MAX / 2.0, -f32::MAX / 2.0];
        let [top, bottom] = travel(&extremes, Payload::Fp16)[..] else {
            panic!("two numbers");
        };
        assert!(
            top.is_finite() && top > 1.69e38 && bottom == -top,
            "{top} {bottom}"
        );
        assert_eq!(travel(&[1e-45], Payload::Fp16)[0], 1e-45);
        assert_eq!(travel(&[0.0, -0.0], Payload::Fp16), [0.0, 0.0]);
    }

    #[test]
    fn other_lengths_are_refused() {
        for (payload, bytes) in [(Payload::Bf16, 3), (Payload::Fp16, 2), (Payload::Fp16, 7)] {
            let error = widen(3, vec![0; bytes].into(), payload).unwrap_err();
            assert!(format!("{error:?}").contains("rank: 3"), "{error:?}");
        }
    }
}

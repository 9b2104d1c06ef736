use streamrec_kernels::cuda::Address;
use streamrec_kernels::cuda::linear::{
    BiasGradient, MaskAndSum, finish, mask_and_sum, partial_len,
};
use streamrec_kernels::linear::{self, Activation, LinearBackward};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef};

use crate::device::{Device, SEEDS};
use crate::values::{FLOATS, Random, assert_close, epsilon};

/// The last ones are several panels of a batch, and several blocks of columns.
const SHAPES: [[usize; 2]; 5] = [[1, 1], [70, 3], [129, 40], [200, 300], [17, 1000]];

/// Types of the bias and of the result.
pub const TYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::F16, DType::F16),
    (DType::Bf16, DType::F32),
    (DType::F16, DType::F32),
];

/// `index` chooses the numbers, the padding and the order of threads.
pub fn check_finish(
    shape: [usize; 2],
    (bias_type, out_type): (DType, DType),
    (activation, with_bias): (Activation, bool),
    index: usize,
) {
    let context = Context::cpu(1, false).unwrap();
    let (mut random, pad) = (Random(index as u64), [0, 3, 8][index % 3]);
    let sums = random.floats(shape[0] * shape[1]);
    let bias = random.floats_of(shape[1], bias_type);
    let mut device = Device::new(SEEDS[index % 3]);
    let own = device.matrix("sums", &sums, DType::F32, shape, shape[1] + pad);
    let empty = vec![f32::NAN; sums.len()];
    let y = device.matrix("y", &empty, out_type, shape, shape[1] + pad);
    let place = match with_bias {
        true => {
            let width = shape[1];
            device
                .matrix("bias", &bias, bias_type, [1, width], width)
                .address
        }
        false => Address::NULL,
    };
    device.run([finish(&own, (place, bias_type), activation, &y).unwrap()]);
    let mut expected = vec![0.0; sums.len()];
    let bias = with_bias.then(|| TensorRef::from_f32(&bias, &[shape[1]]));
    let (sums, to) = (
        TensorRef::from_f32(&sums, &shape),
        TensorMut::from_f32(&mut expected, &shape),
    );
    linear::finish(&context, sums, bias, activation, to).unwrap();
    assert_close("y", &device.elements(&y), &expected, epsilon(out_type));
}

#[test]
fn bias_and_activation_are_the_cpus() {
    for types in TYPES {
        for (index, shape) in SHAPES.into_iter().enumerate() {
            for how in [
                (Activation::Relu, true),
                (Activation::None, true),
                (Activation::Relu, false),
            ] {
                check_finish(shape, types, how, index);
            }
        }
    }
}

/// The gradient before the activation, and that of the bias, which held `before`.
fn on_cpu(
    shape: [usize; 2],
    y: &[f32],
    dy: &[f32],
    relu: bool,
    before: Option<&[f32]>,
) -> [Vec<f32>; 2] {
    let context = Context::cpu(1, false).unwrap();
    let (mut dz, mut db) = (
        dy.to_vec(),
        before.map_or_else(|| vec![0.0; shape[1]], <[f32]>::to_vec),
    );
    let (x, w) = (vec![0.0; shape[0]], vec![0.0; shape[1]]);
    let mut dw = vec![0.0; shape[1]];
    let operands = LinearBackward {
        x: TensorRef::from_f32(&x, &[shape[0], 1]),
        w: TensorRef::from_f32(&w, &[shape[1], 1]),
        y: TensorRef::from_f32(y, &shape),
        activation: if relu {
            Activation::Relu
        } else {
            Activation::None
        },
        dy: TensorMut::from_f32(&mut dz, &shape),
        dw: TensorMut::from_f32(&mut dw, &[shape[1], 1]),
        db: Some(TensorMut::from_f32(&mut db, &[shape[1]])),
        accumulate_weights: before.is_some(),
        dx: None,
        accumulate_dx: false,
        x_activation: Activation::None,
    };
    linear::backward(&context, operands).unwrap();
    [dz, db]
}

/// `index` as for `check_finish`.
pub fn check_gradients(
    shape: [usize; 2],
    dtype: DType,
    [relu, accumulate]: [bool; 2],
    index: usize,
) {
    let (mut random, pad) = (Random(index as u64), [0, 3, 8][index % 3]);
    let len = shape[0] * shape[1];
    let y: Vec<f32> = random
        .floats_of(len, dtype)
        .iter()
        .map(|y| y.max(0.0))
        .collect();
    let dy = random.floats_of(len, dtype);
    let before = random.floats(shape[1]);
    let run = |seed: u64| {
        let mut device = Device::new(seed);
        let own = device.matrix("y", &y, dtype, shape, shape[1] + pad);
        let d = device.matrix("dy", &dy, dtype, shape, shape[1] + pad);
        let db = match accumulate {
            true => device.upload("db", &before),
            false => device.empty("db", 4 * shape[1]),
        };
        let partial = device.empty("partial", 4 * partial_len(shape));
        let operands = MaskAndSum {
            y: relu.then_some(own),
            dy: d,
            bias: Some(BiasGradient {
                db,
                accumulate,
                partial,
            }),
        };
        device.run(mask_and_sum(&operands).unwrap());
        [device.elements(&d), device.download(db)]
    };
    let got = run(0);
    assert_eq!(run(77), got, "another order of threads");
    let kept = accumulate.then_some(before.as_slice());
    let [dz, db] = on_cpu(shape, &y, &dy, relu, kept);
    assert_eq!(got[0], dz);
    assert_close("db", &got[1], &db, 4e-6);
}

#[test]
fn gradients_of_relu_and_bias_are_the_cpus() {
    for dtype in FLOATS {
        for (index, shape) in SHAPES.into_iter().enumerate() {
            for how in [[true, false], [false, true], [true, true], [false, false]] {
                check_gradients(shape, dtype, how, index);
            }
        }
    }
}

#[test]
fn a_value_that_is_not_a_number_lets_its_gradient_pass() {
    let mut device = Device::new(0);
    let shape = [1, 3];
    let y = device.matrix("y", &[f32::NAN, 0.0, 2.0], DType::F32, shape, 3);
    let dy = device.matrix("dy", &[1.0, 2.0, 3.0], DType::F32, shape, 3);
    let operands = MaskAndSum {
        y: Some(y),
        dy,
        bias: None,
    };
    device.run(mask_and_sum(&operands).unwrap());
    assert_eq!(device.elements(&dy), [1.0, 0.0, 3.0]);
    assert!(
        mask_and_sum(&MaskAndSum {
            y: None,
            ..operands
        })
        .unwrap()
        .is_empty()
    );
}

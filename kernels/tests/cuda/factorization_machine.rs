use streamrec_kernels::cuda::factorization_machine::{backward, forward};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef, factorization_machine};

use crate::device::{Device, SEEDS};
use crate::values::{Random, assert_close, epsilon};

/// Types of vectors and of the sum.
pub const TYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::F16, DType::F16),
    (DType::Bf16, DType::F32),
    (DType::F16, DType::F32),
];

pub fn check([batch, features, dim]: [usize; 3], types: (DType, DType), pad: usize, seed: u64) {
    let mut random = Random((batch + 100 * features + 10_000 * dim) as u64);
    let (wide, narrow) = ([batch, features * dim], [batch, 1]);
    let x = random.floats_of(batch * features * dim, types.0);
    let before = random.floats_of(x.len(), types.0);
    let dy = random.floats_of(batch, types.1);

    let mut device = Device::new(seed);
    let x_on = device.matrix("x", &x, types.0, wide, wide[1] + pad);
    let dy_on = device.matrix("dy", &dy, types.1, narrow, 1 + pad);
    let y_on = device.matrix("y", &vec![f32::NAN; batch], types.1, narrow, 1 + pad);
    let empty = vec![f32::NAN; x.len()];
    let [dx_on, sum_on] =
        [&empty, &before].map(|values| device.matrix("dx", values, types.0, wide, wide[1] + pad));
    device.run([
        forward(&x_on, features, dim, &y_on).unwrap(),
        backward(&x_on, features, dim, &dy_on, &dx_on, false).unwrap(),
        backward(&x_on, features, dim, &dy_on, &sum_on, true).unwrap(),
    ]);

    let context = Context::cpu(1, false).unwrap();
    let view = TensorRef::from_f32(&x, &wide);
    let mut y = vec![0.0; batch];
    let to = TensorMut::from_f32(&mut y, &narrow);
    factorization_machine::forward(&context, view, features, dim, to).unwrap();
    let tolerance = |dtype| epsilon(dtype).max(4e-6);
    assert_close("y", &device.elements(&y_on), &y, tolerance(types.1));
    for (accumulate, matrix) in [(false, dx_on), (true, sum_on)] {
        let mut dx = before.clone();
        let (dy, to) = (
            TensorRef::from_f32(&dy, &narrow),
            TensorMut::from_f32(&mut dx, &wide),
        );
        factorization_machine::backward(&context, view, features, dim, dy, to, accumulate).unwrap();
        assert_close("dx", &device.elements(&matrix), &dx, tolerance(types.0));
    }
}

#[test]
fn the_second_order_term_and_its_gradient_are_the_cpus() {
    for types in TYPES {
        for (index, shape) in [[1, 1, 1], [40, 3, 5], [7, 27, 16], [2, 4, 300], [33, 5, 64]]
            .into_iter()
            .enumerate()
        {
            for pad in [0, 3, 8] {
                check(shape, types, pad, SEEDS[index % 3]);
            }
        }
    }
}

#[test]
fn a_sum_in_half_precision_of_float32_vectors_is_refused() {
    let mut device = Device::new(0);
    let x = device.matrix("x", &[0.0; 4], DType::F32, [2, 2], 2);
    let y = device.matrix("y", &[0.0; 2], DType::Bf16, [2, 1], 1);
    let error = forward(&x, 1, 2, &y).unwrap_err().to_string();
    assert!(error.contains("y holds bf16, expected f32"), "{error}");
}

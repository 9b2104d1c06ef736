use streamrec_kernels::cuda::add::{
    broadcast, broadcast_backward, copy, copy_mean, repeat, sum_features, sum_halves,
};
use streamrec_kernels::cuda::{Launch, Matrix};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef, add, sum_features as features_of};

use crate::device::{Device, SEEDS};
use crate::values::{Random, assert_close, epsilon};

pub const TYPES: [(DType, DType); 7] = [
    (DType::F32, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::F16, DType::F16),
    (DType::Bf16, DType::F32),
    (DType::F16, DType::F32),
    (DType::F32, DType::Bf16),
    (DType::F32, DType::F16),
];

/// Runs an operation of both devices on random operands of the given shapes.
fn check(
    shapes: [[usize; 2]; 2],
    types: (DType, DType),
    launch: impl Fn(&Matrix, &Matrix, bool) -> Launch,
    on_cpu: impl Fn(&Context, TensorRef<'_>, TensorMut<'_>, bool),
) {
    let [from, to] = shapes;
    let mut random = Random((from[1] + 1000 * to[1]) as u64);
    let x = random.floats_of(from[0] * from[1], types.0);
    let before = random.floats_of(to[0] * to[1], types.1);
    let context = Context::cpu(1, false).unwrap();
    for (index, pad) in [0, 3, 8].into_iter().enumerate() {
        for accumulate in [false, true] {
            let mut device = Device::new(SEEDS[index]);
            let own = device.matrix("x", &x, types.0, from, from[1] + pad);
            let start = match accumulate {
                true => before.clone(),
                false => vec![f32::NAN; before.len()],
            };
            let out = device.matrix("y", &start, types.1, to, to[1] + pad);
            device.run([launch(&own, &out, accumulate)]);
            let mut expected = before.clone();
            let view = TensorMut::from_f32(&mut expected, &to);
            on_cpu(&context, TensorRef::from_f32(&x, &from), view, accumulate);
            let tolerance = epsilon(types.1).max(1e-6);
            assert_close("y", &device.elements(&out), &expected, tolerance);
        }
    }
}

const BATCHES: [usize; 3] = [1, 33, 300];

pub fn check_copies([batch, columns]: [usize; 2], types: (DType, DType)) {
    check(
        [[batch, columns]; 2],
        types,
        |x, y, accumulate| copy(x, y, accumulate).unwrap(),
        |context, x, y, accumulate| match accumulate {
            true => add::accumulate(context, x, y).unwrap(),
            false => add::copy(context, x, y).unwrap(),
        },
    );
}

#[test]
fn copies_and_additions_are_the_cpus() {
    for types in TYPES {
        for (batch, columns) in BATCHES.into_iter().zip([1, 13, 136]) {
            check_copies([batch, columns], types);
        }
    }
}

pub fn check_broadcasts([batch, columns]: [usize; 2], types: (DType, DType)) {
    check(
        [[batch, 1], [batch, columns]],
        types,
        |x, y, accumulate| broadcast(x, y, accumulate).unwrap(),
        |context, x, y, accumulate| add::broadcast(context, x, y, accumulate).unwrap(),
    );
    check(
        [[batch, columns], [batch, 1]],
        types,
        |dy, dx, accumulate| broadcast_backward(dy, dx, accumulate).unwrap(),
        |context, dy, dx, accumulate| {
            add::broadcast_backward(context, dy, dx, accumulate).unwrap();
        },
    );
}

#[test]
fn broadcasts_and_their_gradients_are_the_cpus() {
    for types in TYPES {
        for (batch, columns) in BATCHES.into_iter().zip([70, 1, 9]) {
            check_broadcasts([batch, columns], types);
        }
    }
}

pub fn check_features(batch: usize, [features, dim]: [usize; 2], types: (DType, DType)) {
    check(
        [[batch, features * dim], [batch, dim]],
        types,
        |x, y, accumulate| sum_features(x, features, y, accumulate).unwrap(),
        |context, x, y, accumulate| {
            let before: Vec<f32> = (0..batch)
                .flat_map(|row| y.as_ref().row(row).to_vec())
                .collect();
            let mut y = y;
            features_of::forward(context, x, features, dim, y.reborrow()).unwrap();
            if accumulate {
                add::accumulate(context, TensorRef::from_f32(&before, &[batch, dim]), y).unwrap();
            }
        },
    );
    check(
        [[batch, dim], [batch, features * dim]],
        types,
        |dy, dx, accumulate| repeat(dy, features, dx, accumulate).unwrap(),
        |context, dy, dx, accumulate| {
            features_of::backward(context, features, dim, dy, dx, accumulate).unwrap();
        },
    );
}

#[test]
fn sums_of_features_and_their_gradients_are_the_cpus() {
    for types in TYPES {
        for (batch, shape) in BATCHES.into_iter().zip([[5, 16], [1, 7], [3, 5]]) {
            check_features(batch, shape, types);
        }
    }
}

pub fn check_means([batch, columns]: [usize; 2], types: (DType, DType)) {
    let shape = [batch, columns];
    let mut random = Random(batch as u64);
    let x = random.floats_of(batch * columns, types.0);
    let before = random.floats_of(batch * columns, types.1);
    // Bags of 0 to 4 ids, behind those of another feature.
    let length = |row: usize| row % 5;
    let mut offsets = vec![77i64];
    offsets.extend((0..batch).scan(77, |end, row| {
        *end += length(row) as i64;
        Some(*end)
    }));
    for (accumulate, seed) in [(false, SEEDS[1]), (true, SEEDS[2])] {
        let mut device = Device::new(seed);
        let own = device.matrix("x", &x, types.0, shape, columns + 3);
        let out = device.matrix("y", &before, types.1, shape, columns + 8);
        let lengths = device.upload("offsets", &offsets);
        device.run([copy_mean(&own, &out, lengths, accumulate).unwrap()]);
        let expected = |index: usize| {
            let mean = x[index] / length(index / columns).max(1) as f32;
            mean + if accumulate { before[index] } else { 0.0 }
        };
        let expected: Vec<f32> = (0..x.len()).map(expected).collect();
        let tolerance = epsilon(types.1).max(1e-6);
        assert_close("y", &device.elements(&out), &expected, tolerance);
    }
}

#[test]
fn sums_of_bags_become_their_means() {
    for types in TYPES {
        for (batch, columns) in BATCHES.into_iter().zip([1, 13, 136]) {
            check_means([batch, columns], types);
        }
    }
}

/// 2, 4 or 8 rows.
pub fn check_halves(rows: usize, len: usize) {
    let x = Random(len as u64).floats_of(rows * len, DType::F32);
    let at = |row: usize, index: usize| x[row * len + index];
    let pair = |row, index| at(row, index) + at(row + 1, index);
    let four = |row, index| pair(row, index) + pair(row + 2, index);
    let expected = (0..len).map(|index| match rows {
        2 => pair(0, index),
        4 => four(0, index),
        _ => four(0, index) + four(4, index),
    });
    let expected: Vec<f32> = expected.collect();
    for seed in SEEDS {
        let mut device = Device::new(seed);
        let own = device.matrix("x", &x, DType::F32, [rows, len], len);
        device.run([sum_halves(&own, own.address).unwrap()]);
        let first = Matrix {
            shape: [1, len],
            ..own
        };
        assert_eq!(device.elements(&first), expected);
    }
}

/// The sum may take the place of the first row, and rows need no alignment.
#[test]
fn rows_are_summed_by_halves() {
    for (rows, len) in [(2, 5), (4, 2), (8, 4096), (8, 70)] {
        check_halves(rows, len);
    }
    let mut device = Device::new(0);
    let three = device.matrix("x", &[0.0; 6], DType::F32, [3, 2], 2);
    let error = sum_halves(&three, three.address).unwrap_err().to_string();
    assert!(
        error.contains("x has shape [3, 2], expected [8, 2]"),
        "{error}"
    );
}

#[test]
fn copies_between_half_types_are_refused() {
    let mut device = Device::new(0);
    let x = device.matrix("x", &[0.0; 4], DType::F16, [2, 2], 2);
    let y = device.matrix("y", &[0.0; 4], DType::Bf16, [2, 2], 2);
    let error = copy(&x, &y, false).unwrap_err().to_string();
    assert!(error.contains("y holds bf16, expected f16"), "{error}");
}

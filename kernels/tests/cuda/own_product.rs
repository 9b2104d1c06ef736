//! Our own kernel for products, held against the library's description of them.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::Matrix;
use streamrec_kernels::cuda::linear::multiply;
use streamrec_kernels::cuda::product::{Finish, Product, forward, input_gradient, weight_gradient};

use crate::device::{Device, SEEDS};
use crate::values::{Random, assert_close, epsilon};

/// Batch, inputs and outputs: within a tile, at its edges, of several tiles and slices of the depth; nothing to add up.
const SHAPES: [[usize; 3]; 7] = [
    [1, 1, 1],
    [5, 3, 6],
    [64, 16, 64],
    [65, 17, 66],
    [130, 40, 7],
    [3, 0, 5],
    [200, 70, 1],
];

pub const TYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::F16, DType::F16),
    (DType::Bf16, DType::F32),
    (DType::F16, DType::F32),
];

/// One result of the kernel, and the library's.
fn both(
    device: &mut Device,
    random: &mut Random,
    (out_type, shape, pad): (DType, [usize; 2], usize),
    describe: impl Fn(&Matrix) -> streamrec_kernels::Result<Product>,
) -> [Vec<f32>; 2] {
    let before = random.floats_of(shape[0] * shape[1], out_type);
    let mut place = || device.matrix("out", &before, out_type, shape, shape[1] + pad);
    let [own, librarys] = [place(), place()];
    device.run([multiply(&describe(&own).unwrap()).unwrap()]);
    device.multiply(&describe(&librarys).unwrap());
    [own, librarys].map(|matrix| device.elements(&matrix))
}

/// `index` chooses the numbers, the padding, the order of threads and whether is added to what is there.
pub fn check(
    [batch, inputs, outputs]: [usize; 3],
    (dtype, out_type): (DType, DType),
    index: usize,
) {
    let (mut random, pad) = (Random(index as u64), [0, 3, 8][index % 3]);
    let mut device = Device::new(SEEDS[index % 3]);
    let mut factor = |name: &str, shape: [usize; 2]| {
        let values = random.floats_of(shape[0] * shape[1], dtype);
        device.matrix(name, &values, dtype, shape, shape[1] + pad)
    };
    let x = factor("x", [batch, inputs]);
    let w = factor("w", [outputs, inputs]);
    let dz = factor("dz", [batch, outputs]);
    let y = |y: &Matrix| forward(&x, &w, y, Finish::default());
    let results = [
        both(
            &mut device,
            &mut random,
            (out_type, [batch, outputs], pad),
            y,
        ),
        both(
            &mut device,
            &mut random,
            (out_type, [batch, inputs], pad),
            |dx| input_gradient(&dz, &w, dx, true, None),
        ),
        both(
            &mut device,
            &mut random,
            (out_type, [outputs, inputs], 0),
            |dw| weight_gradient(&dz, &x, dw, index % 2 == 1, None),
        ),
    ];
    for [own, librarys] in results {
        // Sums of up to 200 products, rounded after each; then both to the result's type, to neighbours where the sums
        // lie on either side of the middle.
        let error = 2.0 * epsilon(out_type) + 2e-5;
        assert_close("the product", &own, &librarys, error);
    }
}

#[test]
fn products_of_every_shape_stride_and_type_are_the_librarys() {
    for (index, shape) in SHAPES.into_iter().enumerate() {
        for types in TYPES {
            check(shape, types, index);
        }
    }
}

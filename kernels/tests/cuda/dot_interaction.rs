use streamrec_kernels::cuda::dot_interaction::{Backward, Forward, backward, forward};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef, dot_interaction};

use crate::device::{Device, SEEDS};
use crate::values::{FLOATS, Random, assert_close, epsilon};

struct Case {
    batch: usize,
    features: usize,
    dim: usize,
    dtype: DType,
    x: Vec<f32>,
    dy: Vec<f32>,
    before: Vec<f32>,
}

impl Case {
    fn new([batch, features, dim]: [usize; 3], dtype: DType) -> Self {
        let mut random = Random((batch * features * dim) as u64);
        let columns = dot_interaction::output_columns(features, dim);
        Self {
            x: random.floats_of(batch * features * dim, dtype),
            dy: random.floats_of(batch * columns, dtype),
            before: random.floats_of(batch * features * dim, dtype),
            batch,
            features,
            dim,
            dtype,
        }
    }

    fn shapes(&self) -> [[usize; 2]; 2] {
        let columns = dot_interaction::output_columns(self.features, self.dim);
        [
            [self.batch, self.features * self.dim],
            [self.batch, columns],
        ]
    }

    /// The output, and the gradient without and with what was there; the kernels' names.
    fn on_device(&self, pad: usize, seed: u64) -> ([Vec<f32>; 3], [&'static str; 2]) {
        let mut device = Device::new(seed);
        let [wide, narrow] = self.shapes();
        let dtype = self.dtype;
        let mut matrix = |name: &str, values: &[f32], shape: [usize; 2]| {
            device.matrix(name, values, dtype, shape, shape[1] + pad)
        };
        let (x, dy) = (matrix("x", &self.x, wide), matrix("dy", &self.dy, narrow));
        let y = matrix("y", &vec![f32::NAN; self.dy.len()], narrow);
        let dx = matrix("dx", &vec![f32::NAN; self.x.len()], wide);
        let sum = matrix("sum", &self.before, wide);
        let (features, dim) = (self.features, self.dim);
        let first = forward(&Forward {
            x,
            features,
            dim,
            y,
        });
        let backward = |dx, accumulate| {
            backward(&Backward {
                x,
                features,
                dim,
                dy,
                dx,
                accumulate,
            })
        };
        let launches = [first, backward(dx, false), backward(sum, true)].map(Result::unwrap);
        let names = [0, 1].map(|index| launches[index].kernel.name);
        device.run(launches);
        ([y, dx, sum].map(|matrix| device.elements(&matrix)), names)
    }

    fn on_cpu(&self) -> [Vec<f32>; 3] {
        let context = Context::cpu(1, false).unwrap();
        let [wide, narrow] = self.shapes();
        let (features, dim) = (self.features, self.dim);
        let x = TensorRef::from_f32(&self.x, &wide);
        let mut y = vec![0.0; self.dy.len()];
        let to = TensorMut::from_f32(&mut y, &narrow);
        dot_interaction::forward(&context, x, features, dim, to).unwrap();
        let gradient = |accumulate| {
            let mut dx = self.before.clone();
            let to = TensorMut::from_f32(&mut dx, &wide);
            let dy = TensorRef::from_f32(&self.dy, &narrow);
            dot_interaction::backward(&context, x, features, dim, dy, to, accumulate).unwrap();
            dx
        };
        [y, gradient(false), gradient(true)]
    }

    fn check(&self, pad: usize, seed: u64) -> [&'static str; 2] {
        let (got, names) = self.on_device(pad, seed);
        let tolerance = epsilon(self.dtype).max(2e-6);
        for ((what, got), expected) in ["y", "dx", "dx added"].iter().zip(&got).zip(&self.on_cpu())
        {
            assert_close(what, got, expected, tolerance);
        }
        names
    }
}

pub fn check(shape: [usize; 3], dtype: DType, pad: usize, seed: u64) {
    Case::new(shape, dtype).check(pad, seed);
}

/// The last is the shape of DLRM on Criteo; the others end inside tiles and vectors, and fill several warps.
const SHAPES: [[usize; 3]; 7] = [
    [1, 1, 1],
    [9, 2, 8],
    [5, 4, 3],
    [3, 17, 24],
    [2, 33, 16],
    [11, 16, 40],
    [2, 27, 128],
];

#[test]
fn products_and_gradients_are_the_cpus() {
    for dtype in FLOATS {
        for (index, shape) in SHAPES.into_iter().enumerate() {
            for pad in [0, 3, 8] {
                let names = Case::new(shape, dtype).check(pad, SEEDS[index % 3]);
                assert!(
                    names
                        .iter()
                        .all(|name| name.contains("tiles") == dtype.is_half())
                );
            }
        }
    }
}

#[test]
fn samples_beyond_shared_memory_are_read_from_where_they_lie() {
    for dtype in [DType::Bf16, DType::F16] {
        let names = Case::new([1, 49, 1030], dtype).check(2, 0);
        assert!(
            names.iter().all(|name| !name.contains("tiles")),
            "{names:?}"
        );
        // Between 48 and 96 KiB a block is one warp.
        let names = Case::new([2, 60, 256], dtype).check(0, 2);
        assert!(names.iter().all(|name| name.contains("tiles")), "{names:?}");
    }
}

#[test]
fn every_order_of_threads_gives_the_same_bits() {
    for dtype in FLOATS {
        let case = Case::new([13, 19, 20], dtype);
        let first = case.on_device(0, SEEDS[0]);
        assert!(SEEDS.iter().all(|&seed| case.on_device(0, seed) == first));
    }
}

#[test]
fn samples_without_vectors_and_other_shapes_are_refused() {
    let mut device = Device::new(0);
    let x = device.matrix("x", &[0.0; 12], DType::F32, [2, 6], 6);
    let y = device.matrix("y", &[0.0; 10], DType::F32, [2, 5], 5);
    let of = |features, dim| {
        forward(&Forward {
            x,
            features,
            dim,
            y,
        })
        .unwrap_err()
        .to_string()
    };
    let error = of(0, 6);
    assert!(
        error.contains("x has shape [2, 0, 6], expected [2, 1, 6]"),
        "{error}"
    );
    let error = of(2, 3);
    assert!(
        error.contains("y has shape [2, 5], expected [2, 4]"),
        "{error}"
    );
}

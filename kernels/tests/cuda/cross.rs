use streamrec_kernels::cuda::cross::{Backward, combine_backward, combine_forward};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef, cross};

use crate::device::{Device, SEEDS};
use crate::values::{FLOATS, Random, assert_close, epsilon};

struct Case {
    shape: [usize; 2],
    dtype: DType,
    x0: Vec<f32>,
    projection: Vec<f32>,
    x: Vec<f32>,
    dy: Vec<f32>,
    before: Vec<f32>,
    /// Whether `dx0`, `dx` are added to.
    accumulate: [bool; 2],
}

impl Case {
    fn new(shape: [usize; 2], dtype: DType, accumulate: [bool; 2]) -> Self {
        let mut random = Random(shape[1] as u64);
        let mut floats = || random.floats_of(shape[0] * shape[1], dtype);
        Self {
            x0: floats(),
            projection: floats(),
            x: floats(),
            dy: floats(),
            before: floats(),
            shape,
            dtype,
            accumulate,
        }
    }

    /// `y`, and the gradients of the projection, of `x0` and of `x`.
    fn on_device(&self, pad: usize, seed: u64) -> [Vec<f32>; 4] {
        let mut device = Device::new(seed);
        let (shape, dtype) = (self.shape, self.dtype);
        let mut of =
            |name: &str, values: &[f32]| device.matrix(name, values, dtype, shape, shape[1] + pad);
        let empty = vec![f32::NAN; shape[0] * shape[1]];
        let [y, d_projection] = ["y", "d_projection"].map(|name| of(name, &empty));
        let kept = |add: bool| if add { &self.before } else { &empty };
        let (x, x0) = (of("x", &self.x), of("x0", &self.x0));
        let operands = Backward {
            x0,
            projection: of("projection", &self.projection),
            dy: of("dy", &self.dy),
            d_projection,
            dx0: of("dx0", kept(self.accumulate[0])),
            accumulate_dx0: self.accumulate[0],
            dx: of("dx", kept(self.accumulate[1])),
            accumulate_dx: self.accumulate[1],
        };
        device.run([
            combine_forward(&x0, &operands.projection, &x, &y).unwrap(),
            combine_backward(&operands).unwrap(),
        ]);
        [y, d_projection, operands.dx0, operands.dx].map(|matrix| device.elements(&matrix))
    }

    fn on_cpu(&self) -> [Vec<f32>; 4] {
        let context = Context::cpu(1, false).unwrap();
        let shape = self.shape;
        let [x0, projection, x, dy] = [&self.x0, &self.projection, &self.x, &self.dy]
            .map(|values| TensorRef::from_f32(values, &shape));
        let mut out = [(); 4].map(|()| self.before.clone());
        let [y, d_projection, dx0, dx] = out
            .each_mut()
            .map(|values| TensorMut::from_f32(values, &shape));
        cross::combine_forward(&context, x0, projection, x, y).unwrap();
        let [add0, add] = self.accumulate;
        cross::combine_backward(
            &context,
            x0,
            projection,
            dy,
            d_projection,
            dx0,
            add0,
            dx,
            add,
        )
        .unwrap();
        out
    }
}

pub fn check(shape: [usize; 2], dtype: DType, accumulate: [bool; 2], pad: usize, seed: u64) {
    let case = Case::new(shape, dtype, accumulate);
    let (got, expected) = (case.on_device(pad, seed), case.on_cpu());
    let names = ["y", "d_projection", "dx0", "dx"];
    for ((name, got), expected) in names.iter().zip(&got).zip(&expected) {
        assert_close(name, got, expected, epsilon(dtype).max(2e-7));
    }
}

#[test]
fn a_cross_layer_is_the_cpus() {
    for dtype in FLOATS {
        for (index, shape) in [[1, 1], [3, 17], [70, 40], [2, 2100]]
            .into_iter()
            .enumerate()
        {
            for accumulate in [[false, false], [true, false], [false, true], [true, true]] {
                for pad in [0, 3, 8] {
                    check(shape, dtype, accumulate, pad, SEEDS[index % 3]);
                }
            }
        }
    }
}

#[test]
fn operands_of_several_types_are_refused() {
    let mut device = Device::new(0);
    let x = device.matrix("x", &[0.0; 4], DType::F32, [2, 2], 2);
    let half = device.matrix("half", &[0.0; 4], DType::Bf16, [2, 2], 2);
    let error = combine_forward(&x, &half, &x, &x).unwrap_err().to_string();
    assert!(
        error.contains("projection holds bf16, expected f32"),
        "{error}"
    );
}

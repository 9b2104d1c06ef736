//! Products: how they are described to cuBLASLt, done on a CPU as its manual tells or on a GPU by the library, held
//! against linear layers.

use crate::device::Device;
use streamrec_kernels::cuda::product::{
    Finish, Mask, Vector, forward, input_gradient, weight_gradient,
};
use streamrec_kernels::cuda::{Address, Matrix};
use streamrec_kernels::linear::{self, Activation, LinearBackward};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef};

use crate::values::{FLOATS, Random, assert_close, epsilon};

/// Two linear layers, of which the first has a ReLU.
struct Layers {
    batch: usize,
    /// Inputs, inner columns, outputs.
    widths: [usize; 3],
    dtype: DType,
    x: Vec<f32>,
    w: [Vec<f32>; 2],
    bias: [Vec<f32>; 2],
    dy: Vec<f32>,
    before: Vec<f32>,
}

/// Outputs of both layers, gradients of weights and biases of both, the gradient of the input.
type Results = [Vec<f32>; 7];

impl Layers {
    fn new(batch: usize, widths: [usize; 3], dtype: DType) -> Self {
        let mut random = Random((batch + widths[1]) as u64);
        let [inputs, inner, outputs] = widths;
        let mut floats = |len| random.floats_of(len, dtype);
        Self {
            x: floats(batch * inputs),
            w: [floats(inner * inputs), floats(outputs * inner)],
            bias: [floats(inner), floats(outputs)],
            dy: floats(batch * outputs),
            before: floats(batch * inputs),
            batch,
            widths,
            dtype,
        }
    }

    fn on_device(&self, pad: usize) -> Results {
        let mut device = Device::new(0);
        let (dtype, [inputs, inner, outputs]) = (self.dtype, self.widths);
        let mut of = |name: &str, values: &[f32], columns: usize, dtype: DType, pad: usize| {
            let shape = [values.len() / columns, columns];
            device.matrix(name, values, dtype, shape, columns + pad)
        };
        let empty = |len: usize| vec![f32::NAN; len];
        let x = of("x", &self.x, inputs, dtype, pad);
        let w = [(0, inputs), (1, inner)]
            .map(|(layer, columns)| of("w", &self.w[layer], columns, dtype, 0));
        let bias =
            [0, 1].map(|layer| of("bias", &self.bias[layer], self.widths[layer + 1], dtype, 0));
        let y =
            [inner, outputs].map(|width| of("y", &empty(self.batch * width), width, dtype, pad));
        let dy = of("dy", &self.dy, outputs, dtype, pad);
        let d_inner = of("d_inner", &empty(self.batch * inner), inner, dtype, pad);
        let dx = of("dx", &self.before, inputs, dtype, pad);
        let dw = [0, 1].map(|layer| {
            let len = self.w[layer].len();
            of("dw", &empty(len), self.widths[layer], DType::F32, 0)
        });
        let db = [inner, outputs].map(|width| of("db", &empty(width), width, DType::F32, 0));
        let bytes = Mask::bytes([self.batch, inner]);
        let mask = Mask::new(device.empty("mask", bytes), inner);
        let vector = |matrix: &Matrix| Vector {
            address: matrix.address,
            dtype: matrix.dtype,
            len: matrix.shape[1],
        };
        let finish = |layer: usize| Finish {
            bias: Some(vector(&bias[layer])),
            relu: (layer == 0).then_some(mask),
        };
        for product in [
            forward(&x, &w[0], &y[0], finish(0)),
            forward(&y[0], &w[1], &y[1], finish(1)),
            weight_gradient(&dy, &y[0], &dw[1], false, Some(vector(&db[1]))),
            input_gradient(
                &dy,
                &w[1],
                &d_inner,
                false,
                Some((mask, Some(vector(&db[0])))),
            ),
            weight_gradient(&d_inner, &x, &dw[0], false, None),
            input_gradient(&d_inner, &w[0], &dx, true, None),
        ] {
            device.multiply(&product.unwrap());
        }
        [y[0], y[1], dw[0], dw[1], db[0], db[1], dx].map(|matrix| device.elements(&matrix))
    }

    fn on_cpu(&self) -> Results {
        let context = Context::cpu(1, false).unwrap();
        let [inputs, inner, outputs] = self.widths;
        let shapes = [[self.batch, inner], [self.batch, outputs]];
        let w = [
            TensorRef::from_f32(&self.w[0], &[inner, inputs]),
            TensorRef::from_f32(&self.w[1], &[outputs, inner]),
        ];
        let activations = [Activation::Relu, Activation::None];
        let mut y = shapes.map(|[rows, columns]| vec![0.0; rows * columns]);
        let [first, second] = &mut y;
        let x = TensorRef::from_f32(&self.x, &[self.batch, inputs]);
        for layer in 0..2 {
            let bias = TensorRef::from_f32(&self.bias[layer], &[self.widths[layer + 1]]);
            let (from, to) = match layer {
                0 => (x, TensorMut::from_f32(first, &shapes[0])),
                _ => (
                    TensorRef::from_f32(first, &shapes[0]),
                    TensorMut::from_f32(second, &shapes[1]),
                ),
            };
            linear::forward(&context, from, w[layer], Some(bias), activations[layer], to).unwrap();
        }
        let mut dw = self.w.each_ref().map(|w| vec![0.0; w.len()]);
        let mut db = self.bias.each_ref().map(|bias| vec![0.0; bias.len()]);
        let (mut dy, mut d_inner) = (self.dy.clone(), vec![0.0; self.batch * inner]);
        let mut dx = self.before.clone();
        for layer in [1, 0] {
            let [rows, columns] = [self.widths[layer + 1], self.widths[layer]];
            let (from, d, to, accumulate_dx) = match layer {
                1 => (
                    TensorRef::from_f32(&y[0], &shapes[0]),
                    &mut dy,
                    &mut d_inner,
                    false,
                ),
                _ => (x, &mut d_inner, &mut dx, true),
            };
            let operands = LinearBackward {
                x: from,
                w: w[layer],
                y: TensorRef::from_f32(&y[layer], &shapes[layer]),
                activation: activations[layer],
                dy: TensorMut::from_f32(d, &shapes[layer]),
                dw: TensorMut::from_f32(&mut dw[layer], &[rows, columns]),
                db: Some(TensorMut::from_f32(&mut db[layer], &[rows])),
                accumulate_weights: false,
                dx: Some(TensorMut::from_f32(to, &[self.batch, columns])),
                accumulate_dx,
                x_activation: Activation::None,
            };
            linear::backward(&context, operands).unwrap();
        }
        let ([y0, y1], [dw0, dw1], [db0, db1]) = (y, dw, db);
        [y0, y1, dw0, dw1, db0, db1, dx]
    }
}

#[test]
fn products_with_their_epilogues_are_linear_layers() {
    let names = [
        "y of the first",
        "y",
        "dw of the first",
        "dw",
        "db of the first",
        "db",
        "dx",
    ];
    for dtype in FLOATS {
        for (batch, widths) in [(1, [1, 1, 1]), (7, [5, 3, 2]), (20, [13, 130, 4])] {
            let layers = Layers::new(batch, widths, dtype);
            for pad in [0, 3] {
                let got = layers.on_device(pad);
                for ((name, got), expected) in names.iter().zip(&got).zip(&layers.on_cpu()) {
                    assert_close(name, got, expected, (4.0 * epsilon(dtype)).max(4e-6));
                }
            }
        }
    }
}

#[test]
fn shapes_and_types_that_do_not_fit_are_refused() {
    let at = Address(256);
    let of = |dtype, shape| Matrix::new(at, dtype, shape);
    let (x, w) = (of(DType::Bf16, [4, 3]), of(DType::Bf16, [2, 3]));
    let y = of(DType::F32, [4, 2]);
    let finish = Finish::default();
    assert!(forward(&x, &w, &y, finish).is_ok());
    let error = forward(&x, &w, &of(DType::F16, [4, 2]), finish).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the result holds f16, expected bf16"),
        "{error}"
    );
    let error = forward(&x, &of(DType::F32, [2, 3]), &y, finish).unwrap_err();
    assert!(
        error.to_string().contains("the second factor holds"),
        "{error}"
    );
    let error = forward(&x, &of(DType::Bf16, [2, 5]), &y, finish).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("w has shape [2, 5], expected [2, 3]"),
        "{error}"
    );
    let bias = Vector {
        address: at,
        dtype: DType::F32,
        len: 3,
    };
    let error = forward(
        &x,
        &w,
        &y,
        Finish {
            bias: Some(bias),
            relu: None,
        },
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("bias has shape [3], expected [2]"),
        "{error}"
    );
    let mask = Mask::new(at, 2);
    let error = forward(
        &x,
        &w,
        &y,
        Finish {
            bias: None,
            relu: Some(mask),
        },
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("bias has shape [0], expected [2]"),
        "{error}"
    );
}

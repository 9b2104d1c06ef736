//! Random operands, strided views of them, and the three oracles.

use candle_core::{Device, Tensor, Var};
use streamrec_kernels::{Context, TensorMut, TensorRef};

pub use crate::random::Random;

/// A context of two threads: panels really run side by side.
pub fn context() -> Context {
    Context::cpu(2, false).unwrap()
}

/// A matrix inside a wider buffer whose other elements nobody may read (they are NaN) or change.
#[derive(Clone)]
pub struct Strided {
    buffer: Vec<f32>,
    shape: [usize; 2],
}

impl Strided {
    const LEFT: usize = 3;
    const RIGHT: usize = 2;

    pub fn new(elements: &[f32], shape: [usize; 2]) -> Self {
        let [rows, columns] = shape;
        assert_eq!(elements.len(), rows * columns);
        let stride = columns + Self::LEFT + Self::RIGHT;
        let mut buffer = vec![f32::NAN; rows * stride];
        for row in 0..rows {
            buffer[row * stride + Self::LEFT..][..columns]
                .copy_from_slice(&elements[row * columns..][..columns]);
        }
        Self { buffer, shape }
    }

    pub fn zeros(shape: [usize; 2]) -> Self {
        Self::new(&vec![0.0; shape[0] * shape[1]], shape)
    }

    fn stride(&self) -> usize {
        self.shape[1] + Self::LEFT + Self::RIGHT
    }

    pub fn view(&self) -> TensorRef<'_> {
        let [rows, columns] = self.shape;
        TensorRef::from_f32(&self.buffer, &[rows, self.stride()])
            .columns(Self::LEFT..Self::LEFT + columns)
    }

    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let ([rows, columns], stride) = (self.shape, self.stride());
        TensorMut::from_f32(&mut self.buffer, &[rows, stride])
            .columns(Self::LEFT..Self::LEFT + columns)
    }

    /// The elements, after checking that the surroundings are untouched.
    pub fn elements(&self) -> Vec<f32> {
        let [rows, columns] = self.shape;
        for (index, value) in self.buffer.iter().enumerate() {
            let column = index % self.stride();
            let inside = (Self::LEFT..Self::LEFT + columns).contains(&column);
            assert!(
                inside || value.is_nan(),
                "element {index} outside the view was written"
            );
        }
        (0..rows)
            .flat_map(|row| self.view().row(row).to_vec())
            .collect()
    }
}

/// Asserts that float32 results are the float64 ones up to rounding.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1.0f64, |scale, x| scale.max(x.abs()));
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(
            error <= 4e-6 * scale,
            "{what}[{index}]: {got}, expected {expected}"
        );
    }
}

pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// One differentiable operation: its inputs and two independent formulations of it.
pub struct Operation<'a> {
    /// Each input with its shape.
    pub inputs: &'a [(&'a [f32], [usize; 2])],
    /// In plain float64.
    pub reference: &'a dyn Fn(&[Vec<f64>]) -> Vec<f64>,
    /// In candle, differentiable.
    pub candle: &'a dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>,
}

impl Operation<'_> {
    /// Checks an output, and the gradients that belong to the output gradient `dy`.
    #[track_caller]
    pub fn check(&self, y: &[f32], dy: &[f32], gradients: &[&[f32]]) {
        let inputs: Vec<Vec<f64>> = self.inputs.iter().map(|(x, _)| widen(x)).collect();
        assert_close("y against float64", y, &(self.reference)(&inputs));

        let (candle_y, candle_gradients) = self.run_candle(dy);
        assert_close("y against candle", y, &candle_y);
        for (index, (got, expected)) in gradients.iter().zip(&candle_gradients).enumerate() {
            assert_close(&format!("gradient {index} against candle"), got, expected);
            self.check_differences(index, got, &inputs, dy);
        }
    }

    fn run_candle(&self, dy: &[f32]) -> (Vec<f64>, Vec<Vec<f64>>) {
        let variables: Vec<Var> = self
            .inputs
            .iter()
            .map(|(x, [rows, columns])| {
                Var::from_vec(widen(x), (*rows, *columns), &Device::Cpu).unwrap()
            })
            .collect();
        let tensors: Vec<Tensor> = variables
            .iter()
            .map(|var| var.as_tensor().clone())
            .collect();
        let y = (self.candle)(&tensors).unwrap();
        let dy = Tensor::from_vec(widen(dy), y.shape(), &Device::Cpu).unwrap();
        let store = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let gradients = variables
            .iter()
            .map(|var| match store.get(var) {
                Some(gradient) => flat(gradient),
                None => vec![0.0; var.elem_count()],
            })
            .collect();
        (flat(&y), gradients)
    }

    /// Central differences of `sum(dy * y)`, at up to 40 coordinates.
    fn check_differences(&self, input: usize, got: &[f32], inputs: &[Vec<f64>], dy: &[f32]) {
        let step = 1e-5;
        let objective = |inputs: &[Vec<f64>]| -> f64 {
            (self.reference)(inputs)
                .iter()
                .zip(dy)
                .map(|(y, dy)| y * f64::from(*dy))
                .sum()
        };
        let mut inputs = inputs.to_vec();
        for index in (0..got.len()).step_by(got.len().div_ceil(40).max(1)) {
            let x = inputs[input][index];
            inputs[input][index] = x + step;
            let above = objective(&inputs);
            inputs[input][index] = x - step;
            let below = objective(&inputs);
            inputs[input][index] = x;
            let expected = (above - below) / (2.0 * step);
            let error = (f64::from(got[index]) - expected).abs();
            assert!(
                error <= 2e-5 * expected.abs().max(1.0),
                "gradient {input}[{index}]: {}, differences give {expected}",
                got[index]
            );
        }
    }
}

/// What accumulating into a buffer that held `before` must give.
pub fn plus(before: &[f32], gradient: &[f32]) -> Vec<f64> {
    before
        .iter()
        .zip(gradient)
        .map(|(a, b)| f64::from(*a) + f64::from(*b))
        .collect()
}

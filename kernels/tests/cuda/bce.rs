use streamrec_kernels::cuda::bce::{Bce, forward_backward, partial_len};
use streamrec_kernels::cuda::{Matrix, Step};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef, bce};

use crate::device::{Device, SEEDS};
use crate::values::{FLOATS, Random, assert_close, epsilon};

struct Case {
    batch: usize,
    heads: usize,
    dtype: DType,
    logits: Vec<f32>,
    labels: Vec<f32>,
    weights: Vec<f32>,
    head_weights: Vec<f32>,
    weight_sum: f64,
    scale: f32,
}

impl Case {
    fn new(batch: usize, heads: usize, dtype: DType) -> Self {
        let mut random = Random(batch as u64);
        let len = batch * heads;
        let logits = random
            .floats_of(len, dtype)
            .iter()
            .map(|x| 32.0 * x)
            .collect();
        let weights: Vec<f32> = (0..batch).map(|_| random.below(3) as f32).collect();
        Self {
            batch,
            heads,
            dtype,
            logits,
            labels: (0..len).map(|_| random.below(2) as f32).collect(),
            weight_sum: weights.iter().map(|&w| f64::from(w)).sum::<f64>() + 1.5,
            weights,
            head_weights: (1..=heads).map(|head| head as f32 / 2.0).collect(),
            scale: if dtype == DType::F16 { 1024.0 } else { 1.0 },
        }
    }

    /// Loss, gradient, probabilities.
    fn on_device(&self, seed: u64) -> (f64, Vec<f32>, Vec<f32>) {
        let mut device = Device::new(seed);
        let (shape, stride) = ([self.batch, self.heads], self.heads + 3);
        let mut step = Step::new(0.1, 1, [0.9, 0.999]);
        step.inverse_scale = 1.0 / self.scale;
        let empty = vec![f32::NAN; self.batch * self.heads];
        let operands = Bce {
            logits: device.matrix("logits", &self.logits, self.dtype, shape, stride),
            labels: device.matrix("labels", &self.labels, DType::F32, shape, self.heads),
            weights: device.upload("weights", &self.weights),
            head_weights: device.upload("head_weights", &self.head_weights),
            weight_sum: device.upload("weight_sum", &[self.weight_sum]),
            step: device.upload("step", &[step]),
            d_logits: device.matrix("d_logits", &empty, self.dtype, shape, stride),
            probabilities: device.matrix("probabilities", &empty, DType::F32, shape, stride),
            partial: device.empty("partial", 8 * partial_len(self.batch)),
            loss: device.empty("loss", 8),
        };
        device.run(forward_backward(&operands).unwrap());
        let read = |matrix: &Matrix| device.elements(matrix);
        (
            device.download::<f64>(operands.loss)[0],
            read(&operands.d_logits),
            read(&operands.probabilities),
        )
    }

    fn on_cpu(&self) -> (f64, Vec<f32>, Vec<f32>) {
        let context = Context::cpu(1, false).unwrap();
        let shape = [self.batch, self.heads];
        let mut out = [vec![0.0; self.logits.len()], vec![0.0; self.logits.len()]];
        let [gradient, probabilities] = &mut out;
        let loss = bce::forward_backward(
            &context,
            TensorRef::from_f32(&self.logits, &shape),
            TensorRef::from_f32(&self.labels, &shape),
            TensorRef::from_f32(&self.weights, &[self.batch]),
            self.weight_sum,
            &self.head_weights,
            f64::from(self.scale),
            TensorMut::from_f32(gradient, &shape),
            TensorMut::from_f32(probabilities, &shape),
        )
        .unwrap();
        let [gradient, probabilities] = out;
        (loss, gradient, probabilities)
    }
}

pub fn check(batch: usize, heads: usize, dtype: DType) {
    let case = Case::new(batch, heads, dtype);
    let expected = case.on_cpu();
    for seed in SEEDS {
        let got = case.on_device(seed);
        assert!(
            (got.0 - expected.0).abs() <= 1e-12 * expected.0.abs(),
            "loss {} {}",
            got.0,
            expected.0
        );
        assert_close("gradient", &got.1, &expected.1, epsilon(dtype));
        assert_close("probabilities", &got.2, &expected.2, 1e-7);
    }
}

#[test]
fn loss_and_gradient_are_the_cpus() {
    for dtype in FLOATS {
        for (batch, heads) in [(1, 1), (33, 2), (256, 1), (1000, 3)] {
            check(batch, heads, dtype);
        }
    }
}

#[test]
fn a_batch_without_weight_has_no_loss() {
    let mut case = Case::new(40, 1, DType::F32);
    case.weights.fill(0.0);
    case.weight_sum = 0.0;
    let (loss, gradient, _) = case.on_device(0);
    assert_eq!((loss, gradient), (0.0, vec![0.0; 40]));
}

#[test]
fn extreme_logits_stay_finite() {
    let mut case = Case::new(3, 1, DType::F32);
    case.logits = vec![200.0, -200.0, 90.0];
    let (got, expected) = (case.on_device(0), case.on_cpu());
    assert!(got.0.is_finite() && (got.0 - expected.0).abs() <= 1e-12 * expected.0);
    assert_eq!(got.2, expected.2);
}

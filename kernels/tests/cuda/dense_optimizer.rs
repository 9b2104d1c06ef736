use streamrec_kernels::cuda::dense_optimizer::{
    Arenas, DenseRule, Span, Spans, chunks, squares, update,
};
use streamrec_kernels::cuda::{Address, Step};
use streamrec_kernels::dense_optimizer::{self, Adagrad, Adam, Sgd};
use streamrec_kernels::{Context, DType, norm};

use crate::device::{Device, SEEDS};
use crate::values::{FLOATS, Random, assert_close, narrow, widen};

const BETAS: [f32; 2] = [0.9, 0.99];

pub fn rules() -> Vec<DenseRule> {
    let sgd = |momentum, nesterov| {
        DenseRule::Sgd(Sgd {
            learning_rate: 0.0,
            momentum,
            nesterov,
            weight_decay: 0.0,
        })
    };
    let adam = |decoupled| {
        DenseRule::Adam(Adam {
            learning_rate: 0.0,
            beta1: BETAS[0],
            beta2: BETAS[1],
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled,
        })
    };
    let adagrad = DenseRule::Adagrad(Adagrad {
        learning_rate: 0.0,
        eps: 0.0,
        weight_decay: 0.0,
    });
    vec![
        sgd(0.0, false),
        sgd(0.9, false),
        sgd(0.9, true),
        adagrad,
        adam(false),
        adam(true),
    ]
}

fn span(
    [start, gradient, len]: [u64; 3],
    [learning_rate_scale, weight_decay]: [f32; 2],
    shared: u32,
) -> Span {
    Span {
        start,
        gradient,
        len,
        learning_rate_scale,
        weight_decay,
        shared,
        reserved: 0,
    }
}

/// Three spans with gaps, of which the second ends inside a chunk and a vector, and the third is one element.
fn spans() -> Vec<Span> {
    vec![
        span([0, 16, 160], [1.0, 0.0], 0),
        span([176, 192, 9001], [0.5, 0.01], 1),
        span([9187, 9195, 1], [2.0, 0.1], 0),
    ]
}

/// Spans of these lengths, with gaps between them.
pub fn spans_of(lens: &[usize]) -> Vec<Span> {
    let mut start = 0;
    let of = |(index, len): (usize, &usize)| {
        let own = span(
            [start, start + 5, *len as u64],
            [1.0 / (1 + index) as f32, 0.01 * index as f32],
            index as u32 % 2,
        );
        start += *len as u64 + index as u64 % 4;
        own
    };
    lens.iter().enumerate().map(of).collect()
}

pub struct Case {
    spans: Vec<Span>,
    weights: Vec<f32>,
    gradients: Vec<f32>,
    /// Positive: sums of squares.
    states: [Vec<f32>; 2],
    step: Step,
}

impl Case {
    fn new() -> Self {
        let own = Self::of(spans());
        assert_eq!(chunks(&own.spans).len(), 5);
        own
    }

    pub fn of(spans: Vec<Span>) -> Self {
        let mut random = Random(5);
        let mut step = Step::new(0.1, 3, BETAS);
        step.sparse_first_correction = f32::NAN;
        step.sparse_second_correction = f32::NAN;
        let ends = spans.iter().map(|span| span.gradient + span.len);
        let len = ends.max().unwrap_or(0) as usize + 4;
        let mut positive = || random.floats(len).iter().map(|x| x.abs() + 0.01).collect();
        Self {
            states: [positive(), positive()],
            weights: random.floats(len),
            gradients: random.floats(len),
            step,
            spans,
        }
    }

    /// Weights, states and the copy.
    fn on_device(&self, rule: &DenseRule, copy: DType, seed: u64) -> [Vec<f32>; 4] {
        let mut device = Device::new(seed);
        let on_device = spans_on(&mut device, &self.spans);
        let weights = device.upload("weights", &self.weights);
        let states: [Address; 2] = [0, 1].map(|index| match index < rule.states() {
            true => device.upload("state", &self.states[index]),
            false => Address::NULL,
        });
        let copied = match copy {
            DType::F32 => Address::NULL,
            _ => device.upload("copy", &narrow(&self.weights, copy)),
        };
        let arenas = Arenas {
            weights,
            gradients: device.upload("gradients", &self.gradients),
            states,
            copy: (copied, copy),
        };
        let step = device.upload("step", &[self.step]);
        device.run(update(&on_device, &arenas, rule, step).unwrap());
        let state = |index: usize| match index < rule.states() {
            true => device.download(states[index]),
            false => vec![],
        };
        let copy = match copy {
            DType::F32 => vec![],
            _ => widen(&device.download::<u8>(copied), copy),
        };
        [device.download(weights), state(0), state(1), copy]
    }

    /// Weights and states.
    fn on_cpu(&self, rule: &DenseRule) -> [Vec<f32>; 3] {
        let context = Context::cpu(1, false).unwrap();
        let (mut weights, mut states) = (self.weights.clone(), self.states.clone());
        let factor = self.step.inverse_scale * self.step.clip;
        for span in &self.spans {
            let own = span.start as usize..(span.start + span.len) as usize;
            let g: Vec<f32> = self.gradients[span.gradient as usize..][..own.len()]
                .iter()
                .map(|g| g * factor)
                .collect();
            let learning_rate = self.step.learning_rate * span.learning_rate_scale;
            let weight_decay = span.weight_decay;
            let w = &mut weights[own.clone()];
            let [m, s] = states.each_mut().map(|state| &mut state[own.clone()]);
            match *rule {
                DenseRule::Sgd(rule) => {
                    let rule = Sgd {
                        learning_rate,
                        weight_decay,
                        ..rule
                    };
                    dense_optimizer::sgd(&context, &rule, w, &g, m)
                }
                DenseRule::Adagrad(rule) => {
                    let rule = Adagrad {
                        learning_rate,
                        weight_decay,
                        ..rule
                    };
                    dense_optimizer::adagrad(&context, &rule, w, &g, m)
                }
                DenseRule::Adam(rule) => {
                    let rule = Adam {
                        learning_rate,
                        weight_decay,
                        ..rule
                    };
                    dense_optimizer::adam(&context, &rule, self.step.number, w, &g, m, s)
                }
            }
            .unwrap();
        }
        let [first, second] = states;
        [weights, first, second]
    }
}

fn spans_on(device: &mut Device, spans: &[Span]) -> Spans {
    let chunks = chunks(spans);
    Spans {
        spans: device.upload("spans", spans),
        chunks: device.upload("chunks", &chunks),
        chunk_count: chunks.len(),
    }
}

impl Case {
    /// `index` chooses the type of the copy, the scale and the order of threads.
    pub fn check(&mut self, rule: &DenseRule, index: usize) {
        let copy = FLOATS[index];
        self.step.inverse_scale = [1.0, 0.25, 1.0 / 1024.0][index];
        self.step.clip = [1.0, 0.5, 1.0][index];
        let got = self.on_device(rule, copy, SEEDS[index]);
        let expected = self.on_cpu(rule);
        for (state, (got, expected)) in got.iter().zip(&expected).enumerate() {
            if state <= rule.states() {
                assert_close(&format!("{rule:?} {state}"), got, expected, 2e-6);
            }
        }
        if copy.is_half() {
            let expected = widen(&narrow(&got[0], copy), copy);
            assert_eq!(got[3], expected, "the copy is the rounded weights");
        }
    }

    /// The sums of squares of the gradients.
    pub fn check_norm(&self) {
        let context = Context::cpu(1, false).unwrap();
        let mut expected = [0.0; 2];
        for span in &self.spans {
            let own = &self.gradients[span.gradient as usize..][..span.len as usize];
            expected[span.shared as usize] += norm::sum_of_squares(&context, own);
        }
        let got = self.squares(&self.gradients, 0);
        for (got, expected) in got.iter().zip(expected) {
            assert!(
                (got - expected).abs() <= 1e-13 * expected,
                "{got} {expected}"
            );
        }
        let again = |&seed: &u64| self.squares(&self.gradients, seed) == got;
        assert!(SEEDS.iter().all(again));
    }

    fn squares(&self, gradients: &[f32], seed: u64) -> Vec<f64> {
        let mut device = Device::new(seed);
        let spans = spans_on(&mut device, &self.spans);
        let gradients = device.upload("gradients", gradients);
        let partial = device.empty("partial", 16 * spans.chunk_count);
        let out = device.empty("squares", 16);
        device.run(squares(&spans, gradients, partial, out).unwrap());
        device.download(out)
    }
}

#[test]
fn every_rule_is_the_cpus_and_leaves_the_gaps() {
    let mut case = Case::new();
    for rule in rules() {
        for index in 0..FLOATS.len() {
            case.check(&rule, index);
        }
    }
}

#[test]
fn a_skipped_step_changes_nothing() {
    let mut case = Case::new();
    case.step.skip = 1;
    case.gradients.fill(f32::NAN);
    for rule in rules() {
        let [weights, ..] = case.on_device(&rule, DType::Bf16, 0);
        assert_eq!(weights, case.weights);
    }
}

#[test]
fn the_norm_is_the_cpus_in_every_order_of_threads() {
    Case::new().check_norm();
}

#[test]
fn one_gradient_that_is_not_finite_is_seen_and_large_ones_are_not_mistaken_for_it() {
    let case = Case::new();
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        for span in &case.spans {
            let mut gradients = case.gradients.clone();
            gradients[(span.gradient + span.len - 1) as usize] = bad;
            let sums = case.squares(&gradients, 0);
            assert!(
                !sums[span.shared as usize].is_finite()
                    && sums[1 - span.shared as usize].is_finite()
            );
        }
    }
    let largest = vec![f32::MAX; case.gradients.len()];
    let sums = case.squares(&largest, 0);
    assert!(sums.iter().all(|sum| sum.is_finite()));
}

#[test]
fn a_model_without_dense_parameters_has_nothing_to_update() {
    let mut device = Device::new(0);
    let spans = Spans {
        spans: Address::NULL,
        chunks: Address::NULL,
        chunk_count: 0,
    };
    let out = device.empty("squares", 16);
    device.run(squares(&spans, Address::NULL, Address::NULL, out).unwrap());
    assert_eq!(device.download::<f64>(out), [0.0; 2]);
}

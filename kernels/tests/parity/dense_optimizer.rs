use streamrec_kernels::dense_optimizer::{Adagrad, Adam, Sgd, adagrad, adam, sgd};

use crate::oracle::{Random, assert_close, context, widen};

const STEPS: u64 = 5;
const LEN: usize = 20_001;

/// Runs both the operation and its float64 formula for some steps, and compares the parameters.
fn compare(
    mut step: impl FnMut(u64, &mut [f32], &[f32]),
    mut formula: impl FnMut(u64, usize, &mut f64, f64),
) {
    let mut random = Random(43);
    let mut w = random.floats(LEN);
    let mut expected = widen(&w);
    for number in 1..=STEPS {
        let g = random.floats(LEN);
        step(number, &mut w, &g);
        for (index, w) in expected.iter_mut().enumerate() {
            formula(number, index, w, f64::from(g[index]));
        }
        assert_close("parameters", &w, &expected);
    }
}

#[test]
fn sgd_follows_its_formula() {
    let context = context();
    for momentum in [0.0, 0.9] {
        for nesterov in [false, true] {
            for weight_decay in [0.0, 0.01] {
                let rule = Sgd {
                    learning_rate: 0.1,
                    momentum,
                    nesterov,
                    weight_decay,
                };
                let mut velocity = vec![0.0; if momentum == 0.0 { 0 } else { LEN }];
                let mut v = vec![0.0; LEN];
                let (momentum, decay) = (f64::from(momentum), f64::from(weight_decay));
                compare(
                    |_, w, g| sgd(&context, &rule, w, g, &mut velocity).unwrap(),
                    |_, index, w, g| {
                        let g = g + decay * *w;
                        v[index] = momentum * v[index] + g;
                        *w -= f64::from(0.1f32)
                            * if nesterov {
                                g + momentum * v[index]
                            } else {
                                v[index]
                            };
                    },
                );
            }
        }
    }
}

#[test]
fn adagrad_follows_its_formula() {
    let context = context();
    let rule = Adagrad {
        learning_rate: 0.1,
        eps: 1e-8,
        weight_decay: 0.01,
    };
    let (mut sums, mut s) = (vec![0.1; LEN], vec![f64::from(0.1f32); LEN]);
    compare(
        |_, w, g| adagrad(&context, &rule, w, g, &mut sums).unwrap(),
        |_, index, w, g| {
            let g = g + f64::from(0.01f32) * *w;
            s[index] += g * g;
            *w -= f64::from(0.1f32) * g / (s[index].sqrt() + 1e-8);
        },
    );
}

#[test]
fn adam_follows_its_formula_in_both_forms_of_decay() {
    let context = context();
    for decoupled in [false, true] {
        let rule = Adam {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            decoupled,
        };
        let (mut first, mut second) = (vec![0.0; LEN], vec![0.0; LEN]);
        let (mut m, mut v) = (vec![0.0; LEN], vec![0.0; LEN]);
        let (lr, decay) = (f64::from(0.01f32), f64::from(0.1f32));
        let (beta1, beta2) = (f64::from(0.9f32), f64::from(0.999f32));
        compare(
            |number, w, g| {
                adam(&context, &rule, number, w, g, &mut first, &mut second).unwrap();
            },
            |number, index, w, g| {
                let g = if decoupled { g } else { g + decay * *w };
                if decoupled {
                    *w *= 1.0 - lr * decay;
                }
                m[index] = beta1 * m[index] + (1.0 - beta1) * g;
                v[index] = beta2 * v[index] + (1.0 - beta2) * g * g;
                let first = m[index] / (1.0 - beta1.powi(number as i32));
                let second: f64 = v[index] / (1.0 - beta2.powi(number as i32));
                *w -= lr * first / (second.sqrt() + 1e-8);
            },
        );
    }
}

#[test]
fn a_state_of_another_length_is_refused() {
    let rule = Adagrad {
        learning_rate: 0.1,
        eps: 1e-8,
        weight_decay: 0.0,
    };
    let error = adagrad(&context(), &rule, &mut [0.0; 3], &[0.0; 3], &mut [0.0; 2]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("sum_of_squares has shape [2], expected [3]"),
        "{error}"
    );
}

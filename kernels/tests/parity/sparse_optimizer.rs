use streamrec_kernels::{
    Error, TensorMut, TensorRef,
    embedding_bag::{BagSource, Groups, Pooling, RowGradients, segment_sum},
    sparse_optimizer::{
        SparseGradient, SparseRule, SparseState, SparseStep, WholeRows, row_products, update,
    },
};

use crate::{
    embedding_bag::Batch,
    oracle::{Random, Strided, assert_close, context, widen},
};

pub const ROWS: usize = 300;
pub const LEARNING_RATE: f32 = 0.05;

pub fn rules(max_row_norm: Option<f32>, weight_decay: f32) -> [SparseRule; 4] {
    let (eps, initial_accumulator) = (1e-8, 0.1);
    [
        SparseRule::Sgd {
            weight_decay,
            max_row_norm,
        },
        SparseRule::RowWiseAdagrad {
            eps,
            initial_accumulator,
            weight_decay,
            max_row_norm,
        },
        SparseRule::Adagrad {
            eps,
            initial_accumulator,
            weight_decay,
            max_row_norm,
        },
        SparseRule::LazyAdam {
            beta1: 0.9,
            beta2: 0.999,
            eps,
            weight_decay,
            max_row_norm,
        },
    ]
}

/// The formulas in float64, one row at a time.
struct Reference {
    w: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    dim: usize,
}

impl Reference {
    fn new(w: &[f32], dim: usize) -> Self {
        let start = vec![f64::from(0.1f32); w.len()];
        Self {
            w: widen(w),
            first: vec![0.0; w.len()],
            second: start,
            dim,
        }
    }

    fn update(&mut self, rule: &SparseRule, step: u64, id: usize, gradient: &[f32]) {
        let (lr, eps, range) = (
            f64::from(LEARNING_RATE),
            f64::from(1e-8f32),
            id * self.dim..(id + 1) * self.dim,
        );
        let w = &mut self.w[range.clone()];
        let (first, second) = (&mut self.first[range.clone()], &mut self.second[range]);
        let (decay, max_norm) = match *rule {
            SparseRule::Sgd {
                weight_decay,
                max_row_norm,
            }
            | SparseRule::RowWiseAdagrad {
                weight_decay,
                max_row_norm,
                ..
            }
            | SparseRule::Adagrad {
                weight_decay,
                max_row_norm,
                ..
            }
            | SparseRule::LazyAdam {
                weight_decay,
                max_row_norm,
                ..
            } => (f64::from(weight_decay), max_row_norm),
            _ => unreachable!(),
        };
        let norm = widen(gradient).iter().map(|g| g * g).sum::<f64>().sqrt();
        let clip = max_norm.map_or(1.0, |max| (f64::from(max) / norm).min(1.0));
        let g: Vec<f64> = widen(gradient)
            .iter()
            .zip(w.iter())
            .map(|(g, w)| clip * g + decay * w)
            .collect();
        match rule {
            SparseRule::Sgd { .. } => w.iter_mut().zip(&g).for_each(|(w, g)| *w -= lr * g),
            SparseRule::RowWiseAdagrad { .. } => {
                second[0] += g.iter().map(|g| g * g).sum::<f64>() / g.len() as f64;
                let rate = lr / (second[0].sqrt() + eps);
                w.iter_mut().zip(&g).for_each(|(w, g)| *w -= rate * g);
            }
            SparseRule::Adagrad { .. } => {
                for ((w, g), s) in w.iter_mut().zip(&g).zip(second) {
                    *s += g * g;
                    *w -= lr * g / (s.sqrt() + eps);
                }
            }
            _ => {
                let (beta1, beta2) = (f64::from(0.9f32), f64::from(0.999f32));
                for (((w, g), m), v) in w.iter_mut().zip(&g).zip(first).zip(second) {
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    let m = *m / (1.0 - beta1.powi(step as i32));
                    let v = *v / (1.0 - beta2.powi(step as i32));
                    *w -= lr * m / (v.sqrt() + eps);
                }
            }
        }
    }
}

fn check(rule: &SparseRule, dim: usize) {
    let context = context();
    let mut random = Random(61);
    let table = random.floats(ROWS * dim);
    let mut reference = Reference::new(&table, dim);
    if matches!(rule, SparseRule::LazyAdam { .. }) {
        reference.second.fill(0.0);
    }
    let (mut by_rows, mut by_bags) = (
        Strided::new(&table, [ROWS, dim]),
        Strided::new(&table, [ROWS, dim]),
    );
    let mut states = [(); 2].map(|()| SparseState::new(&context, rule, ROWS, dim));
    let (mut groups, mut gradients) = (Groups::default(), RowGradients::default());
    for step in 1..=4 {
        let (batch, columns) = (90, 2 * dim + 1);
        let data = Batch::random(&mut random, batch, 2, ROWS, 3, step % 2 == 0);
        let dout = Strided::new(&random.floats(batch * columns), [batch, columns]);
        let sources = [
            BagSource {
                feature: 0,
                pooling: Pooling::Sum,
                column: 0,
            },
            BagSource {
                feature: 1,
                pooling: Pooling::Mean,
                column: dim + 1,
            },
        ];
        groups.build(&context, &data.bags(), &[0, 1], ROWS).unwrap();
        segment_sum(
            &context,
            &groups,
            dim,
            &sources,
            dout.view(),
            &mut gradients,
        )
        .unwrap();
        let bags = SparseGradient::Bags {
            groups: &groups,
            sources: &sources,
            dout: dout.view(),
        };
        let rows = SparseGradient::Rows(&gradients);
        let [first, second] = &mut states;
        for (table, state, gradient) in [(&mut by_rows, first, rows), (&mut by_bags, second, bags)]
        {
            update(
                &context,
                rule,
                SparseStep::new(LEARNING_RATE, step),
                table.view_mut(),
                state,
                gradient,
            )
            .unwrap();
        }
        for (index, &id) in gradients.ids.iter().enumerate() {
            reference.update(
                rule,
                step,
                id as usize,
                &gradients.rows[index * dim..][..dim],
            );
        }
    }
    let (by_rows, by_bags) = (by_rows.elements(), by_bags.elements());
    assert!(
        by_rows
            .iter()
            .zip(&by_bags)
            .all(|(a, b)| a.to_bits() == b.to_bits()),
        "{rule:?}"
    );
    for ((name, a), (_, b)) in states[0].tensors().zip(states[1].tensors()) {
        assert_eq!(a.f32(), b.f32(), "{rule:?} {name}");
    }
    assert_close(&format!("{rule:?}"), &by_rows, &reference.w);
}

#[test]
fn every_rule_follows_its_formula_and_both_gradient_forms_give_the_same_bits() {
    for dim in [1, 3, 17, 64, 100] {
        for (max_row_norm, weight_decay) in
            [(None, 0.0), (Some(0.7), 0.0), (None, 0.1), (Some(0.7), 0.1)]
        {
            for rule in rules(max_row_norm, weight_decay) {
                check(&rule, dim);
            }
        }
    }
}

#[test]
fn untouched_rows_keep_their_bits() {
    let context = context();
    for rule in rules(Some(1.0), 0.5) {
        let mut table = vec![0.3; 12];
        let mut state = SparseState::new(&context, &rule, 4, 3);
        let before: Vec<Vec<f32>> = state.tensors().map(|(_, t)| t.f32().to_vec()).collect();
        let gradient = RowGradients {
            ids: vec![2],
            rows: vec![1.0; 3],
        };
        let view = TensorMut::from_f32(&mut table, &[4, 3]);
        update(
            &context,
            &rule,
            SparseStep::new(0.1, 1),
            view,
            &mut state,
            SparseGradient::Rows(&gradient),
        )
        .unwrap();
        assert!(table[..6].iter().chain(&table[9..]).all(|&w| w == 0.3));
        assert!(table[6..9].iter().all(|&w| w < 0.3));
        for ((name, tensor), before) in state.tensors().zip(before) {
            let columns = tensor.shape()[1];
            assert_eq!(tensor.f32()[..2 * columns], before[..2 * columns], "{name}");
            assert_ne!(tensor.f32()[2 * columns], before[2 * columns], "{name}");
        }
    }
}

#[test]
fn ids_that_repeat_or_lie_outside_are_refused() {
    let context = context();
    let rule = SparseRule::Sgd {
        weight_decay: 0.0,
        max_row_norm: None,
    };
    let mut state = SparseState::new(&context, &rule, 4, 1);
    for ids in [vec![1, 1], vec![2, 1], vec![0, 4], vec![-1, 2]] {
        let mut table = [0.5; 4];
        let gradient = RowGradients {
            ids,
            rows: vec![1.0; 2],
        };
        let view = TensorMut::from_f32(&mut table, &[4, 1]);
        update(
            &context,
            &rule,
            SparseStep::new(0.1, 1),
            view,
            &mut state,
            SparseGradient::Rows(&gradient),
        )
        .unwrap_err();
        assert_eq!(table, [0.5; 4]);
    }
}

#[test]
fn the_state_of_another_rule_is_refused() {
    let context = context();
    let [sgd, row_wise, adagrad, _] = rules(None, 0.0);
    let mut table = [0.5; 8];
    let gradient = RowGradients {
        ids: vec![1],
        rows: vec![1.0; 2],
    };
    for (rule, other) in [
        (&row_wise, &adagrad),
        (&adagrad, &row_wise),
        (&sgd, &adagrad),
    ] {
        let mut state = SparseState::new(&context, other, 4, 2);
        let view = TensorMut::from_f32(&mut table, &[4, 2]);
        let gradient = SparseGradient::Rows(&gradient);
        let error = update(
            &context,
            rule,
            SparseStep::new(0.1, 1),
            view,
            &mut state,
            gradient,
        )
        .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Shape {
                    operand: "state",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_row_whose_gradient_is_not_finite_stays_and_is_named() {
    let context = context();
    for rule in rules(Some(1.0), 0.0) {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut state = SparseState::new(&context, &rule, 4, 2);
            let before: Vec<Vec<f32>> = state.tensors().map(|(_, t)| t.f32().to_vec()).collect();
            let mut table = [0.5; 8];
            let gradient = RowGradients {
                ids: vec![0, 2, 3],
                rows: vec![1.0, 1.0, 1.0, bad, bad, 1.0],
            };
            let view = TensorMut::from_f32(&mut table, &[4, 2]);
            let gradient = SparseGradient::Rows(&gradient);
            let error = update(
                &context,
                &rule,
                SparseStep::new(0.1, 1),
                view,
                &mut state,
                gradient,
            )
            .unwrap_err();
            assert!(matches!(error, Error::NotFinite { row: 2, .. }), "{error}");
            assert!(table[..2].iter().all(|&w| w < 0.5));
            assert_eq!(table[2..], [0.5; 6]);
            for ((_, tensor), before) in state.tensors().zip(&before) {
                let columns = tensor.f32().len() / 4;
                assert_eq!(tensor.f32()[columns..], before[columns..]);
            }
        }
    }
}

#[test]
fn a_gradient_whose_square_overflows_is_clipped() {
    let context = context();
    let rule = SparseRule::Sgd {
        weight_decay: 0.0,
        max_row_norm: Some(5.0),
    };
    let mut state = SparseState::new(&context, &rule, 1, 2);
    let mut table = [0.0; 2];
    let gradient = RowGradients {
        ids: vec![0],
        rows: vec![3e30, -4e30],
    };
    let view = TensorMut::from_f32(&mut table, &[1, 2]);
    let gradient = SparseGradient::Rows(&gradient);
    update(
        &context,
        &rule,
        SparseStep::new(1.0, 1),
        view,
        &mut state,
        gradient,
    )
    .unwrap();
    assert_close("clipped", &table, &[-3.0, 4.0]);
}

#[test]
fn columns_apart_are_updated_as_the_whole_row() {
    let (context, dim) = (context(), 7);
    let mut random = Random(5);
    let weights = random.floats(ROWS * dim);
    let gradient = RowGradients {
        ids: vec![0, 3, 120, 299],
        rows: random.floats(4 * dim),
    };
    for rule in rules(Some(0.9), 0.03) {
        let mut whole = weights.clone();
        let mut state = SparseState::new(&context, &rule, ROWS, dim);
        for step in 1..=2 {
            let view = TensorMut::from_f32(&mut whole, &[ROWS, dim]);
            let gradient = SparseGradient::Rows(&gradient);
            update(
                &context,
                &rule,
                SparseStep::new(LEARNING_RATE, step),
                view,
                &mut state,
                gradient,
            )
            .unwrap();
        }
        let cut = |rows: &[f32], columns: &std::ops::Range<usize>| -> Vec<f32> {
            let rows = rows.chunks(dim);
            rows.flat_map(|row| row[columns.clone()].to_vec()).collect()
        };
        let columns = [0..2, 2..7];
        let mut parts: Vec<_> = columns
            .iter()
            .map(|columns| {
                let state = SparseState::new(&context, &rule, ROWS, columns.len());
                let own = RowGradients {
                    ids: gradient.ids.clone(),
                    rows: cut(&gradient.rows, columns),
                };
                (cut(&weights, columns), own, state)
            })
            .collect();
        for step in 1..=2 {
            let mut products = vec![[0.0; 3]; 4];
            for ((w, own, _), columns) in parts.iter().zip(&columns) {
                let view = TensorRef::from_f32(w, &[ROWS, columns.len()]);
                let own = row_products(&context, view, own).unwrap();
                for (sum, own) in products.iter_mut().zip(own) {
                    sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
                }
            }
            let rows = WholeRows::new(&rule, &products, dim);
            for ((w, own, state), columns) in parts.iter_mut().zip(&columns) {
                let view = TensorMut::from_f32(w, &[ROWS, columns.len()]);
                let gradient = SparseGradient::Columns {
                    rows: own,
                    whole: &rows,
                };
                update(
                    &context,
                    &rule,
                    SparseStep::new(LEARNING_RATE, step),
                    view,
                    state,
                    gradient,
                )
                .unwrap();
            }
        }
        for ((w, ..), columns) in parts.iter().zip(&columns) {
            assert_close("columns", w, &widen(&cut(&whole, columns)));
        }
    }
}

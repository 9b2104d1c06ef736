//! Every rule, through the store, against its formula in float64.

use std::{collections::HashMap, sync::Arc};

use streamrec_kernels::embedding_bag::RowGradients;

use super::{Rank, config, model};
use crate::{
    comm::SingleRank,
    config::{
        Reduction,
        optimizer::{DenseOptimizerConfig, OptimizerConfig, SparseOptimizerConfig},
    },
    model::{
        KeepGradients, NamedSlice, SumScratch,
        tests::fixture::{Batch, Model},
    },
    optim::{OptimError, Optimizer},
    parallel::Mesh,
};

const STEPS: u64 = 4;

/// A parameter (or the rows of one) in float64, with up to two values of state an element.
struct Shadow {
    weights: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
}

/// Follows `config` in float64 from the gradients that the store holds.
struct Reference {
    config: OptimizerConfig,
    shadows: HashMap<String, Shadow>,
}

impl Reference {
    fn new(config: OptimizerConfig, model: &Model) -> Self {
        let accumulator = |name: &str| {
            let table = name.starts_with("embedding.");
            match (table, &config.dense, &config.sparse) {
                (
                    false,
                    DenseOptimizerConfig::Adagrad {
                        initial_accumulator,
                        ..
                    },
                    _,
                )
                | (
                    true,
                    _,
                    SparseOptimizerConfig::RowWiseAdagrad {
                        initial_accumulator,
                        ..
                    },
                )
                | (
                    true,
                    _,
                    SparseOptimizerConfig::Adagrad {
                        initial_accumulator,
                        ..
                    },
                ) => *initial_accumulator,
                _ => 0.0,
            }
        };
        let shadow = |NamedSlice { name, values, .. }: NamedSlice<'_>| {
            let weights: Vec<f64> = values.to_f32().into_iter().map(f64::from).collect();
            let first = vec![accumulator(&name); weights.len()];
            let second = vec![0.0; weights.len()];
            (
                name,
                Shadow {
                    weights,
                    first,
                    second,
                },
            )
        };
        let shadows = model.parameters.named_slices().map(shadow).collect();
        Self { config, shadows }
    }

    fn dense(&mut self, name: &str, gradient: &[f32], step: u64, scale: f64, decay: Option<f64>) {
        let Shadow {
            weights,
            first,
            second,
        } = self.shadows.get_mut(name).unwrap();
        let decay = decay.unwrap_or(self.config.dense.weight_decay());
        let rate = self.config.dense.learning_rate() * scale;
        for (index, &g) in gradient.iter().enumerate() {
            let (w, m, v) = (&mut weights[index], &mut first[index], &mut second[index]);
            let raw = f64::from(g);
            let g = raw + decay * *w;
            match self.config.dense {
                DenseOptimizerConfig::Sgd {
                    momentum, nesterov, ..
                } => {
                    *m = momentum * *m + g;
                    *w -= rate * if nesterov { g + momentum * *m } else { *m };
                }
                DenseOptimizerConfig::Adagrad { eps, .. } => {
                    *m += g * g;
                    *w -= rate * g / (m.sqrt() + eps);
                }
                DenseOptimizerConfig::Adam {
                    beta1, beta2, eps, ..
                } => {
                    *w -= rate * adam(m, v, g, beta1, beta2, eps, step);
                }
                DenseOptimizerConfig::AdamW {
                    beta1, beta2, eps, ..
                } => {
                    let shrink = 1.0 - rate * decay;
                    *w = *w * shrink - rate * adam(m, v, raw, beta1, beta2, eps, step);
                }
            }
        }
    }

    fn row(
        &mut self,
        name: &str,
        row: usize,
        gradient: &[f32],
        step: u64,
        scale: f64,
        group_decay: Option<f64>,
    ) {
        let Shadow {
            weights,
            first,
            second,
        } = self.shadows.get_mut(name).unwrap();
        let dim = gradient.len();
        let at = row * dim..(row + 1) * dim;
        let (w, m, v) = (
            &mut weights[at.clone()],
            &mut first[at.clone()],
            &mut second[at],
        );
        let mut g: Vec<f64> = gradient.iter().map(|&g| f64::from(g)).collect();
        let (decay, max_norm) = match self.config.sparse {
            SparseOptimizerConfig::Sgd {
                weight_decay,
                max_row_norm,
                ..
            }
            | SparseOptimizerConfig::RowWiseAdagrad {
                weight_decay,
                max_row_norm,
                ..
            }
            | SparseOptimizerConfig::Adagrad {
                weight_decay,
                max_row_norm,
                ..
            }
            | SparseOptimizerConfig::LazyAdam {
                weight_decay,
                max_row_norm,
                ..
            } => (weight_decay, max_row_norm),
        };
        let decay = group_decay.unwrap_or(decay);
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        let clip = max_norm.map_or(1.0, |max| (max / norm).min(1.0));
        g.iter_mut()
            .zip(&*w)
            .for_each(|(g, w)| *g = *g * clip + decay * w);
        let rate = self.config.sparse.learning_rate() * scale;
        let mean = g.iter().map(|g| g * g).sum::<f64>() / dim as f64;
        for d in 0..dim {
            w[d] -= rate
                * match self.config.sparse {
                    SparseOptimizerConfig::Sgd { .. } => g[d],
                    SparseOptimizerConfig::RowWiseAdagrad { eps, .. } => {
                        m[d] += mean;
                        g[d] / (m[d].sqrt() + eps)
                    }
                    SparseOptimizerConfig::Adagrad { eps, .. } => {
                        m[d] += g[d] * g[d];
                        g[d] / (m[d].sqrt() + eps)
                    }
                    SparseOptimizerConfig::LazyAdam {
                        beta1, beta2, eps, ..
                    } => adam(&mut m[d], &mut v[d], g[d], beta1, beta2, eps, step),
                };
        }
    }

    fn check(&self, model: &Model) {
        for NamedSlice { name, values, .. } in model.parameters.named_slices() {
            for (index, (&got, expected)) in values
                .to_f32()
                .iter()
                .zip(&self.shadows[&name].weights)
                .enumerate()
            {
                let error = (f64::from(got) - expected).abs();
                assert!(
                    error < 3e-6,
                    "{name}[{index}]: got {got}, expected {expected}"
                );
            }
        }
    }
}

fn adam(m: &mut f64, v: &mut f64, g: f64, beta1: f64, beta2: f64, eps: f64, step: u64) -> f64 {
    *m = beta1 * *m + (1.0 - beta1) * g;
    *v = beta2 * *v + (1.0 - beta2) * g * g;
    let (m, v) = (
        *m / (1.0 - beta1.powf(step as f64)),
        *v / (1.0 - beta2.powf(step as f64)),
    );
    m / (v.sqrt() + eps)
}

/// Trains, with the reference beside it; `exception` tells a parameter's scale and decay.
fn follow(config: OptimizerConfig, exception: impl Fn(&str) -> (f64, Option<f64>)) {
    let (_, schema) = model();
    let mut rank = Rank::new(&config, Arc::new(SingleRank), 9);
    let mut reference = Reference::new(config, &rank.model);
    for step in 1..=STEPS {
        let batch = Batch::random(&schema, 9, step);
        // The same pass on its own first, for its gradients.
        rank.model
            .pass(&batch, batch.weight_sum(), false, &mut KeepGradients)
            .unwrap();
        let Model {
            context,
            parameters,
            network,
            ..
        } = &rank.model;
        let factor = rank.optimizer.schedule().factor(step);
        for placed in parameters.layout().parameters() {
            let name = &placed.parameter.name;
            let gradient = parameters
                .gradients()
                .get(parameters.find(name).unwrap())
                .unwrap();
            let (scale, decay) = exception(name);
            if scale > 0.0 {
                reference.dense(name, gradient, step, scale * factor, decay);
            }
        }
        for (id, table) in parameters.tables() {
            let (mut sum, mut scratch) = (RowGradients::default(), SumScratch::default());
            network
                .sum_table_gradient(context, parameters, id, &mut scratch, &mut sum)
                .unwrap();
            for (&row, gradient) in sum.ids.iter().zip(sum.rows.chunks(table.dim())) {
                let name = &table.parameter.name;
                let (scale, decay) = exception(name);
                if scale > 0.0 {
                    reference.row(name, row as usize, gradient, step, scale * factor, decay);
                }
            }
        }
        rank.train(std::slice::from_ref(&batch), batch.weight_sum());
        reference.check(&rank.model);
    }
}

const ROW_WISE: &str = "kind = 'row_wise_adagrad'\nlearning_rate = 0.05";

#[test]
fn every_dense_rule_follows_its_formula() {
    for dense in [
        "kind = 'sgd'\nlearning_rate = 0.1\nweight_decay = 0.01",
        "kind = 'sgd'\nlearning_rate = 0.1\nmomentum = 0.9",
        "kind = 'sgd'\nlearning_rate = 0.1\nmomentum = 0.9\nnesterov = true\nweight_decay = 0.01",
        "kind = 'adagrad'\nlearning_rate = 0.05\ninitial_accumulator = 0.01\nweight_decay = 0.01",
        "kind = 'adam'\nlearning_rate = 0.01\nweight_decay = 0.05\neps = 1e-4",
        "kind = 'adamw'\nlearning_rate = 0.01\nweight_decay = 0.05\neps = 1e-4",
    ] {
        follow(config(dense, ROW_WISE, ""), |_| (1.0, None));
    }
}

#[test]
fn every_sparse_rule_follows_its_formula() {
    for sparse in [
        "kind = 'sgd'\nlearning_rate = 0.1\nweight_decay = 0.01",
        "kind = 'sgd'\nlearning_rate = 0.1\nmax_row_norm = 0.02",
        "kind = 'row_wise_adagrad'\nlearning_rate = 0.05\nweight_decay = 0.01\nmax_row_norm = 0.02",
        "kind = 'adagrad'\nlearning_rate = 0.05\ninitial_accumulator = 0.01",
        "kind = 'lazy_adam'\nlearning_rate = 0.01\neps = 1e-4",
    ] {
        follow(
            config("kind = 'sgd'\nlearning_rate = 0.1", sparse, ""),
            |_| (1.0, None),
        );
    }
}

#[test]
fn groups_and_the_schedule_change_learning_rates_and_decay() {
    let mut config = config(
        "kind = 'adam'\nlearning_rate = 0.01\neps = 1e-4\nweight_decay = 0.02",
        ROW_WISE,
        "",
    );
    let group =
        |pattern: &str, learning_rate_scale, weight_decay| crate::config::optimizer::GroupConfig {
            pattern: pattern.into(),
            learning_rate_scale,
            weight_decay,
        };
    config.groups = vec![
        group("*.bias", 2.0, Some(0.0)),
        group("top.*", 0.0, None),
        group("embedding.b", 0.0, None),
        group("embedding.a", 0.5, Some(0.03)),
    ];
    follow(config, |name| match name {
        _ if name.ends_with(".bias") => (2.0, Some(0.0)),
        _ if name.starts_with("top.") || name == "embedding.b" => (0.0, None),
        "embedding.a" => (0.5, Some(0.03)),
        _ => (1.0, None),
    });
}

#[test]
fn a_schedule_scales_all_rates() {
    let mut config = config("kind = 'sgd'\nlearning_rate = 0.1", ROW_WISE, "");
    config.schedule =
        toml::from_str("kind = 'warmup_cosine'\nwarmup_steps = 2\ndecay_steps = 4").unwrap();
    follow(config, |_| (1.0, None));
}

#[test]
fn a_group_that_matches_nothing_is_an_error() {
    let mut config = config("kind = 'sgd'\nlearning_rate = 0.1", ROW_WISE, "");
    config.groups = vec![crate::config::optimizer::GroupConfig {
        pattern: "botom.*".into(),
        learning_rate_scale: 1.0,
        weight_decay: None,
    }];
    let (graph, schema) = model();
    let model = Model::new(&graph, &schema, 4);
    let error = Optimizer::new(
        &model.context,
        &config,
        &model.parameters,
        &Mesh::single(),
        Reduction::Fast,
    )
    .err()
    .unwrap();
    assert!(
        matches!(&error, OptimError::Group { pattern, .. } if pattern == "botom.*"),
        "{error}"
    );
}

#[test]
fn dense_gradients_are_clipped_to_the_global_norm() {
    let config = config(
        "kind = 'sgd'\nlearning_rate = 1.0",
        ROW_WISE,
        "clip_norm = 0.01",
    );
    let (graph, schema) = model();
    let mut model = Model::new(&graph, &schema, 9);
    let mut optimizer = Optimizer::new(
        &model.context,
        &config,
        &model.parameters,
        &Mesh::single(),
        Reduction::Fast,
    )
    .unwrap();
    let batch = Batch::random(&schema, 9, 1);
    model
        .pass(&batch, batch.weight_sum(), false, &mut KeepGradients)
        .unwrap();
    let dense = |model: &Model| -> Vec<f32> {
        let layout = model.parameters.layout().parameters().iter();
        let ids = layout.map(|placed| model.parameters.find(&placed.parameter.name).unwrap());
        let rows = |id| {
            let view = model.parameters.weight(id);
            (0..view.shape()[0])
                .flat_map(|row| view.row(row).to_vec())
                .collect::<Vec<_>>()
        };
        ids.flat_map(rows).collect()
    };
    let before = dense(&model);
    let norm = optimizer
        .update_dense(&model.context, &mut model.parameters, 1)
        .unwrap();
    assert!(norm > 0.1, "{norm}");
    let moved = before
        .iter()
        .zip(dense(&model))
        .map(|(a, b)| f64::from(a - b).powi(2));
    let moved = moved.sum::<f64>().sqrt();
    assert!((moved - 0.01).abs() < 1e-6, "{moved}");
}

#[test]
fn gradients_that_are_not_finite_update_nothing() {
    // Also where nothing is clipped.
    let config = config("kind = 'sgd'\nlearning_rate = 1.0", ROW_WISE, "");
    let (graph, schema) = model();
    let mut model = Model::new(&graph, &schema, 9);
    let mut optimizer = Optimizer::new(
        &model.context,
        &config,
        &model.parameters,
        &Mesh::single(),
        Reduction::Fast,
    )
    .unwrap();
    let id = model.parameters.find("top.0.bias").unwrap();
    model
        .parameters
        .gradients_mut()
        .get_mut(id)
        .unwrap()
        .row_mut(0)[0] = f32::NAN;
    let before: Vec<f32> = model.parameters.weight(id).row(0).to_vec();
    let error = optimizer
        .update_dense(&model.context, &mut model.parameters, 7)
        .unwrap_err();
    assert!(
        matches!(error, OptimError::NotFinite { step: 7, .. }),
        "{error}"
    );
    assert_eq!(model.parameters.weight(id).row(0), before);
}

#[test]
fn frozen_parameters_do_not_count_in_the_norm() {
    let mut config = config("kind = 'sgd'\nlearning_rate = 1.0", ROW_WISE, "");
    config.groups = vec![crate::config::optimizer::GroupConfig {
        pattern: "top.0.bias".into(),
        learning_rate_scale: 0.0,
        weight_decay: None,
    }];
    let (graph, schema) = model();
    let mut model = Model::new(&graph, &schema, 9);
    let mut optimizer = Optimizer::new(
        &model.context,
        &config,
        &model.parameters,
        &Mesh::single(),
        Reduction::Fast,
    )
    .unwrap();
    let id = model.parameters.find("top.0.bias").unwrap();
    let mut gradient = model.parameters.gradients_mut().get_mut(id).unwrap();
    gradient.row_mut(0).fill(f32::INFINITY);
    let norm = optimizer.update_dense(&model.context, &mut model.parameters, 1);
    assert_eq!(norm.unwrap(), 0.0);
}

#[test]
fn state_is_restored_by_name() {
    let config = config("kind = 'adam'\nlearning_rate = 0.01", ROW_WISE, "");
    let (_, schema) = model();
    let mut rank = Rank::new(&config, Arc::new(SingleRank), 9);
    let batch = |step| Batch::random(&schema, 9, step);
    for step in 1..=3 {
        rank.train(&[batch(step)], batch(step).weight_sum());
    }
    let saved: HashMap<String, Vec<f32>> = rank.tensors().into_iter().collect();
    for name in [
        "optimizer.cross.v.first_moment",
        "optimizer.embedding.a.sum_of_squares",
    ] {
        assert!(saved[name].iter().any(|&value| value != 0.0), "{name}");
    }
    let mut restored = Rank::new(&config, Arc::new(SingleRank), 9);
    restored.step = 3;
    let weights = restored.model.parameters.named_slices_mut();
    for mut slice in weights.chain(restored.optimizer.named_slices_mut()) {
        slice.values.set_f32(&saved[&slice.name]);
    }
    for step in 4..=6 {
        rank.train(&[batch(step)], batch(step).weight_sum());
        restored.train(&[batch(step)], batch(step).weight_sum());
    }
    assert!(
        rank.tensors() == restored.tensors(),
        "a restored run equals one that went on"
    );
}

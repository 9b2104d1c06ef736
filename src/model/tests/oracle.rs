//! A second, simple interpreter of graphs in float64, for gradients by finite differences.

use std::collections::HashMap;

use streamrec_artifact::{Activation, FeatureSchema, Graph, LookupSpec, Node, Op, Pooling};

use super::fixture::Batch;
use crate::model::ParameterStore;

/// Differences are wrong where a ReLU's argument is this close to 0: choose other data then.
const KINK: f64 = 1e-5;

pub(super) struct Oracle<'a> {
    graph: &'a Graph,
    schema: &'a FeatureSchema,
    pub(super) weights: HashMap<String, Vec<f64>>,
}

impl<'a> Oracle<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        schema: &'a FeatureSchema,
        parameters: &ParameterStore,
    ) -> Self {
        let weights = parameters.named_slices().map(|slice| {
            let values = slice.values.to_f32().into_iter();
            (slice.name, values.map(f64::from).collect())
        });
        Self {
            graph,
            schema,
            weights: weights.collect(),
        }
    }

    /// The weighted loss, with head `h` weighing `1 + h / 2` as in the fixture.
    pub(super) fn loss(&self, batch: &Batch, weight_sum: f64) -> f64 {
        let heads = self.schema.labels.len();
        let of_row = |row: usize| {
            let logits = self.logits(batch, row);
            let of_head = |head: usize| {
                let label = f64::from(batch.labels[row * heads + head]);
                // ln(1 + e^-z) for a positive, ln(1 + e^z) for a negative.
                let signed = (1.0 - 2.0 * label) * logits[head];
                (1.0 + head as f64 / 2.0) * signed.exp().ln_1p()
            };
            f64::from(batch.weights[row]) / weight_sum * (0..heads).map(of_head).sum::<f64>()
        };
        (0..batch.rows).map(of_row).sum()
    }

    /// The gradient of the loss by central differences.
    pub(super) fn gradient(&mut self, name: &str, batch: &Batch, weight_sum: f64) -> Vec<f64> {
        const STEP: f64 = KINK / 10.0;
        let len = self.weights[name].len();
        let mut difference = |index: usize| {
            let mut at = |shift: f64| {
                let weight = &mut self.weights.get_mut(name).unwrap()[index];
                let before = *weight;
                *weight += shift;
                let loss = self.loss(batch, weight_sum);
                self.weights.get_mut(name).unwrap()[index] = before;
                loss
            };
            (at(STEP) - at(-STEP)) / (2.0 * STEP)
        };
        (0..len).map(&mut difference).collect()
    }

    pub(super) fn logits(&self, batch: &Batch, row: usize) -> Vec<f64> {
        let mut values: HashMap<&str, Vec<f64>> = HashMap::new();
        for node in &self.graph.nodes {
            let inputs: Vec<&Vec<f64>> = node
                .inputs
                .iter()
                .map(|input| &values[input.as_str()])
                .collect();
            let value = self.value(node, &inputs, batch, row);
            values.insert(&node.name, value);
        }
        values.remove(self.graph.output.as_str()).unwrap()
    }

    fn value(&self, node: &Node, inputs: &[&Vec<f64>], batch: &Batch, row: usize) -> Vec<f64> {
        let weight = |suffix: &str| self.weights.get(&format!("{}.{suffix}", node.name));
        let vectors = |dim: usize| inputs[0].chunks(dim).collect::<Vec<_>>();
        match &node.op {
            Op::Dense => batch.dense_row(row).iter().map(|&x| f64::from(x)).collect(),
            Op::EmbeddingBag { lookups } => lookups
                .iter()
                .flat_map(|lookup| self.pooled(lookup, batch, row))
                .collect(),
            Op::Linear { activation, .. } => {
                let y = affine(&weight("weight").unwrap()[..], weight("bias"), inputs[0]);
                match activation {
                    Activation::None => y,
                    Activation::Relu => {
                        let near = y.iter().find(|y| y.abs() < KINK / 5.0);
                        assert!(near.is_none(), "{}: {near:?} is at the kink", node.name);
                        y.into_iter().map(|y| y.max(0.0)).collect()
                    }
                }
            }
            Op::DotInteraction { dim, .. } => {
                let vectors = vectors(*dim);
                let mut y = vectors[0].to_vec();
                for i in 1..vectors.len() {
                    y.extend((0..i).map(|j| dot(vectors[i], vectors[j])));
                }
                y
            }
            Op::Cross { .. } => {
                let p = affine(&weight("weight").unwrap()[..], weight("bias"), inputs[1]);
                cross(inputs[0], &p, inputs[1])
            }
            Op::CrossLowRank { .. } => {
                let inner = affine(&weight("v").unwrap()[..], None, inputs[1]);
                let p = affine(&weight("w").unwrap()[..], weight("bias"), &inner);
                cross(inputs[0], &p, inputs[1])
            }
            Op::FactorizationMachine { dim, .. } => {
                let vectors = vectors(*dim);
                let pairs = (0..vectors.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
                vec![pairs.map(|(i, j)| dot(vectors[i], vectors[j])).sum()]
            }
            Op::SumFeatures { dim, .. } => (0..*dim)
                .map(|d| inputs[0].iter().skip(d).step_by(*dim).sum())
                .collect(),
            Op::Concat => inputs
                .iter()
                .flat_map(|input| input.iter().copied())
                .collect(),
            Op::Add => {
                let width = inputs.iter().map(|input| input.len()).max().unwrap();
                let term =
                    |input: &Vec<f64>, column| input[if input.len() == 1 { 0 } else { column }];
                (0..width)
                    .map(|c| inputs.iter().map(|input| term(input, c)).sum())
                    .collect()
            }
        }
    }

    fn pooled(&self, lookup: &LookupSpec, batch: &Batch, row: usize) -> Vec<f64> {
        let table = self.graph.table(&lookup.table).unwrap();
        let rows = &self.weights[&table.parameter_name()];
        let bag = batch.bag(self.schema.categorical(&lookup.feature).unwrap(), row);
        let scale = match lookup.pooling {
            Pooling::Mean if !bag.is_empty() => 1.0 / bag.len() as f64,
            _ => 1.0,
        };
        let at = |d: usize| {
            bag.iter()
                .map(|&id| rows[id as usize * table.dim + d])
                .sum::<f64>()
        };
        (0..table.dim).map(|d| scale * at(d)).collect()
    }
}

fn affine(weight: &[f64], bias: Option<&Vec<f64>>, x: &[f64]) -> Vec<f64> {
    let rows = weight.chunks(x.len()).enumerate();
    rows.map(|(output, w)| dot(w, x) + bias.map_or(0.0, |bias| bias[output]))
        .collect()
}

fn cross(x0: &[f64], projection: &[f64], x: &[f64]) -> Vec<f64> {
    x0.iter()
        .zip(projection)
        .zip(x)
        .map(|((x0, p), x)| x0 * p + x)
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

//! The forward pass that answers requests: the graph of an artifact on the kernels that trained it.

mod layer;

use streamrec_artifact::{Encoded, FeatureSchema, Graph, Shapes, Weight, Weights};
use streamrec_kernels::{Context, TensorMut, TensorRef};

use layer::Layer;

/// A graph that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// A kernel failed.
    #[error(transparent)]
    Kernel(#[from] streamrec_kernels::Error),
    /// A name that leads nowhere, which a valid artifact does not have.
    #[error("the graph has no {what} `{name}`")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// Its name.
        name: String,
    },
}

/// A graph with its weights, ready to score. Shared by all threads.
#[derive(Debug)]
pub struct Forward {
    /// One thread, so that kernels run on the thread that calls: requests are what is parallel.
    context: Context,
    layers: Vec<Layer>,
    /// Where each layer's inputs stand among the layers.
    inputs: Vec<Vec<usize>>,
    widths: Vec<usize>,
    /// Whether each layer's value is searched for numbers that are not finite.
    searched: Vec<bool>,
    output: usize,
    /// The tables, in the order of the graph's.
    tables: Vec<Weight>,
    features: usize,
}

/// The values of a pass; those of one size are written over those before.
#[derive(Debug, Default)]
pub struct Values {
    layers: Vec<Vec<f32>>,
    /// Between the two products of a layer.
    inner: Vec<f32>,
    overflown: Vec<usize>,
}

/// What a layer reads.
struct Pass<'a> {
    context: &'a Context,
    encoded: &'a Encoded,
    /// Categorical features.
    features: usize,
    tables: &'a [Weight],
    /// `[rows, width]` each
    inputs: Vec<TensorRef<'a>>,
}

impl Forward {
    /// Moves the weights of a valid graph to where they are used.
    ///
    /// # Errors
    /// When a weight or feature is not there, or the context cannot be made.
    pub fn new(
        graph: &Graph,
        shapes: Shapes,
        schema: &FeatureSchema,
        mut weights: Weights,
    ) -> Result<Self, ForwardError> {
        let mut take = |name: String| match weights.take(&name) {
            Some(weight) => Ok(weight),
            None => Err(ForwardError::Unknown {
                what: "weight",
                name,
            }),
        };
        let context = Context::cpu(1, false)?;
        let layers = graph
            .nodes
            .iter()
            .map(|node| Layer::new(&context, node, graph, schema, &mut take));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let tables = graph
            .tables
            .iter()
            .map(|table| take(table.parameter_name()));
        // What is not finite stays so in each layer that reads it, but for one that may hide it.
        let mut searched = vec![false; layers.len()];
        searched[shapes.output] = true;
        for (layer, inputs) in layers.iter().zip(&shapes.inputs) {
            if layer.hides_overflow() {
                inputs.iter().for_each(|&input| searched[input] = true);
            }
        }
        Ok(Self {
            context,
            layers,
            searched,
            tables: tables.collect::<Result<_, _>>()?,
            inputs: shapes.inputs,
            widths: shapes.widths,
            output: shapes.output,
            features: schema.categorical.len(),
        })
    }

    /// The logits of `encoded`, `[rows, labels]`, row-major; NaN in rows whose arithmetic overflows.
    ///
    /// # Errors
    /// When `encoded` is not of the model's schema.
    pub fn logits<'v>(
        &self,
        encoded: &Encoded,
        values: &'v mut Values,
    ) -> Result<&'v [f32], ForwardError> {
        let rows = encoded.rows;
        let Values {
            layers,
            inner,
            overflown,
        } = values;
        layers.resize_with(self.layers.len(), Vec::new);
        overflown.clear();
        for (index, layer) in self.layers.iter().enumerate() {
            let width = self.widths[index];
            // A valid graph reads earlier layers only.
            let (before, own) = layers.split_at_mut(index);
            let value = &mut own[0];
            value.resize(rows * width, 0.0);
            let read =
                |&input: &usize| TensorRef::from_f32(&before[input], &[rows, self.widths[input]]);
            let pass = Pass {
                context: &self.context,
                encoded,
                features: self.features,
                tables: &self.tables,
                inputs: self.inputs[index].iter().map(read).collect(),
            };
            layer.forward(&pass, inner, TensorMut::from_f32(value, &[rows, width]))?;
            if self.searched[index] {
                note_overflow(value, width, overflown);
            }
        }
        let (logits, labels) = (&mut layers[self.output], self.widths[self.output]);
        for &row in &*overflown {
            logits[row * labels..(row + 1) * labels].fill(f32::NAN);
        }
        Ok(logits)
    }
}

/// Adds the rows that are not finite.
fn note_overflow(value: &[f32], width: usize, overflown: &mut Vec<usize>) {
    // Without a branch an element, so that the compiler can use vectors.
    let finite = |values: &[f32]| values.iter().fold(true, |all, x| all & x.is_finite());
    if !finite(value) {
        let rows = value.chunks_exact(width).enumerate();
        overflown.extend(rows.filter(|(_, row)| !finite(row)).map(|(row, _)| row));
    }
}

#[cfg(test)]
mod tests {
    use streamrec_artifact::{Activation, DenseFeature, DenseSource, Node, Op};

    use super::*;

    #[test]
    fn a_row_whose_first_layer_overflows_is_told_behind_a_rectifier_that_hides_it() {
        let node = |name: &str, inputs: &[&str], op| Node {
            name: name.into(),
            inputs: inputs.iter().map(|&input| input.into()).collect(),
            op,
        };
        let linear = |activation| Op::Linear {
            inputs: 1,
            outputs: 1,
            bias: false,
            activation,
        };
        let graph = Graph {
            tables: Vec::new(),
            nodes: vec![
                node("dense", &[], Op::Dense),
                node("first", &["dense", "dense"], Op::Cross { dim: 1 }),
                node("second", &["dense", "first"], Op::Cross { dim: 1 }),
                node("deep", &["second"], linear(Activation::Relu)),
                node("logits", &["deep"], linear(Activation::None)),
            ],
            output: "logits".into(),
        };
        let schema = FeatureSchema {
            dense: vec![DenseFeature {
                name: "bid".into(),
                source: DenseSource::Column("bid".into()),
                steps: Vec::new(),
                fill: 0.0,
            }],
            labels: vec!["click".into()],
            ..FeatureSchema::default()
        };
        let mut weights = Weights::new();
        for cross in ["first", "second"] {
            weights.insert(format!("{cross}.weight"), vec![1, 1], vec![1.0]);
            weights.insert(format!("{cross}.bias"), vec![1], vec![0.0]);
        }
        weights.insert("deep.weight", vec![1, 1], vec![-1.0]);
        weights.insert("logits.weight", vec![1, 1], vec![1.0]);
        let shapes = graph.validate(&schema).unwrap();
        let forward = Forward::new(&graph, shapes, &schema, weights).unwrap();
        assert_eq!(forward.searched, [false, false, true, false, true]);
        // The first layer gives 2, 6 and infinity, of which the rectifier makes 0 in each row.
        let encoded = Encoded {
            rows: 3,
            dense: vec![1.0, 2.0, 3e30],
            ..Encoded::default()
        };
        let mut values = Values::default();
        let logits = forward.logits(&encoded, &mut values).unwrap();
        assert_eq!(logits[..2], [0.0, 0.0]);
        assert!(logits[2].is_nan());
    }
}

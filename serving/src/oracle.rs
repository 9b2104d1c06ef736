//! The graph of an artifact on candle: an implementation of the mathematics that shares nothing
//! with the kernels, asked once a load for the scores of the golden examples.

mod node;

use candle_core::{Device, Tensor};
use streamrec_artifact::{Encoded, FeatureSchema, Graph, Shapes, Weights};

use node::Inputs;

/// The logits of `encoded`, `[rows, labels]`, row-major, for the weights of a valid graph.
///
/// # Errors
/// When an operation of candle fails.
pub(crate) fn logits(
    graph: &Graph,
    shapes: &Shapes,
    schema: &FeatureSchema,
    weights: &Weights,
    encoded: &Encoded,
) -> candle_core::Result<Vec<f32>> {
    let dense = (encoded.rows, schema.dense.len());
    let inputs = Inputs {
        dense: Tensor::from_slice(&encoded.dense, dense, &Device::Cpu)?,
        encoded,
        schema,
        weights,
    };
    let mut values: Vec<Tensor> = Vec::with_capacity(graph.nodes.len());
    for (node, reads) in graph.nodes.iter().zip(&shapes.inputs) {
        let reads: Vec<&Tensor> = reads.iter().map(|&input| &values[input]).collect();
        values.push(inputs.value(node, &reads)?);
    }
    values[shapes.output].flatten_all()?.to_vec1()
}

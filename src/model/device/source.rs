use streamrec_artifact::{Activation, FeatureSchema, Graph, LookupSpec, Node, Op};
use streamrec_kernels::cuda::{Executor, embedding_bag::Lookup, product::Mask};
use streamrec_kernels::embedding_bag::Pooling;

use super::{
    DeviceWeights,
    cross::{Cross, CrossMatrix},
    layer::DeviceLayer,
    linear::{Linear, Share},
    memory::DeviceBuffer,
};
use crate::config::Partition;
use crate::model::{
    ModelError, ParamId, ParameterStore, TensorParallel,
    layers::{LayerContext, TableBag},
    plan::Masks,
};

/// What a network on a device is made of.
#[derive(Clone, Copy)]
pub struct DeviceSource<'a> {
    /// On the host: where parameters are looked up by name.
    pub context: &'a streamrec_kernels::Context,
    /// The model.
    pub graph: &'a Graph,
    /// Its features.
    pub schema: &'a FeatureSchema,
    /// The parameters' store.
    pub parameters: &'a ParameterStore,
    /// How a tensor-parallel group shares the layers.
    pub shared: &'a TensorParallel,
    /// The most samples of a batch.
    pub batch: usize,
}

/// The layer of a node, `width` columns wide.
pub(super) fn build<E: Executor>(
    executor: &mut E,
    of: &DeviceSource<'_>,
    weights: &DeviceWeights,
    node: &Node,
    width: usize,
) -> Result<DeviceLayer, ModelError> {
    let context = LayerContext {
        context: of.context,
        graph: of.graph,
        schema: of.schema,
        parameters: of.parameters,
        shared: of.shared,
        remote: &[],
        batch: of.batch,
        masks: &Masks::default(),
    };
    let parameters = context.parameters(node)?;
    Ok(match &node.op {
        Op::Dense => DeviceLayer::Dense,
        Op::EmbeddingBag { lookups } => embedding_bag(executor, of, weights, lookups)?,
        Op::Linear { activation, .. } => {
            let (relu, share) = (*activation == Activation::Relu, share(of.shared, node));
            let fused = matches!(share, Share::Whole | Share::Outputs { gathered: false });
            // The library applies a ReLU behind a bias only, and behind sums that are whole.
            let mask = match relu && fused && parameters.len() > 1 {
                true => Some(executor.allocate(Mask::bytes([of.batch, width]))?),
                false => None,
            };
            DeviceLayer::Linear(Linear {
                parameters,
                relu,
                share,
                mask: mask.map(|address| Mask::new(address, width)),
                masked_by: None,
                input_mask: None,
            })
        }
        Op::Cross { dim } => {
            let matrix = CrossMatrix::Full { w: parameters[0] };
            cross(executor, of, weights, (node, matrix, parameters[1]), *dim)?
        }
        Op::CrossLowRank { dim, .. } => {
            let rank = weights.weight(parameters[0]).shape[0];
            let matrix = CrossMatrix::LowRank {
                v: parameters[0],
                w: parameters[1],
                rank,
                inner: DeviceBuffer::new(executor, weights.compute_dtype(), of.batch * rank)?,
            };
            cross(executor, of, weights, (node, matrix, parameters[2]), *dim)?
        }
        &Op::DotInteraction { features, dim } => DeviceLayer::DotInteraction { features, dim },
        &Op::FactorizationMachine { features, dim } => {
            DeviceLayer::FactorizationMachine { features, dim }
        }
        &Op::SumFeatures { features, .. } => DeviceLayer::SumFeatures { features },
        Op::Concat => DeviceLayer::Concat,
        Op::Add => DeviceLayer::Add,
    })
}

/// How a linear layer is shared.
fn share(shared: &TensorParallel, node: &Node) -> Share {
    match shared.partition(&node.name) {
        Partition::Column => Share::Outputs {
            gathered: !shared.is_apart(&node.name),
        },
        Partition::Row => Share::Inputs {
            cut: !shared.is_apart(&node.inputs[0]),
        },
        _ => Share::Whole,
    }
}

fn embedding_bag<E: Executor>(
    executor: &mut E,
    of: &DeviceSource<'_>,
    weights: &DeviceWeights,
    lookups: &[LookupSpec],
) -> Result<DeviceLayer, ModelError> {
    let mut bags = TableBag::all(lookups, of.graph, of.schema, of.parameters)?;
    bags.retain(|bag| !of.parameters.table(bag.table).is_sharded());
    let lookup = |bag: &TableBag| {
        let table = of.parameters.table(bag.table);
        Lookup {
            table: weights.table(bag.table).0,
            rows: table.rows() as i64,
            row_stride: table.dim() as i64,
            dim: table.dim() as u32,
            feature: bag.source.feature as u32,
            column: bag.source.column as u32,
            mean: u32::from(bag.source.pooling == Pooling::Mean),
        }
    };
    let lookups: Vec<Lookup> = bags.iter().map(lookup).collect();
    let on_device = executor.allocate(size_of_val(lookups.as_slice()))?;
    executor.upload(bytemuck::cast_slice(&lookups), on_device)?;
    Ok(DeviceLayer::EmbeddingBag { lookups, on_device })
}

fn cross<E: Executor>(
    executor: &mut E,
    of: &DeviceSource<'_>,
    weights: &DeviceWeights,
    (node, matrix, bias): (&Node, CrossMatrix, ParamId),
    dim: usize,
) -> Result<DeviceLayer, ModelError> {
    let projection = DeviceBuffer::new(executor, weights.compute_dtype(), of.batch * dim)?;
    Ok(DeviceLayer::Cross(Cross {
        matrix,
        bias,
        dim,
        shared: of.shared.partition(&node.name) != Partition::Replicated,
        projection,
    }))
}

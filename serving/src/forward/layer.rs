//! What one node of the graph computes.

use streamrec_artifact::{FeatureSchema, Graph, LookupSpec, Node, Op, Pooling, Weight};
use streamrec_kernels::linear::{Activation, PackedWeights};
use streamrec_kernels::{
    Context, TensorMut, TensorRef, add, dot_interaction, embedding_bag, factorization_machine,
    sum_features,
};

use super::{ForwardError, Pass};

/// A node with its weights. Formulas: [`Op`].
#[derive(Debug)]
pub(super) enum Layer {
    Dense,
    EmbeddingBag(Vec<Lookup>),
    Linear {
        weight: PackedWeights,
        bias: Option<Weight>,
        activation: Activation,
    },
    DotInteraction {
        features: usize,
        dim: usize,
    },
    Cross {
        weight: PackedWeights,
        bias: Weight,
    },
    CrossLowRank {
        v: PackedWeights,
        w: PackedWeights,
        bias: Weight,
    },
    FactorizationMachine {
        features: usize,
        dim: usize,
    },
    SumFeatures {
        features: usize,
        dim: usize,
    },
    Concat,
    Add,
}

/// One bag of an embedding layer.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Among the categorical features.
    feature: usize,
    /// Among the graph's tables.
    table: usize,
    pooling: embedding_bag::Pooling,
    /// The first column of its vector.
    column: usize,
}

impl Layer {
    /// `take` gives the weight of a name.
    pub(super) fn new(
        context: &Context,
        node: &Node,
        graph: &Graph,
        schema: &FeatureSchema,
        take: &mut impl FnMut(String) -> Result<Weight, ForwardError>,
    ) -> Result<Self, ForwardError> {
        let mut own = |part: &str| take(format!("{}.{part}", node.name));
        let packed = |weight: Weight| PackedWeights::new(context, view(&weight));
        Ok(match node.op {
            Op::Dense => Self::Dense,
            Op::EmbeddingBag { ref lookups } => {
                Self::EmbeddingBag(resolve(lookups, graph, schema)?)
            }
            Op::Linear {
                bias, activation, ..
            } => Self::Linear {
                weight: packed(own("weight")?)?,
                bias: bias.then(|| own("bias")).transpose()?,
                activation: match activation {
                    streamrec_artifact::Activation::None => Activation::None,
                    streamrec_artifact::Activation::Relu => Activation::Relu,
                },
            },
            Op::DotInteraction { features, dim } => Self::DotInteraction { features, dim },
            Op::Cross { .. } => Self::Cross {
                weight: packed(own("weight")?)?,
                bias: own("bias")?,
            },
            Op::CrossLowRank { .. } => Self::CrossLowRank {
                v: packed(own("v")?)?,
                w: packed(own("w")?)?,
                bias: own("bias")?,
            },
            Op::FactorizationMachine { features, dim } => {
                Self::FactorizationMachine { features, dim }
            }
            Op::SumFeatures { features, dim } => Self::SumFeatures { features, dim },
            Op::Concat => Self::Concat,
            Op::Add => Self::Add,
        })
    }

    /// Whether the layer turns numbers that are not finite into such as are: a rectifier makes a harmless-looking 0 of -inf.
    /// All others sum up and multiply what they read, or copy it.
    pub(super) fn hides_overflow(&self) -> bool {
        matches!(
            self,
            Self::Linear {
                activation: Activation::Relu,
                ..
            }
        )
    }

    /// Writes the layer's value, `[rows, width]`, over `y`. A valid graph has inputs where they are read.
    pub(super) fn forward(
        &self,
        pass: &Pass<'_>,
        scratch: &mut Vec<f32>,
        y: TensorMut<'_>,
    ) -> Result<(), ForwardError> {
        let (context, x, shape) = (pass.context, &pass.inputs, y.shape());
        match self {
            Self::Dense => {
                let dense = TensorRef::from_f32(&pass.encoded.dense, &shape);
                add::copy(context, dense, y)?;
            }
            Self::EmbeddingBag(lookups) => {
                let bags = embedding_bag::Bags {
                    ids: &pass.encoded.ids,
                    offsets: &pass.encoded.offsets,
                    weights: None,
                    batch: pass.encoded.rows,
                    features: pass.features,
                };
                let lookups: Vec<_> = lookups.iter().map(|bag| bag.of(pass.tables)).collect();
                embedding_bag::forward(context, &bags, &lookups, y)?;
            }
            Self::Linear {
                weight,
                bias,
                activation,
            } => {
                let bias = bias.as_ref().map(view);
                weight.forward(context, x[0], bias, *activation, y)?;
            }
            Self::DotInteraction { features, dim } => {
                dot_interaction::forward(context, x[0], *features, *dim, y)?;
            }
            Self::Cross { weight, bias } => {
                weight.cross(context, x[1], Some(view(bias)), [x[0], x[1]], y)?;
            }
            Self::CrossLowRank { v, w, bias } => {
                let shape = [x[1].shape()[0], v.shape()[0]];
                scratch.resize(shape[0] * shape[1], 0.0);
                let inner = TensorMut::from_f32(scratch, &shape);
                v.forward(context, x[1], None, Activation::None, inner)?;
                let inner = TensorRef::from_f32(scratch, &shape);
                w.cross(context, inner, Some(view(bias)), [x[0], x[1]], y)?;
            }
            Self::FactorizationMachine { features, dim } => {
                factorization_machine::forward(context, x[0], *features, *dim, y)?;
            }
            Self::SumFeatures { features, dim } => {
                sum_features::forward(context, x[0], *features, *dim, y)?;
            }
            Self::Concat => concat(context, x, y)?,
            Self::Add => sum(context, x, y)?,
        }
        Ok(())
    }
}

impl Lookup {
    fn of<'a>(&self, tables: &'a [Weight]) -> embedding_bag::Lookup<'a> {
        embedding_bag::Lookup {
            feature: self.feature,
            table: view(&tables[self.table]),
            pooling: self.pooling,
            column: self.column,
        }
    }
}

/// Finds the features and tables of an embedding layer.
fn resolve(
    lookups: &[LookupSpec],
    graph: &Graph,
    schema: &FeatureSchema,
) -> Result<Vec<Lookup>, ForwardError> {
    let unknown = |what, name: &str| ForwardError::Unknown {
        what,
        name: name.to_owned(),
    };
    let mut column = 0;
    let resolved = lookups.iter().map(|lookup| {
        let table = graph
            .tables
            .iter()
            .position(|table| table.name == lookup.table);
        let table = table.ok_or_else(|| unknown("table", &lookup.table))?;
        let feature = schema.categorical(&lookup.feature);
        let bag = Lookup {
            feature: feature.ok_or_else(|| unknown("categorical feature", &lookup.feature))?,
            table,
            pooling: match lookup.pooling {
                Pooling::Sum => embedding_bag::Pooling::Sum,
                Pooling::Mean => embedding_bag::Pooling::Mean,
            },
            column,
        };
        column += graph.tables[table].dim;
        Ok(bag)
    });
    resolved.collect()
}

fn view(weight: &Weight) -> TensorRef<'_> {
    TensorRef::from_f32(&weight.values, &weight.shape)
}

fn concat(
    context: &Context,
    inputs: &[TensorRef<'_>],
    mut y: TensorMut<'_>,
) -> Result<(), ForwardError> {
    let mut start = 0;
    for x in inputs {
        let end = start + x.shape()[1];
        add::copy(context, *x, y.reborrow().columns(start..end))?;
        start = end;
    }
    Ok(())
}

/// The sum of the inputs; one of width 1 is added to every column.
fn sum(
    context: &Context,
    inputs: &[TensorRef<'_>],
    mut y: TensorMut<'_>,
) -> Result<(), ForwardError> {
    for (index, x) in inputs.iter().enumerate() {
        let more = index > 0;
        match x.shape()[1] {
            1 => add::broadcast(context, *x, y.reborrow(), more)?,
            _ if more => add::accumulate(context, *x, y.reborrow())?,
            _ => add::copy(context, *x, y.reborrow())?,
        }
    }
    Ok(())
}

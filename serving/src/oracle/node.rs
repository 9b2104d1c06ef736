//! The value of one node, `[batch, width]`.

use candle_core::{D, Device, Tensor, bail};
use streamrec_artifact::{
    Activation, Encoded, FeatureSchema, LookupSpec, Node, Op, Pooling, Weight, Weights,
};

/// What nodes read beside other nodes.
pub(super) struct Inputs<'a> {
    /// `[batch, dense features]`
    pub(super) dense: Tensor,
    pub(super) encoded: &'a Encoded,
    pub(super) schema: &'a FeatureSchema,
    pub(super) weights: &'a Weights,
}

impl Inputs<'_> {
    /// What `node` computes from the values of its inputs.
    pub(super) fn value(&self, node: &Node, inputs: &[&Tensor]) -> candle_core::Result<Tensor> {
        let tensor = |part: &str| self.tensor(&format!("{}.{part}", node.name));
        // `x W^T`
        let product = |x: &Tensor, part: &str| x.matmul(&tensor(part)?.t()?);
        match (&node.op, inputs) {
            (Op::Dense, _) => Ok(self.dense.clone()),
            (Op::EmbeddingBag { lookups }, _) => {
                let pooled = lookups.iter().map(|lookup| self.pooled(lookup));
                Tensor::cat(&pooled.collect::<candle_core::Result<Vec<_>>>()?, 1)
            }
            (
                Op::Linear {
                    bias, activation, ..
                },
                [x],
            ) => {
                let mut y = product(x, "weight")?;
                if *bias {
                    y = y.broadcast_add(&tensor("bias")?)?;
                }
                match activation {
                    Activation::None => Ok(y),
                    Activation::Relu => y.relu(),
                }
            }
            (Op::DotInteraction { features, dim }, [x]) => dot_interaction(x, *features, *dim),
            (Op::Cross { .. }, [x0, x]) => cross(x0, x, &product(x, "weight")?, &tensor("bias")?),
            (Op::CrossLowRank { .. }, [x0, x]) => {
                cross(x0, x, &product(&product(x, "v")?, "w")?, &tensor("bias")?)
            }
            (Op::FactorizationMachine { features, dim }, [x]) => {
                let vectors = stack(x, *features, *dim)?;
                let square_of_sum = vectors.sum(1)?.sqr()?;
                let sum_of_squares = vectors.sqr()?.sum(1)?;
                (square_of_sum - sum_of_squares)?.sum_keepdim(D::Minus1)? * 0.5
            }
            (Op::SumFeatures { features, dim }, [x]) => stack(x, *features, *dim)?.sum(1),
            (Op::Concat, inputs) => Tensor::cat(inputs, 1),
            (Op::Add, inputs) => sum(inputs),
            (op, inputs) => bail!(
                "`{}`: {} takes no {} inputs",
                node.name,
                op.name(),
                inputs.len()
            ),
        }
    }

    fn weight(&self, name: &str) -> candle_core::Result<&Weight> {
        match self.weights.get(name) {
            Some(weight) => Ok(weight),
            None => bail!("no weight `{name}`"),
        }
    }

    fn tensor(&self, name: &str) -> candle_core::Result<Tensor> {
        let weight = self.weight(name)?;
        Tensor::from_slice(&weight.values, weight.shape.as_slice(), &Device::Cpu)
    }

    /// The pooled vectors of one lookup, `[batch, dim]`; an empty bag gives zeros. Only the rows that
    /// are looked up become a tensor: a table may fill the memory.
    fn pooled(&self, lookup: &LookupSpec) -> candle_core::Result<Tensor> {
        let Some(feature) = self.schema.categorical(&lookup.feature) else {
            bail!("no categorical feature `{}`", lookup.feature);
        };
        let table = self.weight(&format!("embedding.{}", lookup.table))?;
        let dim = table.shape[1];
        let mut pooled = Vec::with_capacity(self.encoded.rows);
        for row in 0..self.encoded.rows {
            let bag = self.encoded.bag(feature, row);
            let mut vectors = Vec::with_capacity(bag.len() * dim);
            for &id in bag {
                let Some(vector) = table.values.chunks_exact(dim).nth(id as usize) else {
                    bail!(
                        "row {id} of table `{}` with {} rows",
                        lookup.table,
                        table.shape[0]
                    );
                };
                vectors.extend_from_slice(vector);
            }
            let vectors = Tensor::from_vec(vectors, (bag.len(), dim), &Device::Cpu)?;
            pooled.push(match lookup.pooling {
                _ if bag.is_empty() => Tensor::zeros(dim, vectors.dtype(), &Device::Cpu)?,
                Pooling::Sum => vectors.sum(0)?,
                Pooling::Mean => vectors.mean(0)?,
            });
        }
        Tensor::stack(&pooled, 0)
    }
}

/// `[batch, features * dim]` as `[batch, features, dim]`.
fn stack(x: &Tensor, features: usize, dim: usize) -> candle_core::Result<Tensor> {
    x.reshape((x.dim(0)?, features, dim))
}

fn cross(x0: &Tensor, x: &Tensor, product: &Tensor, bias: &Tensor) -> candle_core::Result<Tensor> {
    x0.mul(&product.broadcast_add(bias)?)?.add(x)
}

/// The sum of the inputs; one of width 1 is added to every column.
fn sum(inputs: &[&Tensor]) -> candle_core::Result<Tensor> {
    let [first, rest @ ..] = inputs else {
        bail!("a sum of nothing");
    };
    rest.iter()
        .try_fold((*first).clone(), |sum, x| sum.broadcast_add(x))
}

fn dot_interaction(x: &Tensor, features: usize, dim: usize) -> candle_core::Result<Tensor> {
    let vectors = stack(x, features, dim)?;
    let products = vectors.matmul(&vectors.t()?.contiguous()?)?;
    let pairs: Vec<u32> = (0..features)
        .flat_map(|i| (0..i).map(move |j| (i * features + j) as u32))
        .collect();
    let first = x.narrow(1, 0, dim)?;
    if pairs.is_empty() {
        return Ok(first);
    }
    let count = pairs.len();
    let triangle = products
        .reshape((x.dim(0)?, features * features))?
        .index_select(&Tensor::from_vec(pairs, count, &Device::Cpu)?, 1)?;
    Tensor::cat(&[&first, &triangle], 1)
}

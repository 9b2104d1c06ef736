//! Parameters: the weights that the nodes and tables of a graph own.

use crate::graph::{Activation, GraphTable, Node, Op};

/// One weight: its name, its shape and how it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name, `<node>.<weight>` or `embedding.<table>`.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// How many values flow into one result.
    pub fan_in: usize,
    /// How many results one value flows into.
    pub fan_out: usize,
    /// Its first values.
    pub init: Init,
}

/// The distribution of a parameter's first values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Uniform within `sqrt(6 / fan_in)`, for weights before a ReLU. He et al.: <https://arxiv.org/abs/1502.01852>.
    HeUniform,
    /// Uniform within `sqrt(6 / (fan_in + fan_out))`. Glorot and Bengio:
    /// <https://proceedings.mlr.press/v9/glorot10a.html>.
    GlorotUniform,
    /// Uniform within `sqrt(1 / rows)`, as DLRM begins its tables: <https://arxiv.org/abs/1906.00091>.
    EmbeddingUniform,
}

impl Parameter {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bound `b` of its first values, which are uniform in `[-b, b]`; 0 for zeros.
    pub fn init_bound(&self) -> f64 {
        match self.init {
            Init::Zeros => 0.0,
            Init::HeUniform => (6.0 / self.fan_in as f64).sqrt(),
            Init::GlorotUniform => (6.0 / (self.fan_in + self.fan_out) as f64).sqrt(),
            Init::EmbeddingUniform => (1.0 / self.fan_in as f64).sqrt(),
        }
    }
}

impl Node {
    /// The parameters that the node owns, in a fixed order.
    pub fn parameters(&self) -> Vec<Parameter> {
        match self.op {
            Op::Linear {
                inputs,
                outputs,
                bias,
                activation,
            } => {
                let init = match activation {
                    Activation::None => Init::GlorotUniform,
                    Activation::Relu => Init::HeUniform,
                };
                let mut parameters = vec![self.matrix("weight", outputs, inputs, init)];
                if bias {
                    parameters.push(self.bias(outputs, inputs));
                }
                parameters
            }
            Op::Cross { dim } => {
                vec![
                    self.matrix("weight", dim, dim, Init::GlorotUniform),
                    self.bias(dim, dim),
                ]
            }
            Op::CrossLowRank { dim, rank } => vec![
                self.matrix("v", rank, dim, Init::GlorotUniform),
                self.matrix("w", dim, rank, Init::GlorotUniform),
                self.bias(dim, rank),
            ],
            _ => Vec::new(),
        }
    }

    fn matrix(&self, weight: &str, outputs: usize, inputs: usize, init: Init) -> Parameter {
        let name = format!("{}.{weight}", self.name);
        Parameter {
            name,
            shape: vec![outputs, inputs],
            fan_in: inputs,
            fan_out: outputs,
            init,
        }
    }

    fn bias(&self, outputs: usize, inputs: usize) -> Parameter {
        let name = format!("{}.bias", self.name);
        Parameter {
            name,
            shape: vec![outputs],
            fan_in: inputs,
            fan_out: outputs,
            init: Init::Zeros,
        }
    }
}

impl GraphTable {
    /// The name of its weights.
    pub fn parameter_name(&self) -> String {
        format!("embedding.{}", self.name)
    }

    /// Its weights over `rows` rows, which [`Shapes::table_rows`](crate::Shapes::table_rows) tells.
    pub fn parameter(&self, rows: usize) -> Parameter {
        Parameter {
            name: self.parameter_name(),
            shape: vec![rows, self.dim],
            fan_in: rows,
            fan_out: self.dim,
            init: Init::EmbeddingUniform,
        }
    }
}

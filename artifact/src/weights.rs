//! Weights: the values of a graph's parameters, by name.

use std::collections::BTreeMap;
use std::path::Path;

use crate::graph::{Graph, Shapes};
use crate::parameter::Parameter;
use crate::tensor_file::{TensorFile, TensorFileError, TensorFileWriter};
use crate::vocabulary::{Vocabularies, Vocabulary, VocabularyError};

const VOCABULARY: &str = "vocabulary.";

/// The values of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// The values of all parameters: `<node>.<weight>` and `embedding.<table>`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights {
    weights: BTreeMap<String, Weight>,
}

impl Weights {
    /// No weights.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the values of a parameter.
    pub fn insert(&mut self, name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) {
        self.weights.insert(name.into(), Weight { shape, values });
    }

    /// The values of a parameter.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.weights.get(name)
    }

    /// Takes the values of a parameter out: a server moves them where it needs them.
    pub fn take(&mut self, name: &str) -> Option<Weight> {
        self.weights.remove(name)
    }

    /// Every parameter's name and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.weights
            .iter()
            .map(|(name, weight)| (name.as_str(), weight))
    }

    /// The number of values.
    pub fn values(&self) -> usize {
        self.weights
            .values()
            .map(|weight| weight.values.len())
            .sum()
    }

    /// Checks that these are the parameters of `graph`, all of them, of the right shapes and finite.
    ///
    /// # Errors
    /// The first parameter that is not.
    pub fn check(&self, graph: &Graph, shapes: &Shapes) -> Result<(), WeightsError> {
        let expected = expected_parameters(graph, shapes);
        for parameter in &expected {
            let name = || parameter.name.clone();
            let weight = self
                .get(&parameter.name)
                .ok_or_else(|| WeightsError::Missing { parameter: name() })?;
            if weight.shape != parameter.shape || weight.values.len() != parameter.len() {
                let (expected, got, values) = (
                    parameter.shape.clone(),
                    weight.shape.clone(),
                    weight.values.len(),
                );
                return Err(WeightsError::Shape {
                    parameter: name(),
                    expected,
                    got,
                    values,
                });
            }
            if let Some(index) = weight.values.iter().position(|value| !value.is_finite()) {
                let value = weight.values[index];
                return Err(WeightsError::NotFinite {
                    parameter: name(),
                    index,
                    value,
                });
            }
        }
        match self
            .weights
            .keys()
            .find(|name| !expected.iter().any(|parameter| parameter.name == **name))
        {
            Some(name) => Err(WeightsError::Unknown {
                parameter: name.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// The parameters that the weights of a graph must hold: those of its nodes, then of its tables.
fn expected_parameters(graph: &Graph, shapes: &Shapes) -> Vec<Parameter> {
    let tables = graph
        .tables
        .iter()
        .zip(&shapes.table_rows)
        .map(|(table, &rows)| table.parameter(rows));
    graph.parameters().into_iter().chain(tables).collect()
}

/// Writes `model.safetensors`: weights as F32, vocabularies as U64 tensors `vocabulary.<table>`.
pub(crate) fn write(
    path: &Path,
    weights: &Weights,
    vocabularies: &Vocabularies,
) -> Result<(), TensorFileError> {
    let mut writer = TensorFileWriter::default();
    let failed = |source| TensorFileError::Write {
        path: path.to_owned(),
        source,
    };
    for (name, weight) in weights.iter() {
        writer
            .add(name, &weight.shape, &weight.values)
            .map_err(failed)?;
    }
    for (table, vocabulary) in vocabularies.iter() {
        writer
            .add(
                format!("{VOCABULARY}{table}"),
                &[vocabulary.len()],
                vocabulary.keys(),
            )
            .map_err(failed)?;
    }
    writer.write(path)
}

/// Reads `model.safetensors`.
pub(crate) fn read(path: &Path) -> Result<(Weights, Vocabularies), WeightsError> {
    let file = TensorFile::open(path)?;
    let (mut weights, mut vocabularies) = (Weights::new(), Vocabularies::new());
    for name in file.names() {
        if let Some(table) = name.strip_prefix(VOCABULARY) {
            let keys = file.read(&name)?;
            let vocabulary = Vocabulary::new(keys).map_err(|source| WeightsError::Vocabulary {
                table: table.to_owned(),
                source,
            })?;
            vocabularies.insert(table, vocabulary);
        } else {
            let (shape, values) = (file.shape(&name)?.to_vec(), file.read(&name)?);
            weights.insert(name, shape, values);
        }
    }
    Ok((weights, vocabularies))
}

/// Weights that are not those of the graph.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum WeightsError {
    #[error(transparent)]
    File(#[from] TensorFileError),
    #[error("the vocabulary of table `{table}` is not valid")]
    Vocabulary {
        table: String,
        source: VocabularyError,
    },
    #[error("the weights of parameter `{parameter}` are missing")]
    Missing { parameter: String },
    #[error("weights `{parameter}` belong to no parameter of the graph")]
    Unknown { parameter: String },
    #[error(
        "parameter `{parameter}` has shape {got:?} ({values} values), the graph asks for {expected:?}"
    )]
    Shape {
        parameter: String,
        expected: Vec<usize>,
        got: Vec<usize>,
        values: usize,
    },
    #[error(
        "parameter `{parameter}` is {value} at {index}; the training has diverged, export an earlier checkpoint"
    )]
    NotFinite {
        parameter: String,
        index: usize,
        value: f32,
    },
}

//! The fitter: one pass over the training split.

use super::dense_fit::DenseFit;
use super::plan::Plan;
use super::table_fit::TableFit;
use super::{ColumnInfo, SpecError};
use crate::feature_schema::{
    CategoricalFeature, Encoding, FeatureSchema, SchemaError, TableSchema,
};
use crate::feature_spec::{CategoricalSpec, FeatureSpec};
use crate::input::{ColumnKind, InputColumn};
use crate::raw::{RawBatch, RawBatchError};
use crate::vocabulary::{Vocabularies, VocabularyError};

/// Fits a feature schema, and counts keys exactly.
///
/// - Means and deviations are of the values after their steps, in f64; a constant column gets deviation 1.
/// - Quantile edges, and the moments of rates, are those of a sample of up to 131,072 rows, which the row
///   numbers alone decide.
/// - The prior of a rate is the positives over the trials of all rows with `0 < count <= strength`.
/// - An input is required where the split never lacks it: the model has not learned what its absence means.
#[derive(Debug, Clone)]
pub struct Fitter {
    inputs: Vec<InputColumn>,
    /// Rows without a value, an input each.
    missing: Vec<u64>,
    dense: Vec<DenseFit>,
    categorical: Vec<CategoricalSpec>,
    tables: Vec<TableFit>,
    rows: u64,
}

impl Fitter {
    /// A fitter of `specs` over `columns`.
    ///
    /// # Errors
    /// Every fault of every specification.
    pub fn new(specs: &[FeatureSpec], columns: &[ColumnInfo]) -> Result<Self, Vec<SpecError>> {
        let Plan {
            inputs,
            dense,
            categorical,
            tables,
            errors,
            ..
        } = Plan::new(specs, columns);
        if errors.is_empty() {
            Ok(Self {
                missing: vec![0; inputs.len()],
                inputs,
                dense,
                categorical,
                tables,
                rows: 0,
            })
        } else {
            Err(errors)
        }
    }

    /// The inputs, in the order in which a batch's columns must come.
    pub fn inputs(&self) -> &[InputColumn] {
        &self.inputs
    }

    /// How many rows were observed.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds rows of the training split. The order of the rows decides the sample, their batches do not.
    ///
    /// # Errors
    /// The batch does not have the columns of [`inputs`](Self::inputs).
    pub fn observe(&mut self, raw: &RawBatch) -> Result<(), RawBatchError> {
        raw.check(&self.inputs)?;
        for (missing, column) in self.missing.iter_mut().zip(&raw.columns) {
            *missing += column.missing_rows();
        }
        self.dense
            .iter_mut()
            .for_each(|fit| fit.observe(raw, self.rows));
        self.tables
            .iter_mut()
            .for_each(|fit| fit.observe(raw, self.rows));
        self.rows += raw.rows as u64;
        Ok(())
    }

    /// The fitted schema of a model that predicts `labels`, and its vocabularies.
    ///
    /// # Errors
    /// No row was observed, or a vocabulary is too large.
    pub fn finish(
        mut self,
        labels: Vec<String>,
    ) -> Result<(FeatureSchema, Vocabularies), FitError> {
        if self.rows == 0 {
            return Err(FitError::NoRows);
        }
        for (input, &missing) in self.inputs.iter_mut().zip(&self.missing) {
            input.required = input.kind != ColumnKind::KeyList && missing == 0;
        }
        let name_of = |input: usize| self.inputs[input].name.clone();
        let dense = self
            .dense
            .iter()
            .flat_map(|fit| fit.finish(name_of))
            .collect();
        let mut vocabularies = Vocabularies::new();
        let (mut tables, mut encodings) = (Vec::new(), Vec::new());
        for fit in &self.tables {
            let (encoding, vocabulary) = fit.finish().map_err(|source| {
                let table = fit.name.clone();
                FitError::Vocabulary { table, source }
            })?;
            let rows = encoding.rows(vocabulary.as_ref().map_or(0, |vocabulary| vocabulary.len()));
            tables.push(TableSchema {
                name: fit.name.clone(),
                rows,
                dim: fit.dim,
            });
            encodings.push(encoding);
            vocabulary
                .into_iter()
                .for_each(|vocabulary| vocabularies.insert(&fit.name, vocabulary));
        }
        let categorical = self
            .categorical
            .iter()
            .map(|spec| categorical(spec, &tables, &encodings))
            .collect();
        let schema = FeatureSchema {
            inputs: self.inputs,
            dense,
            categorical,
            tables,
            labels,
        };
        schema.validate(&vocabularies)?;
        Ok((schema, vocabularies))
    }
}

fn categorical(
    spec: &CategoricalSpec,
    tables: &[TableSchema],
    encodings: &[Encoding],
) -> CategoricalFeature {
    let mut named = tables
        .iter()
        .zip(encodings)
        .filter(|(table, _)| table.name == spec.table());
    // The plan made a table for each specification.
    let (table, encoding) = named.next().expect("a table for each feature");
    CategoricalFeature {
        name: spec.name.clone(),
        input: spec.column.clone(),
        encoding: encoding.clone(),
        table: table.name.clone(),
        pooling: spec.pooling,
        max_length: spec.max_length,
    }
}

/// A fit that cannot be finished.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FitError {
    /// Nothing was observed.
    #[error("the training split has no rows to fit features on")]
    NoRows,
    /// A vocabulary could not be made.
    #[error("cannot make the vocabulary of table `{table}`")]
    Vocabulary {
        /// The table.
        table: String,
        /// Why.
        source: VocabularyError,
    },
    /// The labels, or numbers of the data, make no valid schema.
    #[error("the fitted feature schema is not valid")]
    Schema(#[from] SchemaError),
}

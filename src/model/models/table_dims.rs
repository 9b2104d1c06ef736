use std::collections::BTreeMap;

use streamrec_artifact::{Activation, FeatureSchema, LookupSpec, TableSchema};

use super::ModelError;
use crate::model::{GraphBuilder, Value};

/// The width of each table's vectors: that of `model.dims`, else that of the feature, else
/// `model.embedding_dim`.
pub(super) struct TableDims<'a> {
    default: usize,
    dims: &'a BTreeMap<String, usize>,
}

impl<'a> TableDims<'a> {
    /// # Errors
    /// When `dims` names a table that the features do not have.
    pub(super) fn new(
        kind: &'static str,
        default: usize,
        dims: &'a BTreeMap<String, usize>,
        schema: &FeatureSchema,
    ) -> Result<Self, ModelError> {
        if let Some(unknown) = dims.keys().find(|name| schema.table(name).is_none()) {
            let tables: Vec<&str> = schema
                .tables
                .iter()
                .map(|table| table.name.as_str())
                .collect();
            let problem = format!(
                "`model.dims` names the table `{unknown}`, expected one of {}",
                tables.join(", ")
            );
            return Err(ModelError::Build { kind, problem });
        }
        Ok(Self { default, dims })
    }

    pub(super) fn of(&self, table: &TableSchema) -> usize {
        self.dims
            .get(&table.name)
            .copied()
            .or(table.dim)
            .unwrap_or(self.default)
    }

    /// The vectors of all features, each `self.default` wide, for operations that need one width.
    ///
    /// Narrower or wider ones are projected by a matrix for each feature, as in mixed dimension
    /// embeddings: <https://arxiv.org/abs/1909.11810>.
    pub(super) fn of_one_width(&self, graph: &mut GraphBuilder<'_>) -> Vec<Value> {
        let schema = graph.schema();
        if schema.categorical.is_empty() {
            return Vec::new();
        }
        if schema
            .tables
            .iter()
            .all(|table| self.of(table) == self.default)
        {
            return vec![graph.embeddings("embeddings", |table| self.of(table))];
        }
        for table in &schema.tables {
            graph.table(&table.name, &table.name, self.of(table));
        }
        let mut vectors = Vec::new();
        for feature in &schema.categorical {
            let lookup = LookupSpec {
                feature: feature.name.clone(),
                table: feature.table.clone(),
                pooling: feature.pooling,
            };
            let name = format!("embeddings.{}", feature.name);
            let own = graph.embedding_bag(&name, vec![lookup]);
            let projection = format!("projection.{}", feature.name);
            vectors.push(match own.width() == self.default {
                true => own,
                false => graph.linear(&projection, own, self.default, false, Activation::None),
            });
        }
        vectors
    }
}

//! A model's tables by their declared sizes, to plan before there is any data.
//!
//! ```toml
//! dense = 13
//! zipf = 1.05            # P(r-th most frequent id) ~ r^-zipf; 0 where all are alike
//!
//! [[tables]]
//! name = "C1"
//! rows = 40_000_000
//! ids = 3                # ids of a sample
//! ```

use std::path::Path;

use serde::Deserialize;
use streamrec_artifact::{
    CategoricalFeature, DenseFeature, DenseSource, Encoding, FeatureSchema, Pooling, TableSchema,
};

use super::super::{RunError, trainee};
use super::demand::Demand;
use crate::config::Experiment;
use crate::parallel::planner::{BatchSplit, Distinct, TableLoad};

/// Sizes of tables, and what a sample asks of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    /// Dense features.
    dense: usize,
    /// The exponent of ids' frequencies in tables that have none of their own.
    #[serde(default)]
    zipf: f64,
    tables: Vec<TableShape>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableShape {
    name: String,
    rows: usize,
    ids: f64,
    zipf: Option<f64>,
}

/// What an experiment's model asks where its tables are those that `path` declares.
pub(super) fn demand(
    path: &Path,
    experiment: &Experiment,
    split: &BatchSplit,
) -> Result<Demand, RunError> {
    let text = std::fs::read_to_string(path)
        .map_err(RunError::other(format!("cannot read {}", path.display())))?;
    let shape: Shape = toml::from_str(&text)
        .map_err(|error| RunError::Usage(format!("{}: {error}", path.display())))?;
    shape.check(path)?;
    let schema = shape.schema(experiment);
    let graph = trainee::built_in(&experiment.model, &schema)?;
    Demand::new(graph, schema, |graph, shapes, schema| {
        let loads = TableLoad::declared(
            graph,
            shapes,
            schema,
            &experiment.optimizer.sparse,
            (
                &experiment.parallel.embeddings,
                experiment.train.table_precision,
            ),
        );
        let of_table = |mut load: TableLoad| {
            // Every table has the feature of its name.
            if let Some(table) = shape.tables.iter().find(|table| table.name == load.name) {
                let zipf = table.zipf.unwrap_or(shape.zipf);
                let distinct = |samples: f64| {
                    let rows = Distinct::of_zipf(table.rows, zipf, samples * table.ids);
                    (samples as usize, rows as usize)
                };
                load.ids_per_sample = table.ids;
                let batch = split.batch as f64;
                load.distinct = Distinct::new(distinct(batch / 64.0), distinct(batch));
            }
            load
        };
        Ok(loads.into_iter().map(of_table).collect())
    })
}

impl Shape {
    fn check(&self, path: &Path) -> Result<(), RunError> {
        let refuse = |table: &str, problem: String| {
            let file = path.display();
            Err(RunError::Usage(format!(
                "{file}, table `{table}`: {problem}"
            )))
        };
        for (index, table) in self.tables.iter().enumerate() {
            if self.tables[..index]
                .iter()
                .any(|other| other.name == table.name)
            {
                return refuse(
                    &table.name,
                    "it stands there twice; give each its own name".into(),
                );
            }
            if table.rows == 0 {
                return refuse(&table.name, "`rows`: expected at least 1, got 0".into());
            }
            if !(table.ids > 0.0 && table.ids.is_finite()) {
                let ids = table.ids;
                return refuse(
                    &table.name,
                    format!("`ids`: expected a number above 0, got {ids}"),
                );
            }
            let zipf = table.zipf.unwrap_or(self.zipf);
            if !(0.0..=10.0).contains(&zipf) {
                return refuse(&table.name, format!("`zipf`: expected 0 to 10, got {zipf}"));
            }
        }
        Ok(())
    }

    fn schema(&self, experiment: &Experiment) -> FeatureSchema {
        let dense = |index: usize| DenseFeature {
            name: format!("dense_{index}"),
            source: DenseSource::Column(format!("dense_{index}")),
            steps: Vec::new(),
            fill: 0.0,
        };
        let categorical = |table: &TableShape| CategoricalFeature {
            name: table.name.clone(),
            input: table.name.clone(),
            encoding: Encoding::Hash { rows: table.rows },
            table: table.name.clone(),
            pooling: Pooling::Sum,
            max_length: None,
        };
        let table = |table: &TableShape| TableSchema {
            name: table.name.clone(),
            rows: table.rows,
            dim: None,
        };
        FeatureSchema {
            inputs: Vec::new(),
            dense: (0..self.dense).map(dense).collect(),
            categorical: self.tables.iter().map(categorical).collect(),
            tables: self.tables.iter().map(table).collect(),
            labels: experiment.data.labels.clone(),
        }
    }
}

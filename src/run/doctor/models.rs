//! What `streamrec doctor --check` lets a GPU train: every kind of model, in small.

use std::collections::BTreeMap;

use streamrec_artifact::{
    CategoricalFeature, DenseFeature, DenseSource, Encoding, FeatureSchema, Pooling, TableSchema,
};

use super::super::RunError;
use crate::config::{LossScaleConfig, ModelConfig, OptimizerConfig, Precision, Reduction};
use crate::model::{BucketSettings, models};
use crate::train::{SelfCheck, TrainerSettings};

const MODELS: [(&str, &str); 5] = [
    (
        "dlrm",
        "kind = 'dlrm'\nembedding_dim = 16\nbottom = [32, 16]\ntop = [64, 32]\n",
    ),
    (
        "dcn_v2",
        "kind = 'dcn_v2'\nembedding_dim = 16\ncross_layers = 2\ndeep = [64, 32]\n",
    ),
    (
        "dcn_v2 of low rank",
        "kind = 'dcn_v2'\nembedding_dim = 16\ncross_layers = 2\ncross_rank = 8\nstructure = 'stacked'\nbottom = [32]\ndeep = [64]\n",
    ),
    (
        "deepfm",
        "kind = 'deepfm'\nembedding_dim = 16\ndeep = [64, 32]\n",
    ),
    (
        "wide_deep",
        "kind = 'wide_deep'\nembedding_dim = 16\ndeep = [64, 32]\n",
    ),
];

const OPTIMIZER: &str = "clip_norm = 1.0\n[dense]\nkind = 'adam'\nlearning_rate = 0.01\n\
                         [sparse]\nkind = 'row_wise_adagrad'\nlearning_rate = 0.05\n";

/// Models of which each pair of types is checked: tables of many columns, and of one.
const OF_ALL_TABLES: [&str; 2] = ["dlrm", "deepfm"];

/// The types in which a model's tables are stored.
fn of_tables(name: &str) -> &'static [Precision] {
    const ALL: [Precision; 3] = [Precision::Fp32, Precision::Bf16, Precision::Fp16];
    match OF_ALL_TABLES.contains(&name) {
        true => &ALL,
        false => &ALL[..1],
    }
}

/// Each model in each precision, and some with their tables in each type, by name.
pub(super) fn all() -> Result<Vec<(String, SelfCheck)>, RunError> {
    let schema = schema();
    let config = |text: &str| RunError::other(format!("a model of the check: {text}"));
    let optimizer: OptimizerConfig = toml::from_str(OPTIMIZER).map_err(config(OPTIMIZER))?;
    let mut checks = Vec::new();
    for (name, model) in MODELS {
        let model: ModelConfig = toml::from_str(model).map_err(config(model))?;
        let graph = models::build(&model, &schema)?;
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
            for &tables in of_tables(name) {
                let settings = settings(precision, tables);
                let check = SelfCheck::new(&graph, &schema, &optimizer, &settings);
                let name = match tables {
                    Precision::Fp32 => format!("{name} in {precision}"),
                    _ => format!("{name} in {precision}, its tables in {tables}"),
                };
                checks.push((name, check));
            }
        }
    }
    Ok(checks)
}

fn settings(precision: Precision, table_precision: Precision) -> TrainerSettings {
    TrainerSettings {
        seed: 1,
        batch_rows: 1,
        global_batch: 1,
        accumulate: 1,
        reduction: Reduction::Fast,
        precision,
        table_precision,
        loss_scale: LossScaleConfig::default(),
        label_weights: vec![1.0],
        partitions: BTreeMap::new(),
        tables: None,
        buckets: BucketSettings {
            first_bucket_bytes: 1 << 20,
            bucket_bytes: 1 << 22,
        },
    }
}

/// Features of which two share a table.
fn schema() -> FeatureSchema {
    let rows = 50;
    let features = [("user", "user"), ("item", "item"), ("last_item", "item")];
    let categorical = features.map(|(name, table)| CategoricalFeature {
        name: name.to_owned(),
        input: name.to_owned(),
        encoding: Encoding::Hash { rows },
        table: table.to_owned(),
        pooling: match name {
            "last_item" => Pooling::Mean,
            _ => Pooling::Sum,
        },
        max_length: None,
    });
    let tables = ["user", "item"].map(|name| TableSchema {
        name: name.to_owned(),
        rows,
        dim: None,
    });
    let dense = ["hour", "age", "price"].map(|name| DenseFeature {
        name: name.to_owned(),
        source: DenseSource::Column(name.to_owned()),
        steps: Vec::new(),
        fill: 0.0,
    });
    FeatureSchema {
        inputs: Vec::new(),
        dense: dense.into(),
        categorical: categorical.into(),
        tables: tables.into(),
        labels: vec!["click".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use streamrec_emulation::{Emulator, Work};
    use streamrec_kernels::Context;

    #[test]
    fn a_device_that_computes_as_the_cpu_passes_with_each_of_them() {
        let context = Context::cpu(1, false).unwrap();
        let checks = all().unwrap();
        assert_eq!(checks.len(), 27);
        for (name, check) in checks {
            let outcome = check.run(&context, || Ok(Emulator::new(0)));
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
        }
    }

    /// Lookups of bf16 and fp16 tables are found wrong by checks of such tables, and by no others.
    #[test]
    fn a_device_that_looks_up_half_tables_wrongly_fails_with_those_alone() {
        let context = Context::cpu(1, false).unwrap();
        let of_halves = |kernel: &str| {
            kernel.starts_with("embedding_bag<bfloat16")
                || kernel.starts_with("embedding_bag<float16")
        };
        for (name, check) in all().unwrap() {
            if !name.contains("in fp32") || !name.starts_with("deepfm") {
                continue;
            }
            let outcome = check.run(&context, || {
                let mut device = Emulator::new(0);
                device.spoils = Some(Arc::new(move |work| match work {
                    Work::Launch(launch) => of_halves(launch.kernel.name),
                    _ => false,
                }));
                Ok(device)
            });
            assert_eq!(outcome.is_err(), name.contains("its tables in"), "{name}");
        }
    }
}

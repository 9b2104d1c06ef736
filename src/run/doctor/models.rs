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

/// Each model in each precision, by name.
pub(super) fn all() -> Result<Vec<(String, SelfCheck)>, RunError> {
    let schema = schema();
    let config = |text: &str| RunError::other(format!("a model of the check: {text}"));
    let optimizer: OptimizerConfig = toml::from_str(OPTIMIZER).map_err(config(OPTIMIZER))?;
    let mut checks = Vec::new();
    for (name, model) in MODELS {
        let model: ModelConfig = toml::from_str(model).map_err(config(model))?;
        let graph = models::build(&model, &schema)?;
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
            let check = SelfCheck::new(&graph, &schema, &optimizer, &settings(precision));
            checks.push((format!("{name} in {precision}"), check));
        }
    }
    Ok(checks)
}

fn settings(precision: Precision) -> TrainerSettings {
    TrainerSettings {
        seed: 1,
        batch_rows: 1,
        global_batch: 1,
        accumulate: 1,
        reduction: Reduction::Fast,
        precision,
        table_precision: Precision::Fp32,
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
    use super::*;
    use streamrec_emulation::Emulator;
    use streamrec_kernels::Context;

    #[test]
    fn a_device_that_computes_as_the_cpu_passes_with_each_of_them() {
        let context = Context::cpu(1, false).unwrap();
        let checks = all().unwrap();
        assert_eq!(checks.len(), 15);
        for (name, check) in checks {
            let outcome = check.run(&context, || Ok(Emulator::new(0)));
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
        }
    }
}

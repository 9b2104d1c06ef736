//! Experiments: TOML into checked, typed settings. All errors are reported at once.
//!
//! ```text
//! file.toml ─► overrides (--set a.b=c) ─► sections, each typed ─► checks across fields ─► Experiment
//! ```
//!
//! Never does: read data, touch the network or look at the machine.

mod checkpoint;
mod data;
mod error;
pub mod model;
pub mod optimizer;
mod overrides;
mod parallel;
mod train;

pub use checkpoint::CheckpointConfig;
pub use data::DataConfig;
pub use error::ConfigError;
pub use model::ModelConfig;
pub use optimizer::OptimizerConfig;
pub use parallel::{
    Backend, EmbeddingsConfig, Exchange, ParallelConfig, Partition, Payload, Placement, Reduction,
    TableConfig,
};
pub use train::{DeviceChoice, EarlyStopping, LossScaleConfig, Precision, TrainConfig};

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use streamrec_artifact::FeatureSpec;

/// One experiment: everything that decides what a run trains.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Experiment {
    /// Names the run's folder and the artifact.
    pub name: String,
    /// Decides initial weights and the order of samples.
    pub seed: u64,
    /// The run's folder.
    pub output: PathBuf,
    /// Where samples come from.
    pub data: DataConfig,
    /// What the model sees of a sample, in order.
    pub features: Vec<FeatureSpec>,
    /// The ranker.
    pub model: ModelConfig,
    /// Optimisers, schedules and clipping.
    pub optimizer: OptimizerConfig,
    /// Batch size, length and evaluation.
    pub train: TrainConfig,
    /// When checkpoints are written and how many stay.
    pub checkpoint: CheckpointConfig,
    /// Communication between ranks.
    pub parallel: ParallelConfig,
}

/// The sections and values that the top of an experiment file may hold.
const TOP_LEVEL: [&str; 10] = [
    "name",
    "seed",
    "output",
    "data",
    "features",
    "model",
    "optimizer",
    "train",
    "checkpoint",
    "parallel",
];

impl Experiment {
    /// Reads `path`, applies `overrides` (`section.field=value`, the value in TOML syntax or a
    /// bare string) and checks everything.
    ///
    /// # Errors
    /// All at once: of each section its first unknown field or wrong type, or else every value that is
    /// out of range.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, overrides).map_err(|error| error.in_file(path))
    }

    /// Like [`Experiment::load`], from text.
    ///
    /// # Errors
    /// See [`Experiment::load`].
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut table: toml::Table = text.parse().map_err(ConfigError::syntax)?;
        let mut errors = Vec::new();
        for entry in overrides {
            if let Err(message) = overrides::apply(&mut table, entry) {
                errors.push(message);
            }
        }
        for key in table
            .keys()
            .filter(|key| !TOP_LEVEL.contains(&key.as_str()))
        {
            errors.push(format!(
                "`{key}`: unknown section; expected one of {}",
                TOP_LEVEL.join(", ")
            ));
        }
        let name: Option<String> = section(&mut table, "name", &mut errors);
        let seed = optional(&mut table, "seed", &mut errors).unwrap_or(0);
        let output: Option<PathBuf> = optional(&mut table, "output", &mut errors);
        let data: Option<DataConfig> = section(&mut table, "data", &mut errors);
        let features: Option<Vec<FeatureSpec>> = section(&mut table, "features", &mut errors);
        let model: Option<ModelConfig> = section(&mut table, "model", &mut errors);
        let optimizer: Option<OptimizerConfig> = section(&mut table, "optimizer", &mut errors);
        let train: Option<TrainConfig> = section(&mut table, "train", &mut errors);
        let checkpoint: CheckpointConfig =
            optional(&mut table, "checkpoint", &mut errors).unwrap_or_default();
        let parallel: ParallelConfig =
            optional(&mut table, "parallel", &mut errors).unwrap_or_default();

        // What can be read is checked, whatever cannot.
        check_name(name.as_deref(), &mut errors);
        if features.as_ref().is_some_and(Vec::is_empty) {
            errors.push("`features`: at least one [[features]] entry is needed".into());
        }
        data.iter().for_each(|data| data.check(&mut errors));
        model.iter().for_each(|model| model.check(&mut errors));
        optimizer
            .iter()
            .for_each(|optimizer| optimizer.check(&mut errors));
        train.iter().for_each(|train| train.check(&mut errors));
        checkpoint.check(&mut errors);
        parallel.check(&mut errors);
        let (Some(name), Some(data), Some(features), Some(model), Some(optimizer), Some(train)) =
            (name, data, features, model, optimizer, train)
        else {
            return Err(ConfigError::invalid(errors));
        };
        if !errors.is_empty() {
            return Err(ConfigError::invalid(errors));
        }
        Ok(Self {
            output: output.unwrap_or_else(|| Path::new("runs").join(&name)),
            name,
            seed,
            data,
            features,
            model,
            optimizer,
            train,
            checkpoint,
            parallel,
        })
    }

    /// The experiment as TOML that [`Experiment::parse`] reads back, every default written out.
    ///
    /// # Errors
    /// When a value has no TOML form.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self).map_err(ConfigError::unwritable)
    }
}

fn check_name(name: Option<&str>, errors: &mut Vec<String>) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if let Some(name) = name.filter(|name| name.is_empty() || !name.chars().all(plain)) {
        errors.push(format!(
            "`name`: expected letters, digits, `_`, `-` or `.`, got {name:?}"
        ));
    }
}

fn optional<T: DeserializeOwned>(
    table: &mut toml::Table,
    key: &str,
    errors: &mut Vec<String>,
) -> Option<T> {
    let value = table.remove(key)?;
    match value.try_into() {
        Ok(section) => Some(section),
        Err(error) => {
            errors.push(format!("`{key}`: {}", error.to_string().trim_end()));
            None
        }
    }
}

fn section<T: DeserializeOwned>(
    table: &mut toml::Table,
    key: &str,
    errors: &mut Vec<String>,
) -> Option<T> {
    if !table.contains_key(key) {
        errors.push(format!("`{key}`: missing, and it has no default"));
        return None;
    }
    optional(table, key, errors)
}

#[cfg(test)]
mod tests;

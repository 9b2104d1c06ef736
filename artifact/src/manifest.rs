//! The manifest: what the model is, where it comes from and how good it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::feature_schema::FeatureSchema;
use crate::graph::Graph;

/// The version of the artifact's format that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The model's name.
    pub name: String,
    /// When it was exported, RFC 3339.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub created: Timestamp,
    /// The version of the data that it was trained on.
    pub data_version: String,
    /// The version of the code that trained it.
    pub code_version: String,
    /// The seed of the training.
    pub seed: u64,
    /// Measured values by name, such as `test.auc`.
    pub metrics: BTreeMap<String, f64>,
    /// How it was trained.
    pub training: TrainingSummary,
    /// From raw values to the model's inputs.
    pub schema: FeatureSchema,
    /// From the model's inputs to logits.
    pub graph: Graph,
    /// Size and digest of the artifact's other files, by name. [`Artifact::write`](crate::Artifact::write)
    /// fills it in.
    #[serde(default)]
    pub files: BTreeMap<String, FileDigest>,
}

/// How a model was trained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSummary {
    /// The architecture, such as `dcn_v2`.
    pub model: String,
    /// The compute type: `fp32`, `bf16` or `fp16`.
    pub precision: String,
    /// The number of ranks.
    pub ranks: usize,
    /// Rows in a global batch.
    pub global_batch: usize,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Rows seen, repetitions included.
    pub rows: u64,
    /// The time it took, in seconds.
    pub seconds: f64,
    /// The experiment's settings as they were resolved.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub experiment: serde_json::Value,
}

/// Size and digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Its size.
    pub bytes: u64,
    /// XXH3-128 of its bytes, 32 hexadecimal digits.
    pub xxh3_128: String,
}

fn write_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error| D::Error::custom(format!("`{text}` is no RFC 3339 time: {error}")))
}

/// The version alone: the only field that every version has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

impl Manifest {
    /// Parses `manifest.json`. The version is read first, so that a later format is called by its name.
    ///
    /// # Errors
    /// Another version, unknown or missing fields, or a metric that is not finite.
    pub fn from_json(json: &[u8]) -> Result<Self, ManifestError> {
        let Version { format_version } = serde_json::from_slice(json)?;
        if format_version != FORMAT_VERSION {
            return Err(ManifestError::Version {
                got: format_version,
            });
        }
        let manifest: Self = serde_json::from_slice(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The text of `manifest.json`.
    ///
    /// # Errors
    /// A metric that is not finite, which JSON cannot hold.
    pub fn to_json(&self) -> Result<String, ManifestError> {
        self.check()?;
        Ok(serde_json::to_string_pretty(self)?)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.format_version != FORMAT_VERSION {
            return Err(ManifestError::Version {
                got: self.format_version,
            });
        }
        let seconds = ("training.seconds", self.training.seconds);
        let mut numbers = self
            .metrics
            .iter()
            .map(|(name, &value)| (name.as_str(), value))
            .chain([seconds]);
        match numbers.find(|(_, value)| !value.is_finite()) {
            Some((name, value)) => Err(ManifestError::NotFinite {
                name: name.to_owned(),
                value,
            }),
            None => Ok(()),
        }
    }
}

/// A manifest that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No JSON, or not that of a manifest.
    #[error("the manifest is not valid")]
    Json(#[from] serde_json::Error),
    /// Another version of the format.
    #[error(
        "the artifact has format version {got}, this program reads version {FORMAT_VERSION}; \
         use the program that wrote it, or export the model again"
    )]
    Version {
        /// The version.
        got: u32,
    },
    /// A measured value that is no number.
    #[error("metric `{name}` is {value}: it was not measured, leave it out")]
    NotFinite {
        /// Its name.
        name: String,
        /// Its value.
        value: f64,
    },
}

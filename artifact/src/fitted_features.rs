//! What fitting found, on its own: a run keeps it from its first step to its export.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::feature_schema::{FeatureSchema, SchemaError};
use crate::vocabulary::Vocabularies;
use crate::weights::{self, Weights, WeightsError};

/// The schema's file name; written last, so that a folder that has it is complete.
const SCHEMA_FILE: &str = "schema.json";
/// The file of vocabularies.
const VOCABULARIES_FILE: &str = "vocabularies.safetensors";

/// A fitted schema with its vocabularies.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedFeatures {
    /// From raw values to the model's inputs.
    pub schema: FeatureSchema,
    /// The known keys of its tables.
    pub vocabularies: Vocabularies,
}

impl FittedFeatures {
    /// Whether `folder` holds fitted features.
    pub fn exist(folder: &Path) -> bool {
        folder.join(SCHEMA_FILE).exists()
    }

    /// Writes both files into `folder`, which is made where needed.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), FittedFeaturesError> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        let path = folder.join(VOCABULARIES_FILE);
        weights::write(&path, &Weights::new(), &self.vocabularies)
            .map_err(|error| FittedFeaturesError::Vocabularies(error.into()))?;
        let path = folder.join(SCHEMA_FILE);
        let text = serde_json::to_vec_pretty(&self.schema).map_err(|source| {
            FittedFeaturesError::Schema {
                path: path.clone(),
                source,
            }
        })?;
        let temporary = folder.join(".schema.json.tmp");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(at(&path))
    }

    /// Reads what [`write`](Self::write) wrote, and checks that it fits together.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn read(folder: &Path) -> Result<Self, FittedFeaturesError> {
        let path = folder.join(SCHEMA_FILE);
        let text = fs::read(&path).map_err(at(&path))?;
        let schema: FeatureSchema = serde_json::from_slice(&text)
            .map_err(|source| FittedFeaturesError::Schema { path, source })?;
        let (_, vocabularies) = weights::read(&folder.join(VOCABULARIES_FILE))?;
        schema.validate(&vocabularies)?;
        Ok(Self {
            schema,
            vocabularies,
        })
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FittedFeaturesError {
    let path = path.to_owned();
    move |source| FittedFeaturesError::File { path, source }
}

/// Fitted features that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FittedFeaturesError {
    /// The file system refused.
    #[error("cannot access {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The schema is not JSON of a schema.
    #[error("{} is no feature schema; start the run again, so that it is fitted anew", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The vocabularies are damaged.
    #[error("the run's vocabularies cannot be read")]
    Vocabularies(#[from] WeightsError),
    /// Schema and vocabularies do not fit.
    #[error("the run's schema and vocabularies do not fit together")]
    Mismatch(#[from] SchemaError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Vocabulary;

    #[test]
    fn a_folder_without_a_schema_is_not_complete() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut vocabularies = Vocabularies::new();
        vocabularies.insert("user", Vocabulary::new(vec![5, 3]).expect("distinct keys"));
        let features = FittedFeatures {
            schema: FeatureSchema::default(),
            vocabularies,
        };
        assert!(!FittedFeatures::exist(folder.path()));
        features.write(folder.path()).expect("written");
        assert!(FittedFeatures::exist(folder.path()));
        // The schema knows no table `user`: the two do not fit.
        let error = FittedFeatures::read(folder.path()).expect_err("they do not fit");
        assert!(matches!(error, FittedFeaturesError::Mismatch(_)), "{error}");
    }
}

//! The artifact: a folder that holds a model and all that is needed to use and to judge it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::encoder::Encoder;
use crate::feature_schema::SchemaError;
use crate::golden::{Golden, GoldenError};
use crate::graph::{GraphError, Shapes};
use crate::manifest::{FileDigest, Manifest, ManifestError};
use crate::model_card;
use crate::profile::Profile;
use crate::tensor_file::TensorFileError;
use crate::vocabulary::Vocabularies;
use crate::weights::{self, Weights, WeightsError};

/// The manifest's file name.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The file of weights and vocabularies.
pub const MODEL_FILE: &str = "model.safetensors";
/// The file of golden examples.
pub const GOLDEN_FILE: &str = "golden.safetensors";
/// The reference profile's file name.
pub const PROFILE_FILE: &str = "profile.json";
/// The model card's file name.
pub const MODEL_CARD_FILE: &str = "MODEL_CARD.md";

/// The longest JSON file of an artifact.
const JSON_BYTES_MAX: u64 = 256 << 20;
/// The files whose digests the manifest holds.
const DIGESTED: [&str; 3] = [MODEL_FILE, GOLDEN_FILE, PROFILE_FILE];

/// A trained model with all that others need.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    /// What it is and where it comes from.
    pub manifest: Manifest,
    /// The values of the graph's parameters.
    pub weights: Weights,
    /// The known keys of the schema's tables.
    pub vocabularies: Vocabularies,
    /// Rows with the trained model's scores.
    pub golden: Golden,
    /// What inputs and scores looked like.
    pub profile: Profile,
}

impl Artifact {
    /// Checks that the parts fit one another: schema and vocabularies, graph, weights, golden examples (encoded
    /// again), profile.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn validate(&self) -> Result<Shapes, ArtifactError> {
        let schema = &self.manifest.schema;
        let encoder = Encoder::new(schema, &self.vocabularies)?;
        let shapes = self.manifest.graph.validate(schema)?;
        self.weights.check(&self.manifest.graph, &shapes)?;
        self.golden.check(schema)?;
        self.golden.check_encoding(&encoder)?;
        let named = |names: Vec<&str>| names.join(", ");
        let expected = named(
            schema
                .inputs
                .iter()
                .map(|input| input.name.as_str())
                .collect(),
        );
        let got = named(
            self.profile
                .inputs
                .iter()
                .map(|input| input.name.as_str())
                .collect(),
        );
        if expected != got {
            return Err(ArtifactError::Profile { expected, got });
        }
        Ok(shapes)
    }

    /// Writes the artifact as folder `dir`: it appears whole or not at all, and is on the disk when this returns.
    ///
    /// # Errors
    /// The parts do not fit, `dir` exists, or a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), ArtifactError> {
        self.validate()?;
        if dir.exists() {
            return Err(ArtifactError::Exists {
                path: dir.to_owned(),
            });
        }
        let parent = dir
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(at(parent))?;
        let unfinished = UnfinishedFolder::create(dir)?;
        self.write_files(&unfinished.path)?;
        sync(&unfinished.path)?;
        unfinished.finish(dir)?;
        sync(parent)
    }

    fn write_files(&self, dir: &Path) -> Result<(), ArtifactError> {
        weights::write(&dir.join(MODEL_FILE), &self.weights, &self.vocabularies)?;
        self.golden
            .write(&dir.join(GOLDEN_FILE), &self.manifest.schema)?;
        let profile = serde_json::to_string_pretty(&self.profile);
        let profile = profile.map_err(|source| ArtifactError::ProfileJson {
            path: dir.join(PROFILE_FILE),
            source,
        })?;
        write_text(&dir.join(PROFILE_FILE), &profile)?;
        let mut manifest = self.manifest.clone();
        manifest.files = BTreeMap::new();
        for file in DIGESTED {
            manifest
                .files
                .insert(file.to_owned(), digest(&dir.join(file))?);
        }
        write_text(
            &dir.join(MODEL_CARD_FILE),
            &model_card::render(&manifest, &self.profile),
        )?;
        write_text(&dir.join(MANIFEST_FILE), &manifest.to_json()?)
    }

    /// Reads the artifact in folder `dir` and [validates](Self::validate) it. The scores of its golden examples
    /// are for the caller to check, who has the forward pass.
    ///
    /// # Errors
    /// A file is missing, damaged, not the one the manifest was written with, or does not fit the others.
    pub fn read(dir: &Path) -> Result<Self, ArtifactError> {
        let manifest = Manifest::from_json(&read_json(&dir.join(MANIFEST_FILE))?)?;
        for file in DIGESTED {
            let path = dir.join(file);
            let expected = manifest
                .files
                .get(file)
                .ok_or(ArtifactError::NoDigest { file })?;
            let got = digest(&path)?;
            if got != *expected {
                return Err(ArtifactError::Digest {
                    path,
                    expected: expected.clone(),
                    got,
                });
            }
        }
        let (weights, vocabularies) = weights::read(&dir.join(MODEL_FILE))?;
        let golden = Golden::read(&dir.join(GOLDEN_FILE), &manifest.schema)?;
        let path = dir.join(PROFILE_FILE);
        let profile = serde_json::from_slice(&read_json(&path)?)
            .map_err(|source| ArtifactError::ProfileJson { path, source })?;
        let artifact = Self {
            manifest,
            weights,
            vocabularies,
            golden,
            profile,
        };
        artifact.validate()?;
        Ok(artifact)
    }
}

/// A folder that is removed unless it was finished.
struct UnfinishedFolder {
    path: PathBuf,
}

impl UnfinishedFolder {
    /// A new folder beside `dir`.
    fn create(dir: &Path) -> Result<Self, ArtifactError> {
        let mut name = OsString::from(".");
        name.push(dir.file_name().unwrap_or_default());
        name.push(format!(".{}.unfinished", std::process::id()));
        let path = dir.with_file_name(name);
        fs::create_dir(&path).map_err(at(&path))?;
        Ok(Self { path })
    }

    fn finish(mut self, dir: &Path) -> Result<(), ArtifactError> {
        fs::rename(&self.path, dir).map_err(at(dir))?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for UnfinishedFolder {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Nothing more can be done about a folder that cannot be removed; its name tells what it is.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::Io {
        path: path.clone(),
        source,
    }
}

fn sync(path: &Path) -> Result<(), ArtifactError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(at(path))
}

fn write_text(path: &Path, text: &str) -> Result<(), ArtifactError> {
    let write = |mut file: File| {
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
    };
    File::create_new(path).and_then(write).map_err(at(path))
}

/// Writes `path` beside its place and moves it there: a reader sees the old file or the new one.
pub(crate) fn replace_text(path: &Path, text: &str) -> Result<(), ArtifactError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(at(path))?;
    sync(path.parent().unwrap_or(Path::new(".")))
}

pub(crate) fn read_json(path: &Path) -> Result<Vec<u8>, ArtifactError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(at(path))?;
    file.take(JSON_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(at(path))?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(ArtifactError::TooLong {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

pub(crate) fn digest(path: &Path) -> Result<FileDigest, ArtifactError> {
    let mut file = File::open(path).map_err(at(path))?;
    let (mut hash, mut bytes) = (Xxh3::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(at(path))? {
            0 => break,
            length => {
                hash.update(&buffer[..length]);
                bytes += length as u64;
            }
        }
    }
    Ok(FileDigest {
        bytes,
        xxh3_128: format!("{:032x}", hash.digest128()),
    })
}

/// An artifact that cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum ArtifactError {
    #[error("cannot access {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} exists; choose another folder or remove it", path.display())]
    Exists { path: PathBuf },
    #[error("{} is longer than {JSON_BYTES_MAX} bytes, it is no file of an artifact", path.display())]
    TooLong { path: PathBuf },
    #[error("the manifest has no digest of {file}; export the model again")]
    NoDigest { file: &'static str },
    #[error(
        "{} is not the file that the manifest was written with: {} bytes with digest {}, expected {} with {}; \
         fetch the artifact again",
        path.display(), got.bytes, got.xxh3_128, expected.bytes, expected.xxh3_128
    )]
    Digest {
        path: PathBuf,
        expected: FileDigest,
        got: FileDigest,
    },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{} is not valid", path.display())]
    ProfileJson {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("the profile describes inputs {got}, the schema has {expected}")]
    Profile { expected: String, got: String },
    #[error("the feature schema is not valid")]
    Schema(#[from] SchemaError),
    #[error("the graph is not valid")]
    Graph(#[from] GraphError),
    #[error("the weights do not fit the graph")]
    Weights(#[from] WeightsError),
    #[error("cannot use the golden examples")]
    Golden(#[from] GoldenError),
    #[error(transparent)]
    File(#[from] TensorFileError),
}

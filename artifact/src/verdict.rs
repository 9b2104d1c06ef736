//! The verdict of a release gate, kept beside the files that it judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::{
    ArtifactError, GOLDEN_FILE, MANIFEST_FILE, MODEL_CARD_FILE, MODEL_FILE, PROFILE_FILE, digest,
    read_json, replace_text,
};
use crate::manifest::FileDigest;

/// The verdict's file name.
pub const VERDICT_FILE: &str = "verdict.json";
/// The version of verdicts that is written and read.
pub const VERDICT_VERSION: u32 = 1;

/// The files that a verdict is about.
const JUDGED: [&str; 5] = [
    MANIFEST_FILE,
    MODEL_FILE,
    GOLDEN_FILE,
    PROFILE_FILE,
    MODEL_CARD_FILE,
];

/// What a gate came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All that was asked for was shown.
    Pass,
    /// There is too little evidence to say.
    Hold,
    /// Something that was asked for does not hold, or its evidence is missing.
    Fail,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Hold => "hold",
            Self::Fail => "fail",
        })
    }
}

/// `verdict.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The version of its form.
    pub format_version: u32,
    /// What the gate came to.
    pub outcome: Outcome,
    /// The gate's name.
    pub gate: String,
    /// XXH3-128 of the gate's file.
    pub gate_xxh3_128: String,
    /// When it was judged, RFC 3339.
    pub created: String,
    /// The data that it was judged on.
    pub data_version: String,
    /// Digests of the files that were judged.
    pub files: BTreeMap<String, FileDigest>,
    /// Digests of the manifests of the models that it was compared with, by what they were: `champion`,
    /// `reference`.
    pub compared_with: BTreeMap<String, FileDigest>,
    /// What was found of each criterion.
    pub findings: Vec<Value>,
}

/// Why an artifact has no verdict that lets it go live.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum VerdictError {
    #[error("{} has no {VERDICT_FILE}: judge it with `streamrec validate gate`", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        source: Box<ArtifactError>,
    },
    #[error("{} is no verdict", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{}: expected version {VERDICT_VERSION}, got {got}", path.display())]
    Version { path: PathBuf, got: u32 },
    #[error("the gate `{gate}` judged {}: {outcome}, not pass; it may not go live", path.display())]
    NotPassed {
        path: PathBuf,
        gate: String,
        outcome: Outcome,
    },
    #[error(
        "{file} of {} is not the one that the gate judged; judge the artifact again with `streamrec validate gate`",
        path.display()
    )]
    Changed { path: PathBuf, file: String },
}

impl Verdict {
    /// The digests of the files of the artifact in `folder` that a verdict is about.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn digests(folder: &Path) -> Result<BTreeMap<String, FileDigest>, ArtifactError> {
        let digest = |file: &str| Ok((file.to_owned(), digest(&folder.join(file))?));
        JUDGED.into_iter().map(digest).collect()
    }

    /// Writes it beside the artifact's other files, over an earlier one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), ArtifactError> {
        let path = folder.join(VERDICT_FILE);
        let text =
            serde_json::to_string_pretty(self).map_err(|source| ArtifactError::ProfileJson {
                path: path.clone(),
                source,
            })?;
        replace_text(&path, &text)
    }

    /// Reads the verdict on the artifact in `folder`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn read(folder: &Path) -> Result<Self, VerdictError> {
        let path = folder.join(VERDICT_FILE);
        if !path.exists() {
            return Err(VerdictError::Missing {
                path: folder.to_owned(),
            });
        }
        let text = read_json(&path).map_err(|source| VerdictError::Read {
            path: path.clone(),
            source: Box::new(source),
        })?;
        let json = |source| VerdictError::Json {
            path: path.clone(),
            source,
        };
        let version: Value = serde_json::from_slice(&text).map_err(json)?;
        match version["format_version"].as_u64() {
            Some(got) if got != u64::from(VERDICT_VERSION) => Err(VerdictError::Version {
                path,
                got: u32::try_from(got).unwrap_or(u32::MAX),
            }),
            _ => serde_json::from_slice(&text).map_err(json),
        }
    }

    /// Refuses an artifact that no gate passed as it is now.
    ///
    /// # Errors
    /// There is no verdict, it is another than pass, or a file changed since.
    pub fn require_pass(folder: &Path) -> Result<Self, VerdictError> {
        let verdict = Self::read(folder)?;
        let path = || folder.to_owned();
        if verdict.outcome != Outcome::Pass {
            return Err(VerdictError::NotPassed {
                path: path(),
                gate: verdict.gate,
                outcome: verdict.outcome,
            });
        }
        let now = Self::digests(folder).map_err(|source| VerdictError::Read {
            path: path(),
            source: Box::new(source),
        })?;
        for (file, digest) in now {
            if verdict.files.get(&file) != Some(&digest) {
                return Err(VerdictError::Changed { path: path(), file });
            }
        }
        Ok(verdict)
    }
}

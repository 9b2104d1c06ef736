//! The artifact that a command is given.

use std::path::Path;

use streamrec_artifact::Artifact;

use super::RunError;

/// Reads it whole.
pub(super) fn read(folder: &Path) -> Result<Artifact, RunError> {
    Artifact::read(folder).map_err(|source| RunError::Artifact {
        path: folder.to_owned(),
        source: Box::new(source),
    })
}

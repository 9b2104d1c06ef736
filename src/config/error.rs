//! What can be wrong with an experiment file.

use std::path::{Path, PathBuf};

/// An experiment that cannot be run, with every reason.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the experiment {}; check the path, or start from a file in configs/", path.display())]
    Unreadable {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{} is not valid TOML:\n{message}", place(path))]
    Syntax {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// The parser's message, with line and column.
        message: String,
    },
    /// The text is TOML but no experiment.
    #[error("{} has {} to fix:\n  - {}", place(path), count(errors.len()), errors.join("\n  - "))]
    Invalid {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// One line an error, each naming its field.
        errors: Vec<String>,
    },
    /// The resolved experiment could not be written as TOML.
    #[error("the experiment cannot be written as TOML")]
    Unwritable {
        /// The serialiser's error.
        source: toml::ser::Error,
    },
}

impl ConfigError {
    pub(super) fn syntax(error: toml::de::Error) -> Self {
        Self::Syntax {
            path: None,
            message: error.to_string(),
        }
    }

    pub(super) fn invalid(errors: Vec<String>) -> Self {
        Self::Invalid { path: None, errors }
    }

    pub(super) fn unwritable(source: toml::ser::Error) -> Self {
        Self::Unwritable { source }
    }

    pub(super) fn in_file(mut self, file: &Path) -> Self {
        if let Self::Syntax { path, .. } | Self::Invalid { path, .. } = &mut self {
            *path = Some(file.to_owned());
        }
        self
    }
}

fn place(path: &Option<PathBuf>) -> String {
    path.as_ref()
        .map_or_else(|| "the experiment".into(), |p| p.display().to_string())
}

fn count(errors: usize) -> String {
    if errors == 1 {
        "one thing".into()
    } else {
        format!("{errors} things")
    }
}

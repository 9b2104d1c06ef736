//! What a full disk would have needed.

use std::path::Path;

use super::error::ImportError;
use super::settings::{ImportSettings, Progress};

/// Says what is needed where a full disk is the cause.
pub(super) fn explain_full_disk(
    error: ImportError,
    settings: &ImportSettings,
    progress: &Progress,
    raw_bytes: u64,
) -> ImportError {
    if !error.is_disk_full() {
        return error;
    }
    let parent = settings
        .output
        .parent()
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."));
    // By now the unfinished dataset is gone, so this is what a new attempt would find.
    let available_bytes =
        rustix::fs::statvfs(parent).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let read = (progress.bytes_read as f64 / progress.bytes_total.max(1) as f64).clamp(0.01, 1.0);
    // Once as sorted runs, once as the dataset.
    let whole = (2.0 * raw_bytes as f64 / read) as u64;
    ImportError::NoSpace {
        path: settings.output.clone(),
        available_bytes,
        needed_bytes: whole.saturating_sub(available_bytes),
        source: Box::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Error;
    use crate::data::import::schema::ImportSchema;
    use crate::data::import::settings::Stage;

    #[test]
    fn a_full_disk_is_told_with_the_space_it_needs() {
        let folder = tempfile::tempdir().expect("a folder");
        let schema = ImportSchema::parse(
            super::super::formats::schema_text("goodbooks").expect("built in"),
            "goodbooks",
        );
        let settings = ImportSettings::new(
            schema.expect("valid"),
            folder.path(),
            folder.path().join("out"),
        );
        let progress = Progress {
            stage: Stage::Reading,
            bytes_read: 10,
            bytes_total: 100,
            rows: 5,
            rows_total: None,
        };
        let full = || {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            ImportError::from(Error::Io {
                action: "write",
                path: folder.path().join("0.run"),
                source,
            })
        };
        let raw_bytes = 1 << 60;
        let error = explain_full_disk(full(), &settings, &progress, raw_bytes);
        let ImportError::NoSpace {
            path,
            available_bytes,
            needed_bytes,
            ..
        } = &error
        else {
            panic!("another error: {error}")
        };
        assert_eq!(path, &settings.output);
        assert!(
            *available_bytes > 0 && *needed_bytes > 10 * raw_bytes,
            "twice ten times the rows so far"
        );
        let other = explain_full_disk(ImportError::Cancelled, &settings, &progress, 1);
        assert!(matches!(other, ImportError::Cancelled));
    }
}

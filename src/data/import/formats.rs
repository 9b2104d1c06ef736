//! The built-in importers: embedded import schemas, to be used as they are or printed and adapted.

use std::path::Path;

use super::error::ImportError;
use super::files;
use super::schema::ImportSchema;

/// An importer: one or several layouts in which a dataset is published.
struct Format {
    name: &'static str,
    /// Name and text of a schema for each layout.
    layouts: &'static [(&'static str, &'static str)],
}

const FORMATS: [Format; 5] = [
    Format {
        name: "kuairand",
        layouts: &[("kuairand", include_str!("formats/kuairand.toml"))],
    },
    Format {
        name: "goodbooks",
        layouts: &[("goodbooks", include_str!("formats/goodbooks.toml"))],
    },
    Format {
        name: "movielens",
        layouts: &[
            ("movielens", include_str!("formats/movielens.toml")),
            ("movielens-1m", include_str!("formats/movielens-1m.toml")),
            (
                "movielens-100k",
                include_str!("formats/movielens-100k.toml"),
            ),
        ],
    },
    Format {
        name: "criteo",
        layouts: &[("criteo", include_str!("formats/criteo.toml"))],
    },
    Format {
        name: "open-bandit",
        layouts: &[("open-bandit", include_str!("formats/open-bandit.toml"))],
    },
];

/// The names of the built-in importers.
pub fn names() -> Vec<&'static str> {
    FORMATS.iter().map(|format| format.name).collect()
}

/// The names of all built-in schemas: an importer has one for each layout.
pub fn schema_names() -> Vec<&'static str> {
    FORMATS
        .iter()
        .flat_map(|format| format.layouts)
        .map(|(name, _)| *name)
        .collect()
}

/// The text of a built-in schema, with its comments.
///
/// # Errors
/// No schema has this name.
pub fn schema_text(name: &str) -> Result<&'static str, ImportError> {
    let mut layouts = FORMATS.iter().flat_map(|format| format.layouts);
    let found = layouts.find(|(layout, _)| *layout == name);
    found
        .map(|(_, text)| *text)
        .ok_or_else(|| ImportError::UnknownFormat {
            name: name.to_owned(),
            known: schema_names(),
        })
}

/// The schema of the layout of importer `name` that lies at `input`.
///
/// # Errors
/// No importer has this name, or `input` holds none of its layouts, holds a file twice, or cannot be
/// listed.
pub fn detect(name: &str, input: &Path) -> Result<ImportSchema, ImportError> {
    let format = FORMATS.iter().find(|format| format.name == name);
    let layouts = match format {
        Some(format) => format.layouts,
        // A layout by its own name.
        None => &[(
            name,
            schema_text(name).map_err(|_| ImportError::UnknownFormat {
                name: name.to_owned(),
                known: names(),
            })?,
        )],
    };
    let mut patterns = Vec::new();
    for (layout, text) in layouts {
        let schema = ImportSchema::parse(text, layout)?;
        let fits = if input.is_file() {
            let file = input
                .file_name()
                .and_then(|file| file.to_str())
                .unwrap_or_default();
            layouts.len() == 1
                || schema
                    .source
                    .files
                    .iter()
                    .any(|pattern| files::matches_file(pattern, file))
        } else {
            match files::find(input, &schema.source.files) {
                Ok(_) => true,
                Err(ImportError::NoFiles { .. }) => false,
                Err(error) => return Err(error),
            }
        };
        if fits {
            return Ok(schema);
        }
        patterns.extend(schema.source.files);
    }
    Err(ImportError::NoFiles {
        input: input.to_owned(),
        patterns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_schema_is_valid() {
        for name in schema_names() {
            let text = schema_text(name).expect("listed");
            ImportSchema::parse(text, name).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn movielens_layouts_are_told_apart_by_their_files() {
        for (file, expected) in [
            ("u.data", "movielens-100k"),
            ("ratings.dat", "movielens-1m"),
            ("ratings.csv", "movielens"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join(file), "").expect("a file");
            for input in [folder.path().to_owned(), folder.path().join(file)] {
                assert_eq!(
                    detect("movielens", &input).expect("detected").name,
                    expected
                );
            }
        }
        let empty = tempfile::tempdir().expect("a folder");
        let error = detect("movielens", empty.path()).expect_err("no files");
        assert!(error.to_string().contains("u.data"), "{error}");
        let twice = tempfile::tempdir().expect("a folder");
        for file in ["ratings.csv", "ratings.csv.gz"] {
            std::fs::write(twice.path().join(file), "").expect("a file");
        }
        assert!(matches!(
            detect("movielens", twice.path()),
            Err(ImportError::SameFileTwice { .. })
        ));
        assert!(matches!(
            detect("nonsense", empty.path()),
            Err(ImportError::UnknownFormat { .. })
        ));
    }
}

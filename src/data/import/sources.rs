//! The files of an import, found and bound to its schema.

use std::path::{Path, PathBuf};

use super::error::ImportError;
use super::files::{self, Meter};
use super::plan::{Fields, Plan};
use super::rows::FileRows;
use super::schema::{ImportSchema, TableSchema};

/// The files of an import.
pub(super) struct Sources {
    pub(super) main: Vec<PathBuf>,
    pub(super) tables: Vec<Vec<PathBuf>>,
}

impl Sources {
    /// Finds the files of the schema under `input`; a file is itself the only main one.
    pub(super) fn find(schema: &ImportSchema, input: &Path) -> Result<Self, ImportError> {
        let metadata =
            std::fs::metadata(input).map_err(|error| ImportError::io("open", input, error))?;
        let (folder, main) = if metadata.is_dir() {
            (input, files::find(input, &schema.source.files)?)
        } else {
            let folder = input.parent().filter(|parent| *parent != Path::new(""));
            (folder.unwrap_or(Path::new(".")), vec![input.to_owned()])
        };
        let table = |table: &TableSchema| files::find(folder, &table.source.files);
        Ok(Self {
            tables: schema.tables.iter().map(table).collect::<Result<_, _>>()?,
            main,
        })
    }

    /// Reads the names of the fields and binds the schema to them.
    pub(super) fn plan(&self, schema: &ImportSchema) -> Result<Plan, ImportError> {
        let meter = Meter::default();
        let main = FileRows::open(&self.main[0], &schema.source, &meter)?;
        let tables = schema.tables.iter().zip(&self.tables);
        let tables: Vec<_> = tables
            .map(|(table, files)| FileRows::open(&files[0], &table.source, &meter))
            .collect::<Result<_, _>>()?;
        let fields = tables.iter().zip(&self.tables).map(|(rows, files)| Fields {
            path: &files[0],
            names: rows.names(),
        });
        Plan::new(
            schema,
            Fields {
                path: &self.main[0],
                names: main.names(),
            },
            fields.collect(),
        )
    }

    /// The bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        let files = self.main.iter().chain(self.tables.iter().flatten());
        files
            .filter_map(|file| std::fs::metadata(file).ok())
            .map(|metadata| metadata.len())
            .sum()
    }
}

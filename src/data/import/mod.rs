//! Importers: files as their authors publish them into a packed dataset.
//!
//! ```text
//! files ─► parser thread ─► typed rows ─► in order of time ─► trailing aggregates ─► split ─► packed files
//!            └ side tables joined by key     └ external sort      └ history.bin
//! ```
//!
//! One engine, driven by an [`ImportSchema`]; the built-in importers are embedded schemas. Memory
//! does not grow with the files, only with the distinct keys of side tables and aggregates. A
//! malformed line is counted and left out; too many of them stop the import. The dataset appears
//! under its name only when it is whole.

mod cancel;
mod cell;
mod disk_space;
mod engine;
mod error;
mod files;
pub mod formats;
mod gather;
mod input_parts;
mod input_rows;
mod line_chunks;
mod line_parser;
mod malformed;
mod null;
mod number;
mod order;
mod parquet;
mod parse;
mod parse_chunks;
mod plan;
mod rows;
mod schema;
mod schema_check;
mod settings;
mod side;
mod sources;
mod split;
mod text;
mod value;
mod whole_column;
mod work_folder;
mod writing;

pub use engine::import;
pub use error::ImportError;
pub use input_parts::{InputPart, InputParts};
pub use input_rows::{InputPiece, InputRows, InputSettings};
pub use schema::{
    ColumnSchema, ElapsedUnit, FileFormat, ImportSchema, LabelSchema, SourceSchema, TableSchema,
    TimeSchema, TimestampFormat, TrailingSchema,
};
pub use settings::{ImportReport, ImportSettings, Progress, Stage};
pub use split::SplitSchema;

#[cfg(test)]
mod tests;

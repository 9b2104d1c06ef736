//! The import schema: what the files of a dataset mean, as TOML.
//!
//! A schema names the source files, the side tables joined to them, the columns to keep with their
//! kinds and types, the labels, the split and the trailing aggregates. Fields of side tables are
//! written `table.field`.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use streamrec_artifact::{ColumnKind, SourceType};

use super::error::ImportError;
use super::split::SplitSchema;
use crate::data::{HeldOutCounts, Role};

/// What the files of a dataset mean.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportSchema {
    /// Names the dataset.
    pub name: String,
    /// What it is and where it comes from, for people.
    pub description: String,
    /// The files whose rows become samples.
    pub source: SourceSchema,
    /// Side tables, joined in this order.
    pub tables: Vec<TableSchema>,
    /// The columns to keep.
    pub columns: Vec<ColumnSchema>,
    /// The time of a row. Without one, the order of the rows in the files is their order in time.
    pub time: Option<TimeSchema>,
    /// The labels, each 0 or 1.
    pub labels: Vec<LabelSchema>,
    /// How rows are divided into train, valid and test.
    pub split: SplitSchema,
    /// Counts and sums over the earlier rows of the same keys.
    pub trailing: Vec<TrailingSchema>,
    /// What rows of valid and test know of those earlier rows.
    pub held_out_counts: HeldOutCounts,
}

/// Files and how they are cut into fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSchema {
    /// Patterns relative to the input folder; `*` stands for anything but `/`.
    #[serde(default)]
    pub files: Vec<String>,
    /// The format of the files.
    #[serde(default)]
    pub format: FileFormat,
    /// What parts two fields; more than one byte switches quoting off.
    #[serde(default = "comma")]
    pub delimiter: String,
    /// The quoting character; empty for none.
    #[serde(default = "double_quote")]
    pub quote: String,
    /// The names of the fields where the files have no header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Texts that stand for a missing value.
    #[serde(default = "empty_is_null")]
    pub null: Vec<String>,
}

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// Delimited text, plain or compressed with gzip or Zstandard.
    #[default]
    Csv,
    /// Apache Parquet.
    Parquet,
}

/// A table whose rows are joined to the samples by key. It is held in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSchema {
    /// The prefix of its fields.
    pub name: String,
    /// Its files.
    pub source: SourceSchema,
    /// The key columns of the samples, as named in `columns`.
    pub on: Vec<String>,
    /// The fields of this table that hold those keys; by default named as in `on`.
    #[serde(default)]
    pub key: Vec<String>,
}

impl TableSchema {
    /// The fields of the table that hold its key.
    pub fn key_fields(&self) -> &[String] {
        if self.key.is_empty() {
            &self.on
        } else {
            &self.key
        }
    }
}

/// One column to keep, or several: a `*` in `from` takes every field that matches, and the same
/// `*` in `name` names them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnSchema {
    /// Its name in the dataset.
    pub name: String,
    /// The field it is read from; by default named like the column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How its values are held.
    pub kind: ColumnKind,
    /// What its values are in the files.
    #[serde(rename = "type")]
    pub source: SourceType,
    /// How a timestamp is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TimestampFormat>,
    /// The IANA time zone of timestamps that carry no offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What parts the elements of a list in text; of a single key, all but the first is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// Makes a timestamp a number: the row's time minus the timestamp, in this unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed: Option<ElapsedUnit>,
    /// Texts that stand for a missing value; by default those of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<Vec<String>>,
    /// What the column is for.
    #[serde(default = "feature")]
    pub role: Role,
    /// The unit of its values, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The least and greatest valid value. Values outside are kept; training counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
}

impl ColumnSchema {
    /// The field it is read from.
    pub fn field(&self) -> &str {
        self.from.as_deref().unwrap_or(&self.name)
    }
}

/// How a timestamp is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampFormat {
    /// Seconds since the epoch.
    S,
    /// Milliseconds since the epoch.
    Ms,
    /// Microseconds since the epoch.
    Us,
    /// Days since any day; only the order matters.
    Days,
    /// ISO 8601, with an offset or in `time_zone`.
    Iso8601,
}

/// The unit of an elapsed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElapsedUnit {
    /// 1000 milliseconds.
    Seconds,
    /// 3600 seconds.
    Hours,
    /// 24 hours.
    Days,
}

impl ElapsedUnit {
    /// Its name, as the unit of a column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Hours => "hours",
            Self::Days => "days",
        }
    }

    /// Its length.
    pub fn milliseconds(self) -> f64 {
        match self {
            Self::Seconds => 1e3,
            Self::Hours => 3.6e6,
            Self::Days => 8.64e7,
        }
    }
}

/// The time of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeSchema {
    /// Its name in the dataset.
    #[serde(default = "time")]
    pub name: String,
    /// The field it is read from. A row without a time is malformed.
    pub from: String,
    /// How it is written.
    pub format: TimestampFormat,
    /// The IANA time zone of timestamps that carry no offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// A label: 1 where the rule holds, else 0. Without a rule, the field itself is 0 or 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSchema {
    /// Its name in the dataset.
    pub name: String,
    /// The field it is read from; by default named like the label. A row without one is malformed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// 1 where the number is at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// 1 where the text is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
}

impl LabelSchema {
    /// The field it is read from.
    pub fn field(&self) -> &str {
        self.from.as_deref().unwrap_or(&self.name)
    }
}

/// Dense columns that say what happened before: over the rows with the same keys and a strictly
/// earlier time, how many there were and the sums of their labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailingSchema {
    /// Key columns; a row lacking any has no history.
    pub keys: Vec<String>,
    /// The column of the number of rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<String>,
    /// `label = column`: the column of the sum of a label (or of a dense outcome).
    #[serde(default)]
    pub sums: std::collections::BTreeMap<String, String>,
}

fn comma() -> String {
    ",".into()
}

fn double_quote() -> String {
    "\"".into()
}

fn empty_is_null() -> Vec<String> {
    vec![String::new()]
}

fn feature() -> Role {
    Role::Feature
}

fn time() -> String {
    "time".into()
}

const SECTIONS: [&str; 10] = [
    "name",
    "description",
    "source",
    "tables",
    "columns",
    "time",
    "labels",
    "split",
    "trailing",
    "held_out_counts",
];

impl ImportSchema {
    /// Reads a schema file.
    ///
    /// # Errors
    /// When it cannot be read, and every fault of it at once.
    pub fn load(path: &Path) -> Result<Self, ImportError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ImportError::io("read the import schema", path, source))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a schema from text; `place` names it in errors.
    ///
    /// # Errors
    /// Every fault of it at once.
    pub fn parse(text: &str, place: &str) -> Result<Self, ImportError> {
        let fail = |errors| ImportError::Schema {
            place: place.to_owned(),
            errors,
        };
        let mut table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| fail(vec![error.to_string()]))?;
        let mut errors: Vec<String> = table
            .keys()
            .filter(|key| !SECTIONS.contains(&key.as_str()))
            .map(|key| format!("`{key}`: unknown; expected one of {}", SECTIONS.join(", ")))
            .collect();
        let time = section(&mut table, "time", &mut errors);
        let schema = Self {
            name: required(&mut table, "name", &mut errors).unwrap_or_default(),
            description: section(&mut table, "description", &mut errors).unwrap_or_default(),
            source: required(&mut table, "source", &mut errors).unwrap_or_default(),
            tables: entries(&mut table, "tables", &mut errors),
            columns: entries(&mut table, "columns", &mut errors),
            labels: entries(&mut table, "labels", &mut errors),
            split: section(&mut table, "split", &mut errors)
                .unwrap_or_else(|| SplitSchema::usual(time.is_some())),
            time,
            trailing: entries(&mut table, "trailing", &mut errors),
            held_out_counts: section(&mut table, "held_out_counts", &mut errors)
                .unwrap_or_default(),
        };
        schema.check(&mut errors);
        if errors.is_empty() {
            Ok(schema)
        } else {
            Err(fail(errors))
        }
    }

    /// Checks what one section says about another; called again once options have changed it.
    pub(super) fn checked(self, place: &str) -> Result<Self, ImportError> {
        let mut errors = Vec::new();
        self.check(&mut errors);
        if errors.is_empty() {
            Ok(self)
        } else {
            Err(ImportError::Schema {
                place: place.to_owned(),
                errors,
            })
        }
    }
}

impl Default for SourceSchema {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            format: FileFormat::Csv,
            delimiter: comma(),
            quote: double_quote(),
            names: None,
            null: empty_is_null(),
        }
    }
}

fn section<T: DeserializeOwned>(
    table: &mut toml::Table,
    key: &str,
    errors: &mut Vec<String>,
) -> Option<T> {
    typed(table.remove(key)?, key, errors)
}

fn required<T: DeserializeOwned>(
    table: &mut toml::Table,
    key: &str,
    errors: &mut Vec<String>,
) -> Option<T> {
    if !table.contains_key(key) {
        errors.push(format!("`{key}`: missing"));
    }
    section(table, key, errors)
}

fn entries<T: DeserializeOwned>(
    table: &mut toml::Table,
    key: &str,
    errors: &mut Vec<String>,
) -> Vec<T> {
    match table.remove(key) {
        None => Vec::new(),
        Some(toml::Value::Array(values)) => {
            let named = |i: usize, value: &toml::Value| {
                let name = value.get("name").and_then(toml::Value::as_str);
                name.map_or_else(|| format!("{key}[{i}]"), |name| format!("{key}.{name}"))
            };
            let typed_entry = |(i, value): (usize, toml::Value)| {
                let place = named(i, &value);
                typed(value, &place, errors)
            };
            values
                .into_iter()
                .enumerate()
                .filter_map(typed_entry)
                .collect()
        }
        Some(other) => {
            errors.push(format!(
                "`{key}`: expected an array of tables, got {}",
                other.type_str()
            ));
            Vec::new()
        }
    }
}

fn typed<T: DeserializeOwned>(
    value: toml::Value,
    place: &str,
    errors: &mut Vec<String>,
) -> Option<T> {
    value
        .try_into()
        .map_err(|error: toml::de::Error| errors.push(format!("`{place}`: {}", error.message())))
        .ok()
}

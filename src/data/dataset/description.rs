//! `dataset.json`: what a dataset holds and where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::data::history::{HISTORY_FILE, TrailingHistory};
use crate::data::{Column, Error, PackReader, Result, Role, column};

pub(super) const FORMAT_VERSION: u32 = 1;
pub(super) const FILE_NAME: &str = "dataset.json";
/// The most bytes of a description: far above any real one, far below what would hurt.
const MAX_BYTES: u64 = 64 << 20;

/// A part of a dataset; later parts are later in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What models and all fitted statistics are trained on.
    Train,
    /// What decides when to stop.
    Valid,
    /// What is looked at last.
    Test,
}

impl Split {
    /// All splits, in the order of time.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// The name of its packed file.
    pub fn file_name(self) -> String {
        format!("{self}.pack")
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        })
    }
}

/// The packed file of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitFile {
    /// Its name in the dataset's folder.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// XXH3-64 of its header, directory and index, 16 hexadecimal digits.
    pub checksum: String,
    /// When its rows happened; none without a time column or without a known time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeSpan>,
}

/// The first and the last moment of some rows, in milliseconds since the epoch UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeSpan {
    /// The earliest moment.
    pub first_ms: i64,
    /// The latest moment.
    pub last_ms: i64,
}

/// A column that counts earlier rows: for each row, the rows with the same keys and a strictly
/// earlier time, or the sum of a label over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailingSpec {
    /// The name of the dense column.
    pub name: String,
    /// The key columns whose values must be equal.
    pub keys: Vec<String>,
    /// The label that is summed; rows are counted where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What rows of valid and test know of each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldOutCounts {
    /// All rows with a strictly earlier time, of whatever split: what a service knows that counts
    /// as it serves.
    #[default]
    Progressive,
    /// The rows of train alone: what a service knows whose counts are those at the end of training.
    Frozen,
}

impl HeldOutCounts {
    fn is_progressive(&self) -> bool {
        *self == Self::Progressive
    }
}

impl fmt::Display for HeldOutCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Progressive => "progressive",
            Self::Frozen => "frozen",
        })
    }
}

/// The counts of all counted rows, kept in `history.bin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Identifies these counts.
    pub id: String,
    /// The counts that this dataset started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The counts that `base` went on from in turn, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before_base: Vec<String>,
    /// Whether rows of valid and test were counted. Where they were not, these are the counts at
    /// the end of training.
    #[serde(default, skip_serializing_if = "HeldOutCounts::is_progressive")]
    pub held_out_counts: HeldOutCounts,
}

/// A file that a dataset was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its name, without folders.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// XXH3-64 of its bytes, 16 hexadecimal digits.
    pub xxh3: String,
}

/// Where a dataset came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// What made it: `generator`, or an importer's name.
    pub importer: String,
    /// The options it was given.
    #[serde(default)]
    pub options: BTreeMap<String, serde_json::Value>,
    /// The files it read.
    #[serde(default)]
    pub sources: Vec<SourceFile>,
    /// How many lines were left out, by reason.
    #[serde(default)]
    pub malformed: BTreeMap<String, u64>,
    /// What was measured while it was made, such as the best possible AUC of a generated label.
    #[serde(default)]
    pub measures: BTreeMap<String, f64>,
}

/// The description of a dataset, `dataset.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The version of this description's form.
    pub format_version: u32,
    /// The dataset's name.
    pub name: String,
    /// The columns of every split, in their order in the packed files.
    pub columns: Vec<Column>,
    /// The column that tells when a row happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The splits that there are.
    pub splits: BTreeMap<Split, SplitFile>,
    /// The columns that count earlier rows.
    #[serde(default)]
    pub trailing: Vec<TrailingSpec>,
    /// The counts at the end, where there are trailing columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// Where the dataset came from.
    pub provenance: Provenance,
    /// The folder it was read from.
    #[serde(skip)]
    pub folder: PathBuf,
}

impl History {
    /// The counts that these go on from, the oldest first.
    pub fn earlier(&self) -> impl DoubleEndedIterator<Item = &String> {
        self.before_base.iter().chain(&self.base)
    }
}

impl Dataset {
    /// Reads and checks the description in `folder`; packed files are opened by [`Dataset::pack`].
    ///
    /// # Errors
    /// A folder without a description, or one that cannot be read or contradicts itself.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let path = folder.join(FILE_NAME);
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::dataset(
                    &folder,
                    format!(
                        "there is no {FILE_NAME}; make a dataset with `streamrec data generate` \
                         or `streamrec data import`"
                    ),
                ));
            }
            Err(source) => return Err(Error::io("read", &path, source)),
        };
        if length > MAX_BYTES {
            let problem = format!("{FILE_NAME} has {length} bytes, the most is {MAX_BYTES}");
            return Err(Error::dataset(&folder, problem));
        }
        let text = std::fs::read(&path).map_err(|source| Error::io("read", &path, source))?;
        check_version(&text, &folder)?;
        let mut dataset: Self =
            serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })?;
        dataset.folder = folder;
        dataset.check()?;
        Ok(dataset)
    }

    /// The place and description of the column `name`.
    ///
    /// # Errors
    /// Names the columns that there are.
    pub fn column(&self, name: &str) -> Result<(usize, &Column)> {
        self.columns
            .iter()
            .enumerate()
            .find(|(_, column)| column.name == name)
            .ok_or_else(|| {
                let names: Vec<_> = self
                    .columns
                    .iter()
                    .map(|column| column.name.as_str())
                    .collect();
                let problem = format!("the dataset has none; it has {}", names.join(", "));
                Error::column(&self.folder, name, problem)
            })
    }

    /// The column `name`, if a model may see it.
    ///
    /// # Errors
    /// No such column, or one that is known only after the outcome.
    pub fn input_column(&self, name: &str) -> Result<&Column> {
        let (_, column) = self.column(name)?;
        refuse_leak(&self.folder, column)?;
        Ok(column)
    }

    /// Where the packed file of `split` lies.
    ///
    /// # Errors
    /// Names the splits that there are.
    pub fn split_path(&self, split: Split) -> Result<PathBuf> {
        Ok(self.folder.join(&self.split(split)?.file))
    }

    /// Opens the packed file of `split`, which must be the one that the description speaks of.
    ///
    /// # Errors
    /// No such split, a file that cannot be read, or one of another dataset.
    pub fn pack(&self, split: Split) -> Result<PackReader> {
        let described = self.split(split)?;
        let pack = PackReader::open(self.folder.join(&described.file))?;
        let found = format!("{:016x}", pack.checksum());
        if found != described.checksum || pack.columns() != self.columns {
            return Err(Error::dataset(
                &self.folder,
                format!(
                    "{} has checksum {found} and {} rows, {FILE_NAME} says {} and {}: the two are \
                     not of one dataset; copy the whole folder again, or import the data again",
                    described.file,
                    pack.rows(),
                    described.checksum,
                    described.rows
                ),
            ));
        }
        Ok(pack)
    }

    /// Reads the counts at the end, which must be those that the description speaks of; none
    /// where it speaks of none.
    ///
    /// # Errors
    /// A file that cannot be read, or one of another dataset.
    pub fn trailing_history(&self) -> Result<Option<TrailingHistory>> {
        let Some(described) = &self.history else {
            return Ok(None);
        };
        let (history, found) = TrailingHistory::read(&self.folder.join(HISTORY_FILE))?;
        if found != described.id {
            return Err(Error::dataset(
                &self.folder,
                format!(
                    "{HISTORY_FILE} has id {found}, {FILE_NAME} says {}: the two are not of one \
                     dataset; copy the whole folder again, or import the data again",
                    described.id
                ),
            ));
        }
        Ok(Some(history))
    }

    /// The first moment of all splits in milliseconds since the epoch; none without times.
    pub fn first_ms(&self) -> Option<i64> {
        let spans = self.splits.values().filter_map(|split| split.time);
        spans.map(|span| span.first_ms).min()
    }

    /// Identifies the rows of all splits, 16 hexadecimal digits: equal versions hold equal data.
    pub fn version(&self) -> String {
        let mut text = String::new();
        for (split, file) in &self.splits {
            text += &format!("{split} {}\n", file.checksum);
        }
        format!("{:016x}", xxh3_64(text.as_bytes()))
    }

    fn split(&self, split: Split) -> Result<&SplitFile> {
        self.splits.get(&split).ok_or_else(|| {
            let splits: Vec<_> = self.splits.keys().map(Split::to_string).collect();
            let problem = format!("there is no {split} split; there are {}", splits.join(", "));
            Error::dataset(&self.folder, problem)
        })
    }

    /// Whether the description is consistent in itself.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |problem: String| Err(Error::dataset(&self.folder, problem));
        if let Err(problem) = column::check_all(&self.columns) {
            return refuse(problem);
        }
        if let Some(time) = &self.time {
            let (_, column) = self.column(time)?;
            if column.role != Role::Time {
                return refuse(format!("`time` names `{time}`, a {} column", column.role));
            }
        }
        for SplitFile { file, .. } in self.splits.values() {
            if Path::new(file).file_name() != Some(file.as_ref()) {
                return refuse(format!("the file name `{file}` must not leave the folder"));
            }
        }
        let history = self.history.as_ref();
        if history.is_some_and(|history| history.base.is_none() && !history.before_base.is_empty())
        {
            return refuse("`history.before_base` needs a `history.base`".into());
        }
        for spec in &self.trailing {
            for name in [&spec.name]
                .into_iter()
                .chain(&spec.keys)
                .chain(&spec.label)
            {
                self.column(name)?;
            }
        }
        Ok(())
    }
}

/// Refuses columns that a model must not see.
pub(in crate::data) fn refuse_leak(path: &Path, column: &Column) -> Result<()> {
    if column.role.may_be_input() {
        return Ok(());
    }
    let problem = format!(
        "a {} column is not known when a ranker is asked, so it cannot be a feature; \
         leave it out of the features",
        column.role
    );
    Err(Error::column(path, &column.name, problem))
}

/// Refuses other versions before their fields can be misread.
fn check_version(text: &[u8], folder: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    match serde_json::from_slice(text) {
        Ok(Version { format_version }) if format_version != FORMAT_VERSION => Err(Error::dataset(
            folder,
            format!(
                "{FILE_NAME} has format version {format_version}, this program reads version \
                 {FORMAT_VERSION}; import the data again"
            ),
        )),
        // What is not even JSON is reported with all its fields.
        _ => Ok(()),
    }
}

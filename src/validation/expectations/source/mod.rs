//! Tables that can be scanned in parallel: Parquet, CSV, packed data.

mod csv;
mod csv_records;
mod packed;
mod parquet;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::array::RecordBatch;
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use rayon::prelude::*;

use super::ExpectationError;
use super::row_check::KeyOf;
use super::row_set::{RowSet, Rows};
use crate::data::Split;

/// Rows of a batch: enough to keep a core busy, few enough to stay in its cache.
pub(super) const BATCH_ROWS: usize = 1 << 14;

/// A table in files.
#[derive(Debug)]
pub struct Table {
    schema: SchemaRef,
    source: Source,
    name: String,
}

#[derive(Debug)]
enum Source {
    Parquet(parquet::ParquetFiles),
    Csv(csv::CsvFile),
    Packed(packed::PackedFiles),
}

/// A part of a scan: some rows of some columns.
#[derive(Debug)]
struct Job {
    bundle: usize,
    first_row: u64,
    part: Part,
}

#[derive(Debug)]
enum Part {
    RowGroup {
        file: usize,
        group: usize,
    },
    Blocks {
        file: usize,
        first: usize,
        last: usize,
    },
    Text(csv_records::Chunk),
}

/// What a scan does with batches: a state for each part, and how parts come together in the order of rows.
pub(super) trait Scan: Sync {
    /// What is gathered of a part.
    type State: Send;

    /// Nothing gathered yet of the columns of a bundle.
    fn start(&self, bundle: usize) -> Self::State;

    /// Adds a batch of a bundle's columns.
    fn batch(
        &self,
        bundle: usize,
        state: &mut Self::State,
        rows: &Rows,
        batch: &RecordBatch,
    ) -> Result<(), ExpectationError>;
}

impl Table {
    /// Opens a Parquet file, a folder of Parquet files, a CSV file, a packed file or a dataset's folder, of which
    /// `split` picks one part.
    ///
    /// # Errors
    /// What it is cannot be told, or it cannot be read.
    pub fn open(path: &Path, split: Option<Split>) -> Result<Self, ExpectationError> {
        let name = path.display().to_string();
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default();
        let is_dataset = path.join("dataset.json").exists();
        if split.is_some() && !is_dataset {
            return Err(ExpectationError::Table {
                path: path.to_owned(),
                problem: "it has no splits: it is no dataset's folder".into(),
            });
        }
        let (schema, source) = match extension {
            _ if is_dataset => {
                let (schema, files) = packed::PackedFiles::dataset(path, split)?;
                (schema, Source::Packed(files))
            }
            "pack" => {
                let (schema, files) = packed::PackedFiles::file(path)?;
                (schema, Source::Packed(files))
            }
            "csv" => {
                let (schema, file) = csv::CsvFile::open(path)?;
                (schema, Source::Csv(file))
            }
            _ if path.is_dir() || extension == "parquet" => {
                let (schema, files) = parquet::ParquetFiles::open(path)?;
                (schema, Source::Parquet(files))
            }
            _ => {
                return Err(ExpectationError::Table {
                    path: path.to_owned(),
                    problem: "expected a .parquet, .csv or .pack file, a folder of Parquet files, or a dataset's folder".into(),
                });
            }
        };
        Ok(Self {
            schema,
            source,
            name,
        })
    }

    /// Its columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether every value is text and its type a guess.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.source, Source::Csv(_))
    }

    /// Whether a column holds hashes of texts.
    pub(super) fn key_of(&self, column: usize) -> KeyOf {
        match &self.source {
            Source::Packed(files) if files.holds_hashes(column) => KeyOf::Text,
            _ => KeyOf::Nothing,
        }
    }

    /// Reads the columns of each bundle once, in parallel, and merges what came of the parts in the order of
    /// rows. Only rows of `selection` where there is one. Gives the number of rows of the table.
    pub(super) fn scan<S: Scan>(
        &self,
        bundles: &[Vec<usize>],
        selection: Option<&RowSet>,
        parallel: bool,
        scan: &S,
        mut merge: impl FnMut(usize, S::State) -> Result<(), ExpectationError>,
    ) -> Result<u64, ExpectationError> {
        let mut jobs = self.jobs(bundles)?;
        let at_once = match jobs {
            _ if !parallel => 1,
            // What waits is in memory.
            Jobs::Csv(_) => 3 * rayon::current_num_threads(),
            Jobs::Known { .. } => 16 * rayon::current_num_threads(),
        };
        loop {
            let some: Vec<Job> = jobs.by_ref().take(at_once).collect::<Result<_, _>>()?;
            if some.is_empty() {
                break;
            }
            let run = |job: &Job| {
                let mut state = scan.start(job.bundle);
                self.run(job, bundles, selection, &mut |rows, batch| {
                    scan.batch(job.bundle, &mut state, rows, batch)
                })?;
                Ok((job.bundle, state))
            };
            let done: Vec<Result<_, ExpectationError>> = some.par_iter().map(run).collect();
            for result in done {
                let (bundle, state) = result?;
                merge(bundle, state)?;
            }
        }
        jobs.rows()
    }

    fn jobs<'a>(&'a self, bundles: &'a [Vec<usize>]) -> Result<Jobs<'a>, ExpectationError> {
        Ok(match &self.source {
            Source::Parquet(files) => Jobs::Known {
                jobs: files.jobs(bundles.len()).into_iter(),
                rows: files.rows(),
            },
            Source::Packed(files) => Jobs::Known {
                jobs: files.jobs(bundles.len()).into_iter(),
                rows: files.rows(),
            },
            // One pass over the text serves all bundles: there is one.
            Source::Csv(file) => Jobs::Csv(Box::new(file.chunks()?)),
        })
    }

    fn run(
        &self,
        job: &Job,
        bundles: &[Vec<usize>],
        selection: Option<&RowSet>,
        visit: &mut dyn FnMut(&Rows, &RecordBatch) -> Result<(), ExpectationError>,
    ) -> Result<(), ExpectationError> {
        let columns = bundles.get(job.bundle).map_or(&[][..], Vec::as_slice);
        let mut picked = |first: u64, batch: RecordBatch| {
            let rows = Rows::From(first);
            let Some(selection) = selection else {
                return visit(&rows, &batch);
            };
            let mask = BooleanBuffer::collect_bool(batch.num_rows(), |row| {
                selection.contains(first + row as u64)
            });
            if mask.count_set_bits() == 0 {
                return Ok(());
            }
            let rows = rows.pick(&mask);
            let batch = filter_record_batch(&batch, &BooleanArray::new(mask, None));
            visit(&rows, &batch.map_err(|error| self.failed(&error))?)
        };
        match (&self.source, &job.part) {
            (Source::Parquet(files), Part::RowGroup { file, group }) => files.read(
                *file,
                *group,
                columns,
                job.first_row,
                selection,
                &mut picked,
            ),
            (Source::Packed(files), Part::Blocks { file, first, last }) => {
                files.read(*file, *first..*last, columns, job.first_row, &mut picked)
            }
            (Source::Csv(file), Part::Text(chunk)) => file.read(chunk, columns, &mut picked),
            _ => Ok(()),
        }
    }

    /// Whether bundles of columns can be read each by itself.
    pub(super) fn reads_columns_apart(&self) -> bool {
        matches!(self.source, Source::Parquet(_))
    }

    /// That it has no column of a name.
    pub(super) fn without(&self, name: &str) -> ExpectationError {
        let fields = self.schema.fields().iter();
        let names: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
        self.failed(&format!("no column `{name}`; it has {}", names.join(", ")))
    }

    pub(super) fn failed(&self, error: &dyn std::fmt::Display) -> ExpectationError {
        ExpectationError::Table {
            path: PathBuf::from(&self.name),
            problem: error.to_string(),
        }
    }
}

enum Jobs<'a> {
    Known {
        jobs: std::vec::IntoIter<Job>,
        rows: u64,
    },
    Csv(Box<csv::Chunks<'a>>),
}

impl Iterator for Jobs<'_> {
    type Item = Result<Job, ExpectationError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Known { jobs, .. } => jobs.next().map(Ok),
            Self::Csv(chunks) => chunks.next(),
        }
    }
}

impl Jobs<'_> {
    fn rows(&self) -> Result<u64, ExpectationError> {
        Ok(match self {
            Self::Known { rows, .. } => *rows,
            Self::Csv(chunks) => chunks.rows(),
        })
    }
}

/// The same columns, by name.
fn project(schema: &SchemaRef, columns: &[usize]) -> SchemaRef {
    let fields: Vec<_> = columns
        .iter()
        .map(|&column| Arc::clone(&schema.fields()[column]))
        .collect();
    Arc::new(arrow::datatypes::Schema::new(fields))
}

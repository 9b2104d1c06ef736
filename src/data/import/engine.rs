//! Runs an import: the parser on one thread, everything behind it on another.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Instant;

use streamrec_artifact::RawColumn;

use super::cancel::Cancel;
use super::disk_space::explain_full_disk;
use super::error::ImportError;
use super::files::Meter;
use super::malformed::Tally;
use super::order::{OrderedRows, RowSorter};
use super::parse::{BlockPipe, Parser};
use super::plan::Plan;
use super::schema::ImportSchema;
use super::settings::{ImportReport, ImportSettings, Progress, Stage};
use super::side::{SideTable, TableInput};
use super::sources::Sources;
use super::split::SplitSchema;
use super::work_folder::{WorkFolder, remove_abandoned};
use super::writing::{Base, Writing, trailing_column, trailing_specs};
use crate::data::{Block, Column, DatasetWriter, Provenance, Split};

/// Blocks between two threads: enough that neither waits for a hiccup of the other.
const BLOCKS_BETWEEN: usize = 4;

/// Imports the files that `settings` name into a dataset; `progress` is told after every block.
///
/// # Errors
/// Whatever is wrong with the schema, the files, the lines or the disk; nothing is then left behind.
pub fn import(
    settings: &ImportSettings,
    progress: &mut dyn FnMut(Progress),
) -> Result<ImportReport, ImportError> {
    let mut told = Progress {
        stage: Stage::Reading,
        bytes_read: 0,
        bytes_total: 0,
        rows: 0,
        rows_total: None,
    };
    let mut raw_bytes = 0;
    let result = run(settings, &mut raw_bytes, &mut |now| {
        told = now;
        progress(now);
    });
    result.map_err(|error| explain_full_disk(error, settings, &told, raw_bytes))
}

fn run(
    settings: &ImportSettings,
    raw_bytes: &mut u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<ImportReport, ImportError> {
    let start = Instant::now();
    let schema = resolved(settings)?;
    let sources = Sources::find(&schema, &settings.input)?;
    let plan = sources.plan(&schema)?;
    let specs = trailing_specs(&schema);
    let base = base(settings, &schema)?;
    let base_last = base.as_ref().and_then(|base| base.history.last_ms());

    let row_columns = plan.columns.clone();
    let columns: Vec<Column> = row_columns
        .iter()
        .cloned()
        .chain(specs.iter().map(trailing_column))
        .collect();
    let (writer, work) = create_output(settings, columns)?;

    let mut reading = Reading {
        settings,
        meter: Meter::default(),
        bytes_total: sources.bytes(),
        raw_bytes,
        progress,
        cancel: Cancel(settings.cancel.clone()),
    };
    let time = plan.time;
    let parser = reading.parser(&schema, plan, sources)?;
    // Rows that are in order and counted by nothing may be cut when all of them are written.
    let cut_last = matches!(schema.split, SplitSchema::Order { .. }) && specs.is_empty();
    let split_alone = matches!(
        schema.split,
        SplitSchema::All { .. } | SplitSchema::Hash { .. }
    );
    let (parser, writing, rows) = if time.is_none() && (cut_last || split_alone) {
        // Neither the order nor the split needs to see all rows first.
        let mut streamed = schema.clone();
        if cut_last {
            streamed.split = SplitSchema::All { into: Split::Train };
        }
        let mut writing = Writing::new(writer, &streamed, &row_columns, base, 0, HashMap::new())?;
        let (parser, rows) = reading.parse(parser, |block| {
            let mut block = block;
            writing.write(&mut block)?;
            block.columns.truncate(row_columns.len());
            Ok(vec![block])
        })?;
        if cut_last {
            writing.cut(&schema.split, rows)?;
        }
        (parser, writing, rows)
    } else {
        let key_rows = KeyRows::new(&schema.split, &row_columns);
        let (parser, sorter, key_rows, rows) = reading.sort(parser, work.path(), time, key_rows)?;
        let mut writing = Writing::new(writer, &schema, &row_columns, base, rows, key_rows)?;
        let first = Earliest {
            time,
            base_last,
            history: settings.history.as_deref(),
        };
        reading.write(sorter.finish()?, &mut writing, rows, &first)?;
        (parser, writing, rows)
    };
    if rows == 0 {
        return Err(ImportError::Empty {
            input: settings.input.clone(),
        });
    }
    reading.cancel.check()?;
    work.remove()?;
    finish(settings, &schema, &parser, writing, rows, start)
}

/// The history that the trailing aggregates continue.
fn base(settings: &ImportSettings, schema: &ImportSchema) -> Result<Option<Base>, ImportError> {
    let Some(history) = &settings.history else {
        return Ok(None);
    };
    if schema.trailing.is_empty() {
        return Err(ImportError::NothingToContinue {
            history: history.clone(),
            schema: schema.name.clone(),
        });
    }
    Base::open(history).map(Some)
}

fn create_output(
    settings: &ImportSettings,
    columns: Vec<Column>,
) -> Result<(DatasetWriter, WorkFolder), ImportError> {
    let parent = settings
        .output
        .parent()
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."));
    remove_abandoned(parent)?;
    let writer = DatasetWriter::create(&settings.output, columns, settings.block_rows)?;
    let work = WorkFolder::create(writer.folder())?;
    Ok((writer, work))
}

fn finish(
    settings: &ImportSettings,
    schema: &ImportSchema,
    parser: &Parser,
    writing: Writing,
    rows: u64,
    start: Instant,
) -> Result<ImportReport, ImportError> {
    let unmatched: Vec<_> = parser
        .tables
        .iter()
        .map(|table| (table.name.clone(), table.unmatched))
        .collect();
    let provenance = provenance(settings, schema, parser, &unmatched);
    let dataset = writing.finish(settings.name.as_deref().unwrap_or(&schema.name), provenance)?;
    Ok(ImportReport {
        dataset,
        rows,
        lines: parser.tally.lines,
        malformed: parser.tally.malformed,
        first_malformed: parser.tally.first().to_vec(),
        unmatched,
        elapsed: start.elapsed(),
    })
}

/// The schema with the options that override it, checked again.
fn resolved(settings: &ImportSettings) -> Result<ImportSchema, ImportError> {
    let mut schema = settings.schema.clone();
    if let Some(split) = &settings.split {
        schema.split = split.clone();
    }
    if let Some(counts) = settings.held_out_counts {
        schema.held_out_counts = counts;
    }
    let place = schema.name.clone();
    schema.checked(&place)
}

/// Rows of each key, for a split that needs them.
struct KeyRows {
    column: Option<usize>,
    rows: HashMap<u64, u64>,
}

impl KeyRows {
    fn new(split: &SplitSchema, columns: &[Column]) -> Self {
        let key = split
            .key()
            .filter(|_| matches!(split, SplitSchema::KeyTail { .. }));
        let column = key.and_then(|key| columns.iter().position(|column| column.name == key));
        Self {
            column,
            rows: HashMap::new(),
        }
    }

    fn count(&mut self, block: &Block) {
        if let Some(RawColumn::Key(keys)) = self.column.map(|column| &block.columns[column]) {
            for key in keys {
                *self.rows.entry(*key).or_default() += 1;
            }
        }
    }
}

/// Refuses rows that are not later than the history they continue.
struct Earliest<'a> {
    time: Option<usize>,
    base_last: Option<i64>,
    history: Option<&'a Path>,
}

impl Earliest<'_> {
    fn check(&self, block: &Block) -> Result<(), ImportError> {
        let first = match self.time.map(|time| &block.columns[time]) {
            Some(RawColumn::Time(times)) => times.first().copied(),
            _ => None,
        };
        match (first, self.base_last, self.history) {
            (Some(first_ms), Some(last_ms), Some(path)) if first_ms <= last_ms => {
                Err(ImportError::NotLater {
                    path: path.to_owned(),
                    first_ms,
                    last_ms,
                })
            }
            _ => Ok(()),
        }
    }
}

/// What both passes share.
struct Reading<'a> {
    settings: &'a ImportSettings,
    meter: Meter,
    bytes_total: u64,
    /// Bytes of rows parsed, for the estimate of a full disk.
    raw_bytes: &'a mut u64,
    progress: &'a mut dyn FnMut(Progress),
    cancel: Cancel,
}

impl Reading<'_> {
    /// Loads the side tables.
    fn parser(
        &self,
        schema: &ImportSchema,
        mut plan: Plan,
        sources: Sources,
    ) -> Result<Parser, ImportError> {
        let mut tally = Tally::new(self.settings.max_malformed);
        let mut read = Vec::new();
        let joins = std::mem::take(&mut plan.joins);
        let mut tables = Vec::new();
        for ((table, join), files) in schema.tables.iter().zip(joins).zip(&sources.tables) {
            let mut input = TableInput {
                files,
                meter: &self.meter,
                cancel: &self.cancel,
                tally: &mut tally,
            };
            tables.push(SideTable::load(table, join, &mut input, &mut read)?);
        }
        Ok(Parser {
            plan,
            tables,
            files: sources.main,
            source: schema.source.clone(),
            meter: self.meter.clone(),
            tally,
            sources: read,
            cancel: self.cancel.clone(),
        })
    }

    /// Parses on a thread of its own; `take` gets each block here and hands back emptied ones.
    fn parse(
        &mut self,
        parser: Parser,
        mut take: impl FnMut(Block) -> Result<Vec<Block>, ImportError>,
    ) -> Result<(Parser, u64), ImportError> {
        let (full, blocks) = mpsc::sync_channel(BLOCKS_BETWEEN);
        let (free, empty) = mpsc::channel();
        let pipe = BlockPipe { full, empty };
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || parser.run(&pipe));
            let mut rows = 0;
            let mut taken = Ok(());
            for block in blocks {
                rows += block.rows as u64;
                *self.raw_bytes += super::gather::bytes(&block) as u64;
                match take(block) {
                    // The parser may have ended and want no more.
                    Ok(emptied) => emptied.into_iter().for_each(|block| drop(free.send(block))),
                    Err(error) => {
                        taken = Err(error);
                        break;
                    }
                }
                self.tell(Stage::Reading, rows, None);
            }
            let parser = thread.join().map_err(|_| ImportError::Thread)?;
            taken?;
            Ok((parser?, rows))
        })
    }

    /// Parses all rows into runs in `folder`, and counts those of each key that the split needs.
    fn sort(
        &mut self,
        parser: Parser,
        folder: &Path,
        time: Option<usize>,
        mut key_rows: KeyRows,
    ) -> Result<(Parser, RowSorter, HashMap<u64, u64>, u64), ImportError> {
        let mut sorter = RowSorter::new(
            folder,
            &parser.plan.columns,
            time,
            self.settings.memory_bytes,
            self.cancel.clone(),
        );
        let (parser, rows) = self.parse(parser, |block| {
            key_rows.count(&block);
            sorter.push(block)
        })?;
        Ok((parser, sorter, key_rows.rows, rows))
    }

    /// Writes the rows in their order, which a thread of its own finds.
    fn write(
        &mut self,
        mut ordered: OrderedRows,
        writing: &mut Writing,
        total: u64,
        earliest: &Earliest<'_>,
    ) -> Result<(), ImportError> {
        let (full, blocks) = mpsc::sync_channel::<Block>(BLOCKS_BETWEEN);
        let (free, empty) = mpsc::channel::<Block>();
        let columns = writing.row_columns();
        std::thread::scope(|scope| {
            let new = || Block::of_kinds(columns.iter().copied());
            let thread = scope.spawn(move || {
                let mut block = new();
                while ordered.next(&mut block)? {
                    let next = empty.try_recv().unwrap_or_else(|_| new());
                    if full.send(std::mem::replace(&mut block, next)).is_err() {
                        break;
                    }
                }
                Ok::<_, ImportError>(())
            });
            let mut rows = 0;
            let mut written = Ok(());
            for mut block in blocks {
                written = self.cancel.check();
                if rows == 0 {
                    written = written.and_then(|()| earliest.check(&block));
                }
                rows += block.rows as u64;
                written = written.and_then(|()| writing.write(&mut block));
                if written.is_err() {
                    break;
                }
                block.columns.truncate(columns.len());
                drop(free.send(block));
                self.tell(Stage::Writing, rows, Some(total));
            }
            let ordered = thread.join().map_err(|_| ImportError::Thread)?;
            written.and(ordered)
        })
    }

    fn tell(&mut self, stage: Stage, rows: u64, rows_total: Option<u64>) {
        let bytes_read = self.meter.bytes.load(Ordering::Relaxed);
        (self.progress)(Progress {
            stage,
            bytes_read,
            bytes_total: self.bytes_total,
            rows,
            rows_total,
        });
    }
}

fn provenance(
    settings: &ImportSettings,
    schema: &ImportSchema,
    parser: &Parser,
    unmatched: &[(String, u64)],
) -> Provenance {
    let mut provenance = Provenance {
        importer: schema.name.clone(),
        ..Provenance::default()
    };
    let split = serde_json::to_value(&schema.split).unwrap_or_default();
    provenance.options.insert("split".into(), split);
    provenance
        .options
        .insert("max_malformed".into(), settings.max_malformed.into());
    provenance.sources.clone_from(&parser.sources);
    provenance.malformed.clone_from(&parser.tally.reasons);
    provenance
        .measures
        .insert("lines".into(), parser.tally.lines as f64);
    for (table, rows) in unmatched {
        provenance
            .measures
            .insert(format!("rows without {table}"), *rows as f64);
    }
    provenance
}

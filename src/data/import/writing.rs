//! The second pass: trailing aggregates, split and packed files, over rows in their order.

use std::collections::HashMap;
use std::path::Path;

use streamrec_artifact::{ColumnKind, RawColumn};

use super::error::ImportError;
use super::gather::{Place, append_places};
use super::schema::ImportSchema;
use super::split::{SplitSchema, Splitter, cuts};
use crate::data::history::{HISTORY_FILE, TrailingCounter, TrailingHistory};
use crate::data::{
    Block, Column, Dataset, DatasetWriter, HeldOutCounts, History, Provenance, Role, SourceType,
    Split, TrailingSpec,
};

/// The trailing aggregates of a schema, one for each column.
pub(super) fn trailing_specs(schema: &ImportSchema) -> Vec<TrailingSpec> {
    let mut specs = Vec::new();
    for trailing in &schema.trailing {
        let spec = |name: &String, label: Option<&String>| TrailingSpec {
            name: name.clone(),
            keys: trailing.keys.clone(),
            label: label.cloned(),
        };
        specs.extend(trailing.count.iter().map(|name| spec(name, None)));
        specs.extend(
            trailing
                .sums
                .iter()
                .map(|(label, name)| spec(name, Some(label))),
        );
    }
    specs
}

/// The column that holds a trailing aggregate.
pub(super) fn trailing_column(spec: &TrailingSpec) -> Column {
    let mut column = Column::new(
        &spec.name,
        ColumnKind::Dense,
        SourceType::Float,
        Role::Feature,
    );
    if spec.label.is_none() {
        column = column
            .with_unit("rows")
            .with_range(0.0, f64::from(f32::MAX));
    }
    column
}

/// A history to continue, and what identifies it.
pub(super) struct Base {
    pub(super) history: TrailingHistory,
    id: String,
    /// What it went on from in turn, the oldest first.
    earlier: Vec<String>,
}

impl Base {
    /// Reads the history of the dataset in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, ImportError> {
        let dataset = Dataset::open(folder)?;
        let history = dataset.trailing_history()?;
        match (history, dataset.history) {
            (Some(history), Some(described)) => Ok(Self {
                history,
                earlier: described.earlier().cloned().collect(),
                id: described.id,
            }),
            _ => {
                let problem = "it keeps no history: its schema has no trailing aggregates; \
                               leave out --history, or import it again with some";
                Err(crate::data::Error::Dataset {
                    path: folder.to_owned(),
                    problem: problem.into(),
                }
                .into())
            }
        }
    }
}

/// Everything that rows in order go through.
pub(super) struct Writing {
    writer: DatasetWriter,
    counter: Option<TrailingCounter>,
    base: Option<String>,
    before_base: Vec<String>,
    splitter: Splitter,
    /// The place of the time where rows are cut by it.
    split_time: Option<usize>,
    specs: Vec<TrailingSpec>,
    held_out_counts: HeldOutCounts,
    splits: Vec<Split>,
    part: Block,
}

impl Writing {
    /// `columns` are those that the parser fills; `rows` and `key_rows` are what the split needs.
    pub(super) fn new(
        writer: DatasetWriter,
        schema: &ImportSchema,
        columns: &[Column],
        base: Option<Base>,
        rows: u64,
        key_rows: HashMap<u64, u64>,
    ) -> Result<Self, ImportError> {
        let specs = trailing_specs(schema);
        let time = columns.iter().position(|column| column.role == Role::Time);
        let (history, base, before_base) = match base {
            Some(base) => (Some(base.history), Some(base.id), base.earlier),
            None => (None, None, Vec::new()),
        };
        let counter = if specs.is_empty() {
            None
        } else {
            Some(TrailingCounter::new(columns, time, &specs, history)?)
        };
        let key = schema
            .split
            .key()
            .and_then(|key| columns.iter().position(|column| column.name == key));
        Ok(Self {
            splitter: Splitter::new(&schema.split, rows, key, key_rows),
            split_time: time.filter(|_| matches!(schema.split, SplitSchema::Time { .. })),
            part: Block::new(writer.columns()),
            writer,
            counter,
            base,
            before_base,
            specs,
            held_out_counts: schema.held_out_counts,
            splits: Vec::new(),
        })
    }

    /// Writes the next rows.
    pub(super) fn write(&mut self, block: &mut Block) -> Result<(), ImportError> {
        if let (Splitter::All(split), None) = (&self.splitter, &self.counter) {
            return Ok(self.writer.push_block(*split, block)?);
        }
        // The parser's columns come first; those of the trailing aggregates are still to be filled.
        for _ in block.columns.len()..self.part.columns.len() {
            block.columns.push(RawColumn::new(ColumnKind::Dense));
        }
        self.splits.clear();
        for row in 0..block.rows {
            let key = self
                .splitter
                .key()
                .map_or(0, |column| match &block.columns[column] {
                    RawColumn::Key(keys) => keys[row],
                    _ => 0,
                });
            let time = self
                .split_time
                .and_then(|column| match &block.columns[column] {
                    RawColumn::Time(times) => Some(times[row]),
                    _ => None,
                });
            self.splits.push(self.splitter.next(key, time));
        }
        if let Some(counter) = &mut self.counter {
            let counted = match self.held_out_counts {
                HeldOutCounts::Progressive => block.rows,
                // The schema was checked: no row of train follows one of another split.
                HeldOutCounts::Frozen => {
                    let train = self
                        .splits
                        .iter()
                        .take_while(|split| **split == Split::Train);
                    train.count()
                }
            };
            counter.fill(block, counted)?;
        }
        for split in Split::ALL {
            let places: Vec<_> = (0..block.rows)
                .filter(|&row| self.splits[row] == split)
                .map(|row| Place {
                    time: 0,
                    block: 0,
                    row: row as u32,
                })
                .collect();
            if places.len() == block.rows && block.rows > 0 {
                self.writer.push_block(split, block)?;
            } else if !places.is_empty() {
                self.part.clear();
                append_places(&mut self.part, std::slice::from_ref(block), &places)?;
                self.writer.push_block(split, &self.part)?;
            }
        }
        Ok(())
    }

    /// Cuts rows that all went to train by their position, now that their number is known.
    pub(super) fn cut(&mut self, schema: &SplitSchema, rows: u64) -> Result<(), ImportError> {
        let [valid_from, test_from] = cuts(schema, rows);
        for (row, split) in [(test_from, Split::Test), (valid_from, Split::Valid)] {
            self.writer.move_tail(Split::Train, row, split)?;
        }
        Ok(())
    }

    /// The kinds of the columns that the parser fills.
    pub(super) fn row_columns(&self) -> Vec<ColumnKind> {
        let count = self.part.columns.len() - self.specs.len();
        self.part.columns[..count]
            .iter()
            .map(RawColumn::kind)
            .collect()
    }

    /// Saves the history, describes the dataset and puts it in its place.
    pub(super) fn finish(self, name: &str, provenance: Provenance) -> Result<Dataset, ImportError> {
        let history = match self.counter {
            None => None,
            Some(counter) => {
                let id = counter
                    .finish()
                    .write(&self.writer.folder().join(HISTORY_FILE))?;
                Some(History {
                    id,
                    base: self.base,
                    before_base: self.before_base,
                    held_out_counts: self.held_out_counts,
                })
            }
        };
        Ok(self.writer.finish(name, self.specs, history, provenance)?)
    }
}

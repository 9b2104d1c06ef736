//! Parsing on all cores, where the lines of a file need nothing of one another: no quotes that may
//! hold line breaks, no joins, no elapsed times.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::ImportError;
use super::files::read_error;
use super::line_chunks::LineChunks;
use super::line_parser::{LineParser, Parsed};
use super::parse::{BlockPipe, Parser};
use super::plan::Target;
use super::rows::TextRows;
use super::schema::FileFormat;
use crate::data::Block;
use crate::data::in_order::in_order;

/// Memory that goes round.
struct Spares<T>(Mutex<Vec<T>>);

impl<T> Spares<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, spare: T) {
        self.lock().push(spare);
    }

    fn take(&self, new: impl FnOnce() -> T) -> T {
        let spare = self.lock().pop();
        spare.unwrap_or_else(new)
    }
}

impl Parser {
    /// Whether its lines need nothing of one another.
    pub(super) fn parses_in_chunks(&self) -> bool {
        let source = &self.source;
        let fills = &mut self.plan.fills.iter();
        source.format == FileFormat::Csv
            && source.delimiter.len() == 1
            && source.quote.is_empty()
            && self.tables.is_empty()
            && fills.all(|fill| matches!(fill.target, Target::Column(_)))
    }

    /// Parses all files as [`Parser::run`] does, chunk by chunk on all cores.
    pub(super) fn run_in_chunks(mut self, pipe: &BlockPipe) -> Result<Self, ImportError> {
        let mut first_names: Option<Vec<String>> = None;
        for path in self.files.clone() {
            let rows = TextRows::open(&path, &self.source, &self.meter)?;
            self.same_names(&path, rows.names(), &mut first_names)?;
            let fingerprint = rows.fingerprint().clone();
            match self.file(rows, pipe) {
                Ok(()) => self.sources.push(fingerprint.source_file()),
                // Its receiver has its own error to tell.
                Err(None) => return Ok(self),
                Err(Some(error)) => return Err(error),
            }
        }
        self.tally.judge()?;
        Ok(self)
    }

    /// Parses one file; the error is none where nobody takes the blocks.
    fn file(&mut self, rows: TextRows, pipe: &BlockPipe) -> Result<(), Option<ImportError>> {
        let Self {
            plan,
            source,
            tally,
            cancel,
            ..
        } = self;
        let path = rows.path().to_owned();
        let (fields, delimiter) = (rows.names().len(), source.delimiter.as_bytes()[0]);
        let (rest, input, mut line) = rows.into_rest();
        let mut chunks = LineChunks::new(rest, input);
        let (texts, blocks) = (Spares(Mutex::default()), Spares(Mutex::default()));
        let next = || {
            cancel.check().map_err(Some)?;
            let mut text = texts.take(Vec::new);
            let more = chunks.next(&mut text);
            let more = more.map_err(|error| Some(read_error(&path, 0, error)))?;
            Ok(more.then_some(text))
        };
        let worker = || {
            let mut parser = LineParser::new(plan, fields, delimiter);
            let (texts, blocks) = (&texts, &blocks);
            let columns = &plan.columns;
            move |text: Vec<u8>| {
                let parsed = parser.parse(&text, blocks.take(|| Block::new(columns)));
                texts.give(text);
                Ok(parsed)
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        in_order(threads, next, worker, |parsed: Parsed| {
            let records = tally.lines;
            for rejection in parsed.rejections {
                tally.lines = records + rejection.record + 1;
                let (at, got) = (line + rejection.line, rejection.got.as_deref());
                tally
                    .reject(&path, at, rejection.reason, got)
                    .map_err(Some)?;
            }
            tally.lines = records + parsed.records;
            line += parsed.lines;
            pipe.empty.try_iter().for_each(|block| blocks.give(block));
            pipe.full.send(parsed.block).map_err(|_| None)
        })
    }
}

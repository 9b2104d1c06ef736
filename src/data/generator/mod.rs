//! The generator: StreamRec events whose truth is known.
//!
//! ```text
//! requests ─► drawn in parallel, each from its own stream ─► in order: recent items,
//!             trailing counts ─► packed files, split by time 80 / 10 / 10
//! ```
//!
//! The result depends on the settings alone, never on threads, and memory grows with users and items,
//! never with impressions.

mod best_auc;
mod columns;
mod domain;
mod impression;
mod recent;
mod settings;
mod truth;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;
use streamrec_artifact::RawColumn;

pub use best_auc::{BestAuc, best_auc};
pub use settings::GeneratorSettings;

use super::history::{HISTORY_FILE, TrailingCounter};
use super::{
    Block, Column, ColumnKind, Dataset, DatasetWriter, Error, HeldOutCounts, History, Provenance,
    Result, Split,
};
use columns::RowWriter;
use impression::{Impression, draw_request};
use settings::REQUEST_IMPRESSIONS;
use world::World;

/// Requests drawn before they are written.
const CHUNK_REQUESTS: u64 = 4096;
/// Requests that one thread draws at a time.
const TASK_REQUESTS: u64 = 128;

/// Generates a dataset at `out`; `progress` is told the impressions written so far and in all.
///
/// Its provenance holds the settings, and as measures the best AUC that a model can reach on each
/// split and label, such as `test.best_auc.click`, and the rates of the labels.
///
/// # Errors
/// Settings out of bounds, `out` exists already, or a disk that refuses.
pub fn generate(
    settings: &GeneratorSettings,
    out: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Dataset> {
    settings.check()?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(settings.threads)
        .build()
        .map_err(|error| Error::settings("threads", error.to_string()))?;
    let world = pool.install(|| World::new(settings));
    let mut output = Output::create(settings, out)?;
    for (split, requests) in splits(settings.requests()) {
        let mut measures = SplitMeasures::default();
        let mut first = requests.start;
        while first < requests.end {
            let chunk = first..requests.end.min(first + CHUNK_REQUESTS);
            first = chunk.end;
            let impressions = pool.install(|| draw(settings, &world, chunk));
            for part in &impressions {
                output.write(split, part)?;
                part.iter().for_each(|impression| measures.push(impression));
            }
            progress(
                settings.impressions.min(first * REQUEST_IMPRESSIONS),
                settings.impressions,
            );
        }
        measures.tell(split, &mut output.measures);
    }
    output.finish(settings)
}

/// The requests of each split, by time.
fn splits(requests: u64) -> [(Split, Range<u64>); 3] {
    let share = |tenths: u128| (u128::from(requests) * tenths / 10) as u64;
    [
        (Split::Train, 0..share(8)),
        (Split::Valid, share(8)..share(9)),
        (Split::Test, share(9)..requests),
    ]
}

/// Draws requests in parallel; the parts are in order.
fn draw(settings: &GeneratorSettings, world: &World, requests: Range<u64>) -> Vec<Vec<Impression>> {
    let tasks = (requests.end - requests.start).div_ceil(TASK_REQUESTS);
    (0..tasks)
        .into_par_iter()
        .map(|task| {
            let first = requests.start + task * TASK_REQUESTS;
            let last = requests.end.min(first + TASK_REQUESTS);
            let mut impressions =
                Vec::with_capacity(((last - first) * REQUEST_IMPRESSIONS) as usize);
            (first..last)
                .for_each(|request| draw_request(settings, world, request, &mut impressions));
            impressions
        })
        .collect()
}

/// What needs the rows before, and where rows go.
struct Output {
    writer: DatasetWriter,
    rows: RowWriter,
    counter: TrailingCounter,
    block: Block,
    /// The trailing columns while they are not part of `block`.
    trailing: Vec<RawColumn>,
    measures: BTreeMap<String, f64>,
}

impl Output {
    fn create(settings: &GeneratorSettings, out: &Path) -> Result<Self> {
        let base = columns::columns();
        let specs = columns::trailing();
        let time = base
            .iter()
            .position(|column| column.kind == ColumnKind::Time);
        let counter = TrailingCounter::new(&base, time, &specs, None)?;
        let block = Block::new(&base);
        let mut all = base;
        all.extend(specs.iter().map(columns::trailing_column));
        Ok(Self {
            writer: DatasetWriter::create(out, all, settings.block_rows)?,
            rows: RowWriter::new(settings.user_count() as usize),
            counter,
            block,
            trailing: specs
                .iter()
                .map(|_| RawColumn::new(ColumnKind::Dense))
                .collect(),
            measures: BTreeMap::new(),
        })
    }

    fn write(&mut self, split: Split, impressions: &[Impression]) -> Result<()> {
        let base = self.block.columns.len();
        self.block.clear();
        self.rows
            .write(impressions, &mut self.block)
            .map_err(|problem| Error::Rows {
                path: self.writer.folder().into(),
                problem,
            })?;
        self.trailing.iter_mut().for_each(RawColumn::clear);
        self.block.columns.append(&mut self.trailing);
        self.counter.fill(&mut self.block, impressions.len())?;
        self.writer.push_block(split, &self.block)?;
        self.trailing = self.block.columns.split_off(base);
        Ok(())
    }

    fn finish(self, settings: &GeneratorSettings) -> Result<Dataset> {
        let history = self.counter.finish();
        let id = history.write(&self.writer.folder().join(HISTORY_FILE))?;
        let provenance = Provenance {
            importer: "generator".into(),
            options: options(settings),
            measures: self.measures,
            ..Provenance::default()
        };
        let history = Some(History {
            id,
            base: None,
            before_base: Vec::new(),
            held_out_counts: HeldOutCounts::Progressive,
        });
        self.writer
            .finish(&settings.name, columns::trailing(), history, provenance)
    }
}

/// The settings that decide the result.
fn options(settings: &GeneratorSettings) -> BTreeMap<String, Value> {
    let options = [
        ("impressions", settings.impressions.into()),
        ("seed", settings.seed.into()),
        ("users", settings.user_count().into()),
        ("items", settings.item_count().into()),
        ("days", settings.days.into()),
        ("start_ms", settings.start_ms.into()),
        ("drift_per_day", settings.drift_per_day.into()),
        ("missing_dense", settings.missing_dense.into()),
        ("missing_ids", settings.missing_ids.into()),
        ("late", settings.late.into()),
    ];
    options
        .into_iter()
        .map(|(name, value): (&str, Value)| (name.into(), value))
        .collect()
}

/// What is known of a split without a model.
#[derive(Default)]
struct SplitMeasures {
    rows: u64,
    click: BestAuc,
    complete: BestAuc,
    clicks: f64,
    completes: f64,
}

impl SplitMeasures {
    fn push(&mut self, impression: &Impression) {
        self.rows += 1;
        self.click.push(impression.p_click);
        self.complete.push(impression.p_complete);
        self.clicks += f64::from(u8::from(impression.clicked));
        self.completes += f64::from(u8::from(impression.completed));
    }

    fn tell(&self, split: Split, measures: &mut BTreeMap<String, f64>) {
        let labels = [
            ("click", &self.click, self.clicks),
            ("complete", &self.complete, self.completes),
        ];
        for (label, best, positives) in labels {
            if let Some(auc) = best.value() {
                measures.insert(format!("{split}.best_auc.{label}"), auc);
                measures.insert(
                    format!("{split}.rate.{label}"),
                    positives / self.rows as f64,
                );
            }
        }
    }
}

/// The columns of generated data, in order.
pub fn generated_columns() -> Vec<Column> {
    let mut all = columns::columns();
    all.extend(columns::trailing().iter().map(columns::trailing_column));
    all
}

#[cfg(test)]
mod tests;

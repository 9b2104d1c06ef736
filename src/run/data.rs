//! `streamrec data`: import, generate, show.

use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::RunError;
use super::cli::{CountsName, DataCommand, GenerateArgs, ImportArgs};
use super::replacement::Replacement;
use crate::data::generator::{GeneratorSettings, generate};
use crate::data::import::{ImportSchema, ImportSettings, Stage, formats, import};
use crate::data::{Dataset, HeldOutCounts, Split};
use crate::train::Progress;

/// How far `--drift` turns the tastes of users and items, a day.
const DRIFT_PER_DAY: f64 = 0.05;

pub(super) fn run(command: &DataCommand) -> Result<(), RunError> {
    match command {
        DataCommand::Import(args) => run_import(args),
        DataCommand::Generate(args) => run_generate(args),
        DataCommand::Schema { format } => {
            let text = formats::schema_text(format)?;
            print!("{text}");
            Ok(())
        }
        DataCommand::Show { dataset } => {
            show(&Dataset::open(dataset)?);
            Ok(())
        }
    }
}

fn run_import(args: &ImportArgs) -> Result<(), RunError> {
    let schema = match (&args.schema, args.format.as_str()) {
        (Some(path), _) => ImportSchema::load(path),
        (None, "csv" | "parquet") => {
            return Err(RunError::Usage(format!(
                "--format {} needs --schema FILE, which says what the columns mean; `streamrec data \
                 schema kuairand` prints one to start from, docs/guides/data.md explains it",
                args.format
            )));
        }
        (None, format) => formats::detect(format, &args.input),
    };
    let schema = schema?;
    let replacement = Replacement::of(&args.out, "dataset", "dataset.json", args.overwrite)?;
    let mut settings = ImportSettings::new(schema, &args.input, replacement.folder());
    let split = args.split.as_deref().map(str::parse).transpose();
    settings.split = split.map_err(|error| RunError::Usage(format!("--split: {error}")))?;
    settings.held_out_counts = args.held_out_counts.map(HeldOutCounts::from);
    settings.max_malformed = args.max_malformed;
    settings.history = args.history.clone();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&settings.cancel))
            .map_err(RunError::other("cannot watch signals"))?;
    }
    let mut progress: Option<(Stage, Progress)> = None;
    let report = import(&settings, &mut |now| {
        if progress
            .as_ref()
            .is_none_or(|(stage, _)| *stage != now.stage)
        {
            let bar = match now.stage {
                Stage::Reading => Progress::new("read", "bytes", now.bytes_total),
                Stage::Writing => Progress::new("write", "rows", now.rows_total.unwrap_or(0)),
            };
            progress = Some((now.stage, bar));
        }
        if let Some((stage, bar)) = &mut progress {
            let done = if *stage == Stage::Reading {
                now.bytes_read
            } else {
                now.rows
            };
            bar.at(done, || format!("{} rows", now.rows));
        }
    });
    drop(progress);
    let mut report = report?;
    replacement.finish()?;
    report.dataset.folder.clone_from(&args.out);
    for line in &report.first_malformed {
        tracing::warn!("left out: {line}");
    }
    for (table, rows) in report.unmatched.iter().filter(|(_, rows)| *rows > 0) {
        tracing::warn!(
            rows,
            "side table {table} lacks the key of these rows; values are missing"
        );
    }
    show(&report.dataset);
    println!(
        "{} rows, {} malformed of {} lines, in {:.1} s",
        report.rows,
        report.malformed,
        report.lines,
        report.elapsed.as_secs_f64()
    );
    Ok(())
}

fn run_generate(args: &GenerateArgs) -> Result<(), RunError> {
    let settings = GeneratorSettings {
        impressions: args.impressions,
        seed: args.seed,
        users: args.users,
        items: args.items,
        drift_per_day: if args.drift { DRIFT_PER_DAY } else { 0.0 },
        ..GeneratorSettings::default()
    };
    let replacement = Replacement::of(&args.out, "dataset", "dataset.json", args.overwrite)?;
    let mut progress = Progress::new("generate", "rows", args.impressions);
    let tick = |rows, _| progress.at(rows, String::new);
    let mut dataset = generate(&settings, replacement.folder(), tick)?;
    progress.finish();
    replacement.finish()?;
    dataset.folder.clone_from(&args.out);
    show(&dataset);
    Ok(())
}

fn show(dataset: &Dataset) {
    println!("{} in {}", dataset.name, dataset.folder.display());
    for split in Split::ALL {
        if let Some(file) = dataset.splits.get(&split) {
            println!("  {split}: {} rows, {} bytes", file.rows, file.bytes);
        }
    }
    for column in &dataset.columns {
        let unit = column
            .unit
            .as_ref()
            .map(|unit| format!(" ({unit})"))
            .unwrap_or_default();
        println!("  {} {} {}{unit}", column.role, column.kind, column.name);
    }
    if let Some(history) = &dataset.history {
        let counts = history.held_out_counts;
        println!("  trailing counts of valid and test rows: {counts}");
    }
    for (measure, value) in &dataset.provenance.measures {
        // Counts stand among rates.
        if value.fract() == 0.0 {
            println!("  {measure}: {value:.0}");
        } else {
            println!("  {measure}: {value:.4}");
        }
    }
}

impl From<CountsName> for HeldOutCounts {
    fn from(name: CountsName) -> Self {
        match name {
            CountsName::Progressive => Self::Progressive,
            CountsName::Frozen => Self::Frozen,
        }
    }
}

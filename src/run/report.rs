//! `streamrec report`: a run as one HTML file.

use std::path::Path;

use serde_json::Value;
use streamrec_artifact::{Verdict, VerdictError};

use super::cli::ReportArgs;
use super::folder::{self, RunFolder};
use super::{RunError, artifact};
use crate::data::{ColumnKind, Dataset, Split};
use crate::train::Progress;
use crate::validation::ArtifactModel;
use crate::validation::gate::{Criterion, Evidence, GATE_VERSION, GateConfig, Metric, Models};
use crate::validation::report::{ReportSources, report};

pub(super) fn run(args: &ReportArgs) -> Result<(), RunError> {
    let (folder, experiment) = RunFolder::open(&args.run)?;
    let mut sources = ReportSources {
        name: experiment.name.clone(),
        written: format!(
            "Written {} by streamrec {} from {}.",
            jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
            env!("CARGO_PKG_VERSION"),
            args.run.display()
        ),
        names: segments(args)
            .map(|(column, names)| (column.to_owned(), names))
            .collect(),
        journal: lines(&folder.metrics())?,
        evaluations: lines(&folder.evaluations())?,
        ..ReportSources::default()
    };
    let (artifact, verdict, evidence);
    if let Some(path) = &args.artifact {
        artifact = artifact::read(path)?;
        sources.profile = Some(&artifact.profile);
        verdict = match Verdict::read(path) {
            Ok(verdict) => Some(verdict),
            Err(VerdictError::Missing { .. }) => None,
            Err(error) => return Err(RunError::other("the verdict cannot be read")(error)),
        };
        sources.verdict = verdict.as_ref();
        let data = args.data.as_deref().unwrap_or(&experiment.data.dataset);
        evidence = scored(args, path, &Dataset::open(data)?)?;
        sources.evidence = evidence.as_ref();
    }
    let out = args.out.clone().unwrap_or_else(|| report_path(&folder));
    folder::replace(&out, report(&sources).as_bytes())?;
    println!("the report of {} is in {}", experiment.name, out.display());
    Ok(())
}

fn report_path(folder: &RunFolder) -> std::path::PathBuf {
    folder.root().join("report.html")
}

/// The artifact's scores of a split; none where the dataset has no such rows or nobody to count by.
fn scored(
    args: &ReportArgs,
    artifact: &Path,
    dataset: &Dataset,
) -> Result<Option<Evidence>, RunError> {
    let split: Split = args.split.into();
    let rows = dataset.splits.get(&split).map_or(0, |file| file.rows);
    let unit = dataset
        .columns
        .iter()
        .find(|column| column.kind == ColumnKind::Key);
    let (Some(unit), true) = (unit, rows > 0) else {
        return Ok(None);
    };
    let criteria = segments(args).map(|(input, names)| Criterion::Segments {
        input: input.to_owned(),
        metric: Metric::Auc,
        label: None,
        min: None,
        max: None,
        against: None,
        max_worsening: None,
        min_rows: None,
        names,
    });
    let columns = GateConfig {
        format_version: GATE_VERSION,
        name: "report".into(),
        unit: unit.name.clone(),
        confidence: 0.95,
        resamples: 100,
        seed: 0,
        min_rows: 0,
        min_units: 0,
        criteria: criteria.collect(),
    };
    let mut challenger = ArtifactModel::load(artifact)?;
    let mut progress = Progress::new("score", "rows", rows);
    let mut models = Models {
        challenger: &mut challenger,
        others: Vec::new(),
    };
    let tick = |rows| progress.at(rows, String::new);
    let found = Evidence::gather(&columns, &mut models, dataset, &[split], tick)?;
    progress.finish();
    Ok(Some(found))
}

/// The columns whose segments are shown, each with the texts of its values that were named: `platform=ios,android`.
fn segments(args: &ReportArgs) -> impl Iterator<Item = (&str, Vec<String>)> {
    args.segment.iter().map(|text| {
        let (column, names) = text.split_once('=').unwrap_or((text, ""));
        let names = names.split(',').filter(|name| !name.is_empty());
        (column, names.map(str::to_owned).collect())
    })
}

/// Records of a file of lines; none where there is no file. A line that was cut off is left out.
fn lines(path: &Path) -> Result<Vec<Value>, RunError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(RunError::file("read", path)(error)),
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()),
    }
}

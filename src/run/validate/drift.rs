//! `streamrec validate drift`: data against the profile that a model was trained on.

use streamrec_artifact::{FeatureSchema, Outcome, Profile, ProfileBuilder};

use crate::data::Dataset;
use crate::data::import::{FileFormat, InputSettings, SourceSchema};
use crate::run::cli::ValidateDriftArgs;
use crate::run::{RunError, artifact, folder};
use crate::validation::drift::{
    DriftLimits, DriftReport, InputDrift, Level, compare, profile, schema_problems,
};

pub(super) fn run(args: &ValidateDriftArgs) -> Result<Outcome, RunError> {
    let limits = args
        .limits
        .as_deref()
        .map(DriftLimits::load)
        .transpose()?
        .unwrap_or_default();
    let artifact = artifact::read(&args.artifact)?;
    let schema = &artifact.manifest.schema;
    limits.fit(&schema.inputs, &schema.labels)?;
    let mut segments: Vec<String> = artifact
        .profile
        .segments
        .iter()
        .map(|segment| segment.input.clone())
        .collect();
    segments.dedup();
    let builder = ProfileBuilder::new(&schema.inputs, &schema.labels)
        .with_vocabularies(schema, &artifact.vocabularies)
        .with_segments(&segments)
        .map_err(RunError::Usage)?
        .with_sketches_only();
    let Some(current) = current(args, schema, &builder)? else {
        return Ok(Outcome::Fail);
    };
    let report = compare(&artifact.profile, &current, &limits)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_vec_pretty(&report)
            .map_err(RunError::other("the report has no JSON form"))?;
        folder::replace(path, &text)?;
    }
    print(&report);
    Ok(report.outcome)
}

/// The profile of what is compared; none of a dataset of another schema, which is told.
fn current(
    args: &ValidateDriftArgs,
    schema: &FeatureSchema,
    builder: &ProfileBuilder,
) -> Result<Option<Profile>, RunError> {
    if args.data.join("dataset.json").exists() {
        let dataset = Dataset::open(&args.data)?;
        let problems = schema_problems(schema, &dataset);
        if !problems.is_empty() {
            problems
                .iter()
                .for_each(|problem| println!("fail schema: {problem}"));
            return Ok(None);
        }
        let splits = match args.split {
            Some(split) => vec![split.into()],
            None => dataset.splits.keys().copied().collect(),
        };
        return Ok(Some(profile::of_dataset(&dataset, &splits, builder)?));
    }
    if args.split.is_some() {
        return Err(RunError::Usage(format!(
            "--split: only a packed dataset has splits, and {} is none; leave it out",
            args.data.display()
        )));
    }
    let format = match args
        .data
        .extension()
        .and_then(|extension| extension.to_str())
    {
        Some("parquet") => FileFormat::Parquet,
        Some("csv") => FileFormat::Csv,
        _ => {
            return Err(RunError::Usage(format!(
                "{}: expected a dataset's folder, a .parquet or a .csv file; import other files first",
                args.data.display()
            )));
        }
    };
    let settings = InputSettings {
        files: vec![args.data.clone()],
        source: SourceSchema {
            format,
            ..SourceSchema::default()
        },
        list_separator: args.list_separator.clone(),
        inputs: schema.inputs.clone(),
        keys: Vec::new(),
        piece_rows: profile::PART_ROWS,
    };
    Ok(Some(profile::of_files(settings, builder)?))
}

fn print(report: &DriftReport) {
    for input in report
        .inputs
        .iter()
        .filter(|input| input.level() >= Level::Warn)
    {
        println!("{}", line(input));
    }
    println!(
        "{}: {} rows against {} of the training profile, {} comparisons",
        report.outcome,
        report.current_rows,
        report.reference_rows,
        report.inputs.len()
    );
}

fn line(input: &InputDrift) -> String {
    let segment = input
        .segment
        .as_ref()
        .map_or_else(String::new, |(name, key)| format!(" where {name} = {key}"));
    let beyond = input
        .statistics
        .iter()
        .filter(|statistic| statistic.level >= Level::Warn)
        .map(|statistic| {
            let values = match (statistic.reference, statistic.current) {
                (Some(before), Some(after)) => format!(" ({before:.4} became {after:.4})"),
                _ => String::new(),
            };
            format!("{} {:.4}{values}", statistic.name, statistic.value)
        });
    let beyond: Vec<String> = beyond.collect();
    let level = if input.outcome == Outcome::Pass {
        "warn".to_owned()
    } else {
        input.outcome.to_string()
    };
    format!("{level} {}{segment}: {}", input.name, beyond.join(", "))
}

//! `streamrec validate drift`: data against the profile that a model was trained on.

use streamrec_artifact::{Artifact, Outcome, ProfileBuilder, RawBatch};

use crate::data::{Block, Dataset};
use crate::run::cli::ValidateDriftArgs;
use crate::run::{RunError, folder};
use crate::validation::drift::{
    DriftLimits, DriftReport, InputDrift, Level, compare, schema_problems,
};

pub(super) fn run(args: &ValidateDriftArgs) -> Result<Outcome, RunError> {
    let limits = args
        .limits
        .as_deref()
        .map(DriftLimits::load)
        .transpose()?
        .unwrap_or_default();
    let artifact = Artifact::read(&args.artifact).map_err(RunError::other(format!(
        "cannot read the artifact {}",
        args.artifact.display()
    )))?;
    let dataset = Dataset::open(&args.data)?;
    let schema = &artifact.manifest.schema;
    let problems = schema_problems(schema, &dataset);
    if !problems.is_empty() {
        problems
            .iter()
            .for_each(|problem| println!("fail schema: {problem}"));
        return Ok(Outcome::Fail);
    }
    let mut segments: Vec<String> = artifact
        .profile
        .segments
        .iter()
        .map(|segment| segment.input.clone())
        .collect();
    segments.dedup();
    let mut builder = ProfileBuilder::new(&schema.inputs, &schema.labels)
        .with_vocabularies(schema, &artifact.vocabularies)
        .with_segments(&segments)
        .map_err(RunError::Usage)?;
    let splits = match args.split {
        Some(split) => vec![split.into()],
        None => dataset.splits.keys().copied().collect(),
    };
    let (mut block, mut raw) = (Block::default(), RawBatch::new(&schema.inputs));
    for split in splits {
        let pack = dataset.pack(split)?;
        let places = schema.inputs.iter().map(|input| pack.column(&input.name));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        for number in 0..pack.blocks() {
            pack.read_block(number, &mut block)?;
            raw.rows = block.rows;
            for (column, &place) in raw.columns.iter_mut().zip(&places) {
                std::mem::swap(column, &mut block.columns[place]);
            }
            builder
                .observe(&raw)
                .map_err(RunError::other("the data does not fit the model's inputs"))?;
            for (column, &place) in raw.columns.iter_mut().zip(&places) {
                std::mem::swap(column, &mut block.columns[place]);
            }
        }
    }
    let report = compare(&artifact.profile, &builder.finish(), &limits)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_vec_pretty(&report)
            .map_err(RunError::other("the report has no JSON form"))?;
        folder::replace(path, &text)?;
    }
    print(&report);
    Ok(report.outcome)
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

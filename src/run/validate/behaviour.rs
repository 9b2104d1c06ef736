//! `streamrec validate behaviour`: tests of what a ranker must do.

use std::path::Path;

use streamrec_artifact::{Encoder, Outcome, RawBatch};

use super::server::Server;
use crate::data::{Dataset, Split};
use crate::export;
use crate::run::cli::ValidateBehaviourArgs;
use crate::run::{RunError, artifact, folder};
use crate::validation::ArtifactModel;
use crate::validation::behaviour::{BehaviourReport, BehaviourSuite, TestResult, run as run_suite};

pub(super) fn run(args: &ValidateBehaviourArgs) -> Result<Outcome, RunError> {
    let suite = BehaviourSuite::load(&args.suite)?;
    let mut model = ArtifactModel::load(&args.artifact)?;
    let sample = match &args.data {
        Some(folder) => sample(&Dataset::open(folder)?, model.encoder(), args.rows)?,
        None => golden(&args.artifact)?,
    };
    let report = match &args.server {
        Some(url) => run_suite(
            &suite,
            &mut Server::new(url, model.manifest().clone()),
            &sample,
        )?,
        None => run_suite(&suite, &mut model, &sample)?,
    };
    if let Some(path) = &args.json {
        let text = serde_json::to_vec_pretty(&report)
            .map_err(RunError::other("the report has no JSON form"))?;
        folder::replace(path, &text)?;
    }
    print(&report);
    Ok(if report.is_passed() {
        Outcome::Pass
    } else {
        Outcome::Fail
    })
}

/// Rows of the test split, evenly spread; of another where there is none.
pub(super) fn sample(
    dataset: &Dataset,
    encoder: &Encoder,
    rows: usize,
) -> Result<RawBatch, RunError> {
    let filled = |split: &Split| dataset.splits.get(split).is_some_and(|file| file.rows > 0);
    let split = [Split::Test, Split::Valid, Split::Train]
        .into_iter()
        .find(filled)
        .unwrap_or(Split::Train);
    Ok(export::golden_rows(&dataset.pack(split)?, encoder, rows)?)
}

fn golden(folder: &Path) -> Result<RawBatch, RunError> {
    Ok(artifact::read(folder)?.golden.raw)
}

fn print(report: &BehaviourReport) {
    for test in &report.tests {
        println!("{}", line(test));
        for case in test.failing.iter().take(3).filter(|_| !test.is_passed()) {
            println!("    {case}");
        }
    }
    let passed = report.tests.iter().filter(|test| test.is_passed()).count();
    println!(
        "{}: {passed} of {} tests passed",
        report.suite,
        report.tests.len()
    );
}

fn line(test: &TestResult) -> String {
    let outcome = if test.is_passed() { "pass" } else { "fail" };
    format!(
        "{outcome} {} {} ({}): {} of {} cases, {:.1} %, asked for are {:.1} %",
        test.kind,
        test.name,
        test.capability,
        test.passed,
        test.cases,
        100.0 * test.pass_rate(),
        100.0 * test.min_pass_rate
    )
}

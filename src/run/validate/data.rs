//! `streamrec validate data`: a suite of expectations on a table.

use std::time::Instant;

use streamrec_artifact::Outcome;

use crate::run::RunError;
use crate::run::cli::{SeverityName, ValidateDataArgs};
use crate::run::folder;
use crate::validation::expectations::{
    ExpectationResult, Severity, Suite, Table, Validation, validate,
};

pub(super) fn run(args: &ValidateDataArgs) -> Result<Outcome, RunError> {
    let suite = Suite::load(&args.suite)?;
    let table = Table::open(&args.data, args.split.map(Into::into))?;
    let began = Instant::now();
    let validation = validate(&suite, &table, args.failing_rows.as_deref())?;
    let seconds = began.elapsed().as_secs_f64();
    if let Some(path) = &args.json {
        let text = serde_json::to_vec_pretty(&validation)
            .map_err(RunError::other("the result has no JSON form"))?;
        folder::replace(path, &text)?;
    }
    print(&validation, seconds);
    let failed = validation
        .worst()
        .is_some_and(|worst| worst >= args.fail_on.into());
    Ok(if failed { Outcome::Fail } else { Outcome::Pass })
}

fn print(validation: &Validation, seconds: f64) {
    for result in validation.results.iter().filter(|result| !result.success) {
        println!("{}", line(result));
    }
    let statistics = &validation.statistics;
    println!(
        "{}: {} of {} expectations met on {} ({} rows, {} scans, {seconds:.2} s)",
        validation.suite_name,
        statistics.successful_expectations,
        statistics.evaluated_expectations,
        validation.meta["table"].as_str().unwrap_or_default(),
        validation.meta["rows"],
        validation.meta["scans"],
    );
}

/// An unmet expectation in one line: what, of what, and what was found.
fn line(result: &ExpectationResult) -> String {
    let config = &result.expectation_config;
    let mut text = format!(
        "{:?}: {}",
        result.severity,
        config["type"].as_str().unwrap_or_default()
    )
    .to_lowercase();
    for name in ["column", "column_A", "column_list", "row_condition"] {
        if let Some(value) = config["kwargs"].get(name) {
            text += &format!(" {value}");
        }
    }
    let found = &result.result;
    if let Some(problem) = &result.exception_info.exception_message {
        return format!("{text}: {problem}");
    }
    if found.get("unexpected_count").is_some() {
        let shown: Vec<String> = found["partial_unexpected_list"]
            .as_array()
            .map(|values| values.iter().take(3).map(ToString::to_string).collect())
            .unwrap_or_default();
        return format!(
            "{text}: {} of {} unexpected ({:.2} %), such as {}",
            found["unexpected_count"],
            found["element_count"],
            found["unexpected_percent"].as_f64().unwrap_or_default(),
            shown.join(", ")
        );
    }
    let details = found
        .get("details")
        .map(|details| format!(", {details}"))
        .unwrap_or_default();
    format!("{text}: observed {}{details}", found["observed_value"])
}

impl From<SeverityName> for Severity {
    fn from(name: SeverityName) -> Self {
        match name {
            SeverityName::Info => Self::Info,
            SeverityName::Warning => Self::Warning,
            SeverityName::Critical => Self::Critical,
        }
    }
}

//! The report of a run: one HTML file that needs no network, in light and dark.
//!
//! ```text
//! journal, evaluations ─┐
//! profile, verdict ─────┼─► sections: tables, and charts as inline SVG ─► report.html
//! scores of a split ────┘
//! ```

mod axes;
pub mod chart;
mod page;
mod profile;
mod scores;
pub mod table;
mod training;

use std::collections::BTreeMap;

use serde_json::Value;
use streamrec_artifact::{Profile, Verdict};

use super::gate::Evidence;
use chart::{escaped, number};
use page::{Page, outcome, text};

/// What a report is made from; what is not there has no section.
#[derive(Debug, Default)]
pub struct ReportSources<'a> {
    /// The run's name.
    pub name: String,
    /// When, by what and from where it is written; the page's last line.
    pub written: String,
    /// Lines of `metrics.jsonl`.
    pub journal: Vec<Value>,
    /// Lines of `evaluations.jsonl`.
    pub evaluations: Vec<Value>,
    /// The artifact's profile.
    pub profile: Option<&'a Profile>,
    /// The artifact's verdict.
    pub verdict: Option<&'a Verdict>,
    /// The artifact's scores of some rows.
    pub evidence: Option<&'a Evidence>,
    /// Texts of the values that segments are made of, by column: of a text, data holds a hash.
    pub names: BTreeMap<String, Vec<String>>,
}

/// The page.
pub fn report(sources: &ReportSources<'_>) -> String {
    let mut page = Page::new(&format!("Report of {}", sources.name));
    page.facts(&facts(sources));
    if let Some(verdict) = sources.verdict {
        gate(&mut page, verdict);
    }
    training::curves(&mut page, &sources.journal);
    training::evaluations(&mut page, &sources.evaluations);
    if let Some(evidence) = sources.evidence {
        scores::distributions(&mut page, evidence);
        scores::segments(&mut page, evidence, &sources.names);
    }
    if let Some(profile) = sources.profile {
        profile::inputs(&mut page, profile);
    }
    let mut missing = Vec::new();
    if sources.profile.is_none() {
        missing.push(
            "Gate, scores, segments and data are told where an artifact is given: --artifact.",
        );
    } else if sources.verdict.is_none() {
        missing.push("No gate has judged the artifact: streamrec validate gate.");
    }
    if sources.evaluations.is_empty() {
        missing.push("The run was not evaluated: streamrec evaluate.");
    }
    if !missing.is_empty() {
        page.section("Not in this report", &missing.join(" "));
    }
    page.html(&sources.written)
}

/// What one wants to know first.
fn facts(sources: &ReportSources<'_>) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
    if let Some(verdict) = sources.verdict {
        fact("Gate", outcome(&verdict.outcome.to_string()));
    }
    let steps = sources
        .journal
        .iter()
        .filter_map(|record| record["step"].as_u64());
    if let Some(step) = steps.max() {
        fact("Steps", step.to_string());
    }
    if let Some(newest) = sources.evaluations.last() {
        let split = newest["split"].as_str().unwrap_or_default();
        for (label, found) in newest["labels"].as_object().into_iter().flatten() {
            for (name, measure) in [("AUC", "auc"), ("Calibration", "calibration")] {
                if let Some(value) = found[measure].as_f64() {
                    fact(&format!("{name} of {label}, {split}"), number(value));
                }
            }
        }
        if let Some(version) = newest["data_version"].as_str() {
            fact("Data", escaped(version));
        }
    }
    if let Some(profile) = sources.profile {
        fact("Rows of training", profile.rows.to_string());
    }
    facts
}

fn gate(page: &mut Page, verdict: &Verdict) {
    let about = format!(
        "{} by the gate {} on data {}, {}.",
        verdict.outcome,
        verdict.gate,
        verdict.data_version,
        minute(&verdict.created)
    );
    page.section("Gate", &about);
    let of = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let row = |finding: &Value| {
        let ends = finding["interval"].as_array();
        let interval = ends.map_or_else(
            || "-".to_owned(),
            |ends| {
                let ends = ends.iter().map(|end| figure(end.as_f64()));
                format!("[{}]", ends.collect::<Vec<_>>().join(", "))
            },
        );
        vec![
            text(&of(finding, "asked")),
            outcome(&of(finding, "outcome")),
            figure(finding["observed"].as_f64()),
            interval,
            count(finding["rows"].as_u64()),
            text(&of(finding, "reason")),
        ]
    };
    let rows: Vec<Vec<String>> = verdict.findings.iter().map(row).collect();
    let head = [
        "Asked for",
        "Outcome",
        "Observed",
        "Interval",
        "Rows",
        "Why",
    ];
    page.table("What the gate found", &head, &rows);
}

/// A moment without its seconds; as it is where it is none.
fn minute(time: &str) -> String {
    let parsed = time.parse::<jiff::Timestamp>();
    parsed.map_or_else(
        |_| time.to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

/// A number, or that there is none.
fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

fn count(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_knows_light_and_dark() {
        let journal = (0..50)
            .map(|step| json!({"kind": "train", "step": step, "loss": 1.0 / f64::from(step + 1)}));
        let valid = json!({"kind": "valid/click", "step": 10, "auc": 0.7, "log_loss": 0.3});
        let evidence = Evidence {
            labels: vec!["click".into()],
            label_values: vec![
                (0..200)
                    .map(|row| f32::from(u8::from(row % 3 == 0)))
                    .collect(),
            ],
            unit_of: (0..200).collect(),
            units: 200,
            columns: BTreeMap::from([(
                "age".to_owned(),
                (
                    crate::data::SourceType::Integer,
                    (0..200).map(|row| row % 2).collect(),
                ),
            )]),
            challenger: vec![(0..200).map(|row| row as f32 / 200.0).collect()],
            ..Evidence::default()
        };
        let sources = ReportSources {
            name: "run <1>".into(),
            journal: journal.chain([valid]).collect(),
            evaluations: vec![
                json!({"split": "test", "step": 10, "data_version": "v", "labels": {"click": {"rows": 5, "auc": 0.7}}}),
            ],
            evidence: Some(&evidence),
            ..ReportSources::default()
        };
        let html = report(&sources);
        for part in [
            "run &lt;1&gt;",
            "prefers-color-scheme:dark",
            "Calibration of click",
            "age = 1",
            "default-src 'none'",
            "<a href=\"#Training\">",
            "Not in this report",
        ] {
            assert!(html.contains(part), "{part}");
        }
        for outside in ["http://", "https://", "src=", "@import", "url(", "<script"] {
            assert!(!html.contains(outside), "{outside}");
        }
        for link in html.split("href=\"").skip(1) {
            assert!(
                link.starts_with('#') || link.starts_with("data:,"),
                "{link:.40}"
            );
        }
    }
}

//! The model card: what a person, or a model hub, needs to know of an artifact. Measured values only.
//!
//! Its YAML header is that of Hugging Face: <https://huggingface.co/docs/hub/model-cards>.

use std::fmt::Write as _;

use crate::feature_schema::FeatureSchema;
use crate::input::InputColumn;
use crate::manifest::Manifest;
use crate::profile::Profile;

/// The text of `MODEL_CARD.md`.
pub fn render(manifest: &Manifest, profile: &Profile) -> String {
    let mut card = header(manifest);
    let training = &manifest.training;
    // Writing to a string cannot fail.
    let _ = write!(
        card,
        "\n# {}\n\nA `{}` ranking model that predicts {}.\n\n\
         | | |\n|---|---|\n| Exported | {} |\n| Data | `{}` |\n| Code | `{}` |\n| Seed | {} |\n\
         | Training | {} steps of {} rows ({} rows in all), {} ranks, {}, {:.1} s |\n| Parameters | {} |\n",
        manifest.name,
        training.model,
        list(&manifest.schema.labels),
        manifest.created,
        manifest.data_version,
        manifest.code_version,
        manifest.seed,
        training.steps,
        training.global_batch,
        training.rows,
        training.ranks,
        training.precision,
        training.seconds,
        parameters(manifest),
    );
    metrics(&mut card, manifest);
    inputs(&mut card, &manifest.schema, profile);
    scores(&mut card, profile);
    card
}

fn header(manifest: &Manifest) -> String {
    let mut yaml =
        String::from("---\nlibrary_name: streamrec\npipeline_tag: tabular-classification\n");
    yaml.push_str("tags:\n- recommendation\n- ranking\n");
    let _ = writeln!(yaml, "- {}", quoted(&manifest.training.model));
    if !manifest.metrics.is_empty() {
        let _ = write!(
            yaml,
            "model-index:\n- name: {}\n  results:\n  - task:\n      type: tabular-classification\n    \
             dataset:\n      type: tabular\n      name: {}\n    metrics:\n",
            quoted(&manifest.name),
            quoted(&manifest.data_version),
        );
        for (name, value) in &manifest.metrics {
            let _ = writeln!(yaml, "    - type: {}\n      value: {value}", quoted(name));
        }
    }
    yaml.push_str("---\n");
    yaml
}

fn metrics(card: &mut String, manifest: &Manifest) {
    if manifest.metrics.is_empty() {
        return;
    }
    card.push_str("\n## Measured\n\n| Metric | Value |\n|---|---:|\n");
    for (name, value) in &manifest.metrics {
        let _ = writeln!(card, "| {} | {value} |", cell(name));
    }
}

fn inputs(card: &mut String, schema: &FeatureSchema, profile: &Profile) {
    let _ = write!(
        card,
        "\n## Inputs\n\nShares are those of {} training rows.\n\n\
         | Name | Type | Unit | Range | Required | Missing |\n|---|---|---|---|---|---:|\n",
        profile.rows
    );
    for input in &schema.inputs {
        let seen = profile.inputs.iter().find(|seen| seen.name == input.name);
        let missing = seen.map(|seen| 100.0 * seen.missing as f64 / profile.rows.max(1) as f64);
        let _ = writeln!(
            card,
            "| {} | {} {} | {} | {} | {} | {} |",
            cell(&input.name),
            input.source,
            input.kind,
            cell(input.unit.as_deref().unwrap_or("")),
            range(input),
            if input.required { "yes" } else { "no" },
            missing
                .map(|share| format!("{share:.2} %"))
                .unwrap_or_default(),
        );
    }
}

fn scores(card: &mut String, profile: &Profile) {
    if profile.scores.is_empty() {
        return;
    }
    card.push_str(
        "\n## Scores\n\n| Label | Share of positives | Mean probability |\n|---|---:|---:|\n",
    );
    for score in &profile.scores {
        let (label, mean) = (cell(&score.label), score.probabilities.mean);
        let _ = writeln!(card, "| {label} | {:.6} | {mean:.6} |", score.base_rate);
    }
}

fn parameters(manifest: &Manifest) -> usize {
    let dense: usize = manifest
        .graph
        .parameters()
        .iter()
        .map(|parameter| parameter.len())
        .sum();
    let tables = manifest.graph.tables.iter().map(|table| {
        let rows = manifest
            .schema
            .table(&table.rows_of)
            .map_or(0, |of| of.rows);
        rows.saturating_mul(table.dim)
    });
    tables.fold(dense, usize::saturating_add)
}

fn list(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn range(input: &InputColumn) -> String {
    input
        .range
        .map(|[low, high]| format!("{low} to {high}"))
        .unwrap_or_default()
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Text that stays inside its table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

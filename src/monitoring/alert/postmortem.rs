//! The template of a post-mortem, filled in as far as a program can.

use std::fmt::Write;

use super::{Incident, rfc3339};

/// Markdown: what is known, and what people must add.
pub fn postmortem(incident: &Incident) -> String {
    let end = incident
        .resolved_ms
        .map_or_else(|| "not yet".to_owned(), rfc3339);
    let duration = incident.resolved_ms.map_or_else(String::new, |end| {
        let minutes = (end - incident.opened_ms) / 60_000;
        format!(" ({} h {} min)", minutes / 60, minutes % 60)
    });
    let first = incident.alerts.iter().map(|alert| alert.since_ms).min();
    let seen = first.map_or_else(String::new, rfc3339);
    let known = incident.acknowledged_by.as_deref().unwrap_or("nobody yet");
    let severity = format!("{:?}", incident.severity).to_lowercase();
    let mut text = format!(
        "# Post-mortem: {}\n\n\
         Blameless: it asks what let this happen and what let it last, not who.\n\n\
         | | |\n|---|---|\n\
         | Rule | `{}` on `{}` |\n| Severity | {severity} |\n| Owner | {} |\n| Runbook | {} |\n\
         | First sign | {seen} |\n| Fired | {} |\n| Resolved | {end}{duration} |\n| Acknowledged by | {known} |\n\n\
         ## What was seen\n\n",
        incident.id,
        incident.rule,
        incident.metric,
        incident.owner,
        incident.runbook,
        rfc3339(incident.opened_ms),
    );
    for alert in &incident.alerts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- {}", alert.summary);
    }
    text.push_str("\n## Timeline (UTC)\n\n| When | Who | What |\n|---|---|---|\n");
    let mut timeline = incident.timeline.clone();
    timeline.sort_by_key(|entry| entry.at_ms);
    for entry in timeline {
        let what = entry.what.replace('|', "\\|").replace('\n', " ");
        let _ = writeln!(text, "| {} | {} | {what} |", rfc3339(entry.at_ms), entry.by);
    }
    text.push_str(
        "\n## Impact\n\n_Users, requests and money, with the query that found them._\n\n\
         ## Root cause\n\n_Ask why until the answer is a process, not a person._\n\n\
         ## What went well, what did not, where we were lucky\n\n-\n\n\
         ## Actions\n\n| Action | Kind (prevent, detect, mitigate) | Who | Due |\n|---|---|---|---|\n| | | | |\n",
    );
    text
}

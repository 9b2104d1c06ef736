//! `streamrec monitor rules`: checks rules, and writes them for Prometheus and Grafana.

use crate::monitoring::definitions::{grafana_dashboard, prometheus_rules};
use crate::monitoring::rules::Rules;
use crate::run::cli::MonitorRulesArgs;
use crate::run::{RunError, folder};

pub(super) fn run(args: &MonitorRulesArgs) -> Result<(), RunError> {
    let rules = Rules::load(&args.rules)?;
    println!("{}: {} rules", args.rules.display(), rules.rules.len());
    let Some(out) = &args.out else {
        return Ok(());
    };
    std::fs::create_dir_all(out).map_err(RunError::file("make", out))?;
    let files = [
        ("prometheus-rules.yml", prometheus_rules(&rules)),
        (
            "grafana-dashboard.json",
            grafana_dashboard(&rules, "StreamRec"),
        ),
    ];
    for (name, value) in files {
        let path = out.join(name);
        let text = serde_json::to_vec_pretty(&value).map_err(RunError::other("no JSON"))?;
        folder::replace(&path, &text)?;
        println!("{}", path.display());
    }
    Ok(())
}

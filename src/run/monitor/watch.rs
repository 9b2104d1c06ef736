//! `streamrec monitor run`: windows, measures, alerts.

use std::time::Duration;

use streamrec_artifact::Artifact;

use crate::monitoring::Store;
use crate::monitoring::alert::Outbox;
use crate::monitoring::rules::Rules;
use crate::monitoring::watch::{Watch, WatchReport};
use crate::run::RunError;
use crate::run::cli::MonitorRunArgs;

pub(super) fn run(args: &MonitorRunArgs) -> Result<(), RunError> {
    let rules = Rules::load(&args.rules)?;
    let artifact = Artifact::read(&args.artifact).map_err(RunError::other(format!(
        "cannot read the artifact {}",
        args.artifact.display()
    )))?;
    let store = Store::new(&args.dir);
    let watch = Watch {
        store: &store,
        artifact: &artifact,
        rules: &rules,
    };
    loop {
        let now = args.now.unwrap_or_else(jiff::Timestamp::now);
        print(&watch.run(now.as_millisecond())?);
        let delivery = Outbox::new(store.root()).deliver(&rules.webhooks)?;
        for problem in &delivery.problems {
            tracing::warn!("{problem}; what could not be delivered waits in outbox/");
        }
        if delivery.delivered + delivery.waiting > 0 {
            println!(
                "{} posts delivered, {} wait",
                delivery.delivered, delivery.waiting
            );
        }
        if args.once {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(args.every));
    }
}

fn print(report: &WatchReport) {
    for change in &report.changes {
        println!("{change}");
    }
    for trigger in &report.triggers {
        println!("triggers/{trigger}.json asks for a new model");
    }
    if report.hours + report.labelled_hours > 0 {
        println!(
            "{} hours judged, {} by their labels; {} alerts fire",
            report.hours, report.labelled_hours, report.firing
        );
    }
}

//! `streamrec monitor run`: windows, measures, alerts.

use std::time::Duration;

use crate::monitoring::Store;
use crate::monitoring::alert::Outbox;
use crate::monitoring::rules::Rules;
use crate::monitoring::watch::{Watch, WatchReport};
use crate::run::cli::MonitorRunArgs;
use crate::run::{RunError, artifact};

pub(super) fn run(args: &MonitorRunArgs) -> Result<(), RunError> {
    let rules = Rules::load(&args.rules)?;
    let artifact = artifact::read(&args.artifact)?;
    rules.fit(&artifact.manifest).map_err(|problems| {
        let rules = args.rules.display();
        RunError::Usage(format!(
            "the rules {rules} do not fit the model:\n  {problems}"
        ))
    })?;
    let store = Store::open(&args.dir)?;
    let watch = Watch {
        store: &store,
        artifact: &artifact,
        rules: &rules,
    };
    loop {
        let now = args.now.unwrap_or_else(jiff::Timestamp::now);
        print(args, &watch.run(now.as_millisecond())?);
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

fn print(args: &MonitorRunArgs, report: &WatchReport) {
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
    } else if args.once {
        // Who asks once is told that nothing was missed.
        let why = match report.predicted_hours {
            0 => format!(
                "{} holds no predictions: streamrec monitor compact",
                args.dir.display()
            ),
            _ => "every hour that is over was judged before".to_owned(),
        };
        println!("nothing to judge: {why}; {} alerts fire", report.firing);
    }
}

//! `streamrec monitor prune`: what is older than it has to be kept goes.

use crate::monitoring::Store;
use crate::monitoring::retention::{Retention, prune};
use crate::run::RunError;
use crate::run::cli::MonitorPruneArgs;

pub(super) fn run(args: &MonitorPruneArgs) -> Result<(), RunError> {
    let store = Store::open(&args.dir)?;
    let retention = Retention {
        rows_ms: args.rows,
        windows_ms: args.windows,
        unjudged: args.unjudged,
    };
    let now = args.now.unwrap_or_else(jiff::Timestamp::now);
    let report = prune(&store, retention, now.as_millisecond(), args.dry_run)?;
    if args.json {
        let json = serde_json::to_string(&report).map_err(RunError::other("no report"))?;
        println!("{json}");
        return Ok(());
    }
    println!(
        "{} hours of predictions, {} hours of labelled ones, {} files of labels without a prediction, {} files of \
         windows and {} receipts {}: {:.1} MB",
        report.predicted_hours,
        report.labelled_hours,
        report.unjoined_files,
        report.window_files,
        report.receipts,
        if args.dry_run { "would go" } else { "are gone" },
        report.bytes as f64 / 1e6
    );
    if report.unjudged_hours > 0 {
        println!(
            "{} hours of predictions are old enough and stay: `streamrec monitor run` has not judged them with all \
             their labels (--unjudged removes them all the same)",
            report.unjudged_hours
        );
    }
    if report.compared_windows > 0 {
        println!(
            "{} windows are old enough and stay: rules compare newer ones with them",
            report.compared_windows
        );
    }
    Ok(())
}

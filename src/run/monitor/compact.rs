//! `streamrec monitor compact`: segments to tables.

use crate::monitoring::Store;
use crate::monitoring::prediction_log::compact;
use crate::run::RunError;
use crate::run::cli::MonitorCompactArgs;

pub(super) fn run(args: &MonitorCompactArgs) -> Result<(), RunError> {
    let report = compact(&args.log, &Store::new(&args.out), args.remove_segments)?;
    for torn in &report.torn {
        let why = if torn.closed {
            "it is damaged"
        } else {
            "its writer died"
        };
        tracing::warn!(
            segment = torn.segment,
            at = torn.at,
            bytes = torn.bytes,
            "{why}: {}",
            torn.problem
        );
    }
    if report.unreadable > 0 {
        tracing::warn!(
            frames = report.unreadable,
            "frames of a later version were left out"
        );
    }
    if args.json {
        let json = serde_json::to_string(&report).map_err(RunError::other("no report"))?;
        println!("{json}");
        return Ok(());
    }
    println!(
        "{} segments with {} requests and {} rows are in {} now; {} were there, {} are being written, {} removed",
        report.segments,
        report.records,
        report.rows,
        args.out.display(),
        report.segments_known,
        report.segments_open,
        report.removed
    );
    Ok(())
}

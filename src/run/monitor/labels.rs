//! `streamrec monitor labels`: late labels to labelled predictions.

use crate::monitoring::Store;
use crate::monitoring::label_join::{LabelFile, join};
use crate::run::RunError;
use crate::run::cli::MonitorLabelsArgs;

pub(super) fn run(args: &MonitorLabelsArgs) -> Result<(), RunError> {
    let file = LabelFile::open(&args.labels)?;
    let report = join(&file, &Store::new(&args.out), args.window)?;
    if args.json {
        let json = serde_json::to_string(&report).map_err(RunError::other("no report"))?;
        println!("{json}");
        return Ok(());
    }
    println!(
        "{} labels: {} joined, {} duplicates ({} contradict the first), {} late, {} before their prediction, \
         {} unknown, {} unmatched",
        report.labels,
        report.joined,
        report.duplicates,
        report.contradictions,
        report.late,
        report.early,
        report.unknown.values().sum::<u64>(),
        report.unmatched
    );
    for (name, count) in &report.unknown {
        println!("{count} are of {name:?}, which the model that answered has no label for");
    }
    if let Some(path) = &report.unjoined {
        println!(
            "labels without a prediction are in {}; join that file again later",
            path.display()
        );
    }
    Ok(())
}

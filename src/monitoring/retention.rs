//! How long a monitoring folder keeps what is in it.
//!
//! Rows are what people asked, and must not be kept for ever; summaries are small and tell nobody's request. So they
//! have an age each. What the monitor has yet to judge stays, and so do the windows that its rules compare with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::label_join::newest_label_ms;
use super::prediction_log::receipts;
use super::rules::RuleBook;
use super::store::names;
use super::watch::WatchState;
use super::{Hour, MonitoringError, Store, Table};

const HOUR_MS: i64 = 3_600_000;

/// What may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds that rows are kept; for ever where unset.
    pub rows_ms: Option<i64>,
    /// Milliseconds that windows are kept, with their measures and judgements; for ever where unset.
    pub windows_ms: Option<i64>,
    /// Whether rows go that were never judged.
    pub unjudged: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Hours of predictions.
    pub predicted_hours: u64,
    /// Hours of labelled predictions.
    pub labelled_hours: u64,
    /// Files of labels that found no prediction.
    pub unjoined_files: u64,
    /// Receipts of segments whose rows are gone.
    pub receipts: u64,
    /// Files of windows, measures and judgements.
    pub window_files: u64,
    /// Bytes of all these.
    pub bytes: u64,
    /// Hours of predictions that are old enough and stay, as the monitor has not judged them with all their labels.
    pub unjudged_hours: u64,
    /// Windows that are old enough and stay, as a rule compares later ones with them.
    pub compared_windows: u64,
}

/// Removes what is older at `now_ms` than `retention` says; only tells of it where `dry_run`.
///
/// # Errors
/// Another command writes, or the file system refuses. What was removed before is gone, and the same command again does
/// the rest.
pub fn prune(
    store: &Store,
    retention: Retention,
    now_ms: i64,
    dry_run: bool,
) -> Result<PruneReport, MonitoringError> {
    let _locks = (store.lock()?, store.lock_windows()?);
    let mut pruning = Pruning {
        store,
        judged_ms: WatchState::judged_ms(store)?,
        dry_run,
        gone: BTreeSet::new(),
        report: PruneReport::default(),
    };
    if let Some(age_ms) = retention.rows_ms {
        pruning.rows(now_ms.saturating_sub(age_ms), retention.unjudged)?;
    }
    if let Some(age_ms) = retention.windows_ms {
        pruning.windows(now_ms.saturating_sub(age_ms))?;
    }
    Ok(pruning.report)
}

struct Pruning<'a> {
    store: &'a Store,
    /// Hours before this moment were judged with all their labels.
    judged_ms: i64,
    dry_run: bool,
    /// What went, or would go.
    gone: BTreeSet<PathBuf>,
    report: PruneReport,
}

impl Pruning<'_> {
    fn rows(&mut self, before_ms: i64, unjudged: bool) -> Result<(), MonitoringError> {
        for table in [Table::Labelled, Table::Predictions] {
            for hour in self.store.hours(table)? {
                if hour.end_ms() > before_ms {
                    continue;
                }
                let is_judged = hour.end_ms() <= self.judged_ms;
                let count = match table {
                    Table::Predictions if !is_judged && !unjudged => {
                        self.report.unjudged_hours += 1;
                        continue;
                    }
                    Table::Labelled if !is_judged && !unjudged => continue,
                    Table::Predictions => &mut self.report.predicted_hours,
                    Table::Labelled => &mut self.report.labelled_hours,
                };
                *count += 1;
                self.remove_folder(&self.store.folder(table, hour))?;
            }
        }
        for path in self.store.all_unjoined()? {
            if newest_label_ms(&path)? < before_ms {
                self.report.unjoined_files += 1;
                self.remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn windows(&mut self, before_ms: i64) -> Result<(), MonitoringError> {
        let book = RuleBook::read(self.store)?;
        let rules = book.iter().flat_map(|book| &book.rules);
        let looked_back_h = rules.map(|rule| rule.looks_back_h()).max().unwrap_or(0);
        let needed_ms = self
            .judged_ms
            .saturating_sub(looked_back_h as i64 * HOUR_MS);
        let is_window = |hour: Hour| hour.end_ms() <= before_ms;
        for folder in self.store.window_folders()? {
            for (hour, path) in hour_files(&folder)?
                .into_iter()
                .filter(|(hour, _)| is_window(*hour))
            {
                if hour.end_ms() > needed_ms {
                    self.report.compared_windows += u64::from(path == self.store.window(hour));
                } else {
                    self.report.window_files += 1;
                    self.remove_file(&path)?;
                }
            }
        }
        for receipt in receipts(self.store)? {
            let is_there = |path: &PathBuf| !self.gone.contains(path) && path.exists();
            if receipt.begun_ms < before_ms && !receipt.files.iter().any(is_there) {
                self.report.receipts += 1;
                self.remove_file(&receipt.path)?;
            }
        }
        Ok(())
    }

    fn remove_folder(&mut self, folder: &Path) -> Result<(), MonitoringError> {
        for name in names(folder)? {
            self.remove_file(&folder.join(name))?;
        }
        if !self.dry_run {
            fs::remove_dir(folder).map_err(MonitoringError::file("remove", folder))?;
        }
        Ok(())
    }

    fn remove_file(&mut self, path: &Path) -> Result<(), MonitoringError> {
        let length = fs::metadata(path)
            .map_err(MonitoringError::file("read", path))?
            .len();
        self.report.bytes += length;
        self.gone.insert(path.to_owned());
        if self.dry_run {
            return Ok(());
        }
        fs::remove_file(path).map_err(MonitoringError::file("remove", path))
    }
}

/// The files of a folder that are named for an hour, ascending.
fn hour_files(folder: &Path) -> Result<Vec<(Hour, PathBuf)>, MonitoringError> {
    let hour = |name: &String| name.strip_suffix(".json")?.parse::<Hour>().ok();
    let names = names(folder)?;
    let files = names
        .iter()
        .filter_map(|name| Some((hour(name)?, folder.join(name))));
    let mut files: Vec<_> = files.collect();
    files.sort_unstable();
    Ok(files)
}

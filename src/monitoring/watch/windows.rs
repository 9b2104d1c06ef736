//! Summaries on the disk: made once, made again where more labels came.

use super::state::WatchState;
use super::{HOUR_MS, Watch};
use crate::monitoring::store::{read_json, write_json};
use crate::monitoring::window::{Subject, WINDOW_VERSION, WindowSummary, sources, summarise};
use crate::monitoring::{Hour, MonitoringError};

impl Watch<'_> {
    fn subject(&self) -> Subject<'_> {
        Subject {
            artifact: self.artifact,
            segments: &self.rules.windows.segments,
        }
    }

    fn stored(&self, hour: Hour) -> Result<Option<WindowSummary>, MonitoringError> {
        read_json(&self.store.window(hour), WINDOW_VERSION)
    }

    /// Makes the summary of an hour.
    pub(super) fn build(&self, hour: Hour) -> Result<(), MonitoringError> {
        let summary = summarise(self.store, hour, self.subject(), &mut |_| {})?;
        write_json(&self.store.window(hour), &summary)
    }

    /// Makes it with all its labels, which the detectors of concept drift take in turn.
    pub(super) fn build_labelled(
        &self,
        hour: Hour,
        state: &mut WatchState,
    ) -> Result<WindowSummary, MonitoringError> {
        let mut concept = std::collections::BTreeMap::new();
        let detectors = &mut state.detectors;
        let mut summary = summarise(self.store, hour, self.subject(), &mut |row| {
            let detectors = detectors.entry(row.label.to_owned()).or_default();
            let counts = concept.entry(row.label.to_owned()).or_default();
            detectors.update(row.score, row.happened, counts);
        })?;
        summary.concept = concept;
        write_json(&self.store.window(hour), &summary)?;
        Ok(summary)
    }

    /// Makes the summaries of hours before `next` again that have more files than they had, while their labels are
    /// not complete: dashboards show labels as they come.
    pub(super) fn refresh(
        &self,
        state: &WatchState,
        hours: &[Hour],
        next: Hour,
    ) -> Result<(), MonitoringError> {
        let complete = state.labelled.unwrap_or(i64::MIN);
        let waiting = hours
            .iter()
            .filter(|hour| hour.begin_ms() >= complete && **hour < next);
        for &hour in waiting {
            let known = self.stored(hour)?.map(|summary| summary.sources);
            if known.as_ref() != Some(&sources(self.store, hour)?) {
                self.build(hour)?;
                if let Some(window) = self.stored(hour)? {
                    write_json(
                        &self.store.measures(1, hour),
                        &self.measure(&window, state)?,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// The window of so many hours that ends with `hour`; none where it holds none of the model.
    pub(super) fn merged(
        &self,
        span: usize,
        hour: Hour,
    ) -> Result<Option<WindowSummary>, MonitoringError> {
        let first = hour.begin_ms() - (span as i64 - 1) * HOUR_MS;
        let mut merged: Option<WindowSummary> = None;
        for step in 0..span as i64 {
            let Some(window) = self.stored(Hour::of(first + step * HOUR_MS))? else {
                continue;
            };
            match &mut merged {
                None => merged = Some(window),
                Some(merged) => merged.merge(&window).map_err(|error| {
                    let path = self.store.window(hour);
                    MonitoringError::table(&path, format!("{error}: windows of another model?"))
                })?,
            }
        }
        if let Some(merged) = &mut merged {
            merged.begin_ms = first;
        }
        Ok(merged)
    }
}

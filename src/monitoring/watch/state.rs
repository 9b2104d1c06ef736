//! What is kept between runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use streamrec_artifact::{Artifact, MODEL_FILE};

use crate::monitoring::alert::Alert;
use crate::monitoring::concept::Detectors;
use crate::monitoring::store::{read_json, write_json};
use crate::monitoring::window::{CalibrationMap, LabelHistogram, WindowSummary};
use crate::monitoring::{MonitoringError, Store};

/// The version of the state that is written and read.
pub const WATCH_VERSION: u32 = 1;

/// `watch.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchState {
    /// The version of its form.
    pub format_version: u32,
    /// The model, by the digest of its weights: another begins with no errors and no calibration.
    pub model: String,
    /// Hours before this moment were judged; none before the first run.
    pub live: Option<i64>,
    /// Hours before this moment were judged by their labels.
    pub labelled: Option<i64>,
    /// Detectors of concept drift, by label.
    pub detectors: BTreeMap<String, Detectors>,
    /// Labelled rows of windows before, by label: what scores are calibrated by.
    pub labels: BTreeMap<String, LabelHistogram>,
    /// Alerts that are pending or fire.
    pub alerts: Vec<Alert>,
}

impl WatchState {
    /// The state of a folder; a new one where there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(store: &Store, artifact: &Artifact) -> Result<Self, MonitoringError> {
        let files = &artifact.manifest.files;
        let digest = files.get(MODEL_FILE).map(|file| file.xxh3_128.clone());
        let model = digest.unwrap_or_else(|| artifact.manifest.name.clone());
        let found = read_json::<Self>(&path(store), WATCH_VERSION)?;
        let mut state = found.unwrap_or_else(|| Self {
            format_version: WATCH_VERSION,
            model: model.clone(),
            live: None,
            labelled: None,
            detectors: BTreeMap::new(),
            labels: BTreeMap::new(),
            alerts: Vec::new(),
        });
        if state.model != model {
            state.model = model;
            state.detectors.clear();
            state.labels.clear();
        }
        Ok(state)
    }

    /// Hours before this moment were judged with all their labels; none where nothing was judged.
    pub(in crate::monitoring) fn judged_ms(store: &Store) -> Result<i64, MonitoringError> {
        let state = read_json::<Self>(&path(store), WATCH_VERSION)?;
        Ok(state.and_then(|state| state.labelled).unwrap_or(i64::MIN))
    }

    pub(super) fn write(&self, store: &Store) -> Result<(), MonitoringError> {
        write_json(&path(store), self)
    }

    /// Adds the labelled rows of a window to what scores are calibrated by.
    pub(super) fn learn(&mut self, window: &WindowSummary) {
        for (label, measured) in window.whole().into_iter().flat_map(|all| &all.measured) {
            self.labels
                .entry(label.clone())
                .or_default()
                .merge(&measured.histogram);
        }
    }

    /// From scores to rates, by label.
    pub(super) fn calibration(&self) -> BTreeMap<String, CalibrationMap> {
        let fit = |(label, labelled): (&String, &LabelHistogram)| {
            (label.clone(), CalibrationMap::fit(labelled))
        };
        self.labels.iter().map(fit).collect()
    }
}

fn path(store: &Store) -> PathBuf {
    store.root().join("watch.json")
}

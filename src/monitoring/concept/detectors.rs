//! The detectors of one label, and how often they alarmed.

use serde::{Deserialize, Serialize};

use super::{Adwin, Ddm, DdmState, PageHinkley};

/// All detectors of one label; their state is kept between windows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detectors {
    adwin: Adwin,
    ddm: Ddm,
    page_hinkley: PageHinkley,
}

/// Alarms of one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConceptCounts {
    /// Rows that the detectors took.
    pub rows: u64,
    /// Of ADWIN, on squared errors.
    pub adwin: u64,
    /// Of DDM, on wrong classes.
    pub ddm: u64,
    /// Of Page-Hinkley, on squared errors.
    pub page_hinkley: u64,
}

impl Detectors {
    /// Takes a labelled row, and counts who alarms.
    pub fn update(&mut self, score: f32, happened: bool, counts: &mut ConceptCounts) {
        let error = f64::from(score) - f64::from(u8::from(happened));
        let squared = error * error;
        counts.rows += 1;
        counts.adwin += u64::from(self.adwin.update(squared));
        counts.page_hinkley += u64::from(self.page_hinkley.update(squared));
        let state = self.ddm.update((score >= 0.5) != happened);
        counts.ddm += u64::from(state == DdmState::Drift);
    }
}

impl ConceptCounts {
    /// Adds those of other windows.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.adwin += other.adwin;
        self.ddm += other.ddm;
        self.page_hinkley += other.page_hinkley;
    }
}

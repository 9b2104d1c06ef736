//! Counts malformed lines and stops an import that has too many of them.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::ImportError;

/// Lines to read before their share of malformed ones is judged; the end of the input is judged too.
const LINES_BEFORE_JUDGING: u64 = 1000;
/// Malformed lines that are told in full.
const TOLD: usize = 10;

/// Why a line is left out.
#[derive(Debug)]
pub(super) struct Reason {
    /// What lines are counted by.
    pub(super) what: String,
    /// What else there is to say of this one line; may be empty.
    pub(super) also: String,
}

impl From<String> for Reason {
    fn from(what: String) -> Self {
        let also = String::new();
        Self { what, also }
    }
}

/// Lines read and lines left out, by reason.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    pub(super) lines: u64,
    pub(super) malformed: u64,
    pub(super) reasons: BTreeMap<String, u64>,
    first: Vec<String>,
    allowed: f64,
}

impl Tally {
    /// Allows the share `allowed` of all lines to be malformed.
    pub(super) fn new(allowed: f64) -> Self {
        Self {
            lines: 0,
            malformed: 0,
            reasons: BTreeMap::new(),
            first: Vec::new(),
            allowed,
        }
    }

    /// Counts a malformed line; `got` is the text that does not fit.
    ///
    /// # Errors
    /// When there are now too many.
    pub(super) fn reject(
        &mut self,
        path: &Path,
        line: u64,
        reason: impl Into<Reason>,
        got: Option<&[u8]>,
    ) -> Result<(), ImportError> {
        let Reason { what, also } = reason.into();
        self.malformed += 1;
        if self.first.len() < TOLD {
            let got = got.map_or_else(String::new, |got| format!(", got {:?}", excerpt(got)));
            let told = format!("{}:{line}: {what}{got}{also}", path.display());
            tracing::warn!("left out a malformed line: {told}");
            self.first.push(told);
        }
        *self.reasons.entry(what).or_default() += 1;
        if self.lines >= LINES_BEFORE_JUDGING || self.allowed == 0.0 {
            self.judge()
        } else {
            Ok(())
        }
    }

    /// Judges the lines so far, whatever their number.
    pub(super) fn judge(&self) -> Result<(), ImportError> {
        if self.malformed as f64 <= self.allowed * self.lines as f64 {
            return Ok(());
        }
        Err(ImportError::TooManyMalformed {
            malformed: self.malformed,
            lines: self.lines,
            allowed: self.allowed,
            first: self.first.clone(),
        })
    }

    /// The first malformed lines, told in full.
    pub(super) fn first(&self) -> &[String] {
        &self.first
    }
}

fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = 60;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    if bytes.len() > LONGEST {
        format!("{text}...")
    } else {
        text.into_owned()
    }
}

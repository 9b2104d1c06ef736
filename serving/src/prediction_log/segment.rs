//! Segments: the files of a log, and how they are read.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::frame::{self, NextFrame};
use super::model::LoggedModel;
use super::record::{LogRecord, REQUEST_FRAME};

/// The first bytes of a segment, its version included.
pub const SEGMENT_MAGIC: [u8; 8] = *b"SRPLOG01";

/// The first byte of a frame that holds a model, as JSON.
pub(super) const MODEL_FRAME: u8 = 1;

/// The most models of a segment: a writer begins another segment long before.
const MODELS_MAX: usize = 4096;

/// A segment's name without its extension: it never changes, and no two segments share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName(String);

/// Whether a segment may still grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// `.open`: its writer holds a lock on it, or died.
    Open,
    /// `.log`: it is final.
    Closed,
}

impl SegmentState {
    /// The extension of its file.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "log",
        }
    }
}

impl SegmentName {
    /// The name of a writer's segment.
    pub fn new(created_ms: i64, writer: u64, sequence: u64) -> Self {
        Self(format!("{created_ms:013}-{writer:016x}-{sequence:06}"))
    }

    /// Reads the name of a file; `None` for files that are no segments.
    pub fn parse(file_name: &OsStr) -> Option<(Self, SegmentState)> {
        let (stem, extension) = file_name.to_str()?.rsplit_once('.')?;
        let states = [SegmentState::Open, SegmentState::Closed];
        let state = states
            .into_iter()
            .find(|state| state.extension() == extension)?;
        let mut parts = stem.split('-');
        let well_formed =
            parts.next().is_some_and(|part| {
                part.len() >= 13 && part.bytes().all(|byte| byte.is_ascii_digit())
            }) && parts.next().is_some_and(|part| {
                part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            }) && parts.next().is_some_and(|part| {
                part.len() >= 6 && part.bytes().all(|byte| byte.is_ascii_digit())
            }) && parts.next().is_none();
        well_formed.then(|| (Self(stem.to_owned()), state))
    }

    /// When its writer began it, milliseconds since the epoch.
    pub fn created_ms(&self) -> i64 {
        let digits = self.0.split('-').next().unwrap_or_default();
        // Only a moment beyond all calendars is no number.
        digits.parse().unwrap_or(i64::MAX)
    }

    /// The name of its file in a state.
    pub fn file_name(&self, state: SegmentState) -> String {
        format!("{}.{}", self.0, state.extension())
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a segment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentEnd {
    /// After a whole frame.
    Whole,
    /// In the middle of one, as its writer died, or the bytes are damaged.
    Torn {
        /// Where the first bytes stand that are no frame.
        at: u64,
        /// How many bytes from there could not be read.
        bytes: u64,
        /// What is wrong.
        problem: String,
    },
}

/// Reads the records of a segment, up to its end or the first damage.
#[derive(Debug)]
pub struct SegmentReader<R> {
    input: R,
    length: u64,
    offset: u64,
    models: Vec<LoggedModel>,
    payload: Vec<u8>,
    end: Option<SegmentEnd>,
    unreadable: u64,
}

impl SegmentReader<BufReader<File>> {
    /// Reads the file `path` as long as it is now.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Self::new(BufReader::with_capacity(1 << 18, file), length)
    }
}

impl<R: Read> SegmentReader<R> {
    /// Reads a segment of `length` bytes.
    ///
    /// # Errors
    /// When `input` fails. What is no segment is one that is torn at its beginning.
    pub fn new(mut input: R, length: u64) -> io::Result<Self> {
        let mut magic = [0; SEGMENT_MAGIC.len()];
        let head = magic.len() as u64;
        let mut end = None;
        if length >= head {
            input.read_exact(&mut magic)?;
        }
        if magic != SEGMENT_MAGIC {
            let problem = "it does not begin as a segment of the prediction log does".to_owned();
            end = Some(SegmentEnd::Torn {
                at: 0,
                bytes: length,
                problem,
            });
        }
        Ok(Self {
            input,
            length,
            offset: head.min(length),
            models: Vec::new(),
            payload: Vec::new(),
            end,
            unreadable: 0,
        })
    }

    /// The next record and the place of its model among [`models`](Self::models); `None` at the end.
    ///
    /// # Errors
    /// When the file system refuses: the rest was not read, and [`end`](Self::end) is not known.
    pub fn next_record(&mut self) -> io::Result<Option<(usize, LogRecord)>> {
        while self.end.is_none() {
            let left = self.length - self.offset;
            match frame::read_frame(&mut self.input, left, &mut self.payload)? {
                NextFrame::End => self.end = Some(SegmentEnd::Whole),
                NextFrame::Damaged(problem) => {
                    self.end = Some(SegmentEnd::Torn {
                        at: self.offset,
                        bytes: left,
                        problem,
                    });
                }
                NextFrame::Payload => {
                    self.offset += (frame::FRAME_HEAD + self.payload.len()) as u64;
                    if let Some(found) = self.frame() {
                        return Ok(Some(found));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Takes a whole frame: a record, unless it is something else.
    fn frame(&mut self) -> Option<(usize, LogRecord)> {
        match self.payload.split_first() {
            Some((&MODEL_FRAME, json)) if self.models.len() < MODELS_MAX => {
                match serde_json::from_slice(json) {
                    Ok(model) => self.models.push(model),
                    // Records name models by their place, so those that follow mean nothing now.
                    Err(error) => {
                        self.torn_before(format!("a model that is not understood: {error}"))
                    }
                }
                None
            }
            Some((&REQUEST_FRAME, _)) => {
                let decoded = LogRecord::decode(&self.payload, &self.models);
                if decoded.is_err() {
                    self.unreadable += 1;
                }
                decoded.ok()
            }
            _ => {
                self.unreadable += 1;
                None
            }
        }
    }

    /// Ends the reading before the frame that was read last.
    fn torn_before(&mut self, problem: String) {
        let at = self.offset - (frame::FRAME_HEAD + self.payload.len()) as u64;
        let bytes = self.length - at;
        self.end = Some(SegmentEnd::Torn { at, bytes, problem });
    }

    /// The models told so far.
    pub fn models(&self) -> &[LoggedModel] {
        &self.models
    }

    /// How it ended; `None` before.
    pub fn end(&self) -> Option<&SegmentEnd> {
        self.end.as_ref()
    }

    /// Whole frames whose content is not understood: of a later version, or a bug.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }
}

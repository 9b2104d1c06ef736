//! A segment that is being written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::frame::push_frame;
use super::model::LoggedModel;
use super::segment::{MODEL_FRAME, SEGMENT_MAGIC, SegmentName, SegmentState};
use crate::ranker::Ranker;

/// A file that only ever ends in a whole frame, unless the process dies or the disk breaks.
#[derive(Debug)]
pub(super) struct SegmentFile {
    /// Holds the lock that tells others that its writer lives.
    file: File,
    open: PathBuf,
    closed: PathBuf,
    bytes: u64,
    opened: Instant,
    /// The versions told in it; a segment must not keep a model in memory that was replaced.
    models: Vec<String>,
}

impl SegmentFile {
    /// Begins a segment in `folder`. It gets its name once it is locked, so that nobody takes it for one
    /// whose writer died.
    pub(super) fn create(folder: &Path, name: &SegmentName) -> io::Result<Self> {
        let path = |state| folder.join(name.file_name(state));
        let hidden = folder.join(format!(".{name}.new"));
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create_new(true).open(&hidden)?;
        let made = (|| {
            file.lock()?;
            file.write_all(&SEGMENT_MAGIC)?;
            std::fs::rename(&hidden, path(SegmentState::Open))
        })();
        if let Err(error) = made {
            // Nothing of worth is in it.
            let _ = std::fs::remove_file(&hidden);
            return Err(error);
        }
        Ok(Self {
            file,
            open: path(SegmentState::Open),
            closed: path(SegmentState::Closed),
            bytes: SEGMENT_MAGIC.len() as u64,
            opened: Instant::now(),
            models: Vec::new(),
        })
    }

    /// The place of a model among those of the segment; one that is new is told first.
    pub(super) fn model(&mut self, name: &str, ranker: &Ranker, out: &mut Vec<u8>) -> u32 {
        let known = |version: &String| version == ranker.version();
        if let Some(place) = self.models.iter().position(known) {
            return place as u32;
        }
        let model = LoggedModel {
            name: name.to_owned(),
            version: ranker.version().to_owned(),
            labels: ranker.labels().to_vec(),
            inputs: ranker.inputs().to_vec(),
        };
        push_frame(out, |out| {
            out.push(MODEL_FRAME);
            // Text, numbers and lists of them: nothing in it fails to be JSON.
            out.extend(serde_json::to_vec(&model).unwrap_or_default());
        });
        self.models.push(ranker.version().to_owned());
        self.models.len() as u32 - 1
    }

    /// How many models it has told.
    pub(super) fn models(&self) -> usize {
        self.models.len()
    }

    /// Forgets the models told since there were `count`: what told them was not written.
    pub(super) fn forget_models(&mut self, count: usize) {
        self.models.truncate(count);
    }

    /// Appends whole frames, all or none of them.
    ///
    /// # Errors
    /// When the disk is full or refuses; with `true` if the file may end in a part of a frame now.
    pub(super) fn append(&mut self, frames: &[u8]) -> Result<(), (io::Error, bool)> {
        match self.file.write_all(frames) {
            Ok(()) => {
                start_writing_back(&self.file, self.bytes, frames.len() as u64);
                self.bytes += frames.len() as u64;
                Ok(())
            }
            Err(error) => {
                let torn = self.file.set_len(self.bytes).is_err();
                Err((error, torn))
            }
        }
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When it was begun.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Whether it holds anything yet.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes <= SEGMENT_MAGIC.len() as u64
    }

    /// Makes it final: it is on the disk under its last name. An empty one is removed.
    pub(super) fn close(self) -> io::Result<()> {
        if self.is_empty() {
            return std::fs::remove_file(&self.open);
        }
        self.file.sync_all()?;
        std::fs::rename(&self.open, &self.closed)?;
        match self.closed.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Lets the system send these bytes to the disk from now on: else it sends those of seconds at once, and keeps cores
/// from requests meanwhile. Linux does so where it is told that they are not needed (`man 2 posix_fadvise`).
fn start_writing_back(file: &File, from: u64, bytes: u64) {
    #[cfg(target_os = "linux")]
    if let Some(bytes) = std::num::NonZeroU64::new(bytes) {
        // A hint: without it they are sent later.
        let _ = rustix::fs::fadvise(file, from, Some(bytes), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, from, bytes);
}

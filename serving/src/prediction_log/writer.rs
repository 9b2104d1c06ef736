//! The queue of the log and the thread that writes it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use streamrec_artifact::key;

use super::frame::push_frame;
use super::load::{Load, UnderWay};
use super::record::LogRecord;
use super::sampling::Sampling;
use super::segment::SegmentName;
use super::segment_file::SegmentFile;
use crate::metrics::{LogOutcome, Metrics};
use crate::ranker::Ranker;

/// Records that may wait, whatever their bytes.
const WAITING_RECORDS_MAX: usize = 8192;
/// Bytes that are written at once: the system does not let a request interrupt it.
const WRITE_BYTES: usize = 256 << 10;
/// How often the writer looks for records. It is not woken: that would be a call of the system in each request.
const LOOK: Duration = Duration::from_millis(20);
/// How often it looks, while records wait, whether requests left cores idle.
const LOOK_FOR_CALM: Duration = Duration::from_millis(1);
/// How long a record waits for idle cores at most.
const PATIENCE: Duration = Duration::from_millis(100);
/// The wait after the disk refused: to try for each record would only heat it.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// Models of a segment at most.
const SEGMENT_MODELS_MAX: usize = 64;

/// Where and how much is logged.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The log's folder; made where it is not there.
    pub folder: PathBuf,
    /// Which requests are logged.
    pub sampling: Sampling,
    /// Bytes of a segment, after which another is begun.
    pub segment_bytes: u64,
    /// Age of a segment, at which another is begun.
    pub segment_age: Duration,
    /// Bytes of records that may wait for the disk.
    pub waiting_bytes_max: usize,
}

/// A record that waits, and its model.
struct Entry {
    ranker: Arc<Ranker>,
    record: LogRecord,
    bytes: usize,
    submitted: Instant,
}

/// The log of a server.
#[derive(Debug)]
pub struct PredictionLog {
    /// Until the log is stopped.
    sender: Mutex<Option<SyncSender<Entry>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    sampling: Sampling,
    load: Arc<Load>,
    waiting_bytes: Arc<AtomicUsize>,
    waiting_bytes_max: usize,
    metrics: Arc<Metrics>,
    /// Where ids of requests without one come from.
    ids: (u64, AtomicU64),
}

impl PredictionLog {
    /// Starts a log of requests for the model `name`.
    ///
    /// # Errors
    /// When the folder cannot be made or written to, or the thread cannot be started: a server that is to log
    /// but cannot should not start.
    pub fn start(settings: LogSettings, name: &str, metrics: Arc<Metrics>) -> io::Result<Self> {
        std::fs::create_dir_all(&settings.folder)?;
        let seed = RandomState::new().hash_one((std::process::id(), now_ms()));
        let waiting_bytes: Arc<AtomicUsize> = Arc::default();
        let load = Arc::new(Load::of_this_machine());
        let mut writer = Writer {
            folder: settings.folder.clone(),
            name: name.to_owned(),
            id: key::hash(seed),
            sequence: 0,
            segment: None,
            pause_until: None,
            buffer: Vec::new(),
            settings: settings.clone(),
            load: Arc::clone(&load),
            waiting_bytes: Arc::clone(&waiting_bytes),
            metrics: Arc::clone(&metrics),
        };
        writer.segment = Some(writer.create()?);
        let (sender, receiver) = sync_channel(WAITING_RECORDS_MAX);
        let builder = std::thread::Builder::new().name("prediction-log".to_owned());
        let thread = builder.spawn(move || {
            give_way();
            writer.run(&receiver);
        })?;
        Ok(Self {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            sampling: settings.sampling,
            load,
            waiting_bytes,
            waiting_bytes_max: settings.waiting_bytes_max,
            metrics,
            ids: (seed, AtomicU64::new(0)),
        })
    }

    /// An id for a request that has none: 32 hexadecimal digits that no other request has.
    pub fn new_id(&self) -> String {
        let (seed, count) = (self.ids.0, self.ids.1.fetch_add(1, Ordering::Relaxed));
        format!("{seed:016x}{:016x}", key::hash(count ^ seed))
    }

    /// Whether a request of this id is logged.
    pub fn takes(&self, request_id: &str) -> bool {
        self.sampling.takes(request_id)
    }

    /// Tells that a request is under way, so that the writer leaves it the cores.
    pub fn under_way(&self) -> UnderWay {
        UnderWay::begin(&self.load)
    }

    /// Hands a record to the writer; drops and counts it where too much waits.
    pub fn submit(&self, ranker: Arc<Ranker>, record: LogRecord) {
        let bytes = record.bytes();
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = waiting + bytes <= self.waiting_bytes_max && {
            let entry = Entry {
                ranker,
                record,
                bytes,
                submitted: Instant::now(),
            };
            let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
            sender
                .as_ref()
                .is_some_and(|sender| sender.try_send(entry).is_ok())
        };
        if !sent {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.logged(LogOutcome::Dropped, 1);
        }
    }

    /// Writes what waits and closes the segment.
    pub fn stop(&self) {
        drop(
            self.sender
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for PredictionLog {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How far the writer stands behind the threads that answer: they run first wherever both could.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Lowers this thread's priority, which on Linux is its own.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS)
    {
        tracing::debug!(%error, "the prediction log's thread keeps its priority");
    }
}

/// Milliseconds since the epoch, 0 where the clock stands before it.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// What the thread has.
struct Writer {
    folder: PathBuf,
    name: String,
    id: u64,
    sequence: u64,
    segment: Option<SegmentFile>,
    pause_until: Option<Instant>,
    buffer: Vec<u8>,
    settings: LogSettings,
    load: Arc<Load>,
    waiting_bytes: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn create(&mut self) -> io::Result<SegmentFile> {
        let name = SegmentName::new(now_ms(), self.id, self.sequence);
        self.sequence += 1;
        SegmentFile::create(&self.folder, &name)
    }

    fn run(mut self, receiver: &Receiver<Entry>) {
        loop {
            match receiver.try_recv() {
                Ok(entry) => {
                    while !self.may_write(&entry) {
                        std::thread::sleep(LOOK_FOR_CALM);
                    }
                    self.write(entry, receiver);
                }
                Err(TryRecvError::Empty) => std::thread::sleep(LOOK),
                Err(TryRecvError::Disconnected) => break,
            }
            self.rotate();
        }
        self.close();
    }

    /// Whether an entry is written now: requests need the cores more, unless it is old or much waits.
    fn may_write(&self, entry: &Entry) -> bool {
        let waiting = self.waiting_bytes.load(Ordering::Relaxed);
        self.load.is_calm()
            || entry.submitted.elapsed() >= PATIENCE
            || waiting >= self.settings.waiting_bytes_max / 4
    }

    /// Writes an entry and those behind it that are there already.
    fn write(&mut self, first: Entry, receiver: &Receiver<Entry>) {
        let models_before = self.segment().map_or(0, |segment| segment.models());
        let (mut next, mut records) = (Some(first), 0);
        self.buffer.clear();
        while let Some(entry) = next {
            records += u64::from(self.encode(&entry));
            let room = self.buffer.len() < WRITE_BYTES;
            next = if room { receiver.try_recv().ok() } else { None };
        }
        self.append(records, models_before);
    }

    /// Adds a record to the buffer, unless it is longer than a frame may be.
    fn encode(&mut self, entry: &Entry) -> bool {
        let Entry {
            ranker,
            record,
            bytes,
            submitted: _,
        } = entry;
        self.waiting_bytes.fetch_sub(*bytes, Ordering::Relaxed);
        let Some(segment) = &mut self.segment else {
            // Counted with those that the disk refused.
            return true;
        };
        let model = segment.model(&self.name, ranker, &mut self.buffer);
        let fits = push_frame(&mut self.buffer, |out| record.encode(model, out));
        if !fits {
            self.metrics.logged(LogOutcome::Dropped, 1);
        }
        fits
    }

    /// Writes the buffer, which holds so many records.
    fn append(&mut self, records: u64, models_before: usize) {
        let Some(segment) = &mut self.segment else {
            self.metrics.logged(LogOutcome::Failed, records);
            return;
        };
        match segment.append(&self.buffer) {
            Ok(()) => {
                self.metrics.logged(LogOutcome::Written, records);
                self.metrics.log_bytes.inc_by(self.buffer.len() as u64);
            }
            Err((error, torn)) => {
                segment.forget_models(models_before);
                self.metrics.logged(LogOutcome::Failed, records);
                self.refused(&error, "records are lost until it takes them again");
                if torn {
                    self.close();
                }
            }
        }
    }

    /// The segment, unless the disk refused one a moment ago.
    fn segment(&mut self) -> Option<&mut SegmentFile> {
        if self.segment.is_none() && self.pause_until.is_none_or(|until| Instant::now() >= until) {
            match self.create() {
                Ok(segment) => self.segment = Some(segment),
                Err(error) => self.refused(&error, "no segment can be begun"),
            }
        }
        self.segment.as_mut()
    }

    /// Says that the disk refuses, at most once a pause.
    fn refused(&mut self, error: &io::Error, what: &str) {
        if self.pause_until.is_none_or(|until| Instant::now() >= until) {
            tracing::error!(%error, folder = %self.folder.display(), "the prediction log: {what}");
            self.pause_until = Some(Instant::now() + DISK_PAUSE);
        }
    }

    /// Ends the segment where it is long or old enough.
    fn rotate(&mut self) {
        let due = self.segment.as_ref().is_some_and(|segment| {
            let old = segment.opened().elapsed() >= self.settings.segment_age;
            segment.bytes() >= self.settings.segment_bytes
                || segment.models() >= SEGMENT_MODELS_MAX
                || (old && !segment.is_empty())
        });
        if due {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(segment) = self.segment.take()
            && let Err(error) = segment.close()
        {
            self.refused(&error, "a segment cannot be closed; it is read as it is");
        }
    }
}

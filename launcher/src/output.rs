//! What becomes of a rank's standard output and error: a raw log file, our own streams, and the last lines for the
//! message that names a cause.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// Lines kept for the message that names a cause.
const TAIL_LINES: usize = 12;
/// A line longer than this is passed on in pieces.
const LINE_BYTES_MAX: usize = 16 << 10;
/// What is kept of a long line in the tail, in bytes.
const TAIL_LINE_BYTES: usize = 500;

/// How output reaches our own streams.
#[derive(Debug, Clone)]
pub(crate) enum Style {
    /// Line by line, each after this prefix.
    Prefixed(String),
    /// Byte by byte.
    Raw,
}

impl Style {
    /// That of all ranks but one that a person watches.
    pub(crate) fn of_rank(rank: usize) -> Self {
        Self::Prefixed(format!("[rank {rank}] "))
    }
}

/// Opens a rank's log to append to it.
pub(crate) fn open_log(log_dir: &Path, rank: usize) -> io::Result<(PathBuf, File)> {
    let path = log_dir.join(format!("rank-{rank}.log"));
    let file = File::options().create(true).append(true).open(&path)?;
    Ok((path, file))
}

/// Follows the piped streams of one rank.
pub(crate) struct Capture {
    errors: Arc<Mutex<Tail>>,
    lines: Arc<Mutex<Tail>>,
    streams: usize,
    done: Receiver<()>,
}

impl Capture {
    /// Starts to copy the streams that `child` has piped.
    pub(crate) fn start(child: &mut Child, log: File, style: &Style) -> io::Result<Self> {
        let (mut capture, Feed { out, err, finished }) = Self::fed(log, style);
        capture.streams = 0;
        if let Some(stream) = child.stdout.take() {
            copy_on_thread(stream, out, finished.clone())?;
            capture.streams += 1;
        }
        if let Some(stream) = child.stderr.take() {
            copy_on_thread(stream, err, finished)?;
            capture.streams += 1;
        }
        Ok(capture)
    }

    /// For output that somebody else receives, and hands on to the feed.
    pub(crate) fn fed(log: File, style: &Style) -> (Self, Feed) {
        let log = Arc::new(Mutex::new(log));
        let (finished, done) = channel();
        let capture = Self {
            errors: Arc::default(),
            lines: Arc::default(),
            streams: 1,
            done,
        };
        let out = Sink::new(&log, &capture.lines, style, io::stdout as fn() -> _);
        let err = Sink::new(&log, &capture.errors, style, io::stderr as fn() -> _);
        (capture, Feed { out, err, finished })
    }

    /// Waits until the streams have ended, but no longer than `timeout`: a grandchild may hold them open.
    pub(crate) fn finish(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while self.streams > 0
            && self
                .done
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .is_ok()
        {
            self.streams -= 1;
        }
    }

    /// The last lines of standard error, or of standard output when there are none.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let errors = lock(&self.errors).lines();
        if errors.is_empty() {
            lock(&self.lines).lines()
        } else {
            errors
        }
    }
}

/// The ends that a [`Capture`] gets its output from. It is over when this drops.
pub(crate) struct Feed {
    pub out: Sink<io::Stdout>,
    pub err: Sink<io::Stderr>,
    finished: Sender<()>,
}

impl Feed {
    /// Says that there is no more output.
    pub(crate) fn end(self) {
        self.out.end();
        self.err.end();
        // Nobody listens any more when the attempt has given up on this rank.
        let _ = self.finished.send(());
    }
}

/// Where one stream goes. Failures to write (a full disk, a closed terminal) never stop the rank.
pub(crate) struct Sink<W> {
    log: Arc<Mutex<File>>,
    tail: Arc<Mutex<Tail>>,
    style: Style,
    ours: fn() -> W,
    lines: Lines,
}

impl<W: Write> Sink<W> {
    fn new(
        log: &Arc<Mutex<File>>,
        tail: &Arc<Mutex<Tail>>,
        style: &Style,
        ours: fn() -> W,
    ) -> Self {
        Self {
            log: Arc::clone(log),
            tail: Arc::clone(tail),
            style: style.clone(),
            ours,
            lines: Lines::default(),
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let _ = lock(&self.log).write_all(bytes);
        if matches!(self.style, Style::Raw) {
            let mut ours = (self.ours)();
            let _ = ours.write_all(bytes).and_then(|()| ours.flush());
        }
        let (tail, style, ours) = (&self.tail, &self.style, self.ours);
        self.lines.feed(bytes, |line| show(line, tail, style, ours));
    }

    fn end(self) {
        let (tail, style, ours) = (&self.tail, &self.style, self.ours);
        self.lines.end(|line| show(line, tail, style, ours));
    }
}

fn show<W: Write>(line: &[u8], tail: &Mutex<Tail>, style: &Style, ours: fn() -> W) {
    lock(tail).push(line);
    if let Style::Prefixed(prefix) = style {
        let end: &[u8] = if line.ends_with(b"\n") { b"" } else { b"\n" };
        // One write a line: lines of several ranks do not mix.
        let _ = ours().write_all(&[prefix.as_bytes(), line, end].concat());
    }
}

fn copy_on_thread<R, W>(mut stream: R, mut sink: Sink<W>, finished: Sender<()>) -> io::Result<()>
where
    R: Read + Send + 'static,
    W: Write + 'static,
{
    thread::Builder::new()
        .name("output".into())
        .spawn(move || {
            read_to_end(&mut stream, |bytes| sink.feed(bytes));
            sink.end();
            // Nobody listens any more when the attempt has given up on this stream.
            let _ = finished.send(());
        })?;
    Ok(())
}

/// Hands on what a stream holds, as it comes.
fn read_to_end(stream: &mut impl Read, mut take: impl FnMut(&[u8])) {
    let mut chunk = [0; 8 << 10];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => take(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Hands on the lines of a stream, each with its end; long ones in pieces.
pub(crate) fn lines_of(stream: &mut impl Read, mut take: impl FnMut(&[u8])) {
    let mut lines = Lines::default();
    read_to_end(stream, |bytes| lines.feed(bytes, &mut take));
    lines.end(take);
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Emits every complete line, with its newline, and pieces of lines that are too long.
    fn feed(&mut self, bytes: &[u8], mut emit: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial.len() >= LINE_BYTES_MAX {
                emit(&self.partial);
                self.partial.clear();
            }
        }
    }

    /// Emits what is left when the stream ends without a newline.
    fn end(self, mut emit: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            emit(&self.partial);
        }
    }
}

/// The last lines of a stream.
#[derive(Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(&line[..line.len().min(TAIL_LINE_BYTES)]);
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.trim_end().to_owned());
    }

    fn lines(&self) -> Vec<String> {
        self.0
            .iter()
            .filter(|line| !line.is_empty())
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        let mut emit = |line: &[u8]| all.push(String::from_utf8(line.to_vec()).unwrap());
        let mut lines = Lines::default();
        chunks
            .iter()
            .for_each(|chunk| lines.feed(chunk.as_bytes(), &mut emit));
        lines.end(&mut emit);
        all
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        assert_eq!(
            cut(&["one\ntwo\n\nthree"]),
            ["one\n", "two\n", "\n", "three"]
        );
        assert_eq!(
            cut(&["o", "ne\ntw", "o\n", "\nthr", "ee"]),
            ["one\n", "two\n", "\n", "three"]
        );
    }

    #[test]
    fn a_line_without_end_is_passed_on_in_bounded_pieces() {
        let chunk = "x".repeat(5000);
        let pieces = cut(&[chunk.as_str(); 10]);
        assert_eq!(pieces.concat().len(), 50_000);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.len() < LINE_BYTES_MAX + chunk.len())
        );
    }

    #[test]
    fn the_tail_keeps_the_last_lines_and_bounds_them() {
        let mut tail = Tail::default();
        (0..100).for_each(|number| tail.push(format!("line {number}\n").as_bytes()));
        tail.push(&[b'y'; 10_000]);
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[0].as_str()), (TAIL_LINES, "line 89"));
        assert_eq!(lines[TAIL_LINES - 1].len(), TAIL_LINE_BYTES);
    }
}

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use streamrec_kernels::cuda::Measured;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// The module whose spans are collectives, on communication threads.
const COLLECTIVES: &str = "streamrec::comm";

/// Where the time of some steps goes, from the spans of this crate: of operations, and of collectives.
///
/// ```text
/// spans ─► Recorder (a layer of the subscriber) ─► Profile: table by operation, Chrome trace
/// ```
///
/// Spans cost nothing to speak of where no recorder listens. Clones share what is recorded.
#[derive(Debug, Clone)]
pub struct Profile {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    recording: AtomicBool,
    origin: Instant,
    began_us: AtomicU64,
    ended_us: AtomicU64,
    spans: Mutex<Vec<Recorded>>,
    device: Mutex<Vec<OnDevice>>,
}

/// Work of a device, and when its first piece began.
#[derive(Debug)]
struct OnDevice {
    began: Duration,
    work: Vec<Measured>,
}

#[derive(Debug)]
struct Recorded {
    name: String,
    is_collective: bool,
    thread: u64,
    began: Duration,
    took: Duration,
    /// Without the spans inside.
    own: Duration,
}

/// The layer that fills a [`Profile`].
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
}

/// What is noted of a span that is not over.
struct Open {
    name: String,
    began: Instant,
    inside: Duration,
}

impl Profile {
    /// An empty profile, which does not record yet.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                recording: AtomicBool::new(false),
                origin: Instant::now(),
                began_us: AtomicU64::new(0),
                ended_us: AtomicU64::new(0),
                spans: Mutex::default(),
                device: Mutex::default(),
            }),
        }
    }

    /// The layer that fills this profile, from the spans that it [wants](Recorder::wants).
    pub fn recorder(&self) -> Recorder {
        let shared = Arc::clone(&self.shared);
        Recorder { shared }
    }

    /// Begins to record, anew.
    pub fn start(&self) {
        self.shared.lock().clear();
        self.shared.device().clear();
        let now = self.shared.now_us();
        self.shared.began_us.store(now, Ordering::Relaxed);
        self.shared.recording.store(true, Ordering::Relaxed);
    }

    /// Takes up what a device did in a step that is over just now.
    pub fn add_device(&self, work: Vec<Measured>) {
        let ends = work.iter().map(|piece| piece.began_us + piece.took_us);
        let took_us = ends.fold(0.0, f64::max);
        let now = self.shared.origin.elapsed();
        let began = now.saturating_sub(Duration::from_secs_f64(took_us / 1e6));
        self.shared.device().push(OnDevice { began, work });
    }

    /// Ends the recording, after so many steps.
    pub fn finish(&self, steps: u64) -> ProfileReport {
        let shared = &self.shared;
        shared.recording.store(false, Ordering::Relaxed);
        let now = shared.now_us();
        shared.ended_us.store(now, Ordering::Relaxed);
        let wall_us = now - shared.began_us.load(Ordering::Relaxed);
        let per_step = |time: Duration| time.as_secs_f64() * 1e3 / steps.max(1) as f64;
        let mut operations = BTreeMap::<String, f64>::new();
        let (mut communication, mut waited) = (0.0, 0.0);
        for span in shared.lock().iter() {
            let own = per_step(span.own);
            if span.is_collective {
                communication += own;
                continue;
            }
            if span.name.starts_with("wait") {
                waited += own;
            }
            *operations.entry(span.name.clone()).or_default() += own;
        }
        let mut device = BTreeMap::<String, f64>::new();
        for piece in shared.device().iter().flat_map(|step| &step.work) {
            let took = Duration::from_secs_f64(piece.took_us / 1e6);
            *device.entry(piece.name.clone()).or_default() += per_step(took);
        }
        ProfileReport {
            device: device.into_iter().collect(),
            steps,
            step_ms: per_step(Duration::from_micros(wall_us)),
            operations: operations.into_iter().collect(),
            communication_ms: communication,
            waited_ms: waited,
        }
    }

    /// Writes what was recorded for `chrome://tracing` and Perfetto ("Trace Event Format", complete events).
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn write_chrome_trace(&self, rank: usize, out: &mut dyn Write) -> io::Result<()> {
        let spans = self.shared.lock();
        let event = |span: &Recorded| {
            json!({
                "name": span.name,
                "cat": if span.is_collective { "collective" } else { "operation" },
                "ph": "X",
                "ts": span.began.as_secs_f64() * 1e6,
                "dur": span.took.as_secs_f64() * 1e6,
                "pid": rank,
                "tid": span.thread,
            })
        };
        let mut events: Vec<_> = spans.iter().map(event).collect();
        let steps = self.shared.device();
        let on_device = steps.iter().flat_map(|step| {
            let began_us = step.began.as_secs_f64() * 1e6;
            step.work.iter().map(move |piece| (began_us, piece))
        });
        events.extend(on_device.map(|(began_us, piece)| {
            json!({
                "name": piece.name,
                "cat": if piece.is_collective { "collective" } else { "device" },
                "ph": "X",
                "ts": began_us + piece.began_us,
                "dur": piece.took_us,
                "pid": rank,
                "tid": if piece.is_collective { "device, collectives" } else { "device" },
            })
        }));
        serde_json::to_writer(&mut *out, &json!({ "traceEvents": events }))?;
        out.write_all(b"\n")
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device(&self) -> MutexGuard<'_, Vec<OnDevice>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Recorder {
    /// Whether a span is one of those that are recorded.
    pub fn wants(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("streamrec::")
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !self.shared.recording.load(Ordering::Relaxed) {
            return;
        }
        let Some(span) = context.span(id) else { return };
        let mut name = Name(attributes.metadata().name().to_owned());
        attributes.record(&mut name);
        span.extensions_mut().insert(Open {
            name: name.0,
            began: Instant::now(),
            inside: Duration::ZERO,
        });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        let took = open.began.elapsed();
        if let Some(parent) = span.parent()
            && let Some(parent) = parent.extensions_mut().get_mut::<Open>()
        {
            parent.inside += took;
        }
        self.shared.lock().push(Recorded {
            name: open.name,
            is_collective: span.metadata().target().starts_with(COLLECTIVES),
            thread: thread_number(),
            began: open.began.duration_since(self.shared.origin),
            took,
            own: took.saturating_sub(open.inside),
        });
    }
}

/// A span's name, and the text of its fields after it.
struct Name(String);

impl Visit for Name {
    fn record_str(&mut self, _: &Field, value: &str) {
        self.0.push(' ');
        self.0.push_str(value);
    }

    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = write!(self.0, " {value:?}");
    }
}

/// A small number for this thread.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static OWN: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    OWN.with(|own| *own)
}

/// A profile by operation. Displays as a table.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileReport {
    /// Steps that were recorded.
    pub steps: u64,
    /// Time of a step, in milliseconds.
    pub step_ms: f64,
    /// Milliseconds a step of each operation, without the operations inside it.
    pub operations: Vec<(String, f64)>,
    /// Milliseconds a step of each operation on a device, measured piece by piece; collectives run beside the others.
    pub device: Vec<(String, f64)>,
    /// Milliseconds a step that collectives took, on all communication threads.
    pub communication_ms: f64,
    /// Milliseconds a step that the rank waited for them.
    pub waited_ms: f64,
}

impl ProfileReport {
    /// The share of the communication that went on while the rank computed; `None` where there was none.
    pub fn hidden(&self) -> Option<f64> {
        let share = 1.0 - self.waited_ms / self.communication_ms;
        (self.communication_ms > 0.0).then_some(share.max(0.0))
    }
}

impl fmt::Display for ProfileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step_ms;
        write!(f, "{} steps, {step:.3} ms each", self.steps)?;
        let mut operations = self.operations.clone();
        let sum: f64 = operations.iter().map(|(_, ms)| ms).sum();
        let rest = ("anything else".to_owned(), (step - sum).max(0.0));
        operations.sort_by(largest_first);
        operations.push(rest);
        write_table(f, &operations, step)?;
        if !self.device.is_empty() {
            let mut device = self.device.clone();
            device.sort_by(largest_first);
            write!(
                f,
                "\non the device, piece by piece (recorded steps take less time):"
            )?;
            write_table(f, &device, step)?;
        }
        if let Some(hidden) = self.hidden() {
            write!(
                f,
                "\ncollectives took {:.3} ms a step, and were waited for {:.3} ms: {:.0} % hidden",
                self.communication_ms,
                self.waited_ms,
                100.0 * hidden
            )?;
        }
        Ok(())
    }
}

fn largest_first((_, a): &(String, f64), (_, b): &(String, f64)) -> std::cmp::Ordering {
    b.total_cmp(a)
}

/// A line an operation, with its share of a step.
fn write_table(
    f: &mut fmt::Formatter<'_>,
    operations: &[(String, f64)],
    step_ms: f64,
) -> fmt::Result {
    let width = operations.iter().map(|(name, _)| name.len()).max();
    let width = width.unwrap_or(0);
    for (name, ms) in operations {
        let share = 100.0 * ms / step_ms.max(f64::MIN_POSITIVE);
        write!(f, "\n  {name:width$}  {ms:>9.3} ms  {share:>5.1} %")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracing::trace_span;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::prelude::*;

    use super::*;

    fn milliseconds(count: u64) {
        std::thread::sleep(Duration::from_millis(count));
    }

    fn recorded() -> (Profile, ProfileReport) {
        let profile = Profile::new();
        let recorder = profile.recorder().with_filter(filter_fn(Recorder::wants));
        let subscriber = tracing_subscriber::registry().with(recorder);
        let report = tracing::subscriber::with_default(subscriber, || {
            trace_span!("before").in_scope(|| milliseconds(1));
            profile.start();
            for node in ["a", "b"] {
                let _outer = trace_span!("forward", node).entered();
                milliseconds(4);
                trace_span!("wait for vectors").in_scope(|| milliseconds(8));
            }
            trace_span!(target: "streamrec::comm::tests", "all_reduce")
                .in_scope(|| milliseconds(40));
            trace_span!(target: "elsewhere", "other").in_scope(|| milliseconds(1));
            profile.finish(2)
        });
        trace_span!("after").in_scope(|| milliseconds(1));
        (profile, report)
    }

    #[test]
    fn each_operation_has_its_own_time() {
        let (_, report) = recorded();
        let names: Vec<_> = report
            .operations
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["forward a", "forward b", "wait for vectors"]);
        let [a, _, wait] = [0, 1, 2].map(|index: usize| report.operations[index].1);
        assert!(
            (2.0..7.9).contains(&a),
            "half of 4 ms, without the wait: {a}"
        );
        assert!(wait >= 8.0, "{wait}");
        assert!(
            report.communication_ms >= 20.0 && report.step_ms >= 32.0,
            "{report:?}"
        );
        let hidden = report.hidden().unwrap();
        assert!(hidden > 0.0 && hidden < 1.0 - 8.0 / 40.0, "{hidden}");
    }

    #[test]
    fn the_table_comes_largest_first_and_the_trace_is_json() {
        let (profile, report) = recorded();
        let text = report.to_string();
        let places = ["wait for vectors", "forward a", "anything else", "% hidden"].map(|part| {
            text.find(part)
                .unwrap_or_else(|| panic!("{part} in {text}"))
        });
        assert!(places.is_sorted(), "{text}");
        let mut trace = Vec::new();
        profile.write_chrome_trace(3, &mut trace).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 5);
        assert!(
            events
                .iter()
                .all(|event| event["ph"] == "X" && event["pid"] == 3)
        );
        let inner = events
            .iter()
            .find(|event| event["name"] == "wait for vectors")
            .unwrap();
        let outer = events
            .iter()
            .find(|event| event["name"] == "forward a")
            .unwrap();
        assert!(inner["ts"].as_f64() >= outer["ts"].as_f64());
        assert!(inner["dur"].as_f64() < outer["dur"].as_f64());
    }

    #[test]
    fn work_of_a_device_has_a_table_and_a_track_of_its_own() {
        let (profile, _) = recorded();
        profile.start();
        let piece = |name: &str, began_us, took_us, is_collective| Measured {
            name: name.to_owned(),
            began_us,
            took_us,
            is_collective,
        };
        profile.add_device(vec![
            piece("kernel", 0.0, 1000.0, false),
            piece("sum", 500.0, 4000.0, true),
            piece("kernel", 1000.0, 2000.0, false),
        ]);
        let report = profile.finish(1);
        assert_eq!(
            report.device,
            [("kernel".to_owned(), 3.0), ("sum".to_owned(), 4.0)]
        );
        let text = report.to_string();
        assert!(text.contains("on the device, piece by piece"), "{text}");
        let mut trace = Vec::new();
        profile.write_chrome_trace(0, &mut trace).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let tracks: Vec<_> = events.iter().map(|event| &event["tid"]).collect();
        assert_eq!(tracks, ["device", "device, collectives", "device"]);
        let [first, sum] = [0, 1].map(|index: usize| events[index]["ts"].as_f64().unwrap());
        assert!((sum - first - 500.0).abs() < 1e-3);
    }
}

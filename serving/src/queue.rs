//! Dynamic batching: requests wait a moment, so that several are scored together.
//!
//! A bounded queue of rows keeps the answer time of accepted requests low: when it is full, a
//! request is refused at once instead of timing out later.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use streamrec_artifact::RawBatch;
use tokio::sync::oneshot;

use crate::error_chain::error_chain;
use crate::metrics::Metrics;
use crate::ranker::Ranker;
use crate::scorer::{ScoreError, Scratch};

/// How requests are put together, and how many may wait.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Rows scored together at most; a larger request is scored alone, in pieces of so many.
    pub batch_rows_max: usize,
    /// How long the first request of a batch waits for others.
    pub delay_max: Duration,
    /// Rows that may wait.
    pub waiting_rows_max: usize,
    /// How long a request may wait before it is dropped.
    pub wait_max: Duration,
    /// Threads that score.
    pub threads: usize,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            batch_rows_max: 4096,
            delay_max: Duration::from_micros(500),
            waiting_rows_max: 65_536,
            wait_max: Duration::from_secs(1),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Why a request was not scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many rows wait already.
    #[error("the server is busy: {waiting} rows wait of {limit} allowed; try again in a moment")]
    Busy {
        /// Rows that wait.
        waiting: usize,
        /// Rows that may.
        limit: usize,
    },
    /// It waited too long.
    #[error("the request waited longer than {} ms; try again in a moment", limit.as_millis())]
    Late {
        /// How long a request may wait.
        limit: Duration,
    },
    /// The server is stopping.
    #[error("the server is stopping; ask another one")]
    Stopping,
    /// A score is no number: a value of the row is too large for the model.
    #[error(
        "row {row}: the score is not a number; a value of this row is too large for the model, \
         whose training data had none like it"
    )]
    NotANumber {
        /// The request's row.
        row: usize,
    },
    /// Scoring failed: a fault of the server's.
    #[error("scoring failed: {0}")]
    Failed(String),
}

/// The answer to one request: probabilities `[rows, labels]`.
pub type Answer = Result<Vec<f32>, Refusal>;

/// What became of a request.
#[derive(Debug)]
pub struct Scored {
    /// Its answer.
    pub answer: Answer,
    /// Its rows, as they came.
    pub rows: RawBatch,
    /// How long it waited.
    pub queue: Duration,
    /// How long its batch was scored; zero where it was not.
    pub compute: Duration,
}

impl Scored {
    fn refused(refusal: Refusal, rows: RawBatch, queue: Duration) -> Self {
        Self {
            answer: Err(refusal),
            rows,
            queue,
            compute: Duration::ZERO,
        }
    }
}

/// Rows that wait for a ranker.
struct Job {
    /// The version that parsed the request scores it, whatever was loaded since.
    ranker: Arc<Ranker>,
    rows: RawBatch,
    arrived: Instant,
    /// How long it waited, once it is taken.
    waited: Duration,
    answer: oneshot::Sender<Scored>,
}

impl Job {
    fn answer(self, answer: Answer, compute: Duration) {
        // The caller may be gone; then nobody needs to know.
        let _ = self.answer.send(Scored {
            answer,
            rows: self.rows,
            queue: self.waited,
            compute,
        });
    }
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    rows: usize,
    stopping: bool,
}

struct Shared {
    settings: QueueSettings,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    metrics: Arc<Metrics>,
}

/// The queue and its threads.
pub struct Queue {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Queue {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(settings: QueueSettings, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            settings,
            waiting: Mutex::default(),
            changed: Condvar::new(),
            metrics,
        });
        let thread = |number| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("score-{number}"));
            builder.spawn(move || shared.work())
        };
        let threads = (0..shared.settings.threads.max(1)).map(thread);
        let threads = Mutex::new(threads.collect::<Result<_, _>>()?);
        Ok(Self { shared, threads })
    }

    /// Scores `rows` with `ranker`, together with others that wait. It is refused at once when too many wait, or
    /// when the server is stopping; later when it waited too long.
    pub async fn score(&self, ranker: Arc<Ranker>, rows: RawBatch) -> Scored {
        let (sender, receiver) = oneshot::channel();
        let job = Job {
            ranker,
            rows,
            arrived: Instant::now(),
            waited: Duration::ZERO,
            answer: sender,
        };
        if let Err((refusal, job)) = self.shared.enqueue(job) {
            return Scored::refused(refusal, job.rows, Duration::ZERO);
        }
        receiver.await.unwrap_or_else(|_| {
            let lost = Refusal::Failed("the request was lost".to_owned());
            Scored::refused(lost, RawBatch::default(), Duration::ZERO)
        })
    }

    /// Refuses new requests, scores those that wait, and ends the threads.
    pub fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, job: Job) -> Result<(), (Refusal, Box<Job>)> {
        let mut waiting = self.lock();
        if waiting.stopping {
            return Err((Refusal::Stopping, Box::new(job)));
        }
        let (rows, limit) = (waiting.rows, self.settings.waiting_rows_max);
        // A request larger than the queue is taken when nothing else waits.
        if rows > 0 && rows + job.rows.rows > limit {
            let refusal = Refusal::Busy {
                waiting: rows,
                limit,
            };
            return Err((refusal, Box::new(job)));
        }
        waiting.rows += job.rows.rows;
        waiting.jobs.push_back(job);
        self.metrics.waiting_rows.set(waiting.rows as i64);
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut scratch = Scratch::default();
        while let Some(batch) = self.next_batch() {
            self.score(batch, &mut scratch);
        }
    }

    /// Waits for a request, then for others until the batch is full or the first has waited long
    /// enough; `None` when the server stops and nothing waits.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        loop {
            let Some(first) = waiting.jobs.front() else {
                if waiting.stopping {
                    return None;
                }
                waiting = self
                    .changed
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = self
                .settings
                .delay_max
                .saturating_sub(first.arrived.elapsed());
            let full = waiting.rows >= self.settings.batch_rows_max;
            if full || left.is_zero() || waiting.stopping {
                let batch = self.take(&mut waiting);
                self.metrics.waiting_rows.set(waiting.rows as i64);
                if !waiting.jobs.is_empty() {
                    self.changed.notify_one();
                }
                return Some(batch);
            }
            let woken = self.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The first request and those behind it that fit, all for one version of the model.
    fn take(&self, waiting: &mut Waiting) -> Vec<Job> {
        let mut batch: Vec<Job> = Vec::new();
        let mut rows = 0;
        while let Some(job) = waiting.jobs.front() {
            let fits = batch.first().is_none_or(|first| {
                rows + job.rows.rows <= self.settings.batch_rows_max
                    && Arc::ptr_eq(&first.ranker, &job.ranker)
            });
            if !fits {
                break;
            }
            rows += job.rows.rows;
            batch.extend(waiting.jobs.pop_front());
        }
        waiting.rows -= rows;
        batch
    }

    fn score(&self, batch: Vec<Job>, scratch: &mut Scratch) {
        let jobs: Vec<Job> = batch
            .into_iter()
            .filter_map(|job| self.in_time(job))
            .collect();
        let Some(first) = jobs.first() else { return };
        let ranker = Arc::clone(&first.ranker);
        let started = Instant::now();
        let scores = without_panic(|| match jobs.as_slice() {
            [only] => self.scores(&ranker, &only.rows, scratch),
            several => self.scores(&ranker, &together(several), scratch),
        });
        let took = started.elapsed();
        match scores {
            Ok(scores) => distribute(jobs, &scores, ranker.labels().len(), took),
            Err(why) => {
                tracing::error!("scoring failed: {why}");
                for job in jobs {
                    job.answer(Err(Refusal::Failed(why.clone())), took);
                }
            }
        }
    }

    /// The scores of `rows`, in pieces where they are many: every layer keeps its values of all rows
    /// of a piece.
    fn scores(
        &self,
        ranker: &Ranker,
        rows: &RawBatch,
        scratch: &mut Scratch,
    ) -> Result<Vec<f32>, ScoreError> {
        let mut scores = Vec::with_capacity(rows.rows * ranker.labels().len());
        let mut add = |rows: &RawBatch| -> Result<(), ScoreError> {
            let started = Instant::now();
            scores.extend_from_slice(ranker.score(rows, scratch)?);
            self.metrics.scored(rows.rows, started.elapsed());
            Ok(())
        };
        let most = self.settings.batch_rows_max.max(1);
        if rows.rows <= most {
            add(rows)?;
            return Ok(scores);
        }
        let mut piece = RawBatch::new(ranker.inputs());
        for begin in (0..rows.rows).step_by(most) {
            piece.clear();
            for row in begin..rows.rows.min(begin + most) {
                piece.push_row_of(rows, row);
            }
            add(&piece)?;
        }
        Ok(scores)
    }

    /// The job, unless it waited too long or nobody waits for it any more.
    fn in_time(&self, mut job: Job) -> Option<Job> {
        let limit = self.settings.wait_max;
        job.waited = job.arrived.elapsed();
        self.metrics.queue_seconds.observe(job.waited.as_secs_f64());
        if job.answer.is_closed() {
            return None;
        }
        if job.waited > limit {
            job.answer(Err(Refusal::Late { limit }), Duration::ZERO);
            return None;
        }
        Some(job)
    }
}

/// Scores, or says why not. A panic must not end the thread: requests would wait for ever.
fn without_panic(score: impl FnOnce() -> Result<Vec<f32>, ScoreError>) -> Result<Vec<f32>, String> {
    match catch_unwind(AssertUnwindSafe(score)) {
        Ok(scores) => scores.map_err(|error| error_chain(&error)),
        Err(_) => Err("a bug of the server, which its log tells".to_owned()),
    }
}

fn together(jobs: &[Job]) -> RawBatch {
    let mut all = jobs[0].rows.clone();
    for job in &jobs[1..] {
        for row in 0..job.rows.rows {
            all.push_row_of(&job.rows, row);
        }
    }
    all
}

fn distribute(jobs: Vec<Job>, scores: &[f32], labels: usize, took: Duration) {
    let mut rest = scores;
    for job in jobs {
        let (own, tail) = rest.split_at(job.rows.rows * labels);
        rest = tail;
        let answer = match own.iter().position(|score| score.is_nan()) {
            Some(at) => Err(Refusal::NotANumber { row: at / labels }),
            None => Ok(own.to_vec()),
        };
        job.answer(answer, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer_and_not_the_end_of_a_thread() {
        let answer = without_panic(|| panic!("a bug"));
        assert!(answer.unwrap_err().contains("a bug of the server"));
        assert_eq!(without_panic(|| Ok(vec![0.5])), Ok(vec![0.5]));
    }

    #[test]
    fn stopping_ends_the_threads_and_may_be_done_twice() {
        let settings = QueueSettings {
            threads: 2,
            ..QueueSettings::default()
        };
        let queue = Queue::start(settings, Arc::default()).unwrap();
        queue.stop();
        queue.stop();
        assert!(queue.shared.lock().stopping);
        assert!(queue.threads.lock().unwrap().is_empty());
    }
}

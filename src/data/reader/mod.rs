//! The batch reader: global batches in a shuffled order, each rank its share.
//!
//! ```text
//! packed files ─► loader: windows of blocks ─► workers: gather, encode ─► next()
//!                      ▲ one ahead                  ▲ `prefetch` ahead      │
//!                      └── spare windows            └──── recycle(batch) ◄──┘
//! ```
//!
//! A batch is a function of settings, epoch and step: not of threads, and its rows not of the world.
//! Errors of any thread arrive at `next()`; dropping a reader ends its threads.

mod assemble;
mod pipeline;
mod plan;
mod selection;
mod settings;
mod window;

use std::sync::Arc;
use std::thread::JoinHandle;

pub use settings::{Inputs, ReaderSettings, TrailingBase};

use super::order::EpochOrder;
use super::{Batch, Error, Result};
use pipeline::{Pipeline, Spares};
use plan::{Plan, Source};

/// Reads the batches of one rank, one epoch at a time.
#[derive(Debug)]
pub struct BatchReader {
    source: Arc<Source>,
    running: Option<Running>,
    spares: Spares,
}

#[derive(Debug)]
struct Running {
    pipeline: Arc<Pipeline>,
    threads: Vec<JoinHandle<()>>,
}

impl BatchReader {
    /// Opens the files and finds the columns; reading begins with [`BatchReader::start`].
    ///
    /// # Errors
    /// Files that cannot be read or differ in their columns, columns that are not there or may not
    /// be used so, settings out of bounds.
    pub fn new(settings: ReaderSettings) -> Result<Self> {
        let source = Arc::new(Source::open(settings)?);
        Ok(Self {
            source,
            running: None,
            spares: Spares::default(),
        })
    }

    /// The rows of all files.
    pub fn rows(&self) -> u64 {
        self.source.rows
    }

    /// The rows of every batch of this rank, padding included.
    pub fn batch_rows(&self) -> usize {
        self.source.padded_rows()
    }

    /// The number of global batches of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.source.steps()
    }

    /// Begins, or begins again, at `step` of `epoch`; what was made ahead is dropped.
    ///
    /// # Errors
    /// A step beyond the epoch, or threads that cannot be started.
    pub fn start(&mut self, epoch: u64, step: u64) -> Result<()> {
        self.stop();
        let steps = self.source.steps();
        if step > steps {
            let problem = format!("step {step} of an epoch of {steps} steps");
            return Err(Error::settings("start of the reader", problem));
        }
        let settings = &self.source.settings;
        let order = EpochOrder::new(&settings.order(), epoch, &self.source.rows_of_blocks);
        let plan = Plan {
            source: self.source.clone(),
            order,
            epoch,
        };
        let pipeline = Arc::new(Pipeline::new(plan, step, std::mem::take(&mut self.spares)));
        let running = self.running.insert(Running {
            pipeline,
            threads: Vec::new(),
        });
        for number in 0..=settings.threads {
            let pipeline = running.pipeline.clone();
            let name = if number == 0 {
                "load".into()
            } else {
                format!("read-{number}")
            };
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || {
                    if number == 0 {
                        pipeline.load()
                    } else {
                        pipeline.work()
                    }
                })
                .map_err(|source| Error::io("start a thread to read", &settings.files[0], source));
            match thread {
                Ok(thread) => running.threads.push(thread),
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The next batch; none after the last of the epoch. Waits until it is made.
    ///
    /// # Errors
    /// What the threads met; the reader has then to be started again. A reader that was not started.
    #[allow(
        clippy::should_implement_trait,
        reason = "its errors end the epoch, an iterator's do not"
    )]
    pub fn next(&mut self) -> Result<Option<Batch>> {
        match &self.running {
            Some(running) => running.pipeline.next(),
            None => Err(Error::settings("reader", "call start() before next()")),
        }
    }

    /// Gives the memory of a batch back, to be filled again.
    pub fn recycle(&mut self, batch: Batch) {
        match &self.running {
            Some(running) => running.pipeline.recycle(batch),
            None => self.spares.batches.push(batch),
        }
    }

    /// Ends the threads and keeps their memory.
    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.pipeline.stop();
            for thread in running.threads {
                // A thread that panicked has said so; there is nothing to add here.
                let _ = thread.join();
            }
            self.spares = running.pipeline.take_spares();
        }
    }
}

impl Drop for BatchReader {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;

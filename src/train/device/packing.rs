//! The thread that checks and packs batches while a device works.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use streamrec_kernels::Context;
use streamrec_kernels::cuda::{Feed, step::StepInput};

use super::slots::{Cut, host_input};
use crate::data::Batch;
use crate::model::{
    MicroBatch, ModelError,
    device::{InputLayout, InputSlot},
};

/// What checks batches and copies them into memory that a device is fed from, on the threads of a context where they are large.
pub(super) struct Packer {
    context: Context,
    layout: InputLayout,
    cut: Arc<Cut>,
    buffer: MicroBatch,
}

impl Packer {
    pub(super) fn new(context: &Context, layout: InputLayout, cut: Arc<Cut>) -> Self {
        Self {
            context: context.clone(),
            layout,
            cut,
            buffer: MicroBatch::default(),
        }
    }

    /// One for another thread.
    pub(super) fn another(&self) -> Self {
        Self::new(&self.context, self.layout.clone(), Arc::clone(&self.cut))
    }

    /// Checks that a batch fits.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn check(&self, batch: &Batch, step: StepInput) -> Result<(), ModelError> {
        let input = host_input(batch, step);
        self.layout.check_on(&self.context, &input)
    }

    /// Begins to send a batch that was [checked](Self::check), a micro-batch to each slot.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn pack<F: Feed>(
        &mut self,
        slots: &mut [InputSlot<F>],
        batch: (&Batch, StepInput),
    ) -> Result<(), ModelError> {
        let context = &self.context;
        self.cut.each(batch, &mut self.buffer, |index, input| {
            Ok(slots[index].send(context, input)?)
        })
    }
}

/// A batch to pack, with the places that it goes to.
pub(super) struct Job<F> {
    pub(super) slots: Vec<InputSlot<F>>,
    pub(super) batch: Arc<Batch>,
    pub(super) step: StepInput,
    /// It fits, as is known already.
    pub(super) is_checked: bool,
}

/// The places, and whether the batch is on its way. One that does not fit is not.
pub(super) type Packed<F> = (Vec<InputSlot<F>>, Result<bool, ModelError>);

/// A thread that packs one batch at a time while another thread asks for steps.
pub(super) struct PackingThread<F> {
    jobs: Option<SyncSender<Job<F>>>,
    packed: Receiver<Packed<F>>,
    thread: Option<JoinHandle<()>>,
}

impl<F: Feed> PackingThread<F> {
    /// `None` where the system starts no thread: then batches are packed by who asks.
    pub(super) fn start(mut packer: Packer) -> Option<Self> {
        let (jobs, to_pack) = sync_channel::<Job<F>>(1);
        let (done, packed) = sync_channel(1);
        let work = move || {
            for job in to_pack {
                let Job {
                    mut slots,
                    batch,
                    step,
                    is_checked,
                } = job;
                let fits = is_checked || packer.check(&batch, step).is_ok();
                let outcome = match fits {
                    true => packer.pack(&mut slots, (&batch, step)).map(|()| true),
                    false => Ok(false),
                };
                // Whoever reads batches gets the memory of this one back.
                drop(batch);
                if done.send((slots, outcome)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("streamrec-pack".to_owned());
        let thread = thread.spawn(work).ok()?;
        Some(Self {
            jobs: Some(jobs),
            packed,
            thread: Some(thread),
        })
    }

    /// Begins to pack. One job at a time.
    pub(super) fn pack(&mut self, job: Job<F>) {
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        if sent.is_none_or(|sent| sent.is_err()) {
            self.fail();
        }
    }

    /// What became of the job. Waits for it.
    pub(super) fn wait(&mut self) -> Packed<F> {
        match self.packed.recv() {
            Ok(packed) => packed,
            Err(_) => self.fail(),
        }
    }

    /// Goes on with the panic that ended the thread.
    fn fail(&mut self) -> ! {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => unreachable!("the thread ends when this is dropped"),
        }
    }
}

impl<F> Drop for PackingThread<F> {
    fn drop(&mut self) {
        // It works on memory that is about to go.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::comm::SingleRank;
    use crate::config::Reduction;
    use crate::parallel::MicroShards;
    use streamrec_artifact::Encoded;
    use streamrec_emulation::Emulator;

    const ROWS: usize = 2;

    fn layout(ids: usize) -> InputLayout {
        InputLayout {
            rows: ROWS,
            dense: 0,
            id_limits: vec![4],
            labels: 1,
            ids,
        }
    }

    fn packer() -> Packer {
        let pieces = MicroShards::new(Reduction::Fast, &SingleRank, ROWS, 1).unwrap();
        let cut = Cut {
            pieces,
            features: [0, 1],
            labels: 1,
        };
        let context = Context::cpu(1, false).unwrap();
        Packer::new(&context, layout(8), Arc::new(cut))
    }

    fn job(ids: Vec<i64>, room: usize) -> Job<streamrec_emulation::Feed> {
        let mut device = Emulator::new(0);
        let last = ids.len() as i64;
        Job {
            slots: vec![InputSlot::new(&mut device, &layout(room)).unwrap()],
            batch: Arc::new(Batch {
                rows: ROWS,
                encoded: Encoded {
                    rows: ROWS,
                    dense: Vec::new(),
                    offsets: vec![0, 1, last],
                    ids,
                },
                labels: vec![0.0; ROWS],
                weights: vec![1.0; ROWS],
                ..Batch::default()
            }),
            step: StepInput {
                learning_rate: 0.1,
                sparse_learning_rate: 0.1,
                number: 1,
                seed: 1,
            },
            is_checked: false,
        }
    }

    #[test]
    fn places_come_back_with_a_batch_that_fits_and_with_one_that_does_not() {
        let mut thread = PackingThread::start(packer()).unwrap();
        for (ids, fits) in [
            (vec![1, 3], true),
            (vec![1, 4], false),
            (vec![0, 2, 2], true),
        ] {
            thread.pack(job(ids, 8));
            let (slots, packed) = thread.wait();
            assert_eq!((slots.len(), packed.unwrap()), (1, fits));
        }
    }

    #[test]
    fn a_panic_in_the_thread_goes_on_where_its_batch_is_waited_for() {
        let mut thread = PackingThread::start(packer()).unwrap();
        // There is no room for the second id, which nobody asked for before.
        thread.pack(job(vec![1, 1], 1));
        assert!(catch_unwind(AssertUnwindSafe(|| thread.wait())).is_err());
    }
}

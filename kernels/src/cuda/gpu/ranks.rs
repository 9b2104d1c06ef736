use super::{Event, Gpu, Nccl, Pinned, Stream, times::Times};
use crate::cuda::{
    collective::{Begun, Collective},
    executor::DeviceError,
    launch::Address,
    step,
};

/// What the GPUs of several ranks do together, on a stream of its own beside that of the work.
#[derive(Debug)]
pub(super) struct Ranks {
    nccl: Nccl,
    stream: Stream,
    /// In the stream of the work: what must be done before the collectives that are begun next.
    before: Event,
    /// Behind collectives; those that are not waited for are taken.
    after: Vec<Event>,
    taken: Vec<bool>,
    /// What collectives are called; the device notes in `reached` which it came to last, counted from 1.
    names: Vec<&'static str>,
    reached: Pinned,
}

impl Ranks {
    pub(super) fn new(gpu: &Gpu, nccl: Nccl) -> Result<Self, DeviceError> {
        Ok(Self {
            nccl,
            stream: Stream::new(gpu)?,
            before: Event::new(gpu)?,
            after: Vec::new(),
            taken: Vec::new(),
            names: Vec::new(),
            reached: Pinned::new(gpu, size_of::<u32>())?,
        })
    }

    pub(super) fn rank(&self) -> [usize; 2] {
        self.nccl.rank()
    }

    /// As [`Executor::begin`](crate::cuda::Executor::begin), beside the work of `stream`.
    pub(super) fn begin(
        &mut self,
        stream: &Stream,
        what: &'static str,
        collectives: &[Collective],
        mut times: Option<&mut Times>,
    ) -> Result<Begun, DeviceError> {
        let begun = match self.taken.iter().position(|taken| !taken) {
            Some(free) => free,
            None => {
                self.after.push(Event::new(stream.gpu())?);
                self.taken.push(false);
                self.taken.len() - 1
            }
        };
        self.before.record(stream)?;
        self.stream.wait_for(&self.before)?;
        self.note(what)?;
        if let Some(times) = &mut times {
            times.begin(&self.stream, what.to_owned(), true)?;
        }
        self.nccl.queue(what, collectives, self.stream.handle())?;
        if let Some(times) = times {
            times.end(&self.stream)?;
        }
        self.after[begun].record(&self.stream)?;
        self.taken[begun] = true;
        Ok(Begun(begun))
    }

    /// As [`Executor::finish`](crate::cuda::Executor::finish), for the work of `stream`.
    pub(super) fn finish(&mut self, stream: &Stream, begun: Begun) -> Result<(), DeviceError> {
        self.taken[begun.0] = false;
        stream.wait_for(&self.after[begun.0])
    }

    /// Lets the device write into the host's memory what it comes to.
    fn note(&mut self, what: &'static str) -> Result<(), DeviceError> {
        let known = self.names.iter().position(|name| *name == what);
        let number = known.unwrap_or_else(|| {
            self.names.push(what);
            self.names.len() - 1
        });
        let at = self.reached.address();
        self.stream.launch(&step::note(at, number as u32 + 1))
    }

    pub(super) fn last_begun(&self) -> Option<&'static str> {
        let number = self.reached.read_word();
        self.names.get((number as usize).checked_sub(1)?).copied()
    }

    pub(super) fn look(&self) -> Result<(), DeviceError> {
        self.nccl.look(self.last_begun().unwrap_or("collectives"))
    }

    pub(super) fn abandon(&mut self) {
        self.nccl.abandon();
    }
}

impl Pinned {
    /// Where the device finds it: one address serves both sides.
    fn address(&self) -> Address {
        Address(self.as_ptr() as u64)
    }

    /// The first four bytes, which the device may be writing.
    fn read_word(&self) -> u32 {
        // SAFETY: pinned memory of at least a word, aligned as pages are.
        unsafe { self.as_ptr().cast::<u32>().read_volatile() }
    }
}

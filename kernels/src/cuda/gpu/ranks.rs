use super::{Event, Gpu, Nccl, Pinned, Stream, executor::alone, times::Times};
use crate::cuda::{
    collective::{Begun, Collective, Group},
    executor::DeviceError,
    launch::Address,
    step,
};

/// What the GPUs of several ranks do together, on a stream of its own beside that of the work.
#[derive(Debug)]
pub(super) struct Ranks {
    world: Nccl,
    /// Data-parallel and tensor-parallel ranks, where these are several. Collectives of all groups take turns in one
    /// stream, in the same order on every rank, so that none waits for one that waits for it.
    mesh: Option<[Nccl; 2]>,
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
            world: nccl,
            mesh: None,
            stream: Stream::new(gpu)?,
            before: Event::new(gpu)?,
            after: Vec::new(),
            taken: Vec::new(),
            names: Vec::new(),
            reached: Pinned::new(gpu, size_of::<u32>())?,
        })
    }

    pub(super) fn with_mesh(self, dp: Nccl, tp: Nccl) -> Self {
        let mesh = Some([dp, tp]);
        Self { mesh, ..self }
    }

    /// The ranks of a group; nothing where this one is alone in it.
    fn group(&self, group: Group) -> Option<&Nccl> {
        match (group, &self.mesh) {
            (Group::World, _) | (Group::DataParallel, None) => Some(&self.world),
            (Group::TensorParallel, None) => None,
            (Group::DataParallel, Some([dp, _])) => Some(dp),
            (Group::TensorParallel, Some([_, tp])) => Some(tp),
        }
    }

    pub(super) fn rank(&self, group: Group) -> [usize; 2] {
        self.group(group).map_or([0, 1], Nccl::rank)
    }

    /// As [`Executor::begin`](crate::cuda::Executor::begin), beside the work of `stream`.
    pub(super) fn begin(
        &mut self,
        stream: &Stream,
        group: Group,
        (what, collectives): (&'static str, &[Collective]),
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
        let nccl = self.group(group).ok_or_else(|| alone(what))?;
        nccl.queue(what, collectives, self.stream.handle())?;
        if let Some(times) = times {
            times.end(&self.stream)?;
        }
        self.after[begun].record(&self.stream)?;
        self.taken[begun] = true;
        Ok(Begun(begun))
    }

    /// Whether collectives were begun and are not finished.
    pub(super) fn is_under_way(&self) -> bool {
        self.taken.contains(&true)
    }

    /// After a recording that failed, whose collectives never begin.
    pub(super) fn forget_begun(&mut self) {
        self.taken.fill(false);
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
        let what = self.last_begun().unwrap_or("collectives");
        let mut all = self.mesh.iter().flatten().chain([&self.world]);
        all.try_for_each(|nccl| nccl.look(what))
    }

    pub(super) fn abandon(&mut self) {
        let all = self.mesh.iter_mut().flatten().chain([&mut self.world]);
        all.for_each(Nccl::abandon);
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

//! The caller's side of a communicator over messages.

use std::fmt;
use std::sync::Arc;

use super::{Engine, Transport};
use crate::comm::stream::Stream;
use crate::comm::{CommBuffer, CommError, Communicator, Event, Message, ReduceOp, SingleRank};

/// Submits collectives to the thread of an engine.
pub(in crate::comm) struct Handle<T: Transport> {
    rank: usize,
    size: usize,
    stream: Stream<Engine<T>>,
}

impl<T: Transport> Handle<T> {
    pub(in crate::comm) fn start(engine: Engine<T>) -> Result<Self, CommError> {
        let (rank, size) = (engine.rank, engine.size());
        let stream = Stream::start(engine.world[rank], engine)?;
        Ok(Self { rank, size, stream })
    }

    /// Does what is waited for.
    fn now<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine<T>) -> Result<R, CommError> + Send + 'static,
    ) -> Result<R, CommError> {
        match T::RUNS_WHERE_CALLED {
            true => self.stream.run(work),
            false => self.stream.submit(work).wait(),
        }
    }
}

impl<T: Transport> fmt::Debug for Handle<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rank {} of {}", self.rank, self.size)
    }
}

/// A communicator whose collectives an [`Engine`] runs.
pub(in crate::comm) trait OverMessages: Send + Sync + Sized + 'static {
    type Transport: Transport;

    fn of(handle: Handle<Self::Transport>) -> Self;

    fn handle(&self) -> &Handle<Self::Transport>;
}

impl<C: OverMessages> Communicator for C {
    fn rank(&self) -> usize {
        self.handle().rank
    }

    fn size(&self) -> usize {
        self.handle().size
    }

    fn allocate(&self, len: usize) -> Result<CommBuffer, CommError> {
        self.handle().now(move |engine| engine.allocate(len))
    }

    fn all_reduce(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer> {
        let stream = &self.handle().stream;
        stream.submit(move |engine| engine.all_reduce(buffer, op))
    }

    fn broadcast(&self, buffer: CommBuffer, root: usize) -> Event<CommBuffer> {
        let stream = &self.handle().stream;
        stream.submit(move |engine| engine.broadcast(buffer, root))
    }

    fn reduce_scatter(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer> {
        let stream = &self.handle().stream;
        stream.submit(move |engine| engine.reduce_scatter(buffer, op))
    }

    fn all_gather(&self, buffer: CommBuffer) -> Event<CommBuffer> {
        let stream = &self.handle().stream;
        stream.submit(move |engine| engine.all_gather(buffer))
    }

    fn all_gather_bytes(&self, message: Vec<u8>) -> Event<Vec<Vec<u8>>> {
        let stream = &self.handle().stream;
        stream.submit(move |engine| engine.all_gather_bytes(message))
    }

    fn all_to_all_bytes(&self, messages: Vec<Message>) -> Event<Vec<Message>> {
        let stream = &self.handle().stream;
        stream.submit(move |engine| engine.all_to_all_bytes(messages))
    }

    fn reduce_now(&self, buffer: CommBuffer, op: ReduceOp) -> Result<CommBuffer, CommError> {
        self.handle()
            .now(move |engine| engine.all_reduce(buffer, op))
    }

    fn gather_now(&self, message: Vec<u8>) -> Result<Vec<Vec<u8>>, CommError> {
        self.handle()
            .now(move |engine| engine.all_gather_bytes(message))
    }

    fn exchange_now(&self, messages: Vec<Message>) -> Result<Vec<Message>, CommError> {
        self.handle()
            .now(move |engine| engine.all_to_all_bytes(messages))
    }

    fn barrier(&self) -> Event<()> {
        self.handle().stream.submit(Engine::barrier)
    }

    fn ended(&self) -> Event<Vec<usize>> {
        self.handle().stream.submit(|engine| Ok(engine.ended()))
    }

    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Communicator>, CommError> {
        let split = self
            .handle()
            .stream
            .submit(move |engine| engine.split(color, key));
        match split.wait()? {
            Some(engine) => Ok(Arc::new(Self::of(Handle::start(engine)?))),
            None => Ok(Arc::new(SingleRank)),
        }
    }
}

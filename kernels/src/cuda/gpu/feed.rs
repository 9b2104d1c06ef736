use super::{Copying, Event, Gpu, Pinned, Stream};
use crate::cuda::{
    executor::{self, DeviceError},
    launch::Address,
};

/// Pinned memory with a stream of its own to copy from it.
#[derive(Debug)]
pub struct Feed {
    stream: Stream,
    memory: Memory,
    /// In the stream of the work: what must be done before the copy.
    before: Event,
    /// Behind the copy.
    sent: Event,
}

#[derive(Debug)]
enum Memory {
    Idle(Pinned),
    Copying(Copying),
    /// A copy failed, and with it the device.
    Lost,
}

impl Feed {
    pub(super) fn new(gpu: &Gpu, bytes: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            stream: Stream::new(gpu)?,
            memory: Memory::Idle(Pinned::new(gpu, bytes)?),
            before: Event::new(gpu)?,
            sent: Event::new(gpu)?,
        })
    }

    /// As [`Executor::vacate`](crate::cuda::Executor::vacate), for the work of `stream`.
    pub(super) fn vacate(&self, stream: &Stream) -> Result<(), DeviceError> {
        self.before.record(stream)
    }

    /// As [`Executor::receive`](crate::cuda::Executor::receive), for the work of `stream`.
    pub(super) fn receive(&self, stream: &Stream) -> Result<(), DeviceError> {
        stream.wait_for(&self.sent)
    }
}

impl executor::Feed for Feed {
    fn send(
        &mut self,
        to: Address,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<(), DeviceError> {
        // Perhaps this is another thread than the executor's.
        self.stream.gpu().bind()?;
        let mut pinned = match std::mem::replace(&mut self.memory, Memory::Lost) {
            Memory::Idle(pinned) => pinned,
            Memory::Copying(copying) => copying.wait()?,
            Memory::Lost => {
                return Err(DeviceError::Driver {
                    call: "copying to the GPU",
                    message: "an earlier copy failed".to_owned(),
                });
            }
        };
        let bytes = write(&mut pinned);
        self.stream.wait_for(&self.before)?;
        self.memory = Memory::Copying(self.stream.upload_first(pinned, bytes, to)?);
        self.sent.record(&self.stream)
    }
}

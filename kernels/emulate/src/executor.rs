use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use streamrec_kernels::cuda::product::Product;
use streamrec_kernels::cuda::{
    self, Address, BEGUN_BEFORE, Begun, Collective, DeviceError, Executor, Group, Launch, Measured,
    NOT_FINISHED,
};

use crate::{Calls, Emulator, product::multiply};

/// One thing that was asked for.
#[derive(Debug, Clone)]
pub enum Work {
    /// A kernel.
    Launch(Box<Launch>),
    /// A product.
    Multiply(Product),
    /// Bytes that become zero.
    Zero(Address, usize),
    /// Collectives, by the number that they are waited for with.
    Begin(usize, Group, &'static str, Vec<Collective>),
    /// Waiting for collectives.
    Finish(usize),
}

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Takes memory, of the device or to copy from and to.
    Allocate,
    /// Copies from or to memory that is not pinned, and waits for it.
    Copy,
    /// Waits until the device has done all.
    Wait,
    /// Asks for a piece of work by itself.
    Piece,
    /// Records work.
    Record,
    /// Runs what was recorded.
    Replay,
    /// Fills memory that is copied to the device.
    Send,
    /// Reads what came from the device, for which it may wait.
    Read,
}

/// A copy that is done no earlier than somebody waits for it, and may begin as soon as its place is vacated.
#[derive(Debug)]
pub struct Feed {
    memory: Vec<u8>,
    under_way: Option<(Address, usize)>,
    /// What the last copy wrote.
    written: Option<(Address, usize)>,
    /// What lay there when the place was vacated; NaN lies there since.
    vacant: Option<(Address, Vec<u8>)>,
    calls: Calls,
    copies_left: Option<Arc<AtomicUsize>>,
}

impl cuda::Feed for Feed {
    fn send(
        &mut self,
        to: Address,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<(), DeviceError> {
        note(&self.calls, Call::Send);
        if let Some(left) = &self.copies_left {
            let less = |left: usize| left.checked_sub(1);
            let one = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            one.map_err(|_| DeviceError::Undefined("no copy is left".to_owned()))?;
        }
        let bytes = write(&mut self.memory);
        assert!(bytes <= self.memory.len(), "more than the memory holds");
        self.under_way = Some((to, bytes));
        Ok(())
    }
}

fn note(calls: &Calls, call: Call) {
    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(calls) = calls.as_mut() {
        calls.push(call);
    }
}

/// What was copied from the device.
#[derive(Debug)]
pub struct Reply {
    memory: Vec<u8>,
    len: usize,
    was_read: bool,
}

impl Emulator {
    fn run_or_record(&mut self, work: Work) -> Result<(), DeviceError> {
        match &mut self.recording {
            Some(recorded) => {
                recorded.push(work);
                Ok(())
            }
            None => {
                note(&self.calls, Call::Piece);
                self.measured_work(&work)
            }
        }
    }

    /// Works, and measures that.
    fn measured_work(&mut self, work: &Work) -> Result<(), DeviceError> {
        let (name, is_collective) = match work {
            _ if self.times.is_none() => return self.work(work),
            Work::Zero(..) | Work::Finish(_) => return self.work(work),
            Work::Launch(launch) => (launch.kernel.name.to_owned(), false),
            Work::Multiply(product) => (product.to_string(), false),
            Work::Begin(_, _, what, _) => ((*what).to_owned(), true),
        };
        let began = Instant::now();
        let outcome = self.work(work);
        if let Some((origin, measured)) = &mut self.times {
            measured.push(Measured {
                name,
                began_us: (began - *origin).as_secs_f64() * 1e6,
                took_us: began.elapsed().as_secs_f64() * 1e6,
                is_collective,
            });
        }
        outcome
    }

    fn work(&mut self, work: &Work) -> Result<(), DeviceError> {
        let spoilt = self.spoils.as_ref().is_some_and(|spoils| spoils(work));
        match work {
            Work::Launch(_) if spoilt => {}
            Work::Launch(launch) => self
                .try_run(Launch::clone(launch))
                .map_err(DeviceError::Undefined)?,
            Work::Multiply(product) => {
                multiply(self, product);
                if spoilt {
                    self.spoil_first_column(product);
                }
            }
            &Work::Zero(at, bytes) => {
                let place = self.place(at, bytes);
                // SAFETY: the bytes are inside a buffer.
                unsafe { std::ptr::write_bytes(place, 0, bytes) };
            }
            Work::Begin(number, group, what, collectives) => {
                self.begin_collectives(*number, *group, what, collectives)?;
            }
            Work::Finish(number) => self.finish_collectives(*number)?,
        }
        Ok(())
    }

    fn spoil_first_column(&self, product: &Product) {
        let bytes = product.out.rows * product.out.dtype.bytes();
        let place = self.place(product.out.address, bytes);
        // A number of about 1 in every type.
        // SAFETY: the bytes are inside a buffer, and a column lies in one piece.
        unsafe { std::ptr::write_bytes(place, 0x3f, bytes) };
    }

    fn write(&self, from: &[u8], to: Address) -> Result<(), DeviceError> {
        let place = self.place(to, from.len());
        // SAFETY: the bytes are inside a buffer, which `from` is not.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place, from.len()) };
        Ok(())
    }

    fn outside_of_recordings(&self, call: &'static str) -> Result<(), DeviceError> {
        match self.recording {
            Some(_) => Err(DeviceError::Recording { call }),
            None => Ok(()),
        }
    }
}

impl Executor for Emulator {
    type Graph = Vec<Work>;
    type Feed = Feed;
    type Reply = Reply;

    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        self.outside_of_recordings("allocating memory")?;
        note(&self.calls, Call::Allocate);
        let total_bytes = self.room.unwrap_or(usize::MAX);
        let taken: usize = self.buffers.iter().map(|buffer| buffer.bytes).sum();
        if taken + bytes > total_bytes {
            return Err(DeviceError::Memory {
                bytes,
                free_bytes: total_bytes - taken,
                total_bytes,
            });
        }
        Ok(self.empty("memory", bytes))
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.run_or_record(Work::Launch(Box::new(launch.clone())))
    }

    fn supports(&mut self, product: &Product) -> Result<bool, DeviceError> {
        Ok(!self.refuses.is_some_and(|refuses| refuses(product)))
    }

    fn multiply(&mut self, product: &Product) -> Result<(), DeviceError> {
        if !self.supports(product)? {
            let [rows, columns, depth] = product.sizes();
            return Err(DeviceError::Product {
                call: "choosing an algorithm",
                status: "refused".to_owned(),
                rows,
                columns,
                depth,
            });
        }
        self.run_or_record(Work::Multiply(*product))
    }

    fn zero(&mut self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        self.run_or_record(Work::Zero(at, bytes))
    }

    fn upload(&mut self, from: &[u8], to: Address) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying")?;
        note(&self.calls, Call::Copy);
        self.write(from, to)
    }

    fn download(&mut self, from: Address, to: &mut [u8]) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying")?;
        note(&self.calls, Call::Copy);
        let place = self.place(from, to.len());
        // SAFETY: as for `upload`.
        unsafe { std::ptr::copy_nonoverlapping(place, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn feed(&mut self, bytes: usize) -> Result<Feed, DeviceError> {
        self.outside_of_recordings("allocating memory")?;
        note(&self.calls, Call::Allocate);
        Ok(Feed {
            memory: vec![0; bytes],
            under_way: None,
            written: None,
            vacant: None,
            calls: Calls::clone(&self.calls),
            copies_left: self.copies_left.clone(),
        })
    }

    fn vacate(&mut self, feed: &mut Feed) -> Result<(), DeviceError> {
        self.outside_of_recordings("making room")?;
        if let (None, Some((at, bytes))) = (&feed.vacant, feed.written) {
            feed.vacant = Some((at, self.bytes(at, bytes)));
            self.fill(at, bytes);
        }
        Ok(())
    }

    fn receive(&mut self, feed: &mut Feed) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying")?;
        let Some((to, bytes)) = feed.under_way.take() else {
            return Ok(());
        };
        if let Some((at, before)) = feed.vacant.take() {
            if self
                .bytes(at, before.len())
                .iter()
                .any(|&byte| byte != 0xff)
            {
                let text = "the place that a copy goes to was written after it was vacated";
                return Err(DeviceError::Undefined(text.to_owned()));
            }
            self.write(&before, at)?;
        }
        feed.written = Some((to, bytes));
        self.write(&feed.memory[..bytes], to)
    }

    fn reply(&mut self, bytes: usize) -> Result<Reply, DeviceError> {
        self.outside_of_recordings("allocating memory")?;
        note(&self.calls, Call::Allocate);
        Ok(Reply {
            memory: vec![0; bytes],
            len: 0,
            was_read: false,
        })
    }

    fn ask(&mut self, reply: &mut Reply, parts: &[(Address, usize)]) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying")?;
        (reply.len, reply.was_read) = (0, false);
        for &(from, bytes) in parts {
            let place = self.place(from, bytes);
            // SAFETY: the bytes are inside a buffer, and nothing writes meanwhile.
            let own = unsafe { std::slice::from_raw_parts(place, bytes) };
            reply.memory[reply.len..reply.len + bytes].copy_from_slice(own);
            reply.len += bytes;
        }
        Ok(())
    }

    fn has_come(&mut self, _: &Reply) -> Result<bool, DeviceError> {
        self.outside_of_recordings("asking whether work is done")?;
        Ok(!self.hangs)
    }

    fn read<'a>(&mut self, reply: &'a mut Reply) -> Result<&'a [u8], DeviceError> {
        self.outside_of_recordings("waiting")?;
        note(&self.calls, Call::Read);
        reply.was_read = true;
        Ok(&reply.memory[..reply.len])
    }

    fn was_read<'a>(&self, reply: &'a Reply) -> &'a [u8] {
        match reply.was_read {
            true => &reply.memory[..reply.len],
            false => &[],
        }
    }

    fn rank(&self, group: Group) -> [usize; 2] {
        self.rank_in(group)
    }

    fn begin(
        &mut self,
        group: Group,
        what: &'static str,
        collectives: &[Collective],
    ) -> Result<Begun, DeviceError> {
        let number = self.take_number();
        self.run_or_record(Work::Begin(number, group, what, collectives.to_vec()))?;
        Ok(Begun(number))
    }

    fn finish(&mut self, begun: Begun) -> Result<(), DeviceError> {
        self.give_number_back(&begun);
        self.run_or_record(Work::Finish(begun.0))
    }

    fn is_done(&mut self) -> Result<bool, DeviceError> {
        self.outside_of_recordings("asking whether work is done")?;
        Ok(!self.hangs)
    }

    fn last_begun(&self) -> Option<&'static str> {
        self.last_collective()
    }

    fn abandon(&mut self) {}

    fn measure(&mut self, on: bool) -> Result<(), DeviceError> {
        self.outside_of_recordings("measuring")?;
        self.times = on.then(|| (Instant::now(), Vec::new()));
        Ok(())
    }

    fn measured(&mut self) -> Result<Vec<Measured>, DeviceError> {
        self.outside_of_recordings("measuring")?;
        let times = self.times.as_mut();
        Ok(times.map_or(Vec::new(), |(_, measured)| std::mem::take(measured)))
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.outside_of_recordings("waiting")?;
        note(&self.calls, Call::Wait);
        Ok(())
    }

    fn record(
        &mut self,
        work: &mut dyn FnMut(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<Vec<Work>, DeviceError> {
        self.outside_of_recordings("recording")?;
        note(&self.calls, Call::Record);
        self.nothing_begun(BEGUN_BEFORE)?;
        self.recording = Some(Vec::new());
        let outcome = work(self).and_then(|()| self.nothing_begun(NOT_FINISHED));
        let recorded = self.recording.take().unwrap_or_default();
        if outcome.is_err() {
            self.forget_begun();
        }
        outcome.map(|()| recorded)
    }

    fn replay(&mut self, graph: &Vec<Work>) -> Result<(), DeviceError> {
        self.outside_of_recordings("replaying")?;
        note(&self.calls, Call::Replay);
        self.replays = true;
        let outcome = graph.iter().try_for_each(|work| self.work(work));
        self.replays = false;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrec_kernels::cuda::collective::{Element, Reduce};

    #[test]
    fn a_recording_that_collectives_cross_is_refused_as_cuda_refuses_it() {
        let mut device = Emulator::new(0);
        let at = device.allocate(8).unwrap();
        let sum = [Collective::AllReduce {
            at,
            len: 2,
            element: Element::F32,
            reduce: Reduce::Sum,
        }];
        let error = device
            .record(&mut |own| own.begin(Group::World, "a sum", &sum).map(|_| ()))
            .unwrap_err();
        assert!(error.to_string().contains(NOT_FINISHED), "{error}");
        // Nothing is left of it.
        device
            .record(&mut |own| {
                let begun = own.begin(Group::World, "a sum", &sum)?;
                own.finish(begun)
            })
            .unwrap();
        let number = device.take_number();
        let error = device.record(&mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(BEGUN_BEFORE), "{error}");
        device.give_number_back(&Begun(number));
        device.record(&mut |_| Ok(())).unwrap();
    }
}

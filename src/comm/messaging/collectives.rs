//! The collectives: what is small travels with the call, the rest after it.

use std::sync::Arc;

use super::all_reduce::AllReduce;
use super::message::Arrival;
use super::transfers::Transfers;
use super::{Engine, Memory, Transport};
use crate::comm::buffer::Owner;
use crate::comm::call::{Call, Kind, op_number};
use crate::comm::reduction::{MAX_LEN, reduce};
use crate::comm::{CommBuffer, CommError, Message, ReduceOp, chunk_range};

const WORD: usize = size_of::<f32>();

/// A message of each rank, or for each.
type Messages = Vec<Vec<u8>>;

/// What does not travel with the call is no part of it.
const NOTHING: &[u8] = &[];

impl<T: Transport> Engine<T> {
    pub(super) fn barrier(&mut self) -> Result<(), CommError> {
        self.run(Kind::Barrier, |engine| {
            engine.meet(Call::new(Kind::Barrier), |_| NOTHING)?;
            Ok(())
        })
    }

    /// `[len]` f32, zeroed.
    pub(super) fn allocate(&mut self, len: usize) -> Result<CommBuffer, CommError> {
        self.run(Kind::Allocate, |engine| {
            let number = engine.allocations + 1;
            let call = Call {
                kind: Kind::Allocate,
                argument: 0,
                len: len as u64,
                buffer: number,
            };
            engine.meet(call, |_| NOTHING)?;
            engine.allocations = number;
            let token = engine.token;
            Ok(CommBuffer::heap(len, Owner { token, number }))
        })
    }

    pub(super) fn all_reduce(
        &mut self,
        mut buffer: CommBuffer,
        op: ReduceOp,
    ) -> Result<CommBuffer, CommError> {
        self.run(Kind::AllReduce, |engine| {
            let call = engine.operand(Kind::AllReduce, op_number(op), &buffer)?;
            if buffer.len() * WORD <= T::INLINE_BYTES {
                engine.all_reduce_small(call, &mut buffer, op)?;
                return Ok(buffer);
            }
            engine.meet(call, |_| NOTHING)?;
            engine.reduce_blocks(buffer, op, true)
        })
    }

    /// Every rank gets the values of all, and adds everything up itself.
    fn all_reduce_small(
        &mut self,
        call: Call,
        buffer: &mut [f32],
        op: ReduceOp,
    ) -> Result<(), CommError> {
        let arrivals = self.meet(call, |_| bytemuck::cast_slice(buffer))?;
        const { assert!(T::INLINE_BYTES / WORD <= MAX_LEN) };
        let len = buffer.len();
        let mut values = vec![0.0; self.size() * len];
        for (rank, arrival) in arrivals.into_iter().enumerate() {
            let theirs = &mut values[rank * len..][..len];
            if rank == self.rank {
                theirs.copy_from_slice(buffer);
                continue;
            }
            let data = arrival.inline.unwrap_or_default();
            let theirs: &mut [u8] = bytemuck::cast_slice_mut(theirs);
            if data.len() != theirs.len() {
                let problem = format!("expected {} bytes, got {}", theirs.len(), data.len());
                return Err(self.corrupt(rank, problem));
            }
            theirs.copy_from_slice(&data);
        }
        let of_rank = |rank: usize| &values[rank * len..][..len];
        reduce(op, &of_rank, 0..self.size(), buffer);
        Ok(())
    }

    pub(super) fn reduce_scatter(
        &mut self,
        buffer: CommBuffer,
        op: ReduceOp,
    ) -> Result<CommBuffer, CommError> {
        self.run(Kind::ReduceScatter, |engine| {
            let call = engine.operand(Kind::ReduceScatter, op_number(op), &buffer)?;
            engine.meet(call, |_| NOTHING)?;
            engine.reduce_blocks(buffer, op, false)
        })
    }

    fn reduce_blocks(
        &mut self,
        buffer: CommBuffer,
        op: ReduceOp,
        gathers: bool,
    ) -> Result<CommBuffer, CommError> {
        let begun = AllReduce::begin(self, buffer, op, gathers);
        let mut work = begun.map_err(|refusal| self.refused(refusal))?;
        self.complete(&mut work)?;
        Ok(work.into_buffer().expect("a buffer was put in"))
    }

    pub(super) fn all_gather(&mut self, buffer: CommBuffer) -> Result<CommBuffer, CommError> {
        self.run(Kind::AllGather, |engine| {
            let call = engine.operand(Kind::AllGather, 0, &buffer)?;
            engine.meet(call, |_| NOTHING)?;
            let (len, size, own) = (buffer.len(), engine.size(), engine.rank);
            let chunk = |rank| {
                let range = chunk_range(len, rank, size);
                range.start * WORD..range.end * WORD
            };
            let mut transfers = Transfers::new();
            let place = transfers.hold(T::Memory::of_buffer(buffer));
            for other in engine.others() {
                let received = transfers.receive(engine, place, chunk(other), other);
                received
                    .and_then(|()| transfers.send(engine, place, chunk(own), other))
                    .map_err(|refusal| engine.refused(refusal))?;
            }
            engine.complete_on_buffer(transfers)
        })
    }

    pub(super) fn broadcast(
        &mut self,
        buffer: CommBuffer,
        root: usize,
    ) -> Result<CommBuffer, CommError> {
        self.run(Kind::Broadcast, |engine| {
            if root >= engine.size() {
                let problem = format!("expected a root below {}, got {root}", engine.size());
                return Err(CommError::Argument {
                    collective: "broadcast",
                    problem,
                });
            }
            let call = engine.operand(Kind::Broadcast, root as u32, &buffer)?;
            engine.meet(call, |_| NOTHING)?;
            let all = 0..buffer.len() * WORD;
            let mut transfers = Transfers::new();
            let place = transfers.hold(T::Memory::of_buffer(buffer));
            let begun = if engine.rank == root {
                let mut others = engine.others();
                others.try_for_each(|other| transfers.send(engine, place, all.clone(), other))
            } else {
                transfers.receive(engine, place, all, root)
            };
            begun.map_err(|refusal| engine.refused(refusal))?;
            engine.complete_on_buffer(transfers)
        })
    }

    /// Completes transfers from and to one buffer.
    fn complete_on_buffer(&mut self, mut transfers: Transfers<T>) -> Result<CommBuffer, CommError> {
        self.complete(&mut transfers)?;
        let buffer = transfers.into_memories().find_map(T::Memory::into_buffer);
        Ok(buffer.expect("a buffer was put in"))
    }

    pub(super) fn all_gather_bytes(&mut self, message: Vec<u8>) -> Result<Vec<Vec<u8>>, CommError> {
        self.gather(Kind::AllGatherBytes, message)
    }

    /// Gives every rank the messages of all.
    pub(super) fn gather(
        &mut self,
        kind: Kind,
        message: Vec<u8>,
    ) -> Result<Vec<Vec<u8>>, CommError> {
        self.run(kind, |engine| engine.share(kind, message))
    }

    /// The same inside of a collective.
    pub(in crate::comm) fn share(
        &mut self,
        kind: Kind,
        message: Vec<u8>,
    ) -> Result<Vec<Vec<u8>>, CommError> {
        let arrivals = self.meet(Call::new(kind), |_| &message)?;
        let mut transfers = Transfers::new();
        let bytes = message.len();
        let place = transfers.hold(T::Memory::of_bytes(message));
        if bytes > T::INLINE_BYTES {
            self.others()
                .try_for_each(|other| transfers.send(self, place, 0..bytes, other))
                .map_err(|refusal| self.refused(refusal))?;
        }
        let (mut own, mut received) = self.receive(arrivals, transfers, 1)?;
        received[self.rank] = own.swap_remove(0);
        Ok(received)
    }

    pub(super) fn all_to_all_bytes(
        &mut self,
        mut messages: Vec<Message>,
    ) -> Result<Vec<Message>, CommError> {
        self.run(Kind::AllToAllBytes, |engine| {
            let size = engine.size();
            if messages.len() != size {
                let problem = format!(
                    "expected {size} messages, one a rank, got {}",
                    messages.len()
                );
                return Err(CommError::Argument {
                    collective: "all_to_all_bytes",
                    problem,
                });
            }
            let own = std::mem::take(&mut messages[engine.rank]);
            let arrivals =
                engine.meet(Call::new(Kind::AllToAllBytes), |rank| &messages[rank][..])?;
            let mut transfers = Transfers::new();
            for (rank, message) in messages.into_iter().enumerate() {
                let bytes = message.len();
                let place = transfers.hold(T::Memory::of_bytes(message.into_bytes()));
                if bytes > T::INLINE_BYTES {
                    let sent = transfers.send(engine, place, 0..bytes, rank);
                    sent.map_err(|refusal| engine.refused(refusal))?;
                }
            }
            let (sent, received) = engine.receive(arrivals, transfers, size)?;
            engine.spare = sent;
            let mut received: Vec<_> = received.into_iter().map(Message::from).collect();
            received[engine.rank] = own;
            Ok(received)
        })
    }

    /// Receives what other ranks have for this one, while the `sent` first memories of `transfers` go out. Returns
    /// those, and what came from each rank.
    fn receive(
        &mut self,
        arrivals: Vec<Arrival>,
        mut transfers: Transfers<T>,
        sent: usize,
    ) -> Result<(Messages, Messages), CommError> {
        for (rank, arrival) in arrivals.into_iter().enumerate() {
            let Arrival { bytes, inline, .. } = arrival;
            if let Some(data) = inline {
                transfers.hold(T::Memory::of_bytes(data));
                continue;
            }
            let memory = reserve(bytes, &mut self.spare)?;
            let place = transfers.hold(T::Memory::of_bytes(memory));
            let received = transfers.receive(self, place, 0..bytes as usize, rank);
            received.map_err(|refusal| self.refused(refusal))?;
        }
        self.complete(&mut transfers)?;
        let mut all: Messages = transfers
            .into_memories()
            .map(T::Memory::into_bytes)
            .collect();
        let received = all.split_off(sent);
        Ok((all, received))
    }

    /// The call of a collective on a buffer, which must be of this communicator.
    fn operand(&self, kind: Kind, argument: u32, buffer: &CommBuffer) -> Result<Call, CommError> {
        let owner = buffer.owner().filter(|owner| owner.token == self.token);
        let owner = owner.ok_or_else(|| CommError::Argument {
            collective: kind.name(),
            problem: "the buffer is of another communicator; allocate one from this".to_owned(),
        })?;
        Ok(Call {
            kind,
            argument,
            len: buffer.len() as u64,
            buffer: owner.number,
        })
    }
}

/// As many bytes as another rank announced, of any value.
fn reserve(bytes: u64, spare: &mut Vec<Vec<u8>>) -> Result<Vec<u8>, CommError> {
    let len = bytes as usize;
    let fits = spare.iter().position(|memory| memory.capacity() >= len);
    let mut memory = fits.map_or_else(Vec::new, |place| spare.swap_remove(place));
    let reserved = memory.try_reserve_exact(len.saturating_sub(memory.len()));
    reserved.map_err(|error| CommError::Memory {
        action: "receive a message",
        bytes,
        source: Arc::new(std::io::Error::other(error)),
    })?;
    memory.resize(len, 0);
    Ok(memory)
}

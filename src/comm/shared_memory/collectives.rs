//! The algorithms, over segments that all ranks have mapped.
//!
//! All-reduce: rank r reduces chunk r from the buffers of all ranks, block by block, and writes
//! each block to all of them while it is in the cache. Chunks are disjoint and nobody but rank r
//! touches chunk r, so two barriers suffice: all buffers are there, all chunks are done. Small
//! buffers go through the mailboxes instead: every rank reduces everything, after one barrier.

use std::ops::Range;

use super::buffer::SharedBuffer;
use super::control::Note;
use super::engine::{Engine, memory_error};
use super::segment::{MAX_SEGMENT_BYTES, Segment, SegmentFile};
use crate::comm::call::{Call, Kind, op_number};
use crate::comm::reduction::{MAX_LEN, reduce};
use crate::comm::{CommBuffer, CommError, ReduceOp, chunk_range};

/// Up to this size, a barrier costs more than reducing everything on every rank.
const SMALL_BYTES: usize = MAX_LEN * size_of::<f32>();

/// f32 in a block: those of several ranks fit in the first-level cache.
const BLOCK: usize = 2048;

/// f32 in a cache line.
const LINE: usize = 16;

impl Engine {
    pub(super) fn barrier(&mut self) -> Result<(), CommError> {
        self.run(Kind::Barrier, |engine| {
            engine.meet(Call::new(Kind::Barrier), Note::default())?;
            Ok(())
        })
    }

    /// `[len]` f32, zeroed, mapped by all ranks.
    pub(super) fn allocate(&mut self, len: usize) -> Result<CommBuffer, CommError> {
        self.run(Kind::Allocate, |engine| {
            let bytes = (len as u64).saturating_mul(size_of::<f32>() as u64);
            if bytes > MAX_SEGMENT_BYTES {
                let problem = format!("expected at most {MAX_SEGMENT_BYTES} bytes, got {len} f32");
                return Err(CommError::Argument {
                    collective: "allocate",
                    problem,
                });
            }
            let file = SegmentFile::create("streamrec-buffer", bytes)
                .map_err(|error| memory_error("allocate a buffer", bytes, error))?;
            let number = engine.allocations + 1;
            let call = Call {
                kind: Kind::Allocate,
                argument: 0,
                len: len as u64,
                buffer: number,
            };
            let notes = engine.meet(
                call,
                Note {
                    offset: file.number().into(),
                    bytes,
                },
            )?;
            let segments = (0..engine.size())
                .map(|rank| engine.map_buffer(rank, notes[rank], &file))
                .collect::<Result<Vec<_>, _>>()?;
            // All have mapped the file: now it may close.
            engine.synchronize()?;
            engine.allocations = number;
            let token = engine.control.token();
            let buffer = SharedBuffer::new(token, number, len, engine.rank, segments);
            Ok(CommBuffer::shared(buffer))
        })
    }

    fn map_buffer(&self, rank: usize, note: Note, own: &SegmentFile) -> Result<Segment, CommError> {
        let segment = if rank == self.rank {
            own.map()
        } else {
            let (pid, _) = self.control.process(rank);
            SegmentFile::open(pid, note.offset as u32).and_then(|file| file.map())
        };
        let check = |segment: Segment| match segment.bytes() as u64 >= note.bytes {
            true => Ok(segment),
            false => Err(std::io::Error::other(
                "the segment is shorter than announced",
            )),
        };
        segment
            .and_then(check)
            .map_err(|error| memory_error("map a buffer", note.bytes, error))
    }

    pub(super) fn all_reduce(
        &mut self,
        mut buffer: CommBuffer,
        op: ReduceOp,
    ) -> Result<CommBuffer, CommError> {
        self.run(Kind::AllReduce, |engine| {
            let (shared, call) = engine.operand(Kind::AllReduce, op_number(op), &buffer)?;
            if size_of_val::<[f32]>(&buffer) <= SMALL_BYTES {
                engine.all_reduce_small(call, &mut buffer, op)?;
                return Ok(buffer);
            }
            engine.meet(call, Note::default())?;
            // Whole cache lines, so that no two ranks write to the same one.
            let lines = chunk_range(buffer.len().div_ceil(LINE), engine.rank, engine.size());
            let chunk = lines.start * LINE..(lines.end * LINE).min(buffer.len());
            engine.reduce_chunk(shared, chunk, op, 0..engine.size());
            engine.synchronize()?;
            Ok(buffer)
        })
    }

    fn all_reduce_small(
        &mut self,
        call: Call,
        buffer: &mut [f32],
        op: ReduceOp,
    ) -> Result<(), CommError> {
        let note = self.post(&[bytemuck::cast_slice(buffer)])?;
        let notes = self.meet(call, note)?;
        let mut messages = Vec::with_capacity(self.size());
        for (rank, note) in notes.into_iter().enumerate() {
            let values = self.with_message(rank, note, |message| {
                let values: &[f32] =
                    bytemuck::try_cast_slice(message).map_err(|error| error.to_string())?;
                if values.len() != buffer.len() {
                    return Err(format!(
                        "expected {} f32, got {}",
                        buffer.len(),
                        values.len()
                    ));
                }
                Ok(values.to_vec())
            })?;
            messages.push(values);
        }
        reduce(op, &|rank| &messages[rank], 0..self.size(), buffer);
        Ok(())
    }

    pub(super) fn reduce_scatter(
        &mut self,
        buffer: CommBuffer,
        op: ReduceOp,
    ) -> Result<CommBuffer, CommError> {
        self.run(Kind::ReduceScatter, |engine| {
            let (shared, call) = engine.operand(Kind::ReduceScatter, op_number(op), &buffer)?;
            engine.meet(call, Note::default())?;
            let chunk = chunk_range(buffer.len(), engine.rank, engine.size());
            engine.reduce_chunk(shared, chunk, op, engine.rank..engine.rank + 1);
            engine.synchronize()?;
            Ok(buffer)
        })
    }

    /// Reduces `chunk`, which belongs to this rank, from the buffers of all ranks in rank order,
    /// and writes it to the buffers of the ranks `targets`. To be called between the two barriers
    /// of a collective.
    fn reduce_chunk(
        &self,
        buffer: &SharedBuffer,
        chunk: Range<usize>,
        op: ReduceOp,
        targets: Range<usize>,
    ) {
        let mut scratch = [0.0; BLOCK];
        for start in chunk.clone().step_by(BLOCK) {
            let block = start..chunk.end.min(start + BLOCK);
            let result = &mut scratch[..block.len()];
            // SAFETY: All ranks have met in this collective and are not past its last barrier, so
            // the buffers are in flight: no caller touches them. The chunks of the ranks are
            // disjoint, and only this rank touches its own.
            let values = |rank| unsafe { buffer.part(rank, block.clone()) };
            reduce(op, &values, 0..self.size(), result);
            for rank in targets.clone() {
                // SAFETY: As above; the slices read are gone.
                unsafe { buffer.part_mut(rank, block.clone()) }.copy_from_slice(result);
            }
        }
    }

    pub(super) fn all_gather(&mut self, buffer: CommBuffer) -> Result<CommBuffer, CommError> {
        self.run(Kind::AllGather, |engine| {
            let (shared, call) = engine.operand(Kind::AllGather, 0, &buffer)?;
            engine.meet(call, Note::default())?;
            for rank in 0..engine.size() {
                let chunk = chunk_range(buffer.len(), rank, engine.size());
                engine.copy_from(rank, shared, chunk);
            }
            engine.synchronize()?;
            Ok(buffer)
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
            let (shared, call) = engine.operand(Kind::Broadcast, root as u32, &buffer)?;
            engine.meet(call, Note::default())?;
            engine.copy_from(root, shared, 0..buffer.len());
            engine.synchronize()?;
            Ok(buffer)
        })
    }

    /// Copies the values at `range`, which belong to rank `source`, to the own buffer. To be
    /// called between the two barriers of a collective.
    fn copy_from(&self, source: usize, buffer: &SharedBuffer, range: Range<usize>) {
        if source == self.rank {
            return;
        }
        // SAFETY: All ranks have met in this collective and are not past its last barrier, so no
        // caller touches the buffers. Nobody writes to the source's own values, and nobody else
        // touches this rank's copy of them.
        let from = unsafe { buffer.part(source, range.clone()) };
        // SAFETY: As above.
        let to = unsafe { buffer.part_mut(self.rank, range) };
        to.copy_from_slice(from);
    }

    pub(super) fn all_gather_bytes(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>, CommError> {
        self.gather(Kind::AllGatherBytes, message)
    }

    /// Gives every rank the messages of all.
    pub(super) fn gather(&mut self, kind: Kind, message: &[u8]) -> Result<Vec<Vec<u8>>, CommError> {
        self.run(kind, |engine| {
            let note = engine.post(&[message])?;
            let notes = engine.meet(Call::new(kind), note)?;
            let read = |(rank, note)| {
                engine.with_message(rank, note, |message: &[u8]| Ok(message.to_vec()))
            };
            notes.into_iter().enumerate().map(read).collect()
        })
    }

    /// A buffer, which must be of this communicator, and the call of a collective on it.
    fn operand<'a>(
        &self,
        kind: Kind,
        argument: u32,
        buffer: &'a CommBuffer,
    ) -> Result<(&'a SharedBuffer, Call), CommError> {
        let is_own = |shared: &&SharedBuffer| shared.token() == self.control.token();
        let shared = buffer
            .as_shared()
            .filter(is_own)
            .ok_or_else(|| CommError::Argument {
                collective: kind.name(),
                problem: "the buffer is of another communicator; allocate one from this".to_owned(),
            })?;
        let len = buffer.len() as u64;
        Ok((
            shared,
            Call {
                kind,
                argument,
                len,
                buffer: shared.number(),
            },
        ))
    }
}

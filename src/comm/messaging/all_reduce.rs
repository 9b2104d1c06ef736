//! All-reduce and reduce-scatter of what does not fit into a message, in blocks that follow each other.
//!
//! ```text
//! for each block of the chunk of rank r:   others ── their values ─► r: sum in rank order ── result ─► others
//! ```
//! Each rank adds up its chunk itself. The same bytes travel as in a ring, each value twice. While a block is added, the
//! next are on their way.
//!
//! Also where what a rank sends to another comes in one order whatever its tag, no rank waits for what stands behind
//! something that its receiver does not take yet: a result is taken at once, since values go out before it, and values
//! are taken once those of [`WINDOW`] blocks before are added up, for which no result is needed.

use std::ops::Range;

use super::{Engine, Memory, Refusal, Transport, Work};
use crate::comm::buffer::Owner;
use crate::comm::reduction::{MAX_LEN, reduce};
use crate::comm::{CommBuffer, ReduceOp, chunk_range};

/// f32 of a block: large enough to hide the cost of a message, small enough to add while it is in the cache.
const BLOCK: usize = 64 * 1024;

/// Blocks of one rank that are under way to one other.
const WINDOW: usize = 4;

/// Tags from here on are of blocks; two for each, again and again. MPI guarantees numbers up to 32,767.
const FIRST_TAG: usize = 16;
const TAGS: usize = 16_000;

const WORD: usize = size_of::<f32>();

/// What an operation is for.
#[derive(Clone, Copy)]
struct Label {
    part: Part,
    rank: usize,
    block: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// This rank's values of a block of the other's chunk.
    ValuesOut,
    /// The other's values of a block of this rank's chunk.
    ValuesIn,
    ResultOut,
    ResultIn,
}

pub(super) struct AllReduce<T: Transport> {
    op: ReduceOp,
    rank: usize,
    size: usize,
    len: usize,
    /// f32 of a block.
    block: usize,
    /// Whether all ranks get the results.
    gathers: bool,
    buffer: T::Memory<Label>,
    /// `[WINDOW][size][block]` f32: what others sent of the blocks of this rank's chunk.
    scratch: T::Memory<Label>,
    /// For each block of this rank's chunk, how many ranks have sent their values.
    arrived: Vec<usize>,
    /// Blocks of this rank's chunk that are added up: all before this.
    added: usize,
    /// Operations that are not over, of all that there will be.
    left: [usize; 4],
    over: Vec<Label>,
}

impl<T: Transport> AllReduce<T> {
    /// Begins. Ranks have met; `piece_bytes` is the same on all.
    pub(super) fn begin(
        engine: &mut Engine<T>,
        buffer: CommBuffer,
        op: ReduceOp,
        gathers: bool,
    ) -> Result<Self, Refusal> {
        let (rank, size, len) = (engine.rank, engine.size(), buffer.len());
        let block = BLOCK.min(engine.settings.piece_bytes / WORD).max(1);
        let slots = chunk_range(len, rank, size)
            .len()
            .div_ceil(block)
            .min(WINDOW);
        let scratch = CommBuffer::heap(slots * size * block, Owner::default());
        let mut all = Self {
            op,
            rank,
            size,
            len,
            block,
            gathers,
            buffer: T::Memory::of_buffer(buffer),
            scratch: T::Memory::of_buffer(scratch),
            arrived: Vec::new(),
            added: 0,
            left: [0; 4],
            over: Vec::new(),
        };
        let own = all.blocks(rank);
        all.arrived = vec![0; own];
        let others: usize = engine.others().map(|rank| all.blocks(rank)).sum();
        let own = own * (size - 1);
        all.left = [others, own, 0, 0];
        if gathers {
            all.left = [others, own, own, others];
        }
        for other in engine.others() {
            for block in 0..WINDOW.min(all.blocks(rank)) {
                all.begin_part(engine, Part::ValuesIn, other, block)?;
            }
            for block in 0..WINDOW.min(all.blocks(other)) {
                all.begin_part(engine, Part::ValuesOut, other, block)?;
            }
        }
        // With one rank there is nothing to wait for.
        all.add_blocks(engine)?;
        Ok(all)
    }

    /// Gives the buffer back.
    pub(super) fn into_buffer(self) -> Option<CommBuffer> {
        self.buffer.into_buffer()
    }

    fn blocks(&self, rank: usize) -> usize {
        chunk_range(self.len, rank, self.size)
            .len()
            .div_ceil(self.block)
    }

    /// The bytes of a block of a rank's chunk.
    fn range(&self, rank: usize, block: usize) -> Range<usize> {
        let chunk = chunk_range(self.len, rank, self.size);
        let start = chunk.start + block * self.block;
        start * WORD..chunk.end.min(start + self.block) * WORD
    }

    /// Where in `scratch` the values of `rank` for a block of this rank's chunk are.
    fn slot(&self, rank: usize, block: usize) -> Range<usize> {
        let start = (block % WINDOW * self.size + rank) * self.block * WORD;
        start..start + self.range(self.rank, block).len()
    }

    fn begin_part(
        &mut self,
        engine: &mut Engine<T>,
        part: Part,
        rank: usize,
        block: usize,
    ) -> Result<(), Refusal> {
        let is_result = matches!(part, Part::ResultOut | Part::ResultIn);
        let tag = (FIRST_TAG + 2 * (block % (TAGS / 2)) + usize::from(is_result)) as i32;
        let (transport, address) = (&mut engine.transport, (rank, tag));
        let label = Label { part, rank, block };
        let (own, theirs) = (self.range(self.rank, block), self.range(rank, block));
        match part {
            Part::ValuesOut => self.buffer.send(transport, theirs, address, label),
            Part::ValuesIn => {
                let slot = self.slot(rank, block);
                self.scratch.receive(transport, slot, address, label)
            }
            Part::ResultOut => self.buffer.send(transport, own, address, label),
            Part::ResultIn => self.buffer.receive(transport, theirs, address, label),
        }
    }

    /// Goes on after an operation that is over.
    fn follow(&mut self, engine: &mut Engine<T>, label: Label) -> Result<(), Refusal> {
        let Label { part, rank, block } = label;
        self.left[part as usize] -= 1;
        match part {
            Part::ValuesOut => {
                if block + WINDOW < self.blocks(rank) {
                    self.begin_part(engine, Part::ValuesOut, rank, block + WINDOW)?;
                }
                // Only now may the result overwrite what was sent.
                if self.gathers {
                    self.begin_part(engine, Part::ResultIn, rank, block)?;
                }
            }
            Part::ValuesIn => self.arrived[block] += 1,
            Part::ResultOut | Part::ResultIn => {}
        }
        Ok(())
    }

    /// Adds up the blocks whose values are all here, and passes the results on.
    fn add_blocks(&mut self, engine: &mut Engine<T>) -> Result<bool, Refusal> {
        let first = self.added;
        while self.added < self.arrived.len() && self.arrived[self.added] == self.size - 1 {
            let block = self.added;
            self.add(block);
            self.added += 1;
            for other in engine.others() {
                if self.gathers {
                    self.begin_part(engine, Part::ResultOut, other, block)?;
                }
                if block + WINDOW < self.arrived.len() {
                    self.begin_part(engine, Part::ValuesIn, other, block + WINDOW)?;
                }
            }
        }
        Ok(self.added > first)
    }

    fn add(&mut self, block: usize) {
        let range = self.range(self.rank, block);
        let slots: Vec<Range<usize>> = (0..self.size).map(|rank| self.slot(rank, block)).collect();
        let theirs: Vec<&[f32]> = (slots.into_iter())
            .map(|slot| bytemuck::cast_slice(self.scratch.read(slot)))
            .collect();
        let result: &mut [f32] = bytemuck::cast_slice_mut(self.buffer.write(range));
        let mut own = [0.0; MAX_LEN];
        for start in (0..result.len()).step_by(MAX_LEN) {
            let part = start..result.len().min(start + MAX_LEN);
            let own = &mut own[..part.len()];
            own.copy_from_slice(&result[part.clone()]);
            let values = |rank: usize| {
                if rank == self.rank {
                    &*own
                } else {
                    &theirs[rank][part.clone()]
                }
            };
            reduce(self.op, &values, 0..self.size, &mut result[part.clone()]);
        }
    }
}

impl<T: Transport> Work<T> for AllReduce<T> {
    fn advance(&mut self, engine: &mut Engine<T>) -> Result<bool, Refusal> {
        let mut over = std::mem::take(&mut self.over);
        self.buffer.poll(&mut engine.transport, &mut over)?;
        self.scratch.poll(&mut engine.transport, &mut over)?;
        let mut moved = !over.is_empty();
        for label in over.drain(..) {
            self.follow(engine, label)?;
        }
        self.over = over;
        moved |= self.add_blocks(engine)?;
        Ok(moved)
    }

    fn is_done(&self) -> bool {
        self.left == [0; 4]
    }

    fn missing(&self) -> Vec<usize> {
        let (buffer, scratch) = (self.buffer.under_way(), self.scratch.under_way());
        let under_way: Vec<Label> = buffer.chain(scratch).collect();
        // A rank that has sent its values may itself wait for others', so those that have not come first.
        for part in [
            Part::ValuesIn,
            Part::ValuesOut,
            Part::ResultIn,
            Part::ResultOut,
        ] {
            let of_part = under_way.iter().filter(|label| label.part == part);
            let mut ranks: Vec<usize> = of_part.map(|label| label.rank).collect();
            ranks.sort_unstable();
            ranks.dedup();
            if !ranks.is_empty() {
                return ranks;
            }
        }
        Vec::new()
    }

    fn abandon(&mut self, engine: &mut Engine<T>) {
        self.buffer.abandon(&mut engine.transport);
        self.scratch.abandon(&mut engine.transport);
    }
}

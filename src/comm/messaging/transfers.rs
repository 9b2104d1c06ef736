//! Data of one collective, all under way at once.

use std::ops::Range;

use super::{Engine, Memory, Refusal, Transport, Work};

/// The tag of data that are in the order of their pieces; messages and blocks of an all-reduce have others.
const DATA_TAG: i32 = 2;

/// What goes out and what comes in; the label of an operation is the rank at the other end.
pub(super) struct Transfers<T: Transport> {
    memories: Vec<T::Memory<usize>>,
    over: Vec<usize>,
}

/// Where a memory of [`Transfers`] is.
#[derive(Clone, Copy)]
pub(super) struct Place(usize);

impl<T: Transport> Transfers<T> {
    pub(super) fn new() -> Self {
        Self {
            memories: Vec::new(),
            over: Vec::new(),
        }
    }

    pub(super) fn hold(&mut self, memory: T::Memory<usize>) -> Place {
        self.memories.push(memory);
        Place(self.memories.len() - 1)
    }

    pub(super) fn send(
        &mut self,
        engine: &mut Engine<T>,
        place: Place,
        range: Range<usize>,
        to: usize,
    ) -> Result<(), Refusal> {
        let address = (to, DATA_TAG);
        for piece in pieces(range, engine.settings.piece_bytes) {
            self.memories[place.0].send(&mut engine.transport, piece, address, to)?;
        }
        Ok(())
    }

    pub(super) fn receive(
        &mut self,
        engine: &mut Engine<T>,
        place: Place,
        range: Range<usize>,
        from: usize,
    ) -> Result<(), Refusal> {
        let address = (from, DATA_TAG);
        for piece in pieces(range, engine.settings.piece_bytes) {
            self.memories[place.0].receive(&mut engine.transport, piece, address, from)?;
        }
        Ok(())
    }

    /// The memories, in the order of `hold`.
    pub(super) fn into_memories(self) -> impl Iterator<Item = T::Memory<usize>> {
        self.memories.into_iter()
    }
}

impl<T: Transport> Work<T> for Transfers<T> {
    fn advance(&mut self, engine: &mut Engine<T>) -> Result<bool, Refusal> {
        self.over.clear();
        for memory in &mut self.memories {
            memory.poll(&mut engine.transport, &mut self.over)?;
        }
        Ok(!self.over.is_empty())
    }

    fn is_done(&self) -> bool {
        self.memories.iter().all(Memory::is_idle)
    }

    fn missing(&self) -> Vec<usize> {
        let mut ranks: Vec<usize> = self.memories.iter().flat_map(Memory::under_way).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    fn abandon(&mut self, engine: &mut Engine<T>) {
        for memory in &mut self.memories {
            memory.abandon(&mut engine.transport);
        }
    }
}

/// The parts of `range`, in order, of at most `bytes` each; none of an empty one.
pub(super) fn pieces(range: Range<usize>, bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let bytes = bytes.clamp(1, i32::MAX as usize);
    let Range { start, end } = range;
    (start..end)
        .step_by(bytes)
        .map(move |start| start..end.min(start.saturating_add(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_up_the_whole_and_keep_to_the_limit() {
        let cut = |range, bytes| pieces(range, bytes).collect::<Vec<_>>();
        assert_eq!(cut(10..25, 7), [10..17, 17..24, 24..25]);
        assert!(cut(3..3, 7).is_empty());
        let large = cut(0..(1 << 33), usize::MAX);
        assert_eq!(large.len(), 5);
        assert!(large.iter().all(|piece| i32::try_from(piece.len()).is_ok()));
    }
}

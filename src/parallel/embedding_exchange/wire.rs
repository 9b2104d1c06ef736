//! Messages as sequences of 32-bit words, read with bounds.

use std::borrow::Cow;

use crate::{
    comm::{CommError, Message},
    model::ModelError,
};

/// Words of one message that are still to be read. Ranks share an architecture, so numbers are in its
/// byte order.
pub(super) struct Words<'a, T: Clone> {
    words: Cow<'a, [T]>,
    next: usize,
    rank: usize,
}

impl<'a, T: bytemuck::Pod> Words<'a, T> {
    /// The message of `rank`.
    pub(super) fn new(rank: usize, message: &'a [u8]) -> Result<Self, ModelError> {
        if !message.len().is_multiple_of(size_of::<T>()) {
            return Err(corrupt(
                rank,
                format!("{} bytes are no words", message.len()),
            ));
        }
        let words = match bytemuck::try_cast_slice(message) {
            Ok(words) => Cow::Borrowed(words),
            // A message may begin anywhere, though allocators hardly ever let it.
            Err(_) => {
                let mut words = vec![T::zeroed(); message.len() / size_of::<T>()];
                bytemuck::cast_slice_mut(&mut words).copy_from_slice(message);
                Cow::Owned(words)
            }
        };
        Ok(Self {
            words,
            next: 0,
            rank,
        })
    }

    /// The next `count` words.
    pub(super) fn take(&mut self, count: usize) -> Result<&[T], ModelError> {
        let left = self.words.len() - self.next;
        if count > left {
            let problem = format!("expected {count} more words, {left} are left");
            return Err(corrupt(self.rank, problem));
        }
        let taken = &self.words[self.next..self.next + count];
        self.next += count;
        Ok(taken)
    }

    /// All that is left.
    pub(super) fn rest(&self) -> &[T] {
        &self.words[self.next..]
    }

    /// Checks that nothing is left.
    pub(super) fn end(self) -> Result<(), ModelError> {
        match self.words.len() - self.next {
            0 => Ok(()),
            left => Err(corrupt(self.rank, format!("{left} words too many"))),
        }
    }
}

/// Appends words to a message.
pub(super) fn put<T: bytemuck::NoUninit>(message: &mut Message, words: &[T]) {
    message.extend_from_slice(bytemuck::cast_slice(words));
}

pub(super) fn corrupt(rank: usize, problem: String) -> ModelError {
    ModelError::Comm(CommError::Corrupt {
        collective: "exchange of embeddings",
        rank,
        problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_every_other_length_is_refused() {
        let mut message = Message::default();
        put(&mut message, &[1u32, 2, 3]);
        let mut words = Words::<u32>::new(0, &message).unwrap();
        assert_eq!(words.take(2).unwrap(), [1, 2]);
        assert!(words.take(2).is_err());
        assert!(words.end().is_err());
        assert!(Words::<u32>::new(0, &message[..5]).is_err());
    }
}

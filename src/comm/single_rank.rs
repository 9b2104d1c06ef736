//! A world of one rank.

use std::sync::Arc;

use super::buffer::Owner;
use super::{CommBuffer, CommError, Communicator, Event, Message, ReduceOp};

/// The communicator of a rank that is alone: every result is its own input.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleRank;

impl Communicator for SingleRank {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn allocate(&self, len: usize) -> Result<CommBuffer, CommError> {
        Ok(CommBuffer::heap(len, Owner::default()))
    }

    fn all_reduce(&self, buffer: CommBuffer, _op: ReduceOp) -> Event<CommBuffer> {
        Event::completed(Ok(buffer))
    }

    fn broadcast(&self, buffer: CommBuffer, root: usize) -> Event<CommBuffer> {
        Event::completed(if root == 0 {
            Ok(buffer)
        } else {
            Err(CommError::Argument {
                collective: "broadcast",
                problem: format!("the root must be 0, the only rank, but is {root}"),
            })
        })
    }

    fn reduce_scatter(&self, buffer: CommBuffer, _op: ReduceOp) -> Event<CommBuffer> {
        Event::completed(Ok(buffer))
    }

    fn all_gather(&self, buffer: CommBuffer) -> Event<CommBuffer> {
        Event::completed(Ok(buffer))
    }

    fn all_gather_bytes(&self, message: Vec<u8>) -> Event<Vec<Vec<u8>>> {
        Event::completed(Ok(vec![message]))
    }

    fn all_to_all_bytes(&self, messages: Vec<Message>) -> Event<Vec<Message>> {
        Event::completed(if messages.len() == 1 {
            Ok(messages)
        } else {
            Err(CommError::Argument {
                collective: "all_to_all_bytes",
                problem: format!("expected 1 message, one a rank, got {}", messages.len()),
            })
        })
    }

    fn barrier(&self) -> Event<()> {
        Event::completed(Ok(()))
    }

    fn split(&self, _color: usize, _key: usize) -> Result<Arc<dyn Communicator>, CommError> {
        Ok(Arc::new(Self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_is_the_input() {
        let comm = SingleRank.split(3, 0).unwrap();
        let mut buffer = comm.allocate(3).unwrap();
        buffer.copy_from_slice(&[1.0, 2.0, 3.0]);
        let buffer = comm.all_reduce(buffer, ReduceOp::Sum).wait().unwrap();
        let buffer = comm.reduce_scatter(buffer, ReduceOp::Max).wait().unwrap();
        let buffer = comm.all_gather(buffer).wait().unwrap();
        let buffer = comm.broadcast(buffer, 0).wait().unwrap();
        assert_eq!(*buffer, [1.0, 2.0, 3.0]);
        assert_eq!(comm.all_gather_bytes(vec![1]).wait().unwrap(), [[1]]);
        let messages = comm.all_to_all_bytes(vec![vec![2].into()]).wait().unwrap();
        assert_eq!(*messages[0], [2]);
        comm.barrier().wait().unwrap();
    }

    #[test]
    fn refuses_other_ranks() {
        let buffer = SingleRank.allocate(1).unwrap();
        let error = SingleRank.broadcast(buffer, 1).wait().unwrap_err();
        assert!(error.to_string().contains("the only rank, but is 1"));
        assert!(SingleRank.all_to_all_bytes(vec![]).wait().is_err());
    }
}

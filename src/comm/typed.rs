//! Blocking conveniences for values that are not f32 buffers.

use bytemuck::Pod;

use super::{CommError, Communicator};

/// Replaces `values` by their sums over all ranks, taken in rank order; meant for metrics, not
/// for gradients. Every rank passes the same number of values.
pub fn all_reduce_f64(comm: &dyn Communicator, values: &mut [f64]) -> Result<(), CommError> {
    if comm.size() == 1 {
        return Ok(());
    }
    let gathered = all_gather_pod(comm, values)?;
    if let Some(rank) = gathered
        .iter()
        .position(|theirs| theirs.len() != values.len())
    {
        return Err(CommError::Argument {
            collective: "all_reduce_f64",
            problem: format!(
                "this rank passed {} values, but number {rank} of its group passed {}",
                values.len(),
                gathered[rank].len()
            ),
        });
    }
    for (rank, theirs) in gathered.iter().enumerate() {
        if rank == 0 {
            values.copy_from_slice(theirs);
        } else {
            values
                .iter_mut()
                .zip(theirs)
                .for_each(|(sum, value)| *sum += value);
        }
    }
    Ok(())
}

/// Gives every rank the values of all ranks, in rank order; the counts may differ.
pub fn all_gather_pod<T: Pod>(
    comm: &dyn Communicator,
    values: &[T],
) -> Result<Vec<Vec<T>>, CommError> {
    let messages = comm.gather_now(bytemuck::cast_slice(values).to_vec())?;
    let values_from = |(rank, message): (usize, &Vec<u8>)| {
        values_of(message).ok_or_else(|| CommError::Argument {
            collective: "all_gather_pod",
            problem: format!(
                "expected values of {} bytes, but number {rank} of the group sent {} bytes",
                size_of::<T>(),
                message.len()
            ),
        })
    };
    messages.iter().enumerate().map(values_from).collect()
}

/// Gives every rank the message of `root`; what the others pass is ignored.
pub fn broadcast_bytes(
    comm: &dyn Communicator,
    message: Vec<u8>,
    root: usize,
) -> Result<Vec<u8>, CommError> {
    let message = if comm.rank() == root {
        message
    } else {
        Vec::new()
    };
    let mut messages = comm.gather_now(message)?;
    if root >= messages.len() {
        return Err(CommError::Argument {
            collective: "broadcast_bytes",
            problem: format!("the root must be below {}, but is {root}", messages.len()),
        });
    }
    Ok(messages.swap_remove(root))
}

/// The values that `bytes` hold, if that is a whole number. The bytes may lie anywhere.
pub(super) fn values_of<T: Pod>(bytes: &[u8]) -> Option<Vec<T>> {
    let size = size_of::<T>().max(1);
    let mut values = vec![T::zeroed(); bytes.len() / size];
    let is_whole = bytes.len().is_multiple_of(size);
    is_whole.then(|| {
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
        values
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Settings, SharedMemory, SingleRank};

    #[test]
    fn a_single_rank_keeps_its_values() {
        let mut values = [1.5, -2.0];
        all_reduce_f64(&SingleRank, &mut values).unwrap();
        assert_eq!(values, [1.5, -2.0]);
        assert_eq!(broadcast_bytes(&SingleRank, vec![1, 2], 0).unwrap(), [1, 2]);
        assert!(broadcast_bytes(&SingleRank, vec![], 1).is_err());
    }

    #[test]
    fn sums_are_taken_in_rank_order() {
        let ranks = SharedMemory::connect_threads(3, &Settings::default()).unwrap();
        // 1e16 + 1 rounds to 1e16, so any other order gives another result.
        let own = [1e16, 1.0, -1e16];
        let sums: Vec<f64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (ranks.iter().zip(own))
                .map(|(comm, value)| {
                    scope.spawn(move || {
                        let mut values = [value];
                        all_reduce_f64(comm, &mut values).unwrap();
                        values[0]
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(sums, [(1e16 + 1.0) - 1e16; 3]);
    }

    #[test]
    fn counts_may_differ_by_rank() {
        let ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        std::thread::scope(|scope| {
            for comm in &ranks {
                scope.spawn(move || {
                    let own: Vec<u32> = (0..comm.rank() as u32 * 3).collect();
                    let all = all_gather_pod(comm, &own).unwrap();
                    assert_eq!(all, [vec![], vec![0, 1, 2]]);
                    assert_eq!(
                        broadcast_bytes(comm, vec![comm.rank() as u8], 1).unwrap(),
                        [1]
                    );
                });
            }
        });
    }

    #[test]
    fn different_counts_cannot_be_summed() {
        let ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        std::thread::scope(|scope| {
            for comm in &ranks {
                scope.spawn(move || {
                    let mut values = vec![0.0; 1 + comm.rank()];
                    assert!(all_reduce_f64(comm, &mut values).is_err());
                });
            }
        });
    }
}

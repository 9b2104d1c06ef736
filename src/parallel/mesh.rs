use std::{fmt, sync::Arc};

use crate::comm::{CommError, Communicator, SingleRank};

/// The ranks of a job as a grid of two axes, world = dp x tp, with tp innermost:
///
/// ```text
///          tp 0     tp 1
/// dp 0    rank 0   rank 1    one batch, each rank a part of the layers that are shared
/// dp 1    rank 2   rank 3    another batch
/// ```
///
/// Ranks of a row read the same batch; ranks of a column hold the same weights.
#[derive(Clone)]
pub struct Mesh {
    /// All ranks.
    pub world: Arc<dyn Communicator>,
    /// The ranks of this one's column: they add up gradients.
    pub dp: Arc<dyn Communicator>,
    /// The ranks of this one's row: they share layers.
    pub tp: Arc<dyn Communicator>,
}

/// Why ranks cannot form a mesh.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The axes do not multiply to the world.
    #[error(
        "`parallel.tp` = {tp} does not divide the {world} ranks of the job; start a multiple of \
         {tp} ranks, or set `parallel.tp` to a divisor of {world}"
    )]
    Product {
        /// The ranks of the job.
        world: usize,
        /// The ranks of a tensor-parallel group.
        tp: usize,
    },
    /// The groups could not be made.
    #[error(transparent)]
    Comm(#[from] CommError),
}

impl Mesh {
    /// Arranges the ranks of `world` in groups of `tp`. Collective.
    ///
    /// # Errors
    /// When `tp` does not divide the world, on all ranks alike.
    pub fn new(world: Arc<dyn Communicator>, tp: usize) -> Result<Self, MeshError> {
        let (rank, size) = (world.rank(), world.size());
        if tp == 0 || !size.is_multiple_of(tp) {
            return Err(MeshError::Product { world: size, tp });
        }
        let alone: Arc<dyn Communicator> = Arc::new(SingleRank);
        let (dp, tp) = match (size / tp, tp) {
            (_, 1) => (Arc::clone(&world), alone),
            (1, _) => (alone, Arc::clone(&world)),
            _ => (world.split(rank % tp, rank)?, world.split(rank / tp, rank)?),
        };
        Ok(Self { world, dp, tp })
    }

    /// The mesh of a rank that is alone.
    pub fn single() -> Self {
        let alone: Arc<dyn Communicator> = Arc::new(SingleRank);
        Self {
            world: Arc::clone(&alone),
            dp: Arc::clone(&alone),
            tp: alone,
        }
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |comm: &Arc<dyn Communicator>| format!("{} of {}", comm.rank(), comm.size());
        formatter
            .debug_struct("Mesh")
            .field("world", &place(&self.world))
            .field("dp", &place(&self.dp))
            .field("tp", &place(&self.tp))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Settings, SharedMemory};

    #[test]
    fn tp_is_innermost() {
        let ranks = SharedMemory::connect_threads(6, &Settings::default()).unwrap();
        std::thread::scope(|scope| {
            for (rank, comm) in ranks.into_iter().enumerate() {
                scope.spawn(move || {
                    let mesh = Mesh::new(Arc::new(comm), 2).unwrap();
                    assert_eq!((mesh.dp.rank(), mesh.dp.size()), (rank / 2, 3));
                    assert_eq!((mesh.tp.rank(), mesh.tp.size()), (rank % 2, 2));
                    let row = mesh.tp.all_gather_bytes(vec![rank as u8]).wait().unwrap();
                    let first = rank as u8 / 2 * 2;
                    assert_eq!(row, [[first], [first + 1]]);
                });
            }
        });
    }

    #[test]
    fn a_world_that_does_not_divide_is_refused_with_the_numbers() {
        for tp in [0, 2] {
            let error = Mesh::new(Arc::new(SingleRank), tp).unwrap_err().to_string();
            assert!(error.contains(&format!("`parallel.tp` = {tp}")), "{error}");
            assert!(error.contains("1 ranks"), "{error}");
        }
    }
}

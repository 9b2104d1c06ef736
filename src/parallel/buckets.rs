use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::trace_span;

use crate::{
    comm::{CommBuffer, Communicator, Event, ReduceOp},
    config::Reduction,
    model::{GradientSink, Gradients, ModelError, ParamId, ParameterLayout},
};

/// Adds dense gradients over all ranks while the backward pass goes on.
///
/// ```text
/// ready(top.1.bias) ready(top.1.weight) ... bucket 0 complete ─► all_reduce in flight
///    ready(...)                         ... bucket 1 complete ─► all_reduce in flight
/// finish()                              ... waits, puts every bucket back
/// ```
///
/// Buckets start in their order, whatever completes first, because all ranks must make the same
/// calls in the same order.
pub struct GradientBuckets {
    comm: Arc<dyn Communicator>,
    op: ReduceOp,
    /// The parameters of each bucket.
    sizes: Vec<usize>,
    /// Those of them that are not ready yet.
    missing: Vec<usize>,
    /// In the order of the buckets, from the first on.
    in_flight: Vec<Event<CommBuffer>>,
}

impl GradientBuckets {
    /// For the parameters of a store whose gradients `comm` allocated.
    pub fn new(
        comm: Arc<dyn Communicator>,
        layout: &ParameterLayout,
        reduction: Reduction,
    ) -> Self {
        let mut sizes = vec![0; layout.buckets().len()];
        layout
            .parameters()
            .iter()
            .for_each(|placed| sizes[placed.bucket] += 1);
        let in_flight = Vec::with_capacity(sizes.len());
        let op = match reduction {
            Reduction::Fast => ReduceOp::Sum,
            Reduction::Invariant => ReduceOp::TreeSum,
        };
        Self {
            comm,
            op,
            missing: sizes.clone(),
            sizes,
            in_flight,
        }
    }

    /// The number of buckets whose reduction has begun in this pass.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Starts the reduction of gradients that are all final already.
    ///
    /// # Errors
    /// When a bucket is in flight.
    pub fn start(&mut self, gradients: &mut Gradients) -> Result<(), ModelError> {
        let mut ids = gradients.layout().ids().rev();
        ids.try_for_each(|parameter| self.ready(gradients, parameter))
    }

    /// Waits for all buckets, and puts them back. Returns how long it waited: the part of the
    /// communication that computation did not hide.
    ///
    /// # Errors
    /// When a bucket is incomplete or ranks cannot communicate. The gradients are lost then.
    pub fn finish(&mut self, gradients: &mut Gradients) -> Result<Duration, ModelError> {
        if let Some(bucket) = self.missing.iter().position(|&missing| missing > 0) {
            let placed = gradients
                .layout()
                .parameters()
                .iter()
                .find(|p| p.bucket == bucket);
            return Err(ModelError::Parameter {
                parameter: placed.map_or_else(String::new, |p| p.parameter.name.clone()),
                problem: format!(
                    "gradients of its bucket, number {bucket}, were not announced; run a whole \
                     backward pass before"
                ),
            });
        }
        self.missing.copy_from_slice(&self.sizes);
        let _span = trace_span!("wait for dense gradients").entered();
        let start = Instant::now();
        for (bucket, event) in self.in_flight.drain(..).enumerate() {
            gradients.put_bucket(bucket, event.wait()?);
        }
        Ok(start.elapsed())
    }
}

impl GradientSink for GradientBuckets {
    fn ready(&mut self, gradients: &mut Gradients, parameter: ParamId) -> Result<(), ModelError> {
        let placed = gradients.layout().get(parameter);
        let missing = &mut self.missing[placed.bucket];
        *missing = missing
            .checked_sub(1)
            .ok_or_else(|| ModelError::Parameter {
                parameter: placed.parameter.name.clone(),
                problem: "its gradient was announced twice; finish the buckets after each pass"
                    .into(),
            })?;
        if self.comm.size() == 1 {
            return Ok(());
        }
        while self.missing.get(self.in_flight.len()) == Some(&0) {
            let buffer = gradients.take_bucket(self.in_flight.len())?;
            self.in_flight.push(self.comm.all_reduce(buffer, self.op));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use streamrec_artifact::{Init, Parameter};
    use streamrec_kernels::Context;

    use super::*;
    use crate::{
        comm::{Settings, SharedMemory},
        model::{BucketSettings, ParameterBuilder, ParameterStore},
    };

    /// Three parameters, a bucket each.
    fn store(comm: &dyn Communicator) -> ParameterStore {
        let mut builder = ParameterBuilder::new(1);
        for name in ["a", "b", "c"] {
            let (name, shape, init) = (name.into(), vec![20], Init::Zeros);
            builder.dense(Parameter {
                name,
                shape,
                fan_in: 1,
                fan_out: 1,
                init,
            });
        }
        let buckets = BucketSettings {
            first_bucket_bytes: 1,
            bucket_bytes: 1,
        };
        builder
            .build(&Context::cpu(1, false).unwrap(), comm, buckets)
            .unwrap()
    }

    fn two_ranks(claim: impl Fn(Arc<dyn Communicator>) + Sync) {
        let ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        std::thread::scope(|scope| {
            for comm in ranks {
                scope.spawn(|| claim(Arc::new(comm)));
            }
        });
    }

    #[test]
    fn buckets_are_summed_over_ranks_and_come_back() {
        two_ranks(|comm| {
            let mut store = store(comm.as_ref());
            let ids = ["a", "b", "c"].map(|name| store.find(name).unwrap());
            let mut buckets =
                GradientBuckets::new(Arc::clone(&comm), store.layout(), Reduction::Fast);
            for _ in 0..2 {
                for (id, value) in ids.into_iter().zip([1.0, 2.0, 3.0]).rev() {
                    let gradients = store.gradients_mut();
                    let own = value + comm.rank() as f32;
                    gradients.get_mut(id).unwrap().row_mut(0).fill(own);
                    buckets.ready(gradients, id).unwrap();
                }
                buckets.finish(store.gradients_mut()).unwrap();
                let sums = ids.map(|id| store.gradients().get(id).unwrap()[19]);
                assert_eq!(sums, [3.0, 5.0, 7.0]);
            }
        });
    }

    #[test]
    fn a_bucket_flies_while_later_gradients_are_still_computed() {
        two_ranks(|comm| {
            let mut store = store(comm.as_ref());
            let [a, b, c] = ["a", "b", "c"].map(|name| store.find(name).unwrap());
            let mut buckets = GradientBuckets::new(comm, store.layout(), Reduction::Fast);
            let gradients = store.gradients_mut();
            // Out of order: nothing starts before the first bucket, then both do.
            buckets.ready(gradients, b).unwrap();
            assert_eq!(buckets.in_flight(), 0);
            buckets.ready(gradients, c).unwrap();
            assert_eq!(buckets.in_flight(), 2);
            assert!(gradients.get(c).is_err() && gradients.get_mut(a).is_ok());
            assert!(buckets.finish(gradients).is_err(), "`a` is missing");
            buckets.ready(gradients, a).unwrap();
            assert!(buckets.ready(gradients, a).is_err(), "`a` came twice");
            buckets.finish(gradients).unwrap();
        });
    }
}

use std::sync::Arc;

use streamrec_kernels::cuda::{
    Address, Begun, Collective, Executor,
    collective::{Element, Reduce},
};

use crate::model::{ModelError, ParamId, ParameterLayout, device::DeviceGradientSink};

/// Adds dense gradients over the devices of all ranks while the backward pass goes on, bucket by bucket, as
/// [`GradientBuckets`](super::GradientBuckets) does on the host.
#[derive(Debug)]
pub struct DeviceBuckets {
    layout: Arc<ParameterLayout>,
    /// The arena, `[layout.len()]` of `f32`.
    gradients: Address,
    /// The parameters of each bucket.
    sizes: Vec<usize>,
}

/// The buckets of one backward pass.
#[derive(Debug)]
pub struct DeviceBucketsPass<'a> {
    buckets: &'a DeviceBuckets,
    /// The parameters of each bucket that are not ready yet.
    missing: Vec<usize>,
    /// In the order of the buckets, from the first on.
    in_flight: Vec<Begun>,
}

impl DeviceBuckets {
    /// For gradients that lie as `layout` says.
    pub fn new(layout: &Arc<ParameterLayout>, gradients: Address) -> Self {
        let mut sizes = vec![0; layout.buckets().len()];
        for placed in layout.parameters() {
            sizes[placed.bucket] += 1;
        }
        Self {
            layout: Arc::clone(layout),
            gradients,
            sizes,
        }
    }

    /// Begins a backward pass.
    pub fn pass(&self) -> DeviceBucketsPass<'_> {
        DeviceBucketsPass {
            buckets: self,
            missing: self.sizes.clone(),
            in_flight: Vec::new(),
        }
    }
}

impl DeviceBucketsPass<'_> {
    /// Lets the device wait for all buckets.
    ///
    /// # Errors
    /// When one is incomplete, or the device fails.
    pub fn finish<E: Executor>(self, executor: &mut E) -> Result<(), ModelError> {
        let layout = &self.buckets.layout;
        if let Some(bucket) = self.missing.iter().position(|&missing| missing > 0) {
            let placed = layout.parameters().iter().find(|p| p.bucket == bucket);
            return Err(ModelError::Parameter {
                parameter: placed.map_or_else(String::new, |p| p.parameter.name.clone()),
                problem: format!(
                    "gradients of its bucket, number {bucket}, were not announced; run a whole backward pass before"
                ),
            });
        }
        for begun in self.in_flight {
            executor.finish(begun)?;
        }
        Ok(())
    }
}

impl<E: Executor> DeviceGradientSink<E> for DeviceBucketsPass<'_> {
    fn ready(&mut self, executor: &mut E, parameter: ParamId) -> Result<(), ModelError> {
        let DeviceBuckets {
            layout, gradients, ..
        } = self.buckets;
        let placed = layout.get(parameter);
        let missing = &mut self.missing[placed.bucket];
        *missing = missing
            .checked_sub(1)
            .ok_or_else(|| ModelError::Parameter {
                parameter: placed.parameter.name.clone(),
                problem: "its gradient was announced twice in one pass".into(),
            })?;
        let [_, ranks] = executor.rank();
        if ranks == 1 {
            return Ok(());
        }
        while self.missing.get(self.in_flight.len()) == Some(&0) {
            let range = &layout.buckets()[self.in_flight.len()];
            let at = gradients.0 + (range.start * size_of::<f32>()) as u64;
            let sum = Collective::AllReduce {
                at: Address(at),
                len: range.len(),
                element: Element::F32,
                reduce: Reduce::Sum,
            };
            let begun = executor.begin("the sum of dense gradients", &[sum])?;
            self.in_flight.push(begun);
        }
        Ok(())
    }
}

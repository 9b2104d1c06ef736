use std::{ops::Range, sync::Arc};

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, Executor, Group, Matrix, add,
    collective::{Element, Reduce},
};

use crate::model::{ModelError, ParamId, ParameterLayout, device::DeviceGradientSink};

/// Adds dense gradients over the devices of data-parallel ranks while the backward pass goes on, bucket by bucket, as
/// [`GradientBuckets`](super::GradientBuckets) does on the host.
#[derive(Debug)]
pub struct DeviceBuckets {
    layout: Arc<ParameterLayout>,
    /// The arena, `[layout.len()]` of `f32`.
    gradients: Address,
    /// The parameters of each bucket.
    sizes: Vec<usize>,
    /// Sums of the gradients of earlier micro-batches, laid out alike, where there are several.
    earlier: Option<Address>,
}

/// The gradients of a micro-batch that is not the last: they are added up where they are.
#[derive(Debug)]
pub struct KeepDeviceGradients;

impl<E> DeviceGradientSink<E> for KeepDeviceGradients {
    fn ready(&mut self, _executor: &mut E, _parameter: ParamId) -> Result<(), ModelError> {
        Ok(())
    }
}

/// The buckets of one backward pass.
#[derive(Debug)]
pub struct DeviceBucketsPass<'a> {
    buckets: &'a DeviceBuckets,
    /// The parameters of each bucket that are not ready yet.
    missing: Vec<usize>,
    /// Buckets that are complete, from the first on.
    complete: usize,
    /// Those of them that are reduced.
    in_flight: Vec<Begun>,
}

impl DeviceBuckets {
    /// For gradients that lie as `layout` says; `earlier` is memory for as many, with several micro-batches.
    pub fn new(
        layout: &Arc<ParameterLayout>,
        gradients: Address,
        earlier: Option<Address>,
    ) -> Self {
        let mut sizes = vec![0; layout.buckets().len()];
        for placed in layout.parameters() {
            sizes[placed.bucket] += 1;
        }
        Self {
            layout: Arc::clone(layout),
            gradients,
            sizes,
            earlier,
        }
    }

    /// Takes up the gradients of micro-batch `index`, which is not the last.
    ///
    /// # Errors
    /// When the device fails.
    pub fn keep<E: Executor>(&self, executor: &mut E, index: usize) -> Result<(), ModelError> {
        match self.earlier {
            Some(earlier) => {
                let all = 0..self.layout.len();
                add_to(executor, all, [self.gradients, earlier], index > 0)
            }
            None => Ok(()),
        }
    }

    /// Begins the backward pass of the only micro-batch, or the last.
    pub fn pass(&self) -> DeviceBucketsPass<'_> {
        DeviceBucketsPass {
            buckets: self,
            missing: self.sizes.clone(),
            complete: 0,
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
            layout,
            gradients,
            earlier,
            ..
        } = self.buckets;
        let placed = layout.get(parameter);
        let missing = &mut self.missing[placed.bucket];
        *missing = missing
            .checked_sub(1)
            .ok_or_else(|| ModelError::Parameter {
                parameter: placed.parameter.name.clone(),
                problem: "its gradient was announced twice in one pass".into(),
            })?;
        while self.missing.get(self.complete) == Some(&0) {
            let range = layout.buckets()[self.complete].clone();
            self.complete += 1;
            if let Some(earlier) = earlier {
                add_to(executor, range.clone(), [*earlier, *gradients], true)?;
            }
            let [_, ranks] = executor.rank(Group::DataParallel);
            if ranks == 1 {
                continue;
            }
            let sum = Collective::AllReduce {
                at: at(*gradients, range.start),
                len: range.len(),
                element: Element::F32,
                reduce: Reduce::Sum,
            };
            let what = "the sum of dense gradients";
            let begun = executor.begin(Group::DataParallel, what, &[sum])?;
            self.in_flight.push(begun);
        }
        Ok(())
    }
}

/// Copies, or adds, a range of one arena to the same of another. Ranges begin and end at multiples of 64 bytes.
fn add_to<E: Executor>(
    executor: &mut E,
    range: Range<usize>,
    [from, to]: [Address; 2],
    accumulate: bool,
) -> Result<(), ModelError> {
    const COLUMNS: usize = 16;
    if range.is_empty() {
        return Ok(());
    }
    let rows = range.len() / COLUMNS;
    let matrix = |arena| Matrix::new(at(arena, range.start), DType::F32, [rows, COLUMNS]);
    let launch = add::copy(&matrix(from), &matrix(to), accumulate)
        .map_err(ModelError::kernel("adding up gradients of micro-batches"))?;
    Ok(executor.launch(&launch)?)
}

fn at(arena: Address, start: usize) -> Address {
    Address(arena.0 + (start * size_of::<f32>()) as u64)
}

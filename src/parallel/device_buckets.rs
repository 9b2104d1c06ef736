use std::{ops::Range, sync::Arc};

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, DeviceError, Executor, Group, Matrix, add,
    collective::{Element, Reduce},
};

use super::MicroShards;
use crate::config::Reduction;
use crate::model::{ModelError, ParamId, ParameterLayout, device::DeviceGradientSink};

/// Adds dense gradients over the devices of data-parallel ranks while the backward pass goes on, bucket by bucket, as
/// [`GradientBuckets`](super::GradientBuckets) does on the host.
///
/// ```text
/// fast       all_reduce, in the library's order
/// invariant  all_to_all: each rank has a chunk of every rank's bucket ▸ added by halves ▸ all_gather
/// ```
#[derive(Debug)]
pub struct DeviceBuckets {
    layout: Arc<ParameterLayout>,
    /// The arena, `[layout.len()]` of `f32`.
    gradients: Address,
    /// The parameters of each bucket.
    sizes: Vec<usize>,
    reduction: Reduction,
    /// Sums of the gradients of earlier micro-batches, laid out alike: that of all, or in the tree of
    /// [`GradientTree`](super::GradientTree) those of 1, 2, 4 that wait for as many more.
    earlier: Vec<Address>,
    /// The chunks of all ranks, laid out alike, where ranks add up in the tree.
    chunks: Address,
}

const WHAT: &str = "the sum of dense gradients";

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
    in_flight: Vec<(Range<usize>, Begun)>,
}

impl DeviceBuckets {
    /// For gradients that lie as `layout` says, of the pieces of a batch.
    ///
    /// # Errors
    /// When the device has not so much memory.
    pub fn new<E: Executor>(
        executor: &mut E,
        layout: &Arc<ParameterLayout>,
        gradients: Address,
        pieces: &MicroShards,
    ) -> Result<Self, DeviceError> {
        let invariant = pieces.reduction() == Reduction::Invariant;
        let sums = match pieces.count() {
            1 => 0,
            count if invariant => count.ilog2(),
            _ => 1,
        };
        let bytes = layout.len() * size_of::<f32>();
        let mut earlier = Vec::new();
        for _ in 0..sums {
            earlier.push(executor.allocate(bytes)?);
        }
        let [_, ranks] = executor.rank(Group::DataParallel);
        let chunks = match invariant && ranks > 1 {
            true => executor.allocate(bytes)?,
            false => Address::NULL,
        };
        let mut sizes = vec![0; layout.buckets().len()];
        for placed in layout.parameters() {
            sizes[placed.bucket] += 1;
        }
        Ok(Self {
            layout: Arc::clone(layout),
            gradients,
            sizes,
            reduction: pieces.reduction(),
            earlier,
            chunks,
        })
    }

    /// Takes up the gradients of micro-batch `index`, which is not the last.
    ///
    /// # Errors
    /// When the device fails.
    pub fn keep<E: Executor>(&self, executor: &mut E, index: usize) -> Result<(), ModelError> {
        let (gradients, all) = (self.gradients, 0..self.layout.len());
        if self.reduction == Reduction::Fast {
            let earlier = self.earlier[0];
            return add_to(executor, all, [gradients, earlier], index > 0);
        }
        let complete = index.trailing_ones() as usize;
        for &earlier in &self.earlier[..complete] {
            add_to(executor, all.clone(), [earlier, gradients], true)?;
        }
        add_to(executor, all, [gradients, self.earlier[complete]], false)
    }

    /// Begins to add a range over all ranks.
    fn reduce<E: Executor>(
        &self,
        executor: &mut E,
        range: &Range<usize>,
        ranks: usize,
    ) -> Result<Begun, ModelError> {
        let from = at(self.gradients, range.start);
        let collective = match self.reduction {
            Reduction::Fast => Collective::AllReduce {
                at: from,
                len: range.len(),
                element: Element::F32,
                reduce: Reduce::Sum,
            },
            Reduction::Invariant => Collective::AllToAll {
                from,
                to: at(self.chunks, range.start),
                sends: vec![range.len() / ranks; ranks],
                receives: vec![range.len() / ranks; ranks],
                element: Element::F32,
            },
        };
        Ok(executor.begin(Group::DataParallel, WHAT, &[collective])?)
    }

    /// Adds up the chunks of all ranks that came, and gives every rank the sums.
    fn gather<E: Executor>(
        &self,
        executor: &mut E,
        ranges: &[Range<usize>],
        ranks: usize,
    ) -> Result<(), ModelError> {
        let mut gathers = Vec::with_capacity(ranges.len());
        for range in ranges {
            // Buckets are multiples of 16 elements.
            let (chunks, len) = (at(self.chunks, range.start), range.len() / ranks);
            let sums = add::sum_halves(&Matrix::new(chunks, DType::F32, [ranks, len]), chunks);
            executor.launch(&sums.map_err(ModelError::kernel(WHAT))?)?;
            gathers.push(Collective::AllGather {
                from: chunks,
                to: at(self.gradients, range.start),
                len,
                element: Element::F32,
            });
        }
        if gathers.is_empty() {
            return Ok(());
        }
        let begun = executor.begin(Group::DataParallel, WHAT, &gathers)?;
        Ok(executor.finish(begun)?)
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
        let mut ranges = Vec::with_capacity(self.in_flight.len());
        for (range, begun) in self.in_flight {
            executor.finish(begun)?;
            ranges.push(range);
        }
        match self.buckets.reduction {
            Reduction::Fast => Ok(()),
            Reduction::Invariant => {
                let [_, ranks] = executor.rank(Group::DataParallel);
                self.buckets.gather(executor, &ranges, ranks)
            }
        }
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
            // The last micro-batch completes every sum that waits.
            for &earlier in earlier {
                add_to(executor, range.clone(), [earlier, *gradients], true)?;
            }
            let [_, ranks] = executor.rank(Group::DataParallel);
            if ranks > 1 {
                let begun = self.buckets.reduce(executor, &range, ranks)?;
                self.in_flight.push((range, begun));
            }
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

//! Where dense parameters lie in their arenas.

use std::ops::Range;

use streamrec_artifact::Parameter;

use super::Extent;

/// Each parameter begins at a multiple of 64 bytes.
const ALIGNMENT: usize = 64 / size_of::<f32>();

/// A dense parameter of a [`ParameterStore`](super::ParameterStore): its place in forward order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub(super) usize);

impl ParamId {
    /// The place in forward order.
    pub fn index(self) -> usize {
        self.0
    }
}

/// How large gradient buckets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSettings {
    /// Of the first bucket: small, so that reduction begins early.
    pub first_bucket_bytes: usize,
    /// Of every other bucket.
    pub bucket_bytes: usize,
}

impl Default for BucketSettings {
    /// As PyTorch's DistributedDataParallel.
    fn default() -> Self {
        Self {
            first_bucket_bytes: 1 << 20,
            bucket_bytes: 25 << 20,
        }
    }
}

/// A dense parameter's place.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Its name, whole shape and first values.
    pub parameter: Parameter,
    /// The part of it that is here.
    pub extent: Extent,
    /// Its bucket.
    pub bucket: usize,
    /// Its elements in the arena of weights, and in those of optimiser state.
    pub arena: Range<usize>,
    /// Its elements in the bucket.
    pub in_bucket: Range<usize>,
}

/// The places of all dense parameters.
///
/// ```text
/// forward order   bottom.0.weight  bottom.0.bias  ...  top.1.weight  top.1.bias
/// arena           [ bucket 0: top.1.bias | top.1.weight | ... ][ bucket 1: ... | bottom.0.weight ]
/// ```
///
/// Arenas follow the order in which gradients become final, the reverse of forward, so that a
/// bucket is a contiguous range which is complete at one moment. The order never changes.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterLayout {
    parameters: Vec<Placed>,
    buckets: Vec<Range<usize>>,
}

impl ParameterLayout {
    /// Places parameters, given in forward order. A bucket is closed once it has reached its size.
    pub(super) fn new(parameters: Vec<(Parameter, Extent)>, settings: BucketSettings) -> Self {
        let mut placed = Vec::with_capacity(parameters.len());
        let mut buckets = Vec::new();
        let (mut start, mut end) = (0, 0);
        for (parameter, extent) in parameters.into_iter().rev() {
            let arena = end..end + extent.len();
            let in_bucket = arena.start - start..arena.end - start;
            placed.push(Placed {
                parameter,
                extent,
                bucket: buckets.len(),
                arena: arena.clone(),
                in_bucket,
            });
            end = arena.end.next_multiple_of(ALIGNMENT);
            let limit = match buckets.len() {
                0 => settings.first_bucket_bytes,
                _ => settings.bucket_bytes,
            };
            if (end - start) * size_of::<f32>() >= limit {
                buckets.push(start..end);
                start = end;
            }
        }
        if end > start {
            buckets.push(start..end);
        }
        placed.reverse();
        Self {
            parameters: placed,
            buckets,
        }
    }

    /// The length of an arena.
    pub fn len(&self) -> usize {
        self.buckets.last().map_or(0, |bucket| bucket.end)
    }

    /// Whether there are no dense parameters.
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    /// The range of each bucket in an arena.
    pub fn buckets(&self) -> &[Range<usize>] {
        &self.buckets
    }

    /// All parameters, in forward order.
    pub fn parameters(&self) -> &[Placed] {
        &self.parameters
    }

    /// The ids of all parameters, in forward order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ParamId> + use<> {
        (0..self.parameters.len()).map(ParamId)
    }

    /// A parameter's place.
    pub fn get(&self, id: ParamId) -> &Placed {
        &self.parameters[id.0]
    }

    /// The parameter of this name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.parameters
            .iter()
            .position(|placed| placed.parameter.name == name)
            .map(ParamId)
    }

    /// All parameters with their elements in an arena, in the arena's order.
    ///
    /// # Panics
    /// When the arena is shorter than [`len`](Self::len).
    pub fn slices<'a>(
        &'a self,
        arena: &'a [f32],
    ) -> impl Iterator<Item = (&'a Placed, &'a [f32])> + 'a {
        self.parameters
            .iter()
            .rev()
            .map(|placed| (placed, &arena[placed.arena.clone()]))
    }

    /// As [`slices`](Self::slices), to write to.
    ///
    /// # Panics
    /// When the arena is shorter than [`len`](Self::len).
    pub fn slices_mut<'a>(
        &'a self,
        arena: &'a mut [f32],
    ) -> impl Iterator<Item = (&'a Placed, &'a mut [f32])> + 'a {
        let (mut rest, mut start) = (arena, 0);
        self.parameters.iter().rev().map(move |placed| {
            let (_, from) = std::mem::take(&mut rest).split_at_mut(placed.arena.start - start);
            let (own, after) = from.split_at_mut(placed.arena.len());
            (rest, start) = (after, placed.arena.end);
            (placed, own)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrec_artifact::Init;

    fn layout(lens: &[usize], first: usize, others: usize) -> ParameterLayout {
        let parameters = lens.iter().enumerate().map(|(index, &len)| Parameter {
            name: format!("p{index}"),
            shape: vec![len],
            fan_in: len,
            fan_out: 1,
            init: Init::Zeros,
        });
        let parameters = parameters.map(|parameter| {
            let extent = Extent::whole(&parameter.shape);
            (parameter, extent)
        });
        let settings = BucketSettings {
            first_bucket_bytes: first,
            bucket_bytes: others,
        };
        ParameterLayout::new(parameters.collect(), settings)
    }

    #[test]
    fn buckets_follow_the_reverse_of_forward() {
        let layout = layout(&[5, 40, 3, 7], 64, 256);
        let buckets: Vec<usize> = layout.parameters().iter().map(|p| p.bucket).collect();
        assert_eq!(buckets, [2, 1, 1, 0]);
        assert_eq!(layout.buckets(), [0..16, 16..80, 80..96]);
        assert_eq!(layout.len(), 96);
        let p1 = layout.get(layout.find("p1").unwrap());
        assert_eq!((p1.arena.clone(), p1.in_bucket.clone()), (32..72, 16..56));
    }

    #[test]
    fn slices_are_aligned_disjoint_and_in_the_order_of_the_arena() {
        let layout = layout(&[5, 40, 3, 7], 64, 256);
        let mut arena = vec![0.0; layout.len()];
        for (placed, slice) in layout.slices_mut(&mut arena) {
            assert_eq!(placed.arena.start % ALIGNMENT, 0);
            assert_eq!(slice.len(), placed.parameter.len());
            slice.iter_mut().for_each(|x| *x += 1.0);
        }
        assert_eq!(arena.iter().sum::<f32>(), 55.0);
        let names: Vec<_> = layout
            .slices(&arena)
            .map(|(p, _)| p.parameter.name.as_str())
            .collect();
        assert_eq!(names, ["p3", "p2", "p1", "p0"]);
    }

    #[test]
    fn no_parameters_need_no_bucket() {
        let layout = layout(&[], 64, 64);
        assert!(layout.is_empty() && layout.buckets().is_empty());
        assert_eq!(layout.len(), 0);
    }
}

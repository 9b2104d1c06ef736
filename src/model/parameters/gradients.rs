//! Gradients of the dense parameters, one communication buffer a bucket.

use std::sync::Arc;

use streamrec_kernels::TensorMut;

use super::{ParamId, ParameterLayout, layout::Placed};
use crate::{
    comm::{CommBuffer, Communicator},
    model::ModelError,
};

/// The gradients of all dense parameters, laid out as [`ParameterLayout`] says.
///
/// A bucket that is being reduced is not here: whoever reduces it has taken it.
#[derive(Debug)]
pub struct Gradients {
    layout: Arc<ParameterLayout>,
    buckets: Vec<Option<CommBuffer>>,
}

impl Gradients {
    /// Zeroed gradients in memory of the communicator. Waits for all ranks.
    pub(super) fn new(
        layout: Arc<ParameterLayout>,
        comm: &dyn Communicator,
    ) -> Result<Self, ModelError> {
        let allocate = |range: &std::ops::Range<usize>| comm.allocate(range.len()).map(Some);
        let buckets = layout
            .buckets()
            .iter()
            .map(allocate)
            .collect::<Result<_, _>>()?;
        Ok(Self { layout, buckets })
    }

    /// Where gradients lie.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The gradient of what is here of a parameter, row-major.
    ///
    /// # Errors
    /// When its bucket is in flight.
    pub fn get(&self, id: ParamId) -> Result<&[f32], ModelError> {
        let placed = self.layout.get(id);
        let bucket = self.buckets[placed.bucket].as_ref();
        let bucket = bucket.ok_or_else(|| in_flight(placed))?;
        Ok(&bucket[placed.in_bucket.clone()])
    }

    /// The gradient of what is here of a parameter, to write to as a matrix.
    ///
    /// # Errors
    /// When its bucket is in flight.
    pub fn get_mut(&mut self, id: ParamId) -> Result<TensorMut<'_>, ModelError> {
        let placed = self.layout.get(id);
        let bucket = self.buckets[placed.bucket]
            .as_mut()
            .ok_or_else(|| in_flight(placed))?;
        Ok(view(placed, &mut bucket[placed.in_bucket.clone()]))
    }

    /// Two parameters' gradients to write to.
    ///
    /// # Errors
    /// When a bucket is in flight.
    ///
    /// # Panics
    /// When both are the same parameter.
    pub fn get_two_mut(
        &mut self,
        first: ParamId,
        second: ParamId,
    ) -> Result<[TensorMut<'_>; 2], ModelError> {
        let [one, two] = [self.layout.get(first), self.layout.get(second)];
        assert_ne!(
            first, second,
            "one gradient cannot be written to twice at a time"
        );
        if one.bucket == two.bucket {
            let bucket = self.buckets[one.bucket]
                .as_mut()
                .ok_or_else(|| in_flight(one))?;
            let (one_range, two_range) = (one.in_bucket.clone(), two.in_bucket.clone());
            // Different parameters have disjoint ranges inside their bucket.
            let slices = bucket.get_disjoint_mut([one_range, two_range]);
            let [a, b] = slices.expect("the layout keeps parameters apart");
            return Ok([view(one, a), view(two, b)]);
        }
        let buckets = self.buckets.get_disjoint_mut([one.bucket, two.bucket]);
        let [a, b] = buckets.expect("the layout numbers buckets below their count");
        let a = a.as_mut().ok_or_else(|| in_flight(one))?;
        let b = b.as_mut().ok_or_else(|| in_flight(two))?;
        Ok([
            view(one, &mut a[one.in_bucket.clone()]),
            view(two, &mut b[two.in_bucket.clone()]),
        ])
    }

    /// The gradients of a weight and of the bias that may follow it, to write to.
    ///
    /// # Errors
    /// When a bucket is in flight.
    pub fn weight_and_bias_mut(
        &mut self,
        parameters: &[ParamId],
    ) -> Result<(TensorMut<'_>, Option<TensorMut<'_>>), ModelError> {
        match *parameters {
            [weight, bias] => {
                let [weight, bias] = self.get_two_mut(weight, bias)?;
                Ok((weight, Some(bias)))
            }
            _ => Ok((self.get_mut(parameters[0])?, None)),
        }
    }

    /// A whole bucket, padding (zeros) included.
    ///
    /// # Errors
    /// When it is in flight.
    pub fn bucket(&self, bucket: usize) -> Result<&[f32], ModelError> {
        match &self.buckets[bucket] {
            Some(buffer) => Ok(buffer),
            None => Err(self.bucket_in_flight(bucket)),
        }
    }

    /// A whole bucket to write to, padding included, which must stay zero.
    ///
    /// # Errors
    /// When it is in flight.
    pub fn bucket_mut(&mut self, bucket: usize) -> Result<&mut [f32], ModelError> {
        if self.buckets[bucket].is_none() {
            return Err(self.bucket_in_flight(bucket));
        }
        Ok(self.buckets[bucket].as_deref_mut().unwrap_or_default())
    }

    /// Takes a bucket out, to reduce it.
    ///
    /// # Errors
    /// When it is in flight already.
    pub fn take_bucket(&mut self, bucket: usize) -> Result<CommBuffer, ModelError> {
        self.buckets[bucket]
            .take()
            .ok_or_else(|| self.bucket_in_flight(bucket))
    }

    /// Puts a bucket back that [`take_bucket`](Self::take_bucket) gave out.
    pub fn put_bucket(&mut self, bucket: usize, buffer: CommBuffer) {
        debug_assert_eq!(buffer.len(), self.layout.buckets()[bucket].len());
        self.buckets[bucket] = Some(buffer);
    }

    fn bucket_in_flight(&self, bucket: usize) -> ModelError {
        let parameter = self
            .layout
            .parameters()
            .iter()
            .find(|placed| placed.bucket == bucket);
        parameter.map_or_else(
            || ModelError::GradientInFlight {
                parameter: format!("bucket {bucket}"),
            },
            in_flight,
        )
    }
}

fn view<'a>(placed: &Placed, elements: &'a mut [f32]) -> TensorMut<'a> {
    TensorMut::from_f32(elements, &placed.extent.local_matrix())
}

fn in_flight(placed: &Placed) -> ModelError {
    ModelError::GradientInFlight {
        parameter: placed.parameter.name.clone(),
    }
}

use streamrec_kernels::{TensorMut, TensorRef};

use super::Extent;

/// The part of a named tensor that this rank holds.
#[derive(Debug)]
pub struct NamedSlice<'a> {
    /// The tensor's name, the same on every rank.
    pub name: String,
    /// Which part it is.
    pub extent: Extent,
    /// The elements, as many rows and columns as the extent has, contiguous: float32, or the type in which tables are
    /// stored.
    pub values: TensorRef<'a>,
}

impl<'a> NamedSlice<'a> {
    /// Of float32, row-major.
    ///
    /// # Panics
    /// When they are not as many as the extent has.
    pub fn new(name: String, extent: Extent, values: &'a [f32]) -> Self {
        let values = TensorRef::from_f32(values, &[extent.rows.len(), extent.columns.len()]);
        Self {
            name,
            extent,
            values,
        }
    }
}

/// The part of a named tensor that this rank holds, to write to.
#[derive(Debug)]
pub struct NamedSliceMut<'a> {
    /// The tensor's name, the same on every rank.
    pub name: String,
    /// Which part it is.
    pub extent: Extent,
    /// As of a [`NamedSlice`].
    pub values: TensorMut<'a>,
}

impl<'a> NamedSliceMut<'a> {
    /// Of float32, row-major.
    ///
    /// # Panics
    /// When they are not as many as the extent has.
    pub fn new(name: String, extent: Extent, values: &'a mut [f32]) -> Self {
        let values = TensorMut::from_f32(values, &[extent.rows.len(), extent.columns.len()]);
        Self {
            name,
            extent,
            values,
        }
    }
}

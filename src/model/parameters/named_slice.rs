use super::Extent;

/// The part of a named tensor that this rank holds.
#[derive(Debug)]
pub struct NamedSlice<'a> {
    /// The tensor's name, the same on every rank.
    pub name: String,
    /// Which part it is.
    pub extent: Extent,
    /// The elements, row-major.
    pub values: &'a [f32],
}

/// The part of a named tensor that this rank holds, to write to.
#[derive(Debug)]
pub struct NamedSliceMut<'a> {
    /// The tensor's name, the same on every rank.
    pub name: String,
    /// Which part it is.
    pub extent: Extent,
    /// The elements, row-major.
    pub values: &'a mut [f32],
}

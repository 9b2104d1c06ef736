use std::{fmt, marker::PhantomData, ops::Range, slice};

use super::{DType, Element};
use crate::simd::{narrow, widen};

/// Where a view's elements lie: `rows` rows of `columns` adjacent elements, `row_stride` elements
/// from one row's start to the next.
///
/// Invariant: `start` is aligned for `dtype`, and every row lies inside one live allocation that
/// the view borrows.
#[derive(Clone, Copy)]
struct Layout {
    start: *mut u8,
    dtype: DType,
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl Layout {
    fn new(start: *mut u8, dtype: DType, len: usize, shape: &[usize]) -> Self {
        let (rows, columns) = match shape {
            [] => (1, Some(1)),
            [columns] => (1, Some(*columns)),
            [rows, rest @ ..] => (
                *rows,
                rest.iter()
                    .try_fold(1usize, |product, &size| product.checked_mul(size)),
            ),
        };
        // A product that wrapped around would describe rows outside the elements.
        let filled = columns.and_then(|columns| columns.checked_mul(rows));
        assert_eq!(
            filled,
            Some(len),
            "{len} elements do not fill the shape {shape:?}"
        );
        let columns = columns.unwrap_or(0);
        Self {
            start,
            dtype,
            rows,
            columns,
            row_stride: columns,
        }
    }

    fn row_start(&self, row: usize) -> *mut u8 {
        self.start
            .wrapping_add(row * self.row_stride * self.dtype.bytes())
    }

    fn columns(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.columns,
            "columns {range:?} of a view with {} columns",
            self.columns
        );
        let start = self.start.wrapping_add(range.start * self.dtype.bytes());
        Self {
            start,
            columns: range.len(),
            ..self
        }
    }

    fn rows(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.rows,
            "rows {range:?} of a view with {} rows",
            self.rows
        );
        Self {
            start: self.row_start(range.start),
            rows: range.len(),
            ..self
        }
    }

    fn is_contiguous(&self) -> bool {
        self.rows <= 1 || self.row_stride == self.columns
    }

    /// Checks what a typed row access needs.
    fn check_row(&self, dtype: DType, row: usize) {
        assert!(
            self.dtype == dtype,
            "the view holds {}, read as {dtype}",
            self.dtype
        );
        assert!(
            row < self.rows,
            "row {row} of a view with {} rows",
            self.rows
        );
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}[{}, {}; stride {}]",
            self.dtype, self.rows, self.columns, self.row_stride
        )
    }
}

/// A matrix to read: rows of adjacent elements, the rows possibly further apart than they are
/// long, so that a range of columns of a buffer is a view too.
///
/// A shape of several dimensions is read as `[first, product of the others]`; a shape of one
/// dimension is a single row.
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    layout: Layout,
    borrow: PhantomData<&'a [u8]>,
}

// SAFETY: a view is a shared borrow of plain numbers.
unsafe impl Send for TensorRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for TensorRef<'_> {}

impl<'a> TensorRef<'a> {
    /// A view of contiguous elements.
    ///
    /// # Panics
    /// When the shape does not hold exactly the elements.
    pub fn from_elements<E: Element>(elements: &'a [E], shape: &[usize]) -> Self {
        let start = elements.as_ptr().cast_mut().cast();
        Self::of(Layout::new(start, E::DTYPE, elements.len(), shape))
    }

    /// A view of contiguous elements.
    ///
    /// # Panics
    /// When the shape does not hold exactly the elements.
    pub fn from_f32(elements: &'a [f32], shape: &[usize]) -> Self {
        Self::from_elements(elements, shape)
    }

    /// A view of contiguous integers.
    ///
    /// # Panics
    /// When the shape does not hold exactly the elements.
    pub fn from_i64(elements: &'a [i64], shape: &[usize]) -> Self {
        Self::from_elements(elements, shape)
    }

    fn of(layout: Layout) -> Self {
        Self {
            layout,
            borrow: PhantomData,
        }
    }

    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.layout.rows, self.layout.columns]
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.layout.dtype
    }

    /// Elements from one row's start to the next row's.
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// The same rows, cut to a range of columns.
    ///
    /// # Panics
    /// When the range exceeds the columns.
    pub fn columns(self, range: Range<usize>) -> Self {
        Self::of(self.layout.columns(range))
    }

    /// A range of the rows.
    ///
    /// # Panics
    /// When the range exceeds the rows.
    pub fn rows(self, range: Range<usize>) -> Self {
        Self::of(self.layout.rows(range))
    }

    /// One row of `f32`.
    ///
    /// # Panics
    /// When there is no such row, or the view does not hold `f32`.
    pub fn row(&self, row: usize) -> &'a [f32] {
        self.row_of(row)
    }

    /// One row of a type.
    ///
    /// # Panics
    /// When there is no such row, or the view holds another type.
    pub fn row_of<E: Element>(&self, row: usize) -> &'a [E] {
        self.layout.check_row(E::DTYPE, row);
        // SAFETY: by the layout's invariant the row is inside memory borrowed for 'a.
        unsafe { slice::from_raw_parts(self.layout.row_start(row).cast(), self.layout.columns) }
    }

    /// All elements, when they are contiguous `f32`.
    pub fn f32(&self) -> Option<&'a [f32]> {
        if self.layout.dtype != DType::F32 || !self.layout.is_contiguous() {
            return None;
        }
        let len = self.layout.rows * self.layout.columns;
        // SAFETY: contiguous rows fill `len` elements of memory borrowed for 'a.
        Some(unsafe { slice::from_raw_parts(self.layout.start.cast(), len) })
    }

    /// One row of any floats as float32: the row itself, or in half precision widened into `scratch`.
    ///
    /// # Panics
    /// When there is no such row, or the view holds integers.
    pub fn wide_row<'b>(&self, row: usize, scratch: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        if !self.layout.dtype.is_half() {
            return self.row(row);
        }
        let columns = self.layout.columns;
        scratch.resize(columns, 0.0);
        widen(
            self.rows(row..row + 1),
            TensorMut::from_f32(scratch, &[1, columns]),
        );
        scratch
    }

    /// All elements as float32, row by row.
    ///
    /// # Panics
    /// When the view holds integers.
    pub fn to_f32(&self) -> Vec<f32> {
        if let Some(elements) = self.f32() {
            return elements.to_vec();
        }
        let mut elements = vec![0.0; self.layout.rows * self.layout.columns];
        widen(*self, TensorMut::from_f32(&mut elements, &self.shape()));
        elements
    }

    /// The bytes of all elements, when they are contiguous.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        if !self.layout.is_contiguous() {
            return None;
        }
        let len = self.layout.rows * self.layout.columns * self.layout.dtype.bytes();
        // SAFETY: contiguous rows fill `len` bytes of memory borrowed for 'a; elements have no padding.
        Some(unsafe { slice::from_raw_parts(self.layout.start, len) })
    }

    /// The first element; rows follow at [`row_stride`](Self::row_stride).
    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.layout.start.cast()
    }
}

impl fmt::Debug for TensorRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.layout.fmt(f)
    }
}

/// A matrix to write to, laid out like a [`TensorRef`].
pub struct TensorMut<'a> {
    layout: Layout,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: a mutable view is an exclusive borrow of plain numbers.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: a shared borrow of the view only reads.
unsafe impl Sync for TensorMut<'_> {}

impl<'a> TensorMut<'a> {
    /// A view of contiguous elements.
    ///
    /// # Panics
    /// When the shape does not hold exactly the elements.
    pub fn from_elements<E: Element>(elements: &'a mut [E], shape: &[usize]) -> Self {
        let (start, len) = (elements.as_mut_ptr().cast(), elements.len());
        Self::of(Layout::new(start, E::DTYPE, len, shape))
    }

    /// A view of contiguous elements.
    ///
    /// # Panics
    /// When the shape does not hold exactly the elements.
    pub fn from_f32(elements: &'a mut [f32], shape: &[usize]) -> Self {
        Self::from_elements(elements, shape)
    }

    /// A view of contiguous integers.
    ///
    /// # Panics
    /// When the shape does not hold exactly the elements.
    pub fn from_i64(elements: &'a mut [i64], shape: &[usize]) -> Self {
        Self::from_elements(elements, shape)
    }

    fn of(layout: Layout) -> Self {
        Self {
            layout,
            borrow: PhantomData,
        }
    }

    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.layout.rows, self.layout.columns]
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.layout.dtype
    }

    /// Elements from one row's start to the next row's.
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// The same view for a shorter time, so that `self` can be used again after a call.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut::of(self.layout)
    }

    /// The same view, to read.
    pub fn as_ref(&self) -> TensorRef<'_> {
        TensorRef::of(self.layout)
    }

    /// The same rows, cut to a range of columns.
    ///
    /// # Panics
    /// When the range exceeds the columns.
    pub fn columns(self, range: Range<usize>) -> Self {
        Self::of(self.layout.columns(range))
    }

    /// A range of the rows.
    ///
    /// # Panics
    /// When the range exceeds the rows.
    pub fn rows(self, range: Range<usize>) -> Self {
        Self::of(self.layout.rows(range))
    }

    /// The columns before `column`, and the others.
    ///
    /// # Panics
    /// When there are fewer columns.
    pub fn split_columns(self, column: usize) -> (Self, Self) {
        let columns = self.layout.columns;
        // The halves interleave in memory but share no element.
        (
            Self::of(self.layout.columns(0..column)),
            Self::of(self.layout.columns(column..columns)),
        )
    }

    /// One row of `f32`, to read.
    ///
    /// # Panics
    /// When there is no such row, or the view does not hold `f32`.
    pub fn row(&self, row: usize) -> &[f32] {
        self.as_ref().row(row)
    }

    /// One row of `f32`, to write to.
    ///
    /// # Panics
    /// When there is no such row, or the view does not hold `f32`.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        self.row_mut_of(row)
    }

    /// One row of a type, to write to.
    ///
    /// # Panics
    /// When there is no such row, or the view holds another type.
    pub fn row_mut_of<E: Element>(&mut self, row: usize) -> &mut [E] {
        self.layout.check_row(E::DTYPE, row);
        let start = self.layout.row_start(row).cast();
        // SAFETY: by the layout's invariant the row is inside memory this view borrows
        // exclusively, and `self` is borrowed for as long as the row.
        unsafe { slice::from_raw_parts_mut(start, self.layout.columns) }
    }

    /// Sets every element to zero.
    pub fn fill_zero(&mut self) {
        let bytes = self.layout.columns * self.layout.dtype.bytes();
        for row in 0..self.layout.rows {
            let start = self.layout.row_start(row);
            // SAFETY: by the layout's invariant the row is inside memory this view borrows
            // exclusively; zero bytes are the number zero in every type.
            unsafe { start.write_bytes(0, bytes) };
        }
    }

    /// All elements, when they are contiguous `f32`.
    pub fn f32_mut(&mut self) -> Option<&mut [f32]> {
        if self.layout.dtype != DType::F32 || !self.layout.is_contiguous() {
            return None;
        }
        let len = self.layout.rows * self.layout.columns;
        // SAFETY: contiguous rows fill `len` elements of memory this view borrows exclusively.
        Some(unsafe { slice::from_raw_parts_mut(self.layout.start.cast(), len) })
    }

    /// Takes the elements from float32, row by row, rounded to nearest where they are stored in half precision.
    ///
    /// # Panics
    /// When there are not as many, or the view holds integers.
    pub fn set_f32(&mut self, elements: &[f32]) {
        match self.f32_mut() {
            Some(own) => own.copy_from_slice(elements),
            None => {
                let shape = self.shape();
                narrow(TensorRef::from_f32(elements, &shape), self.reborrow());
            }
        }
    }

    /// The bytes of all elements, when they are contiguous. Every pattern of bits is an element.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if !self.layout.is_contiguous() {
            return None;
        }
        let len = self.layout.rows * self.layout.columns * self.layout.dtype.bytes();
        // SAFETY: contiguous rows fill `len` bytes of memory this view borrows exclusively.
        Some(unsafe { slice::from_raw_parts_mut(self.layout.start, len) })
    }

    /// The first element; rows follow at [`row_stride`](Self::row_stride).
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.layout.start.cast()
    }

    /// A second view of a range of the rows, for a thread that writes only there.
    ///
    /// # Safety
    /// While the result lives, nothing else reads or writes the elements it covers.
    pub(crate) unsafe fn alias_rows(&self, range: Range<usize>) -> TensorMut<'a> {
        Self::of(self.layout.rows(range))
    }
}

impl fmt::Debug for TensorMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.layout.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_range_is_a_strided_view() {
        let elements: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let view = TensorRef::from_f32(&elements, &[3, 4]).columns(1..3);
        assert_eq!(view.shape(), [3, 2]);
        assert_eq!(view.row(2), [9.0, 10.0]);
        assert_eq!(view.f32(), None);
        assert_eq!(view.rows(1..2).f32().unwrap(), [5.0, 6.0]);
    }

    #[test]
    fn split_columns_write_side_by_side() {
        let mut elements = [0.0; 6];
        let (mut left, mut right) = TensorMut::from_f32(&mut elements, &[2, 3]).split_columns(1);
        left.row_mut(1)[0] = 1.0;
        right.row_mut(0)[1] = 2.0;
        assert_eq!(elements, [0.0, 0.0, 2.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn rows_of_any_floats_are_read_and_written_as_float32() {
        let mut halves = [half::bf16::ZERO; 6];
        let mut view = TensorMut::from_elements(&mut halves, &[3, 2]);
        view.set_f32(&[1.0, 2.0, 3.0, 4.0, 1.001, 1.006]);
        assert_eq!(view.bytes_mut().map(|bytes| bytes.len()), Some(12));
        let (view, mut scratch) = (view.as_ref(), Vec::new());
        assert_eq!(view.wide_row(1, &mut scratch), [3.0, 4.0]);
        assert_eq!(view.to_f32(), [1.0, 2.0, 3.0, 4.0, 1.0, 1.0078125]);
        assert_eq!(view.columns(0..1).bytes(), None);
        assert_eq!(view.columns(0..1).to_f32(), [1.0, 3.0, 1.0]);
    }

    #[test]
    fn an_empty_view_has_no_rows() {
        let view = TensorRef::from_f32(&[], &[0, 7]);
        assert_eq!(view.shape(), [0, 7]);
        assert_eq!(view.f32().unwrap().len(), 0);
    }

    #[test]
    #[should_panic(expected = "do not fill the shape")]
    fn a_wrong_shape_panics() {
        TensorRef::from_f32(&[0.0; 5], &[2, 3]);
    }

    #[test]
    #[should_panic(expected = "do not fill the shape")]
    fn a_shape_that_wraps_around_panics() {
        TensorRef::from_f32(&[], &[1 << 33, 1 << 31]);
    }

    #[test]
    #[should_panic(expected = "row 2 of a view with 2 rows")]
    fn a_row_outside_panics() {
        TensorRef::from_f32(&[0.0; 6], &[2, 3]).row(2);
    }
}

//! Products of views, with sums in float32: in tiles where the factors are bf16 and the CPU multiplies
//! it, our own on AVX2 and AVX-512, where what follows a product is done in registers, and those of the crate
//! `gemm` elsewhere and for few rows.

use std::marker::PhantomData;
#[cfg(target_arch = "x86_64")]
use std::ops::Range;

use gemm::Parallelism;

use super::wide::{Wide, WideMut};
#[cfg(target_arch = "x86_64")]
use crate::simd::{LANES, product};
use crate::{
    device::{Context, DisjointMut, Scratch},
    simd::multiversion,
    tensor::{DType, Tensor, TensorMut, TensorRef},
    tile::{self, RightTiles, SIDE, Unit},
};

pub(super) use crate::simd::Epilogue;

/// Batches of at least this size pay for packing the right factor first.
const PACK_ROWS: usize = 128;

/// Floats that one thread packs before it asks for more: fewer cost less than to share them.
const PACK_FLOATS: usize = 1 << 14;

/// A right factor made ready for many products: packed where that pays.
pub(super) struct Right<'a> {
    context: &'a Context,
    /// The type of the factors.
    dtype: DType,
    shape: [usize; 2],
    factor: RightFactor<'a>,
}

enum RightFactor<'a> {
    /// For a unit that multiplies bf16.
    Tiles(Unit, Scratch<'a>),
    /// For a vector unit.
    #[cfg(target_arch = "x86_64")]
    Panels(product::Unit, Scratch<'a>),
    /// The same, of an [`OwnedRight`].
    #[cfg(target_arch = "x86_64")]
    BorrowedPanels(product::Unit, &'a [f32]),
    /// As it lies, or transposed where it lies.
    InPlace(Wide<'a>, bool),
}

impl<'a> Right<'a> {
    /// The factor `view`, for products with `rows` rows in all. Its type is that of the products.
    pub(super) fn new(context: &'a Context, view: TensorRef<'a>, rows: usize) -> Self {
        Self::build(context, view, rows, false)
    }

    /// The factor that is the transpose of `view`.
    pub(super) fn transposed(context: &'a Context, view: TensorRef<'a>, rows: usize) -> Self {
        Self::build(context, view, rows, true)
    }

    fn build(context: &'a Context, view: TensorRef<'a>, rows: usize, transposed: bool) -> Self {
        let dtype = view.dtype();
        let [depth, columns] = match (view.shape(), transposed) {
            ([columns, depth], true) => [depth, columns],
            (shape, false) => shape,
        };
        let factor = match dtype {
            _ if rows < PACK_ROWS => RightFactor::InPlace(Wide::new(context, view), transposed),
            DType::Bf16 => match tile::unit() {
                Some(unit) => RightFactor::Tiles(unit, tiles(context, view, transposed)),
                None => float_factor(context, view, transposed),
            },
            _ => float_factor(context, view, transposed),
        };
        Self {
            context,
            dtype,
            shape: [depth, columns],
            factor,
        }
    }

    /// `out = epilogue(left . self)`; `left` and `out` may hold any floats.
    ///
    /// # Panics
    /// When the shapes do not chain.
    pub(super) fn multiply(
        &self,
        left: TensorRef<'_>,
        mut out: TensorMut<'_>,
        epilogue: Epilogue<'_>,
    ) {
        let gate = epilogue
            .gate
            .filter(|values| self.in_tiles() || self.reads_beside(*values));
        let cross = epilogue
            .cross
            .filter(|cross| cross.iter().all(|numbers| self.reads_beside(*numbers)));
        let now = Epilogue {
            gate,
            cross,
            ..epilogue
        };
        self.multiply_in_one(left, out.reborrow(), now);
        let context = self.context;
        if let (Some(values), None) = (epilogue.gate, gate) {
            let mut out = WideMut::keeping(context, out.reborrow(), true);
            close(out.view(), Wide::new(context, values).view());
            out.store();
        }
        if let (Some([x0, x]), None) = (epilogue.cross, cross) {
            let [x0, x] = [x0, x].map(|numbers| Wide::new(context, numbers));
            let mut out = WideMut::keeping(context, out, true);
            combine(out.view(), x0.view(), x.view());
            out.store();
        }
    }

    /// Whether products read such numbers, beside those of the result, while their sums are in registers.
    fn reads_beside(&self, numbers: TensorRef<'_>) -> bool {
        self.in_panels() && numbers.dtype() == DType::F32
    }

    fn in_tiles(&self) -> bool {
        matches!(self.factor, RightFactor::Tiles(..))
    }

    /// Whether it is packed for our own products in float32, where a few rows cost no more each than many.
    pub(super) fn in_panels(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(
            self.factor,
            RightFactor::Panels(..) | RightFactor::BorrowedPanels(..)
        );
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// [`multiply`](Self::multiply), of an epilogue that the product finishes itself.
    fn multiply_in_one(&self, left: TensorRef<'_>, out: TensorMut<'_>, epilogue: Epilogue<'_>) {
        let (context, [depth, columns]) = (self.context, self.shape);
        assert_eq!([left.shape()[1], out.shape()[1]], [depth, columns]);
        if let RightFactor::Tiles(unit, floats) = &self.factor {
            let right = RightTiles::packed(floats, depth, columns);
            return tile::multiply(context, *unit, left, right, out, epilogue);
        }
        let left = Wide::rounded(context, left, self.dtype);
        let mut out = WideMut::keeping(context, out, epilogue.accumulate);
        match &self.factor {
            #[cfg(target_arch = "x86_64")]
            RightFactor::Panels(unit, floats) => {
                unit.multiply(left.view(), floats, out.view(), epilogue);
            }
            #[cfg(target_arch = "x86_64")]
            RightFactor::BorrowedPanels(unit, floats) => {
                unit.multiply(left.view(), floats, out.view(), epilogue);
            }
            RightFactor::InPlace(right, transposed) => {
                let right = match transposed {
                    true => Factor::transposed(right.view()),
                    false => Factor::new(right.view()),
                };
                let left = Factor::new(left.view());
                multiply(out.view(), epilogue.accumulate, left, right);
                add_bias_and_activate(out.view(), epilogue.bias, epilogue.relu);
            }
            RightFactor::Tiles(..) => unreachable!("tiles have returned"),
        }
        out.store();
    }
}

/// A right factor in float32 that owns its numbers, and is made ready once for products of any number of rows.
pub(super) struct OwnedRight {
    shape: [usize; 2],
    #[cfg(target_arch = "x86_64")]
    unit: Option<product::Unit>,
    /// Panels of the unit, else the matrix whose transpose this is.
    floats: Tensor,
}

impl OwnedRight {
    /// The transpose of `view: [columns, depth]`.
    pub(super) fn transposed(context: &Context, view: TensorRef<'_>) -> Self {
        let [columns, depth] = view.shape();
        #[cfg(target_arch = "x86_64")]
        let unit = product::Unit::detect().filter(|_| depth > 0);
        #[cfg(target_arch = "x86_64")]
        if let (Some(found), Some(elements)) = (unit, view.f32()) {
            let len = product::packed_len(depth, columns);
            let mut floats = Tensor::zeros(context, DType::F32, &[1, len]);
            found.pack_transposed(0..found.panels(columns), floats.f32_mut(), elements, depth);
            let shape = [depth, columns];
            return Self {
                shape,
                unit,
                floats,
            };
        }
        let mut floats = Tensor::zeros(context, DType::F32, &[columns, depth]);
        for row in 0..columns {
            floats
                .view_mut()
                .row_mut(row)
                .copy_from_slice(view.row(row));
        }
        Self {
            shape: [depth, columns],
            #[cfg(target_arch = "x86_64")]
            unit: None,
            floats,
        }
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Itself, for products.
    pub(super) fn right<'a>(&'a self, context: &'a Context) -> Right<'a> {
        let in_place = || RightFactor::InPlace(Wide::new(context, self.floats.view()), true);
        #[cfg(target_arch = "x86_64")]
        let factor = match self.unit {
            Some(unit) => RightFactor::BorrowedPanels(unit, self.floats.f32()),
            None => in_place(),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let factor = in_place();
        Right {
            context,
            dtype: DType::F32,
            shape: self.shape,
            factor,
        }
    }
}

/// `view`, or its transpose, in tiles, which threads share by blocks of columns.
fn tiles<'a>(context: &'a Context, view: TensorRef<'_>, transposed: bool) -> Scratch<'a> {
    let [depth, columns] = match (view.shape(), transposed) {
        ([columns, depth], true) => [depth, columns],
        (shape, false) => shape,
    };
    let mut floats = context.scratch(tile::right_len(depth, columns));
    let block_len = tile::right_len(depth, SIDE);
    let to = DisjointMut::new(&mut floats);
    let together = PACK_FLOATS.div_ceil(block_len.max(1)) * SIDE;
    context.for_each_panel(columns, together, |columns| {
        let blocks = columns.start / SIDE..columns.end.div_ceil(SIDE);
        // SAFETY: blocks lie one after another, and each belongs to one call.
        let to = unsafe { to.slice(blocks.start * block_len..blocks.end * block_len) };
        if transposed {
            let mut working = context.scratch(tile::transposed_len(depth));
            RightTiles::pack_transposed(to, view.rows(columns), &mut working);
        } else {
            RightTiles::pack(to, view.columns(columns));
        }
    });
    floats
}

/// A factor of products in float32.
fn float_factor<'a>(
    context: &'a Context,
    view: TensorRef<'a>,
    transposed: bool,
) -> RightFactor<'a> {
    let wide = Wide::new(context, view);
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = product::Unit::detect() {
        let ([a, b], view) = (view.shape(), wide.view());
        if !transposed {
            let floats = packed(context, unit, [a, b], |panels, to| {
                unit.pack(panels, to, view)
            });
            return RightFactor::Panels(unit, floats);
        }
        if let (Some(elements), true) = (view.f32(), b > 0) {
            let floats = packed(context, unit, [b, a], |panels, to| {
                unit.pack_transposed(panels, to, elements, b);
            });
            return RightFactor::Panels(unit, floats);
        }
    }
    RightFactor::InPlace(wide, transposed)
}

/// The panels of a right factor of `shape`, which `pack` writes, some in each call.
#[cfg(target_arch = "x86_64")]
fn packed<'a>(
    context: &'a Context,
    unit: product::Unit,
    shape: [usize; 2],
    pack: impl Fn(Range<usize>, &mut [f32]) + Sync + Send,
) -> Scratch<'a> {
    let [depth, columns] = shape;
    let mut floats = context.scratch(product::packed_len(depth, columns));
    let to = DisjointMut::new(&mut floats);
    let together = PACK_FLOATS.div_ceil((depth * LANES).max(1));
    context.for_each_panel(unit.panels(columns), together, |panels| {
        // SAFETY: panels lie one after another, and each belongs to one call.
        let to = unsafe { to.slice(unit.floats_of(panels.clone(), shape)) };
        pack(panels, to);
    });
    floats
}

multiversion! {
    /// `y = activation(y + bias)`.
    pub(super) fn add_bias_and_activate(y: TensorMut<'_>, bias: Option<&[f32]>, relu: bool) {
        let mut y = y;
        for row in 0..y.shape()[0] {
            let y = y.row_mut(row);
            match (bias, relu) {
                (Some(bias), true) => {
                    y.iter_mut().zip(bias).for_each(|(y, b)| *y = rectified(*y + b));
                }
                (Some(bias), false) => y.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
                (None, true) => y.iter_mut().for_each(|y| *y = rectified(*y)),
                (None, false) => {}
            }
        }
    }
}

multiversion! {
    /// Zeroes `x` where `values` are not positive.
    fn close(x: TensorMut<'_>, values: TensorRef<'_>) {
        let mut x = x;
        for row in 0..x.shape()[0] {
            let x = x.row_mut(row).iter_mut();
            x.zip(values.row(row)).for_each(|(x, &value)| *x = relu_gradient(value, *x));
        }
    }
}

multiversion! {
    /// `out = x0 * out + x`.
    fn combine(out: TensorMut<'_>, x0: TensorRef<'_>, x: TensorRef<'_>) {
        let mut out = out;
        for row in 0..out.shape()[0] {
            let beside = x0.row(row).iter().zip(x.row(row));
            for (out, (x0, x)) in out.row_mut(row).iter_mut().zip(beside) {
                *out = x0 * *out + x;
            }
        }
    }
}

/// The gradient of a rectifier at the value `y`; NaN lets the gradient pass.
#[inline(always)]
pub(super) fn relu_gradient(y: f32, dy: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { dy }
}

/// `max(0, x)`, but NaN stays NaN: a model that diverged must not look like one that did not.
#[inline(always)]
fn rectified(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `out (+)= left^T . right` in float32, with `left: [samples, rows]`, `right: [samples, columns]` of any
/// floats, which are rounded to `dtype`.
///
/// # Panics
/// When the shapes do not chain.
pub(super) fn multiply_transposed(
    context: &Context,
    dtype: DType,
    left: TensorRef<'_>,
    right: TensorRef<'_>,
    out: TensorMut<'_>,
    accumulate: bool,
) {
    if let (DType::Bf16, Some(unit)) = (dtype, tile::unit()) {
        return tile::multiply_transposed(context, unit, left, right, out, accumulate);
    }
    let [left, right] = [left, right].map(|view| Wide::rounded(context, view, dtype));
    let (left, right) = (left.view(), right.view());
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = product::Unit::detect() {
        let mut scratch = context.scratch(unit.transposed_scratch_len(left, right));
        return unit.multiply_transposed(left, right, out, accumulate, &mut scratch);
    }
    multiply(
        out,
        accumulate,
        Factor::transposed(left),
        Factor::new(right),
    );
}

/// Whether [`multiply_transposed`] of float32 takes each sum in the order of the samples, whichever rows
/// of the result a call computes.
pub(super) fn sums_in_order() -> bool {
    #[cfg(target_arch = "x86_64")]
    return product::Unit::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A matrix operand, perhaps read transposed.
#[derive(Clone, Copy)]
struct Factor<'a> {
    view: PhantomData<&'a [f32]>,
    start: *const f32,
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

// SAFETY: a factor is a shared borrow of plain numbers.
unsafe impl Send for Factor<'_> {}
// SAFETY: as above.
unsafe impl Sync for Factor<'_> {}

impl<'a> Factor<'a> {
    fn new(view: TensorRef<'a>) -> Self {
        let [rows, columns] = view.shape();
        assert_eq!(view.dtype(), DType::F32, "products take float32");
        let row_stride = view.row_stride() as isize;
        Self {
            view: PhantomData,
            start: view.as_ptr(),
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    fn transposed(view: TensorRef<'a>) -> Self {
        let factor = Self::new(view);
        Self {
            view: PhantomData,
            start: factor.start,
            rows: factor.columns,
            columns: factor.rows,
            row_stride: factor.column_stride,
            column_stride: factor.row_stride,
        }
    }
}

/// `destination = left . right`, added to `destination` with `accumulate`.
///
/// # Panics
/// When the shapes do not chain or an operand is not float32. Operations check their operands first.
fn multiply(mut destination: TensorMut<'_>, accumulate: bool, left: Factor<'_>, right: Factor<'_>) {
    let [rows, columns] = destination.shape();
    assert_eq!(
        (left.rows, left.columns, right.columns),
        (rows, right.rows, columns)
    );
    assert_eq!(destination.dtype(), DType::F32, "products give float32");
    let row_stride = destination.row_stride() as isize;
    // SAFETY: the factors' strides and sizes come from live views, the shapes chain as asserted,
    // and `destination` is borrowed exclusively, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            left.columns,
            destination.as_mut_ptr(),
            1,
            row_stride,
            accumulate,
            left.start,
            left.column_stride,
            left.row_stride,
            right.start,
            right.column_stride,
            right.row_stride,
            1.0,
            1.0,
            false,
            false,
            false,
            // One thread each: callers split the work and keep panels in cache.
            Parallelism::None,
        );
    }
}

//! Matrix products, with what is fused after them, described as cuBLASLt takes them.
//!
//! Matrices of this crate are row-major; cuBLASLt's are column-major, so each is read as its transpose:
//!
//! | product | computed as |
//! |---|---|
//! | `y = x . w^T` | `y^T = w . x^T`, bias and ReLU by row of `y^T` |
//! | `dx = dz . w` | `dx^T = w^T . dz^T`, the mask of the ReLU that made `x`, sums of rows for its bias |
//! | `dw = dz^T . x` | `dw^T = x^T . dz`, sums of columns of the right factor for the bias |

use super::launch::{Address, Matrix};
use crate::{
    error::{Error, Result},
    ops::operand::{expect_float, expect_len},
    tensor::DType,
};

/// The bits of one row of a [`Mask`] fill this many.
const MASK_BITS: usize = 128;

/// A column-major matrix that is a factor, or its transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    /// The first element.
    pub address: Address,
    /// The type of the elements.
    pub dtype: DType,
    /// Rows, as it lies.
    pub rows: usize,
    /// Columns, as it lies.
    pub columns: usize,
    /// Elements from one column's start to the next.
    pub stride: usize,
    /// Whether the factor is the transpose of what lies there.
    pub transposed: bool,
}

impl Factor {
    fn of(matrix: &Matrix, transposed: bool) -> Self {
        Self {
            address: matrix.address,
            dtype: matrix.dtype,
            rows: matrix.shape[1],
            columns: matrix.shape[0],
            stride: matrix.row_stride,
            transposed,
        }
    }
}

/// A vector of `len` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vector {
    /// The first element.
    pub address: Address,
    /// The type of the elements.
    pub dtype: DType,
    /// Elements.
    pub len: usize,
}

/// One bit an element: whether a ReLU let it pass. Rows of `stride` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// The first byte.
    pub address: Address,
    /// Bits from one sample's start to the next.
    pub stride: usize,
}

impl Mask {
    /// The mask of a layer's outputs at an address.
    pub fn new(address: Address, outputs: usize) -> Self {
        Self {
            address,
            stride: outputs.next_multiple_of(MASK_BITS),
        }
    }

    /// Bytes of the mask of `[batch, outputs]`.
    pub fn bytes([batch, outputs]: [usize; 2]) -> usize {
        batch * outputs.next_multiple_of(MASK_BITS) / 8
    }
}

/// What is done to a product while it is in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Epilogue {
    /// Nothing.
    #[default]
    None,
    /// A bias is added to each row of the column-major result.
    Bias(Vector),
    /// A bias is added, then negative elements become zero; the mask tells which passed.
    BiasRelu(Vector, Mask),
    /// Elements that a ReLU did not let pass become zero; the sums of the rows are a bias's gradient.
    ReluGradient(Mask, Option<Vector>),
    /// The sums of the right factor over the depth are a bias's gradient.
    RightSums(Vector),
}

/// `out = epilogue(left . right)`, or added to `out`; all column-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// `[rows of out, depth]`
    pub left: Factor,
    /// `[depth, columns of out]`
    pub right: Factor,
    /// The result; never transposed.
    pub out: Factor,
    /// Add to `out` instead of overwriting it, before the epilogue.
    pub accumulate: bool,
    /// What follows.
    pub epilogue: Epilogue,
}

/// `product [512, 13] x [13, 65536]`, with what is fused after it.
impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let depth = match self.left.transposed {
            true => self.left.rows,
            false => self.left.columns,
        };
        let (rows, columns) = (self.out.rows, self.out.columns);
        write!(f, "product [{rows}, {depth}] x [{depth}, {columns}]")?;
        f.write_str(match self.epilogue {
            Epilogue::None => "",
            Epilogue::Bias(_) => " + bias",
            Epilogue::BiasRelu(..) => " + bias, ReLU",
            Epilogue::ReluGradient(..) => ", gradient of ReLU",
            Epilogue::RightSums(_) => ", gradient of bias",
        })
    }
}

/// What a layer does after its product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Finish {
    /// `[outputs]`.
    pub bias: Option<Vector>,
    /// With a ReLU, where to keep which elements passed; it needs a bias.
    pub relu: Option<Mask>,
}

/// `y = activation(x . w^T + bias)`: `x: [batch, inputs]`, `w: [outputs, inputs]` of one type, `y: [batch,
/// outputs]` of that type or float32.
///
/// # Errors
/// When shapes or types do not fit.
pub fn forward(x: &Matrix, w: &Matrix, y: &Matrix, finish: Finish) -> Result<Product> {
    const OPERATION: &str = "cuda::product::forward";
    let ([batch, inputs], outputs) = (x.shape, w.shape[0]);
    expect_float(OPERATION, "w", w, [outputs, inputs])?;
    expect_float(OPERATION, "y", y, [batch, outputs])?;
    let epilogue = match (finish.bias, finish.relu) {
        (None, None) => Epilogue::None,
        (Some(bias), None) => Epilogue::Bias(bias),
        (Some(bias), Some(mask)) => Epilogue::BiasRelu(bias, mask),
        (None, Some(_)) => return Err(missing(OPERATION, "bias", outputs)),
    };
    if let Some(bias) = finish.bias {
        expect_len(OPERATION, "bias", bias.len, outputs)?;
    }
    product(OPERATION, (w, true), (x, false), y, false, epilogue)
}

/// `dx (+)= dz . w`: `dz: [batch, outputs]`, `w: [outputs, inputs]` of one type, `dx: [batch, inputs]` of that
/// type or float32. With the mask of the ReLU that made the input, `dx` is the gradient before that ReLU, and
/// its sums over the batch are the gradient of the bias before it.
///
/// # Errors
/// When shapes or types do not fit.
pub fn input_gradient(
    dz: &Matrix,
    w: &Matrix,
    dx: &Matrix,
    accumulate: bool,
    relu: Option<(Mask, Option<Vector>)>,
) -> Result<Product> {
    const OPERATION: &str = "cuda::product::input_gradient";
    let ([batch, outputs], inputs) = (dz.shape, w.shape[1]);
    expect_float(OPERATION, "w", w, [outputs, inputs])?;
    expect_float(OPERATION, "dx", dx, [batch, inputs])?;
    let epilogue = match relu {
        None => Epilogue::None,
        Some((mask, db)) => Epilogue::ReluGradient(mask, db),
    };
    if let Some((_, Some(db))) = relu {
        expect_len(OPERATION, "db", db.len, inputs)?;
    }
    product(OPERATION, (w, false), (dz, false), dx, accumulate, epilogue)
}

/// `dw (+)= dz^T . x`: `dz: [batch, outputs]`, `x: [batch, inputs]` of one type, `dw: [outputs, inputs]` of
/// that type or float32; `db: [outputs]` receives the sums of `dz` over the batch.
///
/// # Errors
/// When shapes or types do not fit.
pub fn weight_gradient(
    dz: &Matrix,
    x: &Matrix,
    dw: &Matrix,
    accumulate: bool,
    db: Option<Vector>,
) -> Result<Product> {
    const OPERATION: &str = "cuda::product::weight_gradient";
    let ([batch, outputs], inputs) = (dz.shape, x.shape[1]);
    expect_float(OPERATION, "x", x, [batch, inputs])?;
    expect_float(OPERATION, "dw", dw, [outputs, inputs])?;
    if let Some(db) = db {
        expect_len(OPERATION, "db", db.len, outputs)?;
    }
    let epilogue = db.map_or(Epilogue::None, Epilogue::RightSums);
    product(OPERATION, (x, false), (dz, true), dw, accumulate, epilogue)
}

fn product(
    operation: &'static str,
    left: (&Matrix, bool),
    right: (&Matrix, bool),
    out: &Matrix,
    accumulate: bool,
    epilogue: Epilogue,
) -> Result<Product> {
    let same = right.0.dtype == left.0.dtype;
    let out_fits = out.dtype == left.0.dtype || out.dtype == DType::F32;
    if !same || !out_fits {
        return Err(Error::DType {
            operation,
            operand: if same {
                "the result"
            } else {
                "the second factor"
            },
            expected: left.0.dtype,
            got: if same { out.dtype } else { right.0.dtype },
        });
    }
    Ok(Product {
        left: Factor::of(left.0, left.1),
        right: Factor::of(right.0, right.1),
        out: Factor::of(out, false),
        accumulate,
        epilogue,
    })
}

fn missing(operation: &'static str, operand: &'static str, len: usize) -> Error {
    Error::Shape {
        operation,
        operand,
        expected: vec![len],
        got: vec![0],
    }
}

impl Product {
    /// Rows and columns of the column-major result, and the depth.
    pub fn sizes(&self) -> [usize; 3] {
        let depth = match self.left.transposed {
            true => self.left.rows,
            false => self.left.columns,
        };
        [self.out.rows, self.out.columns, depth]
    }

    /// Whether the result has no elements.
    pub fn is_empty(&self) -> bool {
        self.out.rows == 0 || self.out.columns == 0
    }

    /// Whether each element of the result is a sum of no products.
    pub fn has_no_depth(&self) -> bool {
        !self.is_empty() && self.sizes()[2] == 0
    }
}

//! Tensors, devices and every operation of StreamRec.
//!
//! Every operation is a free function that takes a [`Context`] (a device with its threads and
//! scratch memory) and views of tensors ([`TensorRef`], [`TensorMut`]), checks the shapes, and
//! writes into buffers that the caller owns. Forward and backward are separate calls with
//! hand-derived gradients: there is no tape, and a steady training step allocates next to nothing.
//!
//! Operations read every operand as a matrix `[rows, columns]`; a stack of features
//! `[batch, features, dim]` is `[batch, features * dim]`. Rows may be strided, so a range of
//! columns of a wider buffer is an operand too.
//!
//! | module | forward and backward of |
//! |---|---|
//! | [`linear`] | fully connected layer, bias, ReLU |
//! | [`embedding_bag`] | pooled lookups in embedding tables |
//! | [`dot_interaction`] | pairwise dot products of features (DLRM) |
//! | [`cross`] | the elementwise part of a cross layer (DCN-v2) |
//! | [`factorization_machine`] | second-order term (DeepFM) |
//! | [`sum_features`], [`add`] | sums over features, copies, additions, broadcasts |
//! | [`bce`] | weighted binary cross-entropy of logits |
//! | [`dense_optimizer`], [`sparse_optimizer`] | parameter updates |
//! | [`norm`], [`cast`] | norms for clipping; rounding to half precision |
//!
//! Matrices may hold float32, bf16 or fp16 (`DType`). Operations compute in float32 whatever their
//! operands hold, and round a result once, to nearest, ties to even, when they store it; gradients
//! of parameters and optimiser state are float32.
//!
//! Hot loops are built for AVX-512, for AVX2 with FMA and for the baseline CPU, and chosen at run
//! time. The environment variable `STREAMREC_VECTOR_UNIT` (`avx512`, `avx2` or `baseline`) holds
//! the choice to a narrower unit, for tests and for comparing machines; the matrix products of the
//! crate `gemm` choose for themselves.
//!
//! Products of bf16 use AMX or AVX-512 BF16 where the CPU has them (`bf16_products`), and float32
//! elsewhere. The environment variable `STREAMREC_BF16_UNIT` (`amx`, `avx512_bf16`, `emulated` or
//! `float32`) asks for one.
//!
//! Results never depend on the number of threads: sums over the batch are taken over panels of a
//! fixed size and combined in their order.

#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod error;
mod ops;
mod simd;
mod tensor;
mod tile;

pub use device::{Context, Device};
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use ops::{
    add, bce, cast, cross, dense_optimizer, dot_interaction, embedding_bag, factorization_machine,
    linear, norm, sparse_optimizer, sum_features,
};
pub use tensor::{DType, Element, Tensor, TensorMut, TensorRef};
pub use tile::{Amx, Bf16Products, amx, bf16_products};

use bytemuck::Pod;
use half::{bf16, f16};

use super::DType;

/// A type that elements of a tensor can have.
pub trait Element: Pod + sealed::Sealed {
    /// Its name at run time.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
}

impl Element for i64 {
    const DTYPE: DType = DType::I64;
}

mod sealed {
    /// Views trust that `DTYPE` names the very type.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
    impl Sealed for i64 {}
}

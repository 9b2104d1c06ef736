use std::fmt;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of binary32: its range, eight bits of precision.
    Bf16,
    /// IEEE 754 binary16: eleven bits of precision, finite up to 65,504.
    F16,
    /// Signed 64-bit integers: ids and offsets.
    I64,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::I64 => 8,
        }
    }

    /// Whether elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        !matches!(self, Self::I64)
    }

    /// Whether elements are floating-point numbers of 16 bits.
    pub const fn is_half(self) -> bool {
        matches!(self, Self::Bf16 | Self::F16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::I64 => "i64",
        })
    }
}

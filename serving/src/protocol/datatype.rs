//! Datatypes of tensors, and how their elements are read.

use std::ops::RangeInclusive;

use streamrec_artifact::RawValue;

/// All datatypes, for messages.
pub(super) const DATATYPES: &str =
    "BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64 or BYTES";

/// How the elements of a tensor are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Datatype {
    Bool,
    Integer(RangeInclusive<i64>),
    /// A 64-bit key as the caller computed it.
    Key,
    Float,
    Bytes,
}

impl Datatype {
    /// `UINT64` is a key where the feature takes keys, else a number.
    pub(super) fn parse(name: &str, takes_keys: bool) -> Option<Self> {
        Some(match name {
            "BOOL" => Self::Bool,
            "UINT8" => Self::Integer(0..=u8::MAX.into()),
            "UINT16" => Self::Integer(0..=u16::MAX.into()),
            "UINT32" => Self::Integer(0..=u32::MAX.into()),
            "UINT64" if takes_keys => Self::Key,
            "UINT64" => Self::Integer(0..=i64::MAX),
            "INT8" => Self::Integer(i8::MIN.into()..=i8::MAX.into()),
            "INT16" => Self::Integer(i16::MIN.into()..=i16::MAX.into()),
            "INT32" => Self::Integer(i32::MIN.into()..=i32::MAX.into()),
            "INT64" => Self::Integer(i64::MIN..=i64::MAX),
            "FP16" | "FP32" | "FP64" => Self::Float,
            "BYTES" => Self::Bytes,
            _ => return None,
        })
    }

    /// An element as JSON has it, integers above `i64::MAX` as [`RawValue::Key`]; `None` where it is
    /// of another type.
    #[inline]
    pub(super) fn read<'a>(&self, element: RawValue<'a>) -> Option<RawValue<'a>> {
        Some(match (self, element) {
            (_, RawValue::Missing)
            | (Self::Bool, RawValue::Boolean(_))
            | (Self::Float, RawValue::Float(_))
            | (Self::Key, RawValue::Key(_))
            | (Self::Bytes, RawValue::Text(_)) => element,
            (Self::Integer(range), RawValue::Integer(value)) if range.contains(&value) => element,
            (Self::Key, RawValue::Integer(value)) => RawValue::Key(u64::try_from(value).ok()?),
            (Self::Float, RawValue::Integer(value)) => RawValue::Float(value as f64),
            (Self::Float, RawValue::Key(value)) => RawValue::Float(value as f64),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RawValue::{Boolean, Float, Integer, Key, Missing, Text};

    #[test]
    fn elements_are_read_by_their_datatype() {
        let cases = [
            ("BOOL", Boolean(true), Some(Boolean(true))),
            ("BOOL", Integer(1), None),
            ("UINT8", Integer(255), Some(Integer(255))),
            ("UINT8", Integer(256), None),
            ("UINT8", Integer(-1), None),
            ("INT8", Integer(-128), Some(Integer(-128))),
            ("INT32", Integer(1 << 31), None),
            ("INT64", Integer(i64::MIN), Some(Integer(i64::MIN))),
            ("INT64", Key(u64::MAX), None),
            ("INT64", Float(1.5), None),
            ("INT64", Text("1"), None),
            ("FP32", Float(1.5), Some(Float(1.5))),
            ("FP64", Integer(2), Some(Float(2.0))),
            ("FP64", Key(1 << 63), Some(Float((1u64 << 63) as f64))),
            ("FP64", Text("2"), None),
            ("BYTES", Text("a"), Some(Text("a"))),
            ("BYTES", Integer(1), None),
            ("INT64", Missing, Some(Missing)),
        ];
        for (name, element, expected) in cases {
            let datatype = Datatype::parse(name, true).unwrap();
            assert_eq!(datatype.read(element), expected, "{name} {element:?}");
        }
    }

    #[test]
    fn unsigned_64_is_a_key_where_keys_are_taken_and_else_a_number() {
        let key = Datatype::parse("UINT64", true).unwrap();
        assert_eq!(key.read(Key(u64::MAX)), Some(Key(u64::MAX)));
        assert_eq!(key.read(Integer(7)), Some(Key(7)));
        assert_eq!(key.read(Integer(-7)), None);
        let number = Datatype::parse("UINT64", false).unwrap();
        assert_eq!(number.read(Integer(7)), Some(Integer(7)));
        assert_eq!(number.read(Key(u64::MAX)), None);
        assert_eq!(Datatype::parse("INT65", true), None);
    }
}

//! Datatypes of tensors, and how their elements are read.

use std::ops::RangeInclusive;

use serde_json::Value;
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

    /// `None` where the element is of another type.
    pub(super) fn read<'a>(&self, element: &'a Value) -> Option<RawValue<'a>> {
        Some(match (self, element) {
            (_, Value::Null) => RawValue::Missing,
            (Self::Bool, Value::Bool(value)) => RawValue::Boolean(*value),
            (Self::Integer(range), Value::Number(number)) => {
                RawValue::Integer(number.as_i64().filter(|value| range.contains(value))?)
            }
            (Self::Key, Value::Number(number)) => RawValue::Key(number.as_u64()?),
            (Self::Float, Value::Number(number)) => RawValue::Float(number.as_f64()?),
            (Self::Bytes, Value::String(text)) => RawValue::Text(text),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(datatype: &str, takes_keys: bool, element: Value) -> Option<String> {
        let datatype = Datatype::parse(datatype, takes_keys).unwrap();
        datatype.read(&element).map(|value| format!("{value:?}"))
    }

    #[test]
    fn elements_are_read_by_their_datatype() {
        let cases = [
            ("BOOL", json!(true), Some("Boolean(true)")),
            ("BOOL", json!(1), None),
            ("UINT8", json!(255), Some("Integer(255)")),
            ("UINT8", json!(256), None),
            ("INT8", json!(-128), Some("Integer(-128)")),
            ("INT32", json!(1u64 << 31), None),
            (
                "INT64",
                json!(i64::MIN),
                Some("Integer(-9223372036854775808)"),
            ),
            ("INT64", json!(u64::MAX), None),
            ("INT64", json!(1.5), None),
            ("INT64", json!("1"), None),
            ("FP32", json!(1.5), Some("Float(1.5)")),
            ("FP64", json!(2), Some("Float(2.0)")),
            ("FP64", json!("2"), None),
            ("BYTES", json!("a"), Some("Text(\"a\")")),
            ("BYTES", json!(1), None),
            ("INT64", json!(null), Some("Missing")),
        ];
        for (datatype, element, expected) in cases {
            let got = read(datatype, true, element.clone());
            assert_eq!(got.as_deref(), expected, "{datatype} {element}");
        }
    }

    #[test]
    fn unsigned_64_is_a_key_where_keys_are_taken_and_else_a_number() {
        let key = read("UINT64", true, json!(u64::MAX));
        assert_eq!(key.as_deref(), Some("Key(18446744073709551615)"));
        assert_eq!(
            read("UINT64", false, json!(7)).as_deref(),
            Some("Integer(7)")
        );
        assert_eq!(read("UINT64", false, json!(u64::MAX)), None);
        assert_eq!(Datatype::parse("INT65", true), None);
    }
}

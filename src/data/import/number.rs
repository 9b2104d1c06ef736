//! Numbers from bytes.

/// An integer, also written as `7.0`, as frames with missing values write it.
#[inline]
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    few_digits(text).or_else(|| any_integer(text))
}

/// What most integers are: digits that cannot overflow.
#[inline]
fn few_digits(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = 10 * value + i64::from(digit);
    }
    Some(if negative { -value } else { value })
}

fn any_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value: i64 = 0;
    for (i, byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let tail = digits[i..].strip_prefix(b".")?;
            return (i > 0 && tail.iter().all(|b| *b == b'0')).then_some(value);
        }
        // Counting down reaches i64::MIN, which counting up does not.
        let signed = if negative {
            -i64::from(digit)
        } else {
            i64::from(digit)
        };
        value = value.checked_mul(10)?.checked_add(signed)?;
    }
    Some(value)
}

/// The bits of an identifier: of an integer, or of an unsigned one up to `u64::MAX`.
pub(super) fn identifier(text: &[u8]) -> Option<i64> {
    integer(text).or_else(|| {
        let text = std::str::from_utf8(text).ok()?;
        let (whole, tail) = text.split_once('.').unwrap_or((text, ""));
        let whole: u64 = whole.parse().ok()?;
        tail.bytes()
            .all(|byte| byte == b'0')
            .then_some(whole.cast_signed())
    })
}

/// An integer that is a signed or an unsigned one of 64 bits.
pub(super) fn whole(text: &[u8]) -> Option<i128> {
    let unsigned = |bits: i64| i128::from(bits.cast_unsigned());
    integer(text)
        .map(i128::from)
        .or_else(|| identifier(text).map(unsigned))
}

/// Decimal digits without the zeros at the end of the fraction.
pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    if !text.contains(&b'.') {
        return text;
    }
    let end = text.iter().rposition(|digit| *digit != b'0').unwrap_or(0);
    let end = end + usize::from(text[end] != b'.');
    &text[..end]
}

/// Powers of ten that are exact in `f64`.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// The nearest `f64`. Plain decimals of up to 15 digits take one exact division (Clinger, "How to
/// read floating point numbers accurately", PLDI 1990); everything else goes to the standard library.
pub(super) fn float(text: &[u8]) -> Option<f64> {
    decimal(text).or_else(|| std::str::from_utf8(text).ok()?.parse().ok())
}

fn decimal(text: &[u8]) -> Option<f64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let (mut mantissa, mut count, mut point) = (0u64, 0, None);
    for (i, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                mantissa = mantissa * 10 + u64::from(byte - b'0');
                count += 1;
            }
            b'.' if point.is_none() => point = Some(digits.len() - 1 - i),
            _ => return None,
        }
    }
    if count == 0 || count > 15 {
        return None;
    }
    let value = mantissa as f64 / EXACT_POWERS[point.unwrap_or(0)];
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_reach_both_ends_and_no_further() {
        assert_eq!(integer(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer(b"9223372036854775808"), None);
        assert_eq!(integer(b"-9223372036854775809"), None);
    }

    #[test]
    fn integral_decimals_are_integers_and_others_are_not() {
        assert_eq!(integer(b"12.0"), Some(12));
        assert_eq!(integer(b"+3"), Some(3));
        for text in [&b""[..], b"-", b"1.5", b".0", b"1e3", b" 1", b"0x1"] {
            assert_eq!(integer(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn identifiers_reach_the_last_unsigned_integer() {
        assert_eq!(identifier(b"-7"), Some(-7));
        assert_eq!(identifier(b"9223372036854775809"), Some(i64::MIN + 1));
        assert_eq!(identifier(b"18446744073709551615.0"), Some(-1));
        for text in [
            &b""[..],
            b".0",
            b"18446744073709551616",
            b"9223372036854775809.5",
        ] {
            assert_eq!(identifier(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn whole_numbers_reach_from_the_first_signed_to_the_last_unsigned() {
        assert_eq!(whole(b"-1.0"), Some(-1));
        assert_eq!(whole(b"18446744073709551615"), Some(u64::MAX.into()));
        assert_eq!(whole(b"-9223372036854775809"), None);
    }

    #[test]
    fn zeros_at_the_end_of_a_fraction_say_nothing() {
        for (text, expected) in [
            ("7.00", "7"),
            ("7.50", "7.5"),
            ("700", "700"),
            ("0.00", "0"),
            ("-0.10", "-0.1"),
        ] {
            assert_eq!(trimmed(text.as_bytes()), expected.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn floats_are_those_of_the_standard_library(text in "-?[0-9]{0,17}(\\.[0-9]{0,17})?(e-?[0-9]{1,2})?") {
            let expected = text.parse::<f64>().ok().map(f64::to_bits);
            prop_assert_eq!(float(text.as_bytes()).map(f64::to_bits), expected);
        }
    }
}

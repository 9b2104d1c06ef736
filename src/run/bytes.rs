//! Sizes on the command line.

use super::RunError;

/// `80GiB`, `500MB` or a plain number of bytes.
pub(super) fn parse_bytes(option: &str, text: &str) -> Result<u64, RunError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1.0,
        "KiB" => 1024f64,
        "MiB" => 1024f64.powi(2),
        "GiB" => 1024f64.powi(3),
        "TiB" => 1024f64.powi(4),
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => f64::NAN,
    };
    let bytes = digits.trim().parse::<f64>().unwrap_or(f64::NAN) * unit;
    if bytes.is_finite() && bytes >= 1.0 {
        return Ok(bytes as u64);
    }
    Err(RunError::Usage(format!(
        "{option} {text}: expected bytes such as 80GiB, 512MiB or 24e9"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, expected) in [
            ("80GiB", 80 << 30),
            ("1.5MiB", 3 << 19),
            ("24e9", 24_000_000_000),
            ("100", 100),
        ] {
            assert_eq!(parse_bytes("--memory", text).expect(text), expected);
        }
        for text in ["", "GiB", "80 gigs", "-1GiB", "1e400"] {
            let error = parse_bytes("--memory", text).expect_err(text).to_string();
            assert!(
                error.contains("--memory") && error.contains("80GiB"),
                "{error}"
            );
        }
    }
}

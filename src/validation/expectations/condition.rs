//! Row conditions: an expectation of the rows of one client only.
//!
//! Of Great Expectations's `row_condition`, the comparison of one column with one value:
//! `client == "ios"` (its parser `pandas`) or `col("client") == "ios"` (its parser `great_expectations`).

use super::literal::Literal;

/// `column comparison value`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowCondition {
    /// The column.
    pub column: String,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: Literal,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`; true of a missing value, as in pandas.
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl RowCondition {
    /// Parses a condition.
    ///
    /// # Errors
    /// Says what is supported.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "row_condition {text:?} is not supported: expected one comparison of a column with a value, such as \
                 client == \"ios\" or col(\"age\") >= 18"
            )
        };
        let operators = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let found = operators
            .iter()
            .filter_map(|(sign, comparison)| Some((text.find(sign)?, *sign, *comparison)))
            .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
        let (at, sign, comparison) = found.ok_or_else(refuse)?;
        let column = column(text[..at].trim()).ok_or_else(refuse)?;
        let value = value(text[at + sign.len()..].trim()).ok_or_else(refuse)?;
        Ok(Self {
            column,
            comparison,
            value,
        })
    }
}

fn column(text: &str) -> Option<String> {
    let inner = text
        .strip_prefix("col(")
        .and_then(|rest| rest.strip_suffix(')'));
    if let Some(inner) = inner {
        return unquote(inner.trim());
    }
    let name = text
        .strip_prefix('`')
        .and_then(|rest| rest.strip_suffix('`'))
        .unwrap_or(text);
    let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (plain || name.len() < text.len()).then(|| name.to_owned())
}

fn value(text: &str) -> Option<Literal> {
    match text {
        "True" | "true" => return Some(Literal::Boolean(true)),
        "False" | "false" => return Some(Literal::Boolean(false)),
        _ => {}
    }
    if let Some(text) = unquote(text) {
        return Some(Literal::Text(text));
    }
    let integer = text.parse().ok().map(Literal::Integer);
    integer.or_else(|| text.parse().ok().map(Literal::Number))
}

/// The text between two equal quotes, which it does not hold itself.
fn unquote(text: &str) -> Option<String> {
    for quote in ['"', '\''] {
        let inner = text
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner {
            return (!inner.contains([quote, '\\'])).then(|| inner.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_comparison_is_understood_and_all_else_refused() {
        let client = RowCondition {
            column: "client".into(),
            comparison: Comparison::Equal,
            value: Literal::Text("ios".into()),
        };
        assert_eq!(RowCondition::parse("client==\"ios\""), Ok(client.clone()));
        assert_eq!(RowCondition::parse("col('client') == 'ios'"), Ok(client));
        let age = RowCondition::parse("`age` >= 18").unwrap();
        assert_eq!(
            (age.comparison, age.value),
            (Comparison::AtLeast, Literal::Integer(18))
        );
        for wrong in [
            "client == \"ios\" and age > 3",
            "client",
            "client.isnull()",
            "a + b > 3",
            "age > b",
            "col(\"x\").notNull()",
        ] {
            assert!(RowCondition::parse(wrong).is_err(), "{wrong}");
        }
    }
}

//! Values that a suite names: limits and members of sets.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// A value of a suite.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// A truth value.
    Boolean(bool),
    /// An integer.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// Text; of a column of times, a moment.
    Text(String),
}

impl Literal {
    /// A literal of JSON; none of null.
    pub(super) fn of(value: &Value) -> Result<Option<Self>, String> {
        Ok(Some(match value {
            Value::Null => return Ok(None),
            Value::Bool(value) => Self::Boolean(*value),
            Value::String(text) => Self::Text(text.clone()),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Self::Integer(integer),
                (None, Some(number)) => Self::Number(number),
                (None, None) => return Err(format!("the number {number} is too large")),
            },
            other => {
                return Err(format!(
                    "expected a number, text or truth value, got {other}"
                ));
            }
        }))
    }

    /// Its number, where it has one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Boolean(value) => Some(f64::from(u8::from(*value))),
            Self::Integer(value) => Some(*value as f64),
            Self::Number(value) => Some(*value),
            Self::Text(_) => None,
        }
    }

    /// The moment that a text names, in microseconds since the epoch; without a zone, in UTC.
    pub(super) fn micros(&self) -> Option<i64> {
        let Self::Text(text) = self else {
            return None;
        };
        let text = text.trim();
        let zoned = || text.parse::<jiff::Timestamp>().ok();
        let civil = || {
            let moment = text.parse::<jiff::civil::DateTime>().ok();
            let moment = moment.or_else(|| {
                let date = text.parse::<jiff::civil::Date>().ok()?;
                Some(date.to_datetime(jiff::civil::Time::midnight()))
            })?;
            moment
                .to_zoned(jiff::tz::TimeZone::UTC)
                .ok()
                .map(|zoned| zoned.timestamp())
        };
        zoned().or_else(civil).map(|moment| moment.as_microsecond())
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{value:?}"),
        }
    }
}

/// A range of values, open or closed at each end.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// The least value.
    pub min: Option<Literal>,
    /// The greatest value.
    pub max: Option<Literal>,
    /// Whether the least value itself is outside.
    pub strict_min: bool,
    /// Whether the greatest value itself is outside.
    pub strict_max: bool,
}

impl Bounds {
    /// Whether a value lies inside, of which the order to a limit is known; what cannot be compared lies
    /// outside.
    #[inline]
    pub(super) fn holds(
        &self,
        to_min: impl FnOnce(&Literal) -> Option<Ordering>,
        to_max: impl FnOnce(&Literal) -> Option<Ordering>,
    ) -> bool {
        let above = self.min.as_ref().is_none_or(|min| match to_min(min) {
            Some(Ordering::Greater) => true,
            Some(Ordering::Equal) => !self.strict_min,
            Some(Ordering::Less) | None => false,
        });
        above
            && self.max.as_ref().is_none_or(|max| match to_max(max) {
                Some(Ordering::Less) => true,
                Some(Ordering::Equal) => !self.strict_max,
                Some(Ordering::Greater) | None => false,
            })
    }

    /// Whether a number lies inside.
    pub(super) fn holds_number(&self, value: f64) -> bool {
        let order = |limit: &Literal| value.partial_cmp(&limit.number()?);
        self.holds(order, order)
    }

    /// The limits as numbers, infinite where there is none; an error where one is no number.
    pub(super) fn numbers(&self) -> Result<[f64; 2], String> {
        let number = |limit: &Option<Literal>, none| match limit {
            None => Ok(none),
            Some(limit) => limit
                .number()
                .ok_or_else(|| format!("the limit {limit} is no number, the values are")),
        };
        Ok([
            number(&self.min, f64::NEG_INFINITY)?,
            number(&self.max, f64::INFINITY)?,
        ])
    }

    /// The limits as moments, in microseconds since the epoch.
    pub(super) fn micros(&self) -> Result<[i64; 2], String> {
        let micros = |limit: &Option<Literal>, none| match limit {
            None => Ok(none),
            Some(limit) => limit.micros().ok_or_else(|| {
                format!("the limit {limit} is no moment such as \"2027-01-31\", the values are")
            }),
        };
        Ok([micros(&self.min, i64::MIN)?, micros(&self.max, i64::MAX)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_moments_with_and_without_a_zone() {
        let micros = |text: &str| Literal::Text(text.into()).micros();
        assert_eq!(micros("1970-01-02"), Some(86_400_000_000));
        assert_eq!(micros("1970-01-01T00:00:01"), Some(1_000_000));
        assert_eq!(micros("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(micros("soon"), None);
    }
}

//! An hour in UTC: what tables are parted by.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

const MILLISECONDS: i64 = 3_600_000;
const PREFIX: &str = "hour=";

/// An hour since the epoch. It is shown as its folder is called: `hour=2027-03-14T09`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(i64);

impl Hour {
    /// The hour of a moment, in milliseconds since the epoch.
    pub fn of(time_ms: i64) -> Self {
        Self(time_ms.div_euclid(MILLISECONDS))
    }

    /// Its first millisecond.
    pub fn begin_ms(self) -> i64 {
        self.0.saturating_mul(MILLISECONDS)
    }

    /// The first millisecond after it.
    pub fn end_ms(self) -> i64 {
        self.begin_ms().saturating_add(MILLISECONDS)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_millisecond(self.begin_ms()) {
            Ok(time) => write!(f, "{PREFIX}{}", time.strftime("%Y-%m-%dT%H")),
            // Beyond the years that a calendar has; it must have a folder all the same.
            Err(_) => write!(f, "{PREFIX}{}", self.0),
        }
    }
}

/// A name that is no hour's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoHour;

impl FromStr for Hour {
    type Err = NoHour;

    fn from_str(name: &str) -> Result<Self, NoHour> {
        let text = name.strip_prefix(PREFIX).ok_or(NoHour)?;
        if let Ok(hour) = text.parse() {
            return Ok(Self(hour));
        }
        let time: Timestamp = format!("{text}:00:00Z").parse().map_err(|_| NoHour)?;
        let hour = Self::of(time.as_millisecond());
        (hour.to_string() == name).then_some(hour).ok_or(NoHour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_named_and_read_back() {
        let hour = Hour::of(1_805_018_400_123);
        assert_eq!(hour.to_string(), "hour=2027-03-14T10");
        for time in [0, -1, 1_805_018_400_123, i64::MAX, i64::MIN] {
            let hour = Hour::of(time);
            assert_eq!(hour.to_string().parse(), Ok(hour), "{hour}");
            assert!(hour.begin_ms() <= time && time <= hour.end_ms());
        }
        for wrong in [
            "hour=2027-03-14",
            "2027-03-14T09",
            "hour=2027-13-14T09",
            "hour=",
            "x",
        ] {
            assert_eq!(wrong.parse::<Hour>(), Err(NoHour), "{wrong}");
        }
    }
}

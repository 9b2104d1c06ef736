//! Local time: hours and weekdays of a time zone's clock.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::key::MISSING_TIME;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The clock of a time zone. Between two changes of its offset, a reading is one addition.
#[derive(Debug)]
pub(crate) struct LocalClock<'a> {
    zone: &'a TimeZone,
    /// The offset holds from `since` until before `until`, all in milliseconds.
    since: i64,
    until: i64,
    offset: i64,
}

impl<'a> LocalClock<'a> {
    pub(crate) fn new(zone: &'a TimeZone) -> Self {
        Self {
            zone,
            since: 0,
            until: 0,
            offset: 0,
        }
    }

    /// The hour of the day, 0 to 23; none for a time that is missing or outside the calendar (years
    /// -9999 to 9999).
    pub(crate) fn hour(&mut self, time: i64) -> Option<i64> {
        Some(self.local(time)?.rem_euclid(DAY_MS) / HOUR_MS)
    }

    /// The day of the week, Monday is 0; none as for [`hour`](Self::hour).
    pub(crate) fn weekday(&mut self, time: i64) -> Option<i64> {
        // The epoch was a Thursday.
        Some((self.local(time)?.div_euclid(DAY_MS) + 3).rem_euclid(7))
    }

    /// Milliseconds of the local clock since its own 1970-01-01 00:00.
    fn local(&mut self, time: i64) -> Option<i64> {
        if time == MISSING_TIME {
            return None;
        }
        if time < self.since || time >= self.until {
            self.move_to(time)?;
        }
        Some(time + self.offset)
    }

    #[cold]
    fn move_to(&mut self, time: i64) -> Option<()> {
        let moment = Timestamp::from_millisecond(time).ok()?;
        // `preceding` is strict, and a change at this very moment has happened.
        let after = Timestamp::from_millisecond(time.checked_add(1)?).unwrap_or(Timestamp::MAX);
        let at = |change: jiff::tz::TimeZoneTransition<'_>| change.timestamp().as_millisecond();
        self.offset = i64::from(self.zone.to_offset(moment).seconds()) * 1000;
        self.since = self
            .zone
            .preceding(after)
            .next()
            .map_or(Timestamp::MIN.as_millisecond(), at);
        self.until = self
            .zone
            .following(moment)
            .next()
            .map_or(Timestamp::MAX.as_millisecond(), at);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_clock_agrees_with_the_calendar(
            times in prop::collection::vec(-4_000_000_000_000i64..8_000_000_000_000, 1..50),
            zone in prop::sample::select(vec!["UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York"]),
        ) {
            let zone = TimeZone::get(zone).unwrap();
            let mut clock = LocalClock::new(&zone);
            for time in times {
                let local = Timestamp::from_millisecond(time).unwrap().to_zoned(zone.clone());
                prop_assert_eq!(clock.hour(time), Some(i64::from(local.hour())));
                let weekday = i64::from(local.weekday().to_monday_zero_offset());
                prop_assert_eq!(clock.weekday(time), Some(weekday));
            }
        }
    }

    #[test]
    fn the_hour_changes_with_daylight_saving_to_the_millisecond() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let change: Timestamp = "2024-03-31T01:00:00Z".parse().unwrap();
        let mut clock = LocalClock::new(&zone);
        for (time, hour) in [(0, 3), (-1, 1), (0, 3), (1, 3)] {
            assert_eq!(clock.hour(change.as_millisecond() + time), Some(hour));
        }
    }

    #[test]
    fn missing_and_impossible_times_have_no_hour() {
        let zone = TimeZone::UTC;
        let mut clock = LocalClock::new(&zone);
        assert_eq!(clock.hour(MISSING_TIME), None);
        assert_eq!(clock.hour(i64::MAX), None);
        assert_eq!(clock.weekday(0), Some(3));
    }
}

//! Instants as they are stored and exported: whole microseconds since the epoch, in UTC.

use std::fmt;
use std::time::Duration;

/// Microseconds since 1970-01-01T00:00:00Z, without leap seconds. Shown and read as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// One second, in the unit of [`Timestamp`].
pub const SECOND: i64 = 1_000_000;
/// One hour, in the unit of [`Timestamp`].
pub const HOUR: i64 = 3600 * SECOND;
/// One day, in the unit of [`Timestamp`].
pub const DAY: i64 = 24 * HOUR;

impl Timestamp {
    /// Earlier than anything that is stored.
    pub const MIN: Self = Self(i64::MIN);
    /// Later than anything that is stored.
    pub const MAX: Self = Self(i64::MAX);

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The start of the span of `width` microseconds (an hour, a day) that holds this instant.
    #[must_use]
    pub const fn floor(self, width: i64) -> Self {
        Self(self.0.div_euclid(width).saturating_mul(width))
    }

    /// This instant moved by `micros`, held at the ends of the range.
    #[must_use]
    pub const fn plus(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to this instant; negative where it is the other way round.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads RFC 3339, with any offset and up to nine digits of a second (more than six are cut).
    pub fn parse(text: &str) -> Result<Self, InvalidTime> {
        let parsed: jiff::Timestamp = text.trim().parse().map_err(|_| InvalidTime(text.to_owned()))?;
        Ok(Self(parsed.as_microsecond()))
    }
}

/// A text that is no instant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no time, expected RFC 3339 such as 2026-11-21T10:00:00Z")]
pub struct InvalidTime(pub String);

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with six digits: `2026-11-21T10:00:07.243673Z`. Written by hand because every
    /// exported line has three of them; the civil date is Howard Hinnant's `civil_from_days`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micro = self.0.rem_euclid(SECOND);
        let seconds = self.0.div_euclid(SECOND);
        let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z")
    }
}

/// Whole microseconds of a duration, at most `u64::MAX`.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_and_read_again() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (1_796_000_002_243_673, "2026-11-30T00:53:22.243673Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Timestamp(micros).to_string(), text);
            assert_eq!(Timestamp::parse(text), Ok(Timestamp(micros)));
        }
        assert_eq!(Timestamp::parse("1970-01-01T01:00:00+01:00"), Ok(Timestamp(0)));
        assert!(Timestamp::parse("yesterday").is_err());
    }

    #[test]
    fn floors_towards_the_past() {
        assert_eq!(Timestamp(-1).floor(HOUR), Timestamp(-HOUR));
        assert_eq!(Timestamp(HOUR + 5).floor(HOUR), Timestamp(HOUR));
    }
}

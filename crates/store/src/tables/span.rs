//! Spans of time and the keys of the tables that hold one row for each span and series.

use sitemon_model::time::{DAY, HOUR, SECOND};

/// Bits of a key that hold the id of the series; the number of the span stands above them.
const SERIES_BITS: u32 = 28;
/// The largest id of a series.
pub(crate) const SERIES_MAX: i64 = (1 << SERIES_BITS) - 1;

/// How long a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Span {
    /// For intervals up to a minute.
    Hour,
    /// For longer ones.
    Day,
}

impl Span {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Hour, Self::Day];

    /// The span whose block holds an observation with this interval.
    pub(crate) const fn of_interval(interval_us: u64) -> Self {
        if interval_us <= 60 * SECOND as u64 { Self::Hour } else { Self::Day }
    }

    /// Microseconds.
    pub(crate) const fn width(self) -> i64 {
        match self {
            Self::Hour => HOUR,
            Self::Day => DAY,
        }
    }

    /// The number of the span that holds an instant; 0 begins at the epoch.
    pub(crate) const fn index(self, at: i64) -> i64 {
        at.div_euclid(self.width())
    }

    /// The start of a span, held at the ends of what can be said.
    pub(crate) const fn start(self, index: i64) -> i64 {
        index.saturating_mul(self.width())
    }
}

/// The key of a span and a series. The number of an hour takes 33 bits at most, so there is room.
pub(crate) const fn key(index: i64, series: i64) -> i64 {
    index << SERIES_BITS | series
}

/// The span and the series of a key.
pub(crate) const fn parts(key: i64) -> (i64, i64) {
    (key >> SERIES_BITS, key & SERIES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_in_order() {
        let hours = [i64::MIN, -HOUR - 1, -1, 0, HOUR, i64::MAX].map(|at| Span::Hour.index(at));
        let mut before = i64::MIN;
        for hour in hours {
            for series in [0, 7, SERIES_MAX] {
                assert_eq!(parts(key(hour, series)), (hour, series));
                assert!(key(hour, series) >= before);
                before = key(hour, series);
            }
        }
        assert_eq!(Span::of_interval(60_000_000), Span::Hour);
        assert_eq!(Span::of_interval(60_000_001), Span::Day);
    }
}

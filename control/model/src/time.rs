//! Moments, as documents write them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::name::{serialize_as_text, shorten};

/// A moment in whole seconds, from 1970 to the end of 9999; written as RFC 3339, canonically in UTC: `2026-12-01T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// The last second of 9999.
const LAST: u64 = 253_402_300_799;
const DAY: u64 = 86_400;

impl Timestamp {
    /// The start of 1970: before every moment that ends something.
    pub const EPOCH: Self = Self(0);

    /// Seconds since the start of 1970.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The same as the standard library's time.
    pub fn as_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

impl From<SystemTime> for Timestamp {
    /// The second that has begun; times outside of what can be written become the nearest that can.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs().min(LAST))
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!(
                "`{}` is not a moment from 1970 on in whole seconds, as RFC 3339 writes them, such as \
                 2026-12-01T00:00:00Z or 2026-12-01T02:00:00+02:00",
                shorten(text)
            )
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0 / DAY);
        let second = self.0 % DAY;
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }
}

serialize_as_text!(Timestamp);

/// `YYYY-MM-DDThh:mm:ss` and `Z` or `+hh:mm` or `-hh:mm`. A leap second is the first of the next minute.
fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |from: usize, length: usize| -> Option<u64> {
        let digits = bytes.get(from..from + length)?;
        digits.iter().try_fold(0, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + u64::from(digit - b'0'))
        })
    };
    let is = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|byte| allowed.contains(byte));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let is_sound = separated
        && year >= 1970
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !is_sound {
        return None;
    }
    let local = days_before(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    let utc = match &bytes[19..] {
        b"Z" | b"z" => local,
        [sign @ (b'+' | b'-'), rest @ ..] if rest.len() == 5 && rest[2] == b':' => {
            let (hours, minutes) = (number(20, 2)?, number(23, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            match sign {
                b'+' => local.checked_sub(offset)?,
                _ => local + offset,
            }
        }
        _ => return None,
    };
    (utc <= LAST).then_some(Timestamp(utc))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_of(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// Days from the start of 1970 to a day.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let leaps_before = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let years = (year - 1970) * 365 + leaps_before(year) - leaps_before(1970);
    let months: u64 = (1..month).map(|month| days_in(year, month)).sum();
    years + months + day - 1
}

/// The date of a day since the start of 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    // Never too late, since no year has more than 366 days.
    let mut year = 1970 + days / 366;
    let mut left = days - days_before(year, 1, 1);
    while left >= days_of(year) {
        left -= days_of(year);
        year += 1;
    }
    let mut month = 1;
    while left >= days_in(year, month) {
        left -= days_in(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:30:45Z", 951_827_445),
            ("2026-12-01T00:00:00Z", 1_796_083_200),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", LAST),
        ] {
            let moment: Timestamp = text.parse().unwrap();
            assert_eq!(
                (moment.as_secs(), moment.to_string()),
                (seconds, text.to_owned())
            );
        }
        for days in (0..LAST / DAY).step_by(13) {
            let (year, month, day) = civil(days);
            assert_eq!(days_before(year, month, day), days);
        }
    }

    #[test]
    fn offsets_become_utc() {
        let read = |text: &str| text.parse::<Timestamp>().map(|moment| moment.to_string());
        assert_eq!(
            read("2026-12-01T02:00:00+02:00").unwrap(),
            "2026-12-01T00:00:00Z"
        );
        assert_eq!(
            read("2026-11-30t18:30:00-05:30").unwrap(),
            "2026-12-01T00:00:00Z"
        );
        assert_eq!(
            read("2026-12-31T23:59:60Z").unwrap(),
            "2027-01-01T00:00:00Z"
        );
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-12-01",
            "2026-12-01T00:00:00",
            "2026-12-01T00:00:00.5Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-12-01T24:00:00Z",
            "2026-12-01T00:60:00Z",
            "2026-12-01T00:00:61Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "2026-12-01T00:00:00+24:00",
            "2026-12-01T00:00:00+02x00",
            "2026/12/01T00:00:00Z",
            "2026-12-01T00:00:00Zulu",
            "２026-12-01T00:00:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}

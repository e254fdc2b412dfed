//! The date, for templates that ask for it (`strftime_now`). It is the date in UTC.

use minijinja::Error;
use std::fmt::Write as _;

use super::text::bad;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A time in seconds since 1970 in a format of Python's `strftime`.
pub(super) fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let days = seconds / 86400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day, of_year) = date(days);
    let weekday = DAYS[(days as usize + 4) % 7];
    let month_name = MONTHS[month - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let plain = directive == Some('-');
        if plain {
            directive = chars.next();
        }
        let padded = |value: u64, width: usize| {
            if plain { value.to_string() } else { format!("{value:0width$}") }
        };
        match directive {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&padded(year % 100, 2)),
            Some('m') => out.push_str(&padded(month as u64, 2)),
            Some('d') => out.push_str(&padded(day, 2)),
            Some('e') if plain => out.push_str(&day.to_string()),
            Some('e') => _ = write!(out, "{day:2}"),
            Some('j') => out.push_str(&padded(of_year, 3)),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('H') => out.push_str(&padded(hour, 2)),
            Some('I') => out.push_str(&padded((hour + 11) % 12 + 1, 2)),
            Some('M') => out.push_str(&padded(minute, 2)),
            Some('S') => out.push_str(&padded(second, 2)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('F') => _ = write!(out, "{year}-{month:02}-{day:02}"),
            Some('T') => _ = write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('%') | None => out.push('%'),
            Some(other) => return Err(bad(format!("strftime_now: %{other} is not known"))),
        }
    }
    Ok(out)
}

/// Year, month from 1, day of the month, day of the year.
fn date(mut days: u64) -> (u64, usize, u64, u64) {
    let mut year = 1970;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years have 146,097 days.
    year += days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let of_year = days + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1, of_year)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @SECONDS`.
        for (seconds, expected) in [
            (0, "Thursday 01 January 1970 001 12:00:00 AM"),
            (951_782_400, "Tuesday 29 February 2000 060 12:00:00 AM"),
            (1_735_689_599, "Tuesday 31 December 2024 366 11:59:59 PM"),
            (4_107_542_400, "Monday 01 March 2100 060 12:00:00 AM"),
        ] {
            assert_eq!(strftime("%A %d %B %Y %j %I:%M:%S %p", seconds).unwrap(), expected);
        }
        assert_eq!(strftime("%-d %b %%", 0).unwrap(), "1 Jan %");
        assert!(strftime("%Q", 0).is_err());
    }
}

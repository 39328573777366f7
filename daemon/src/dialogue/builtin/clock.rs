//! The time of day in words.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::clock::Stamp;

/// A wall clock before this year was never set: the program is younger.
const FIRST_CREDIBLE_YEAR: i16 = 2025;

/// Local time, if this device can know it.
pub fn local(now: &Stamp, zone: &TimeZone) -> Option<jiff::Zoned> {
    let zoned = Timestamp::from_millisecond(now.wall_unix_ms).ok()?.to_zoned(zone.clone());
    (now.synced || zoned.year() >= FIRST_CREDIBLE_YEAR).then_some(zoned)
}

/// "8:05 PM"
pub fn time_of_day(now: &jiff::Zoned) -> String {
    let (hour, half) = match now.hour() {
        0 => (12, "AM"),
        hour @ 1..12 => (hour, "AM"),
        12 => (12, "PM"),
        hour => (hour - 12, "PM"),
    };
    format!("{hour}:{:02} {half}", now.minute())
}

/// "Sunday, the 22nd of November 2026"
pub fn date(now: &jiff::Zoned) -> String {
    let ending = match now.day() {
        11..=13 => "th",
        day => match day % 10 {
            1 => "st",
            2 => "nd",
            3 => "rd",
            _ => "th",
        },
    };
    format!("{}, the {}{ending} of {}", now.strftime("%A"), now.day(), now.strftime("%B %Y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> jiff::Zoned {
        text.parse::<Timestamp>().unwrap().to_zoned(TimeZone::UTC)
    }

    #[test]
    fn times_and_dates_are_spoken_as_people_say_them() {
        assert_eq!(time_of_day(&at("2026-11-22T20:05:00Z")), "8:05 PM");
        assert_eq!(time_of_day(&at("2026-11-22T00:00:00Z")), "12:00 AM");
        assert_eq!(time_of_day(&at("2026-11-22T12:30:00Z")), "12:30 PM");
        assert_eq!(date(&at("2026-11-22T20:05:00Z")), "Sunday, the 22nd of November 2026");
        assert_eq!(date(&at("2027-03-01T20:05:00Z")), "Monday, the 1st of March 2027");
        assert_eq!(date(&at("2027-03-13T20:05:00Z")), "Saturday, the 13th of March 2027");
    }

    #[test]
    fn a_clock_that_was_never_set_is_not_believed() {
        let stamp =
            |wall_unix_ms, synced| Stamp { wall_unix_ms, synced, boot_id: "b".into(), monotonic_ns: 0 };
        let in_1970 = 3_600_000;
        let in_2026 = 1_790_000_000_000;
        assert!(local(&stamp(in_1970, false), &TimeZone::UTC).is_none());
        assert!(local(&stamp(in_2026, false), &TimeZone::UTC).is_some());
        assert!(local(&stamp(in_2026, true), &TimeZone::UTC).is_some());
    }
}

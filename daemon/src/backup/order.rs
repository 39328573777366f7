//! Orders backups and finds their certain age, without trusting a name or a wall clock.
//!
//! A device without a clock battery wakes up in any year, and names its backups after that. So each backup
//! has a number that only grows (`seq`): the greater of the time in milliseconds and the highest known number
//! plus one. Numbers decide the order. Backups of older versions have none and are ordered by their time,
//! unless that lies in the future.
//!
//! A time is *wrong* if it lies in the future, or after the time of a later backup whose clock was set. It is
//! a *guess* if the clock was not set. Neither makes a backup young: its age counts from the last moment that
//! its position in the order makes certain.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::Backup;
use super::manifest::{Boot, Manifest};
use crate::clock::Stamp;

/// Allowed difference between two clocks. A name may be some minutes ahead, after many backups in one second.
pub(super) const TOLERANCE: SignedDuration = SignedDuration::from_mins(15);

/// The reliability of a backup's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dated {
    /// The clock was set.
    Sure,
    /// NTP had not set the clock when the backup was made.
    #[default]
    Guess,
    /// The time lies in the future, or after that of a later backup.
    Wrong,
}

/// The moment of the backup according to its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moment {
    pub(super) synced: bool,
    pub(super) boot: Option<Boot>,
}

impl Moment {
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self { synced: manifest.clock_synced, boot: manifest.boot.clone() }
    }

    /// Time that has passed since, if the backup was made in this boot.
    fn since(&self, now: &Stamp) -> Option<SignedDuration> {
        let boot = self.boot.as_ref().filter(|boot| *boot.id == *now.boot_id)?;
        Some(SignedDuration::from_nanos(now.monotonic_ns.saturating_sub(boot.monotonic_ns).max(0)))
    }
}

/// A wall clock and its reliability.
struct Now<'a> {
    stamp: &'a Stamp,
    wall: Timestamp,
    /// Whether the clock is behind: a backup made with a set clock is later.
    behind: bool,
}

impl Now<'_> {
    fn is_before(&self, time: Timestamp) -> bool {
        !self.behind && time.duration_since(self.wall) > TOLERANCE
    }
}

fn now_among<'a>(backups: &[Backup], stamp: &'a Stamp) -> Now<'a> {
    let wall = Timestamp::from_millisecond(stamp.wall_unix_ms).unwrap_or_default();
    let later = |backup: &Backup| backup.moment.synced && backup.taken_at.duration_since(wall) > TOLERANCE;
    Now { stamp, wall, behind: !stamp.synced && backups.iter().any(later) }
}

/// Sorts the backups, the oldest first, and rates the time of each.
pub(super) fn arrange(backups: &mut [Backup], stamp: &Stamp) {
    let now = now_among(backups, stamp);
    backups.sort_by_cached_key(|backup| {
        let future = now.is_before(backup.taken_at);
        let place = match backup.seq {
            Some(seq) => i64::try_from(seq).unwrap_or(i64::MAX),
            // Nothing shows that it is newer than any other.
            None if future => i64::MIN,
            None => backup.taken_at.as_millisecond(),
        };
        (place, !future, backup.taken_at, backup.name.clone())
    });
    // No backup was made after a later one.
    let mut latest: Option<Timestamp> = None;
    for backup in backups.iter_mut().rev() {
        let after = latest.is_some_and(|latest| backup.taken_at.duration_since(latest) > TOLERANCE);
        backup.dated = match backup.moment.synced {
            _ if after || now.is_before(backup.taken_at) => Dated::Wrong,
            true => Dated::Sure,
            false => Dated::Guess,
        };
        backup.day_of = if backup.dated == Dated::Wrong { latest } else { Some(backup.taken_at) };
        if backup.dated == Dated::Sure {
            latest = Some(latest.map_or(backup.taken_at, |latest| latest.min(backup.taken_at)));
        }
    }
    let mut sure: Option<Timestamp> = None;
    for backup in backups {
        sure = sure.max(at_the_earliest(backup, &now));
        backup.surely_at = sure;
    }
}

/// The earliest possible moment of this backup, taken alone.
fn at_the_earliest(backup: &Backup, now: &Now<'_>) -> Option<Timestamp> {
    let by_boot = || {
        let then = now.wall.checked_sub(backup.moment.since(now.stamp)?).ok()?;
        Some(if backup.taken_at.duration_since(then) > TOLERANCE { then } else { backup.taken_at })
    };
    match backup.dated {
        Dated::Sure => Some(backup.taken_at),
        Dated::Wrong => None,
        // The present clock is no better.
        Dated::Guess if !now.stamp.synced => Some(by_boot().unwrap_or(backup.taken_at)),
        Dated::Guess => by_boot(),
    }
}

/// Returns `time` if it may be shown: not a moment in the future.
pub(super) fn past(time: Timestamp, backups: &[Backup], stamp: &Stamp) -> Option<Timestamp> {
    Some(time).filter(|time| !now_among(backups, stamp).is_before(*time))
}

/// The age of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// At least this many days.
    Days(i64),
    /// Its clock was wrong, and no other fact gives its age.
    Unknown,
}

/// The certain age of `backup`. While no clock is set, only the time since the start of the device is
/// certain.
pub(super) fn age(backup: &Backup, now: &Stamp) -> Age {
    if now.synced {
        return match backup.surely_at {
            Some(at) => Age::Days(now.wall_unix_ms.saturating_sub(at.as_millisecond()) / 86_400_000),
            None => Age::Unknown,
        };
    }
    let of_boot = SignedDuration::from_nanos(now.monotonic_ns.max(0));
    let passed = match &backup.moment.boot {
        Some(_) => backup.moment.since(now).unwrap_or(of_boot),
        None => SignedDuration::ZERO,
    };
    Age::Days(passed.as_secs() / 86_400)
}

/// The number of the next backup: greater than every earlier number, and at least the time.
pub(super) fn next_seq(highest: Option<u64>, now: &Stamp) -> u64 {
    let wall = u64::try_from(now.wall_unix_ms).unwrap_or(0);
    match highest {
        // An unset clock could be years ahead, and is not needed.
        Some(highest) if !now.synced => highest.saturating_add(1),
        Some(highest) => highest.saturating_add(1).max(wall),
        None => wall,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{Kind, Level};

    fn stamp(now: &str, synced: bool) -> Stamp {
        let wall_unix_ms = now.parse::<Timestamp>().unwrap().as_millisecond();
        Stamp { wall_unix_ms, synced, boot_id: "now".into(), monotonic_ns: 3_600_000_000_000 }
    }

    fn backup(day: &str, seq: Option<u64>, synced: bool) -> Backup {
        let name = format!("jarvis-backup-{day}-020000");
        let sample = Backup::sample(&name, Kind::Scheduled, &[(Level::Restore, true)]);
        Backup { seq, moment: Moment { synced, boot: None }, ..sample }
    }

    fn order(mut backups: Vec<Backup>, now: &Stamp) -> Vec<(String, Dated)> {
        arrange(&mut backups, now);
        backups.into_iter().map(|b| (b.name[14..22].to_owned(), b.dated)).collect()
    }

    fn is(day: &str, dated: Dated) -> (String, Dated) {
        (day.to_owned(), dated)
    }

    #[test]
    fn numbers_decide_and_a_time_after_that_of_a_later_backup_is_wrong() {
        let all = || vec![backup("20310101", Some(7), true), backup("20261122", Some(8), true)];
        let wanted = [is("20310101", Dated::Wrong), is("20261122", Dated::Sure)];
        assert_eq!(order(all(), &stamp("2026-11-23T02:00:00Z", true)), wanted);
        assert_eq!(order(all(), &stamp("2032-11-23T02:00:00Z", true)), wanted, "when that time has come");
        assert_eq!(order(all(), &stamp("1970-01-01T00:10:00Z", false)), wanted, "whatever the clock says");
    }

    #[test]
    fn without_a_number_one_from_the_future_is_no_newer_than_any_other() {
        let all = || vec![backup("20261121", None, true), backup("20310101", None, false)];
        let wanted = [is("20310101", Dated::Wrong), is("20261121", Dated::Sure)];
        assert_eq!(order(all(), &stamp("2026-11-23T02:00:00Z", true)), wanted);
        // A clock that is behind a backup made with a set clock cannot judge times.
        let wanted = [is("20261121", Dated::Sure), is("20310101", Dated::Guess)];
        assert_eq!(order(all(), &stamp("2020-01-01T00:10:00Z", false)), wanted);
    }

    #[test]
    fn no_wrong_time_and_no_guess_makes_a_backup_young() {
        let now = stamp("2026-11-23T03:00:00Z", true);
        let mut all = vec![
            backup("20261110", Some(1), true),
            backup("20310101", Some(2), true),
            backup("20261123", Some(3), false),
        ];
        arrange(&mut all, &now);
        assert!(all.iter().all(|backup| age(backup, &now) == Age::Days(13)), "{all:?}");
        let mut alone = vec![backup("20310101", Some(2), true)];
        arrange(&mut alone, &now);
        assert_eq!(age(&alone[0], &now), Age::Unknown);
        // A backup of this boot has the age counted by the kernel.
        let boot = Some(Boot { id: "now".into(), monotonic_ns: 0 });
        let mut of_this_boot =
            vec![Backup { moment: Moment { synced: false, boot }, ..backup("20261123", Some(4), false) }];
        arrange(&mut of_this_boot, &now);
        assert_eq!(age(&of_this_boot[0], &now), Age::Days(0));
    }

    #[test]
    fn a_device_whose_clock_is_never_set_counts_the_days_since_it_started() {
        let days = |n: i64| n * 86_400_000_000_000;
        let now = Stamp { monotonic_ns: days(5), ..stamp("2026-11-23T03:00:00Z", false) };
        let of = |id: &str| {
            let boot = Some(Boot { id: id.into(), monotonic_ns: days(1) });
            Backup { moment: Moment { synced: false, boot }, ..backup("20261123", Some(4), false) }
        };
        assert_eq!(age(&of("now"), &now), Age::Days(4));
        assert_eq!(age(&of("before"), &now), Age::Days(5));
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let set = stamp("2026-11-23T02:00:00Z", true);
        let wall = u64::try_from(set.wall_unix_ms).unwrap();
        assert_eq!(next_seq(None, &set), wall);
        assert_eq!(next_seq(Some(7), &set), wall);
        assert_eq!(next_seq(Some(wall + 9), &set), wall + 10);
        assert_eq!(next_seq(Some(7), &stamp("2031-01-01T00:00:00Z", false)), 8);
    }
}

//! Selects the backups that stay: a pure function of the list, the clock and the time zone. It deletes
//! nothing.
//!
//! A period (day, week from Monday, month; all in local time) counts only if it holds a backup, as in
//! restic's `forget`. So a device that was off for half a year still has its thirty days. In each period one
//! backup represents it:
//!
//! | period | which one |
//! |---|---|
//! | day | the newest |
//! | week | of the days there are, the nearest to its Sunday |
//! | month | of the days there are, the nearest to its first |
//!
//! A proven backup is preferred to one that was never proven; one that failed its proof represents nothing.
//! The order of the list (`order.rs`) decides which is newer, not the time.
//!
//! Invariants: a backup newer than the last proven one stays until it was proven, and takes no period from a
//! proven one. The newest proven one stays. One from the future (a clock that jumped) stays and takes no
//! period. As long as nothing is proven, nothing is deleted.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

/// Numbers of periods that keep a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub daily: usize,
    pub weekly: usize,
    pub monthly: usize,
    /// Days for which a backup taken before a restore or an upgrade is kept.
    pub safety_days: i64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { daily: 30, weekly: 12, monthly: 12, safety_days: 30 }
    }
}

/// The known quality of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProofState {
    /// Its last proof found damage.
    Failed,
    Unproven,
    Proven,
}

/// The reason why a backup is held outside the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// A person asked for it and has not released it.
    OnDemand,
    /// It was taken before a risky step.
    Safety,
    /// Its manifest cannot be read: damaged, or of a newer version. A person must look at it.
    Unreadable,
}

/// A backup to decide about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    /// Its date in the calendar.
    pub taken_at: Timestamp,
    pub standing: ProofState,
    pub hold: Option<Hold>,
}

/// The reason why a backup stays or goes; [`fmt::Display`] gives the text for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Daily(Date),
    /// The week is named by its Sunday.
    Weekly(Date),
    /// The month is named by its first day.
    Monthly(Date),
    OnDemand,
    Safety,
    Unreadable,
    Future,
    AwaitsProof,
    LastProven,
    NothingProven,
    /// It goes: it represents no period any more.
    NotNeeded,
    /// It goes: it failed its proof, and a proven one exists.
    Failed,
}

impl Reason {
    pub fn keeps(&self) -> bool {
        !matches!(self, Self::NotNeeded | Self::Failed)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daily(day) => write!(f, "daily {day}"),
            Self::Weekly(sunday) => write!(f, "weekly, of the week to {sunday}"),
            Self::Monthly(first) => write!(f, "monthly {:04}-{:02}", first.year(), first.month()),
            Self::OnDemand => f.write_str("asked for and not released"),
            Self::Safety => f.write_str("taken before a restore or an upgrade"),
            Self::Unreadable => f.write_str("its manifest cannot be used, so it is left to you"),
            Self::Future => f.write_str("its time lies in the future"),
            Self::AwaitsProof => f.write_str("newer than the last proven one and not proven yet"),
            Self::LastProven => f.write_str("the newest proven one"),
            Self::NothingProven => f.write_str("no backup is proven, so none goes"),
            Self::NotNeeded => f.write_str("no day, week or month needs it"),
            Self::Failed => f.write_str("failed its proof"),
        }
    }
}

/// The decision about one backup: every reason to keep it, or the one reason to delete it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub name: String,
    pub reasons: Vec<Reason>,
}

impl Decision {
    pub fn keep(&self) -> bool {
        self.reasons.iter().any(Reason::keeps)
    }
}

/// Decides about every backup, the oldest first. `now` must come from a clock that is set.
pub fn decide(backups: &[Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Vec<Decision> {
    let past = |b: &&Candidate| b.taken_at <= now;
    let last_proven = backups.iter().rposition(|b| past(&b) && b.standing == ProofState::Proven);
    let mut reasons = vec![Vec::new(); backups.len()];
    let mut counted = Vec::new();
    for (index, backup) in backups.iter().enumerate() {
        let local = backup.taken_at.to_zoned(zone.clone()).date();
        let mut says = |reason| {
            if let Some(list) = reasons.get_mut(index) {
                list.push(reason);
            }
        };
        match backup.hold {
            Some(Hold::OnDemand) => says(Reason::OnDemand),
            Some(Hold::Unreadable) => says(Reason::Unreadable),
            Some(Hold::Safety) if age_days(backup.taken_at, now) < policy.safety_days => says(Reason::Safety),
            Some(Hold::Safety) | None => {}
        }
        let Some(last_proven) = last_proven else {
            says(Reason::NothingProven);
            continue;
        };
        if backup.taken_at > now {
            says(Reason::Future);
        } else if backup.standing == ProofState::Failed {
            // Represents nothing.
        } else if index > last_proven {
            says(Reason::AwaitsProof);
        } else {
            if index == last_proven {
                says(Reason::LastProven);
            }
            counted.push((index, backup, local));
        }
    }
    // The newest of a week is the nearest to its Sunday, since that is its last day.
    let days = stand_for(&counted, policy.daily, |day| day, |_| 0);
    let weeks = stand_for(&counted, policy.weekly, sunday_of, |_| 0);
    let months = stand_for(&counted, policy.monthly, Date::first_of_month, |day| -day.day());
    let periods =
        [(days, Reason::Daily as fn(Date) -> Reason), (weeks, Reason::Weekly), (months, Reason::Monthly)];
    for (chosen, reason) in periods {
        for (period, index) in chosen {
            if let Some(list) = reasons.get_mut(index) {
                list.push(reason(period));
            }
        }
    }
    let decisions = backups.iter().zip(reasons).map(|(backup, mut reasons)| {
        if reasons.is_empty() {
            reasons.push(if backup.standing == ProofState::Failed {
                Reason::Failed
            } else {
                Reason::NotNeeded
            });
        }
        Decision { name: backup.name.clone(), reasons }
    });
    decisions.collect()
}

/// The newest `most` periods that hold a backup, each with the index of its representative: the best
/// standing, then the day with the highest `nearness`, then the newest.
fn stand_for(
    counted: &[(usize, &Candidate, Date)],
    most: usize,
    period: impl Fn(Date) -> Date,
    nearness: impl Fn(Date) -> i8,
) -> Vec<(Date, usize)> {
    let mut best = BTreeMap::new();
    for (index, backup, day) in counted {
        let offer = (backup.standing, nearness(*day), backup.taken_at, *index);
        let held = best.entry(period(*day)).or_insert(offer);
        *held = offer.max(*held);
    }
    best.into_iter().rev().take(most).map(|(period, (.., index))| (period, index)).collect()
}

/// The Sunday that ends the week of `day`; at the end of the calendar, `day` itself.
fn sunday_of(day: Date) -> Date {
    let ahead = day.weekday().until(Weekday::Sunday);
    day.checked_add(jiff::Span::new().days(ahead)).unwrap_or(day)
}

fn age_days(taken_at: Timestamp, now: Timestamp) -> i64 {
    now.as_second().saturating_sub(taken_at.as_second()) / 86_400
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use proptest::prelude::*;

    use super::*;

    fn zone() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn at(local: &str) -> Timestamp {
        local.parse::<jiff::civil::DateTime>().unwrap().to_zoned(zone()).unwrap().timestamp()
    }

    fn proven(local: &str) -> Candidate {
        let taken_at = at(local);
        Candidate { name: local.to_owned(), taken_at, standing: ProofState::Proven, hold: None }
    }

    fn kept(backups: &[Candidate], policy: &Policy, now: &str) -> Vec<String> {
        let decisions = decide(backups, policy, at(now), &zone());
        decisions.into_iter().filter(Decision::keep).map(|d| d.name).collect()
    }

    fn only(daily: usize, weekly: usize, monthly: usize) -> Policy {
        Policy { daily, weekly, monthly, safety_days: 30 }
    }

    #[test]
    fn the_newest_of_a_day_the_sunday_of_a_week_and_the_first_of_a_month_stand_for_them() {
        // 2027-03-07 is a Sunday.
        let names = [
            "2027-02-27T02:00",
            "2027-03-01T02:00",
            "2027-03-06T02:00",
            "2027-03-07T02:00",
            "2027-03-07T14:00",
            "2027-03-10T02:00",
        ];
        let backups = names.map(proven);
        assert_eq!(kept(&backups, &only(1, 0, 0), "2027-03-10T03:00"), names[5..]);
        assert_eq!(kept(&backups, &only(0, 9, 0), "2027-03-10T03:00"), [names[0], names[4], names[5]]);
        // February has only the 27th, which is therefore the nearest to its first. The newest proven one
        // stays as well.
        assert_eq!(kept(&backups, &only(0, 0, 9), "2027-03-10T03:00"), [names[0], names[1], names[5]]);
    }

    #[test]
    fn days_are_those_of_the_house_not_of_greenwich() {
        // Half past midnight in Berlin is the previous day in Greenwich.
        let backups = ["2027-06-01T23:30", "2027-06-02T00:30"].map(proven);
        assert_eq!(kept(&backups, &only(2, 0, 0), "2027-06-02T03:00").len(), 2);
        let utc = decide(&backups, &only(2, 0, 0), at("2027-06-02T03:00"), &TimeZone::UTC);
        assert_eq!(utc.iter().filter(|d| d.keep()).count(), 1);
    }

    #[test]
    fn a_period_without_a_backup_does_not_count() {
        let backups = ["2025-01-05T02:00", "2025-08-05T02:00", "2027-01-05T02:00"].map(proven);
        assert_eq!(kept(&backups, &only(3, 0, 0), "2027-01-06T02:00").len(), 3);
        assert_eq!(kept(&backups, &only(0, 0, 2), "2027-01-06T02:00").len(), 2);
    }

    #[test]
    fn what_was_asked_for_stays_until_it_is_released_and_safety_copies_for_their_days() {
        let held = |local, hold| Candidate { hold: Some(hold), ..proven(local) };
        let backups = [
            held("2020-01-01T02:00", Hold::OnDemand),
            held("2026-12-01T02:00", Hold::Safety),
            held("2026-12-31T02:00", Hold::Safety),
            proven("2027-01-05T02:00"),
        ];
        assert_eq!(
            kept(&backups, &only(1, 0, 0), "2027-01-06T02:00"),
            ["2020-01-01T02:00", "2026-12-31T02:00", "2027-01-05T02:00"]
        );
    }

    #[test]
    fn nothing_goes_while_nothing_is_proven_and_the_newest_proven_one_stays() {
        let mut backups = ["2027-01-01T02:00", "2027-01-02T02:00", "2027-01-03T02:00"].map(proven);
        for backup in &mut backups {
            backup.standing = ProofState::Unproven;
        }
        assert_eq!(kept(&backups, &only(1, 0, 0), "2027-01-06T02:00").len(), 3);
        backups[0].standing = ProofState::Proven;
        // The two newer ones wait for their proof; they take no period from the proven one.
        assert_eq!(kept(&backups, &only(1, 0, 0), "2027-01-06T02:00").len(), 3);
        backups[2].standing = ProofState::Failed;
        assert_eq!(
            kept(&backups, &only(1, 0, 0), "2027-01-06T02:00"),
            ["2027-01-01T02:00", "2027-01-02T02:00"]
        );
        let reasons = decide(&backups, &only(1, 0, 0), at("2027-01-06T02:00"), &zone());
        assert_eq!(reasons[2].reasons, [Reason::Failed]);
    }

    #[test]
    fn a_proven_backup_is_preferred_and_one_from_the_future_takes_no_period() {
        let mut backups =
            ["2027-01-01T02:00", "2027-01-01T12:00", "2027-01-02T02:00", "2031-05-05T02:00"].map(proven);
        backups[1].standing = ProofState::Unproven;
        let decisions = decide(&backups, &only(2, 0, 0), at("2027-01-02T03:00"), &zone());
        assert!(decisions[0].keep() && !decisions[1].keep() && decisions[2].keep());
        assert_eq!(decisions[3].reasons, [Reason::Future]);
    }

    /// Day, week and month of a backup, as numbers that grow with time.
    fn periods(backup: &Candidate) -> [i64; 3] {
        let day = backup.taken_at.to_zoned(zone()).date();
        let (iso, year) = (day.iso_week_date(), i64::from(day.year()));
        let week = i64::from(iso.year()) * 100 + i64::from(iso.week());
        [year * 1000 + i64::from(day.day_of_year()), week, year * 100 + i64::from(day.month())]
    }

    /// The same rule in a slow form: whether the backup is the best of a period after which few others hold
    /// one.
    fn kept_slowly(all: &[(Timestamp, [i64; 3])], index: usize, policy: &Policy) -> bool {
        let (taken_at, [day, week, month]) = all[index];
        let newer = || all.iter().filter(move |(t, _)| *t > taken_at);
        let later = |which: usize, mine: i64| {
            let periods: std::collections::BTreeSet<i64> =
                newer().map(|(_, p)| p[which]).filter(|p| *p != mine).collect();
            periods.len()
        };
        let newest_of_day = !newer().any(|(_, p)| p[0] == day);
        let last_of_week = !newer().any(|(_, p)| p[1] == week);
        let first_of_month = newest_of_day && !all.iter().any(|(_, p)| p[2] == month && p[0] < day);
        newest_of_day && later(0, day) < policy.daily
            || last_of_week && later(1, week) < policy.weekly
            || first_of_month && later(2, month) < policy.monthly
            || newer().next().is_none()
    }

    /// Three years of a device that is off on some days and takes several backups on others, in hours since
    /// the start.
    fn three_years() -> impl Strategy<Value = Vec<i64>> {
        let day = prop_oneof![
            2 => Just(vec![]),
            7 => (0..24_i64).prop_map(|hour| vec![hour]),
            1 => prop::collection::btree_set(0..24_i64, 2..4).prop_map(|hours| hours.into_iter().collect()),
        ];
        // Weeks without any, too: a broken card, a long journey.
        let stretch = prop_oneof![
            9 => prop::collection::vec(day, 1..60),
            1 => (1..90_usize).prop_map(|days| vec![vec![]; days]),
        ];
        prop::collection::vec(stretch, 40).prop_map(|stretches| {
            let days = stretches.into_iter().flatten().take(3 * 365).enumerate();
            days.flat_map(|(day, hours)| {
                hours.into_iter().map(move |hour| i64::try_from(day).unwrap() * 24 + hour)
            })
            .collect()
        })
    }

    fn taken(hours: i64) -> Candidate {
        let taken_at = at("2026-11-23T02:00").checked_add(hours.hours()).unwrap();
        Candidate { name: format!("{taken_at}"), taken_at, standing: ProofState::Proven, hold: None }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 16,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_calendar_of_three_years_agrees_with_the_rule_said_slowly(hours in three_years()) {
            let backups: Vec<Candidate> = hours.into_iter().map(taken).collect();
            let Some(now) = backups.last().map(|b| b.taken_at) else { return Ok(()) };
            let policy = Policy::default();
            let all: Vec<_> = backups.iter().map(|b| (b.taken_at, periods(b))).collect();
            for (index, decision) in decide(&backups, &policy, now, &zone()).into_iter().enumerate() {
                let slowly = kept_slowly(&all, index, &policy);
                prop_assert_eq!(decision.keep(), slowly, "{} {:?}", decision.name, decision.reasons);
            }
        }

        #[test]
        fn pruning_after_every_backup_leaves_what_pruning_once_would(hours in three_years()) {
            let all: Vec<Candidate> = hours.into_iter().map(taken).collect();
            let Some(now) = all.last().map(|b| b.taken_at) else { return Ok(()) };
            let policy = Policy::default();
            let stay = |backups: Vec<Candidate>, now| -> Vec<Candidate> {
                let decisions = decide(&backups, &policy, now, &zone());
                backups.into_iter().zip(decisions).filter(|(_, d)| d.keep()).map(|(b, _)| b).collect()
            };
            let mut held = Vec::new();
            for backup in &all {
                let now = backup.taken_at;
                held.push(backup.clone());
                held = stay(held, now);
                prop_assert!(held.len() <= policy.daily + policy.weekly + policy.monthly);
            }
            prop_assert_eq!(held, stay(all, now));
        }

        #[test]
        fn clocks_that_jump_and_proofs_that_fail_never_cost_the_last_proven_backup(
            hours in three_years(),
            jumps in prop::collection::vec((0..1_000_usize, -20_000..20_000_i64), 0..6),
            fates in prop::collection::vec(0..3_u8, 1_000),
        ) {
            let mut held: Vec<Candidate> = Vec::new();
            let mut off = 0;
            for (index, hour) in hours.into_iter().enumerate() {
                off += jumps.iter().filter(|(when, _)| *when == index).map(|(_, by)| by).sum::<i64>();
                let fate = usize::from(fates[index % fates.len()]);
                let standing = [ProofState::Failed, ProofState::Unproven, ProofState::Proven][fate];
                let backup = Candidate { standing, ..taken(hour + off) };
                let now = backup.taken_at;
                held.push(backup);
                let proven = |b: &&Candidate| b.standing == ProofState::Proven;
                let newest_proven = |held: &[Candidate]| {
                    held.iter().filter(proven).map(|b| b.taken_at).filter(|at| *at <= now).max()
                };
                let before = (newest_proven(&held), held.iter().any(|b| proven(&b)));
                let decisions = decide(&held, &Policy::default(), now, &zone());
                held = held.into_iter().zip(decisions).filter(|(_, d)| d.keep()).map(|(b, _)| b).collect();
                prop_assert_eq!(before, (newest_proven(&held), held.iter().any(|b| proven(&b))));
            }
        }
    }
}

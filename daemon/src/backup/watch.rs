//! Reports the state of the backups as a part of the health, kept current while the daemon runs.
//!
//! ```text
//!  backup create, verify ─┐
//!  a unit that failed ────┴─▶ <data>/backup.json ─looked at all the time─▶ list of backups ─┬▶ health "backup"
//!                                                                                              └▶ [`Report`] ─▶ MQTT
//! ```
//!
//! The list is read when that file, the note of known backups ([`known`]) or the folder itself changes, and
//! every six hours: backups may lie on a disk that sleeps. A folder that does not answer (a share whose
//! server is gone) is a problem, not silence.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::create::Run;
use super::order::{self, Age, Dated};
use super::{Backup, BackupError, Level, known, lock};
use crate::clock::{Clock, Stamp};
use crate::durable;
use crate::error::chain;
use crate::health::{Condition, Health};

/// Name of the backups in [`Health`].
pub const COMPONENT: &str = "backup";
pub(super) const RECORD: &str = "backup.json";
/// Interval of the checks; each is three requests to the kernel about files that it knows.
const LOOK_EVERY: Duration = Duration::from_secs(20);
const LIST_EVERY: Duration = Duration::from_secs(6 * 3_600);
/// Time limit of the folder; a sleeping disk wakes up in less.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Age of a problem: two nights missed and one on the way.
const OLD_DAYS: i64 = 3;

/// The result of the last run of `jarvisd backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    pub at: Timestamp,
    /// The unit that failed; `None` after a success.
    pub failed_unit: Option<String>,
    /// When the backups changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Timestamp>,
}

impl LastRun {
    pub fn now(clock: &Clock, failed_unit: Option<String>) -> Self {
        let at = Timestamp::from_millisecond(clock.now_unix_ms()).unwrap_or_default();
        Self { at, failed_unit, changed: None }
    }
}

/// The facts about the backups outside the health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub count: usize,
    /// When the newest was taken, or an earlier moment if its clock was wrong ([`order`]).
    pub newest: Option<Timestamp>,
    /// The same for the newest backup that is proven as `backup.verify` asks.
    pub newest_proven: Option<Timestamp>,
    /// When that proof was made.
    pub last_proof: Option<Timestamp>,
    /// The same for the newest backup copied to the remote: to `backup.remote`, if that is set.
    pub newest_copied: Option<Timestamp>,
    /// Size of the newest backup.
    pub bytes: u64,
    pub problem: bool,
    /// The sentence of the health.
    pub sentence: Option<String>,
}

/// All observed facts.
#[derive(Debug)]
struct Seen<'a> {
    backups: &'a Result<Vec<Backup>, BackupError>,
    /// The missing backups.
    lost: Option<&'a str>,
    last: &'a Result<Option<LastRun>, String>,
    level: Level,
    remote: Option<&'a str>,
    now: &'a Stamp,
}

impl Seen<'_> {
    fn here(&self) -> &[Backup] {
        self.backups.as_ref().map(Vec::as_slice).unwrap_or_default()
    }

    fn newest_proven(&self) -> Option<&Backup> {
        self.here().iter().rfind(|backup| backup.is_proven_to(self.level))
    }
}

/// The sentence about a folder that does not answer.
const SILENT: &str = "the folder of the backups does not answer, so nobody knows what is in it: look whether \
                      its disk or its server is there (backup.dir)";

impl Report {
    /// The previous report, as far as it is still valid while the folder does not answer.
    fn silent(before: Option<Self>, condition: &Condition) -> Self {
        let nothing = Self {
            count: 0,
            newest: None,
            newest_proven: None,
            last_proof: None,
            newest_copied: None,
            bytes: 0,
            problem: true,
            sentence: None,
        };
        let sentence = condition.sentence().map(str::to_owned);
        Self { problem: true, sentence, ..before.unwrap_or(nothing) }
    }

    /// `None` if nothing is backed up and no backup was requested.
    fn of(seen: &Seen<'_>, condition: &Condition) -> Option<Self> {
        if matches!(condition, Condition::Off { .. }) {
            return None;
        }
        let backups = seen.here();
        let newest = backups.last();
        let proven = seen.newest_proven();
        let last_proof =
            proven.and_then(|backup| backup.proofs.iter().rfind(|proof| proof.level >= seen.level));
        let is_copied = |backup: &&Backup| {
            let copy = backup.copy.as_ref().filter(|copy| copy.ok);
            copy.is_some_and(|copy| seen.remote.is_none_or(|remote| copy.remote == remote))
        };
        let copied = backups.iter().rfind(is_copied);
        Some(Self {
            count: backups.len(),
            newest: newest.and_then(|backup| backup.surely_at),
            newest_proven: proven.and_then(|backup| backup.surely_at),
            last_proof: last_proof.and_then(|proof| order::past(proof.at, backups, seen.now)),
            newest_copied: copied.and_then(|backup| backup.surely_at),
            bytes: newest.map_or(0, |backup| backup.bytes),
            problem: *condition != Condition::Ok,
            sentence: condition.sentence().map(str::to_owned),
        })
    }
}

/// Notes the result of a run, for the daemon.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn note(data: &Path, run: &LastRun) -> Result<(), BackupError> {
    lock::note(data, RECORD, run, "the end of the run could not be noted")
}

/// Makes the daemon look at the backups again, and keeps the note of the last run.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn note_change(data: &Path, clock: &Clock) -> Result<(), BackupError> {
    // Without a note nothing was ever backed up here, and looking at copies does not change that.
    let Some(last) = noted(data) else { return Ok(()) };
    note(data, &LastRun { changed: Some(LastRun::now(clock, None).at), ..last })
}

/// Notes a success for the daemon. A failure to write the note does not fail the backup.
pub fn well(run: &Run<'_>) {
    if let Err(e) = note(&run.settings.paths.data, &LastRun::now(run.clock, None)) {
        log::warn!("{}", chain(&e));
    }
}

/// Makes the daemon look at the backups again, and keeps the note.
pub fn recheck(run: &Run<'_>) {
    if let Err(e) = note_change(&run.settings.paths.data, run.clock) {
        log::warn!("{}", chain(&e));
    }
}

/// The note of the last run. An unreadable note counts as none here; [`state`] reports it.
pub fn noted(data: &Path) -> Option<LastRun> {
    read_note(data).ok().flatten()
}

fn read_note(data: &Path) -> Result<Option<LastRun>, String> {
    let path = data.join(RECORD);
    let unusable = |why: &dyn std::fmt::Display| {
        format!(
            "how the last backup ended is not known ({}: {why}): `jarvisd backup create` makes one and notes \
             it anew",
            path.display()
        )
    };
    let bytes = durable::read_if_there(&path, 4096).map_err(|e| unusable(&e))?;
    bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|e| unusable(&e))
}

/// The condition in the health.
fn condition(seen: &Seen<'_>) -> Condition {
    let backups = match seen.backups {
        Ok(backups) => backups,
        Err(e) => return Condition::away(chain(e)),
    };
    if let (true, Some(sentence)) = (backups.is_empty(), seen.lost) {
        return Condition::degraded(sentence);
    }
    let last = match seen.last {
        Ok(last) => last.as_ref(),
        Err(sentence) => return Condition::degraded(sentence.clone()),
    };
    if let Some(LastRun { at, failed_unit: Some(unit), .. }) = last {
        let at = at.strftime("%Y-%m-%d %H:%M UTC");
        let others =
            if backups.is_empty() { "there is no backup" } else { "earlier backups are still there" };
        let also = seen.lost.map_or_else(String::new, |sentence| format!("; {sentence}"));
        return Condition::degraded(format!(
            "{unit} failed at {at}: {others}, and `journalctl -u {unit}` tells why{also}"
        ));
    }
    if backups.is_empty() {
        return Condition::off(
            "nothing is backed up: `systemctl enable --now jarvis-backup.timer` does that every night",
        );
    }
    let Some(proven) = seen.newest_proven() else {
        let also = seen.lost.map_or_else(String::new, |sentence| format!("; {sentence}"));
        return Condition::degraded(format!(
            "no backup is proven: `jarvisd backup verify latest` tells more{also}"
        ));
    };
    if let Some(sentence) = seen.lost {
        return Condition::degraded(sentence);
    }
    match order::age(proven, seen.now) {
        Age::Unknown => Condition::degraded(format!(
            "the age of the newest proven backup {} is not known, because the clock was {} when it was made: \
             `jarvisd backup create` makes one with the clock as it is now",
            proven.name,
            if proven.dated == Dated::Wrong { "wrong" } else { "not set" }
        )),
        Age::Days(days) if days >= OLD_DAYS => Condition::degraded(format!(
            "the newest proven backup is {days} days old: `systemctl status jarvis-backup.timer` tells when \
             the next is due"
        )),
        Age::Days(_) => {
            seen.remote.and_then(|remote| missing_copy(backups, remote, seen.now)).unwrap_or(Condition::Ok)
        }
    }
}

/// The fault of the copies at `remote`.
fn missing_copy(backups: &[Backup], remote: &str, now: &Stamp) -> Option<Condition> {
    const AGAIN: &str = "`jarvisd backup upload latest` tries again";
    let copies = || backups.iter().filter_map(|backup| Some((backup, backup.copy.as_ref()?)));
    let mut copies = copies().filter(|(_, copy)| copy.remote == remote).rev();
    let Some((backup, copy)) = copies.next() else {
        return Some(Condition::degraded(format!("no backup was copied to {remote} yet: {AGAIN}")));
    };
    if !copy.ok {
        let (name, at) = (&backup.name, copy.at.strftime("%Y-%m-%d %H:%M UTC"));
        let why = copy.detail.as_deref().unwrap_or("the log tells why");
        return Some(Condition::degraded(format!(
            "the copy of {name} elsewhere failed at {at} and the backup here is good; {AGAIN} ({why})"
        )));
    }
    match order::age(backup, now) {
        Age::Unknown => Some(Condition::degraded(format!(
            "the age of the newest backup that was copied to {remote} is not known: {AGAIN}"
        ))),
        Age::Days(days) if days >= OLD_DAYS => Some(Condition::degraded(format!(
            "the newest backup that was copied to {remote} is {days} days old: {AGAIN}"
        ))),
        Age::Days(_) => None,
    }
}

/// The state of the backups now.
#[derive(Debug)]
pub struct State {
    pub condition: Condition,
    /// The report for outside the health.
    pub report: Option<Report>,
    pub lost: Option<known::Lost>,
    pub backups: Result<Vec<Backup>, BackupError>,
    /// Least age of the newest proven backup, in days.
    pub days: Option<i64>,
}

/// Reads the state of the backups.
pub fn state(settings: &Context, clock: &Clock) -> State {
    let backups = super::list(&settings.paths.backups, clock);
    let lost = backups.as_ref().ok().and_then(|here| known::lost(settings, here));
    let seen = Seen {
        backups: &backups,
        lost: lost.as_ref().map(|lost| lost.sentence.as_str()),
        last: &read_note(&settings.paths.data),
        level: settings.backup.verify,
        remote: settings.backup.remote.as_ref().map(|remote| remote.0.as_str()),
        now: &clock.stamp(),
    };
    let condition = condition(&seen);
    let report = Report::of(&seen, &condition);
    let days = seen.newest_proven().and_then(|backup| match order::age(backup, seen.now) {
        Age::Days(days) => Some(days),
        Age::Unknown => None,
    });
    State { condition, report, days, lost, backups }
}

/// Cheap facts that change whenever the backups do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signs {
    run: Option<LastRun>,
    known: Sign,
    folder: Sign,
}

/// Device, inode and time of the last change of a file or a folder; `None` if it is missing.
type Sign = Option<(u64, u64, i64, i64)>;

impl Signs {
    fn of(settings: &Context) -> Self {
        let sign = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec()))
        };
        let (data, folder) = (&settings.paths.data, &settings.paths.backups);
        Self { run: noted(data), known: sign(&data.join(known::NOTE)), folder: sign(folder) }
    }
}

/// Keeps [`COMPONENT`] and `told` current until `stop`.
///
/// # Errors
/// Never: a failure to look is the report.
pub async fn run(
    settings: Context,
    clock: Clock,
    health: Health,
    told: Sender<Option<Report>>,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let settings = Arc::new(settings);
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<(Signs, Instant)> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = every.tick() => {}
        }
        let (settings, clock, known) = (settings.clone(), clock.clone(), seen.clone());
        let mut looking = tokio::task::spawn_blocking(move || {
            let signs = Signs::of(&settings);
            if known.is_some_and(|(before, at)| before == signs && at.elapsed() < LIST_EVERY) {
                return None;
            }
            Some((state(&settings, &clock), signs))
        });
        let looked = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            looked = tokio::time::timeout(ANSWERS_WITHIN, &mut looking) => looked,
        };
        let looked = match looked {
            Ok(looked) => looked,
            Err(_) => {
                let silent = Condition::away(SILENT);
                told.send_modify(|report| *report = Some(Report::silent(report.take(), &silent)));
                health.set(COMPONENT, silent);
                seen = None;
                // The asking thread is stuck until the folder answers; another thread would be, too.
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    looked = looking => looked,
                }
            }
        };
        if let Ok(Some((state, signs))) = looked {
            health.set(COMPONENT, state.condition);
            told.send_replace(state.report);
            seen = Some((signs, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Kind;
    use crate::backup::remote::{Check, CopyNote};

    fn backup(name: &str, ok: Option<bool>) -> Backup {
        let proofs: Vec<_> = ok.into_iter().map(|ok| (Level::Restore, ok)).collect();
        Backup::sample(name, Kind::Scheduled, &proofs)
    }

    fn now(at: &str, synced: bool) -> Stamp {
        let wall_unix_ms = at.parse::<Timestamp>().unwrap().as_millisecond();
        Stamp { wall_unix_ms, synced, boot_id: "b".into(), monotonic_ns: 0 }
    }

    fn seen<T>(
        mut backups: Result<Vec<Backup>, BackupError>,
        last: Option<&LastRun>,
        (remote, lost): (Option<&str>, Option<&str>),
        at: Option<&str>,
        of: impl FnOnce(&Seen<'_>) -> T,
    ) -> T {
        let now = now(at.unwrap_or("2026-11-28T03:00:00Z"), at.is_some());
        if let Ok(backups) = &mut backups {
            order::arrange(backups, &now);
        }
        let last = Ok(last.cloned());
        of(&Seen { backups: &backups, lost, last: &last, level: Level::Restore, remote, now: &now })
    }

    fn said(backups: Vec<Backup>, last: Option<&LastRun>, at: Option<&str>) -> Condition {
        seen(Ok(backups), last, (None, None), at, condition)
    }

    fn copied(name: &str, remote: &str, ok: bool) -> Backup {
        let detail = (!ok).then(|| "401 Unauthorized".to_owned());
        let at = "2026-11-23T02:10:00Z".parse().unwrap();
        let copy = CopyNote { remote: remote.into(), at, ok, check: Check::Content, detail };
        Backup { copy: Some(copy), ..backup(name, Some(true)) }
    }

    #[test]
    fn a_copy_elsewhere_that_is_missing_failed_or_old_is_said() {
        let said = |backups: Vec<Backup>, now: &str| {
            seen(Ok(backups), None, (Some("nas:j"), None), Some(now), condition)
        };
        let (older, newer) = ("jarvis-backup-20261122-020000", "jarvis-backup-20261123-020000");
        let now = "2026-11-23T12:00:00Z";
        let ok = copied(newer, "nas:j", true);
        assert_eq!(said(vec![copied(older, "nas:j", false), ok.clone()], now), Condition::Ok);
        let none = said(vec![backup(newer, Some(true))], now);
        assert!(none.sentence().unwrap().contains("no backup was copied to nas:j"), "{none:?}");
        let elsewhere = said(vec![copied(newer, "old:j", true)], now);
        assert!(elsewhere.sentence().unwrap().contains("no backup was copied"), "{elsewhere:?}");
        let failed = said(vec![copied(older, "nas:j", true), copied(newer, "nas:j", false)], now);
        assert!(failed.sentence().unwrap().contains("401 Unauthorized"), "{failed:?}");
        let fresh = backup("jarvis-backup-20261126-020000", Some(true));
        let old = said(vec![ok, fresh], "2026-11-26T03:00:00Z");
        assert!(old.sentence().unwrap().contains("3 days old"), "{old:?}");
    }

    #[test]
    fn the_device_says_when_backups_are_missing_old_unproven_or_failed() {
        let good = || backup("jarvis-backup-20261122-020000", Some(true));
        let later = || backup("jarvis-backup-20261123-020000", Some(false));
        assert_eq!(said(vec![good()], None, Some("2026-11-23T03:00:00Z")), Condition::Ok);
        assert_eq!(said(vec![good(), later()], None, Some("2026-11-24T03:00:00Z")), Condition::Ok);
        let old = said(vec![good(), later()], None, Some("2026-11-25T03:00:00Z"));
        assert!(old.sentence().unwrap().contains("3 days old"), "{old:?}");
        assert_eq!(said(vec![good()], None, None), Condition::Ok, "no age while the clock is not set");
        assert!(said(vec![later()], None, None).sentence().unwrap().contains("no backup is proven"));
        assert!(matches!(said(Vec::new(), None, None), Condition::Off { .. }));
        let failed = LastRun {
            at: "2026-11-23T02:00:00Z".parse().unwrap(),
            failed_unit: Some("jarvis-backup".into()),
            changed: None,
        };
        let failed = said(vec![good()], Some(&failed), Some("2026-11-23T03:00:00Z"));
        assert!(
            failed.sentence().unwrap().starts_with("jarvis-backup failed at 2026-11-23 02:00"),
            "{failed:?}"
        );
    }

    #[test]
    fn what_is_told_names_the_newest_the_proven_and_the_copied_one() {
        let all = || {
            vec![
                copied("jarvis-backup-20261121-020000", "nas:j", true),
                backup("jarvis-backup-20261122-020000", Some(true)),
                backup("jarvis-backup-20261123-020000", None),
            ]
        };
        let at = Some("2026-11-23T03:00:00Z");
        let report = |condition: &Condition, backups: Result<Vec<Backup>, BackupError>, remote| {
            seen(backups, None, (remote, None), at, |seen| Report::of(seen, condition))
        };
        let good = report(&Condition::Ok, Ok(all()), None).unwrap();
        let told = serde_json::to_value(&good).unwrap();
        assert_eq!(told["newest"], "2026-11-23T02:00:00Z");
        assert_eq!(told["newest_proven"], "2026-11-22T02:00:00Z");
        assert_eq!(told["newest_copied"], "2026-11-21T02:00:00Z");
        assert_eq!((good.count, good.problem), (3, false));
        let moved = report(&Condition::Ok, Ok(all()), Some("other:j")).unwrap();
        assert_eq!(moved.newest_copied, None, "a copy at a place that is not used any more");
        let worse = report(&Condition::degraded("old"), Ok(all()), None).unwrap();
        assert_eq!((worse.problem, worse.sentence.as_deref()), (true, Some("old")));
        assert_eq!(report(&Condition::off("none"), Ok(Vec::new()), None), None);
        let away = Err(BackupError::NoRemote);
        assert!(report(&Condition::away("disk"), away, None).unwrap().problem);
        let silent = Report::silent(Some(good), &Condition::away(SILENT));
        assert_eq!((silent.problem, silent.count), (true, 3));
    }

    #[test]
    fn what_is_missing_is_said_before_all_is_well_and_before_nothing_is_backed_up() {
        let good = || backup("jarvis-backup-20261122-020000", Some(true));
        let at = Some("2026-11-23T03:00:00Z");
        let said = |backups, last| seen(Ok(backups), last, (None, Some("2 are missing")), at, condition);
        assert_eq!(said(vec![good()], None).sentence(), Some("2 are missing"));
        assert_eq!(said(Vec::new(), None).sentence(), Some("2 are missing"));
        let failed = LastRun {
            at: "2026-11-23T02:00:00Z".parse().unwrap(),
            failed_unit: Some("jarvis-backup".into()),
            changed: None,
        };
        assert_eq!(said(Vec::new(), Some(&failed)).sentence(), Some("2 are missing"));
        assert!(said(vec![good()], Some(&failed)).sentence().unwrap().ends_with("; 2 are missing"));
    }

    #[test]
    fn a_backup_from_the_future_has_no_age_and_hides_none() {
        let good = || backup("jarvis-backup-20261110-020000", Some(true));
        let future = || backup("jarvis-backup-20310101-020000", Some(true));
        let at = Some("2026-11-23T03:00:00Z");
        let old = said(vec![good(), future()], None, at);
        assert!(old.sentence().unwrap().contains("13 days old"), "{old:?}");
        let unknown = said(vec![future()], None, at);
        assert!(unknown.sentence().unwrap().contains("is not known"), "{unknown:?}");
        let told =
            seen(Ok(vec![good(), future()]), None, (None, None), at, |s| Report::of(s, &Condition::Ok));
        assert_eq!(told.unwrap().newest, Some(good().taken_at));
    }

    #[test]
    fn a_note_is_read_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(noted(dir.path()), None);
        let run = LastRun { at: "2026-11-23T02:00:00Z".parse().unwrap(), failed_unit: None, changed: None };
        note(dir.path(), &run).unwrap();
        note(dir.path(), &run).unwrap();
        assert_eq!(noted(dir.path()), Some(run));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
        fs::write(dir.path().join(RECORD), "{\"at\": 7}").unwrap();
        assert_eq!(noted(dir.path()), None);
    }
}

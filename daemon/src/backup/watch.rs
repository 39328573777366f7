//! What the device says about its backups: a part of the health, kept current while the daemon runs.
//!
//! ```text
//!  backup create, verify ─┐
//!  a unit that failed ────┴─▶ <data>/backup.json ─looked at every minute─▶ list of backups ─┬▶ health "backup"
//!                                                                                              └▶ [`Report`] ─▶ MQTT
//! ```
//!
//! The list is read when that file changes and every six hours: backups may lie on a disk that sleeps.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Backup, BackupError, Level, lock};
use crate::clock::Clock;
use crate::config::Settings;
use crate::error::chain;
use crate::health::{Condition, Health};

/// Name of the backups in [`Health`].
pub const COMPONENT: &str = "backup";
const RECORD: &str = "backup.json";
const LOOK_EVERY: Duration = Duration::from_secs(60);
const LIST_EVERY: Duration = Duration::from_secs(6 * 3_600);
/// Two nights missed and one on the way.
const OLD_DAYS: i64 = 3;

/// How the last run of `jarvisd backup` ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    pub at: Timestamp,
    /// The unit that failed; `None` if all went well.
    pub failed_unit: Option<String>,
    /// When something about the backups changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Timestamp>,
}

impl LastRun {
    pub fn now(clock: &Clock, failed_unit: Option<String>) -> Self {
        let at = Timestamp::from_millisecond(clock.now_unix_ms()).unwrap_or_default();
        Self { at, failed_unit, changed: None }
    }
}

/// What is told of the backups elsewhere than in the health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub count: usize,
    /// When the newest was taken.
    pub newest: Option<Timestamp>,
    /// When the newest was taken that was found good as `backup.verify` asks.
    pub newest_proven: Option<Timestamp>,
    /// When that was found.
    pub last_proof: Option<Timestamp>,
    /// When the newest was taken that was copied elsewhere.
    pub newest_copied: Option<Timestamp>,
    /// Size of the newest.
    pub bytes: u64,
    pub problem: bool,
    /// What the health says.
    pub sentence: Option<String>,
}

impl Report {
    /// `None` where nothing is backed up and nobody asked for it.
    fn of(backups: &Result<Vec<Backup>, BackupError>, condition: &Condition, level: Level) -> Option<Self> {
        if matches!(condition, Condition::Off { .. }) {
            return None;
        }
        let backups = backups.as_ref().map(Vec::as_slice).unwrap_or_default();
        let newest = backups.last();
        let proven = backups.iter().rfind(|backup| backup.is_proven_to(level));
        let last_proof = proven.and_then(|backup| backup.proofs.iter().rfind(|proof| proof.level >= level));
        let copied = backups.iter().rfind(|backup| backup.copy.as_ref().is_some_and(|copy| copy.ok));
        Some(Self {
            count: backups.len(),
            newest: newest.map(|backup| backup.taken_at),
            newest_proven: proven.map(|backup| backup.taken_at),
            last_proof: last_proof.map(|proof| proof.at),
            newest_copied: copied.map(|backup| backup.taken_at),
            bytes: newest.map_or(0, |backup| backup.bytes),
            problem: *condition != Condition::Ok,
            sentence: condition.sentence().map(str::to_owned),
        })
    }
}

/// Notes how a run ended, for the daemon.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn note(data: &Path, run: &LastRun) -> Result<(), BackupError> {
    let path = data.join(RECORD);
    let disk = BackupError::disk("the end of the run could not be noted", &path);
    let text = serde_json::to_string(run).map_err(io::Error::from).map_err(&disk)?;
    let fresh = data.join(format!(".{RECORD}.{}", uuid::Uuid::now_v7().simple()));
    lock::replace_file(&path, &fresh, text.as_bytes()).map_err(disk)
}

/// Has the daemon look at the backups again, and leaves what is noted of the last run.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn note_change(data: &Path, clock: &Clock) -> Result<(), BackupError> {
    let now = LastRun::now(clock, None);
    let last = noted(data).map(|last| LastRun { changed: Some(now.at), ..last });
    note(data, &last.unwrap_or(now))
}

/// The note of the last run. One that cannot be read counts as none: the list of backups tells the rest.
pub fn noted(data: &Path) -> Option<LastRun> {
    let mut text = String::new();
    fs::File::open(data.join(RECORD)).ok()?.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// What the device says: of `backups`, the last run, the copies at `remote`, and `now` (`None` while the clock is not set).
pub fn condition(
    backups: &Result<Vec<Backup>, BackupError>,
    last: Option<&LastRun>,
    level: Level,
    remote: Option<&str>,
    now: Option<Timestamp>,
) -> Condition {
    let backups = match backups {
        Ok(backups) => backups,
        Err(e) => return Condition::away(chain(e)),
    };
    if let Some(LastRun { at, failed_unit: Some(unit), .. }) = last {
        let at = at.strftime("%Y-%m-%d %H:%M UTC");
        return Condition::degraded(format!(
            "{unit} failed at {at}: earlier backups are still there, and `journalctl -u {unit}` tells why"
        ));
    }
    if backups.is_empty() {
        return Condition::off(
            "nothing is backed up: `systemctl enable --now jarvis-backup.timer` does that every night",
        );
    }
    let Some(proven) = backups.iter().rfind(|backup| backup.is_proven_to(level)) else {
        return Condition::degraded("no backup is proven: `jarvisd backup verify latest` tells more");
    };
    let age = |backup: &Backup| now.map_or(0, |now| (now.as_second() - backup.taken_at.as_second()) / 86_400);
    let days = age(proven);
    if days >= OLD_DAYS {
        return Condition::degraded(format!(
            "the newest proven backup is {days} days old: `systemctl status jarvis-backup.timer` tells when the next is due"
        ));
    }
    remote.and_then(|remote| missing_copy(backups, remote, age)).unwrap_or(Condition::Ok)
}

/// What is wrong with the copies at `remote`.
fn missing_copy(backups: &[Backup], remote: &str, age: impl Fn(&Backup) -> i64) -> Option<Condition> {
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
    let days = age(backup);
    (days >= OLD_DAYS).then(|| {
        Condition::degraded(format!(
            "the newest backup that was copied to {remote} is {days} days old: {AGAIN}"
        ))
    })
}

/// What there is to be said about the backups now, and elsewhere than in the health.
pub fn look(settings: &Settings, last: Option<&LastRun>, clock: &Clock) -> (Condition, Option<Report>) {
    let (stamp, level) = (clock.stamp(), settings.backup.verify);
    let now = Timestamp::from_millisecond(stamp.wall_unix_ms).ok().filter(|_| stamp.synced);
    let backups = super::list(&settings.paths.backups);
    let remote = settings.backup.remote.as_ref().map(|remote| remote.0.as_str());
    let found = condition(&backups, last, level, remote, now);
    let report = Report::of(&backups, &found, level);
    (found, report)
}

/// Keeps [`COMPONENT`] and `told` current until `stop`.
///
/// # Errors
/// Never: what cannot be looked at is what is reported.
pub async fn run(
    settings: Settings,
    clock: Clock,
    health: Health,
    told: Sender<Option<Report>>,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let settings = Arc::new(settings);
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<(Option<LastRun>, Instant)> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = every.tick() => {}
        }
        let (settings, clock, known) = (settings.clone(), clock.clone(), seen.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let last = noted(&settings.paths.data);
            if known.is_some_and(|(before, at)| before == last && at.elapsed() < LIST_EVERY) {
                return None;
            }
            let (condition, report) = look(&settings, last.as_ref(), &clock);
            Some((condition, report, last))
        });
        if let Ok(Some((condition, report, last))) = looked.await {
            health.set(COMPONENT, condition);
            told.send_replace(report);
            seen = Some((last, Instant::now()));
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

    fn said(backups: Vec<Backup>, last: Option<&LastRun>, now: Option<&str>) -> Condition {
        condition(&Ok(backups), last, Level::Restore, None, now.map(|now| now.parse().unwrap()))
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
            condition(&Ok(backups), None, Level::Restore, Some("nas:j"), Some(now.parse().unwrap()))
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
        let level = Level::Restore;
        let all = Ok(vec![
            copied("jarvis-backup-20261121-020000", "nas:j", true),
            backup("jarvis-backup-20261122-020000", Some(true)),
            backup("jarvis-backup-20261123-020000", None),
        ]);
        let report = Report::of(&all, &Condition::Ok, level).unwrap();
        let told = serde_json::to_value(&report).unwrap();
        assert_eq!(told["newest"], "2026-11-23T02:00:00Z");
        assert_eq!(told["newest_proven"], "2026-11-22T02:00:00Z");
        assert_eq!(told["newest_copied"], "2026-11-21T02:00:00Z");
        assert_eq!((report.count, report.problem), (3, false));
        let worse = Report::of(&all, &Condition::degraded("old"), level).unwrap();
        assert_eq!((worse.problem, worse.sentence.as_deref()), (true, Some("old")));
        assert_eq!(Report::of(&Ok(Vec::new()), &Condition::off("none"), level), None);
        let away = Err(BackupError::NoRemote);
        assert!(Report::of(&away, &Condition::away("disk"), level).unwrap().problem);
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

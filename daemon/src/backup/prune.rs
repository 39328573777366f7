//! Deletes the backups that no day, week or month needs; [`retention`] selects them.
//!
//! A backup is deleted in two steps, each of which can be interrupted. Its folder durably gets a name that no
//! listing knows, and then its content is removed. The next process that locks the folder removes the
//! leftovers of an interruption.

use std::fs;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::context::Context;
use super::create::Run;
use super::lock::{self, Lock};
use super::remote::{self, Copied};
use super::retention::{self, Candidate, Decision, Hold, Policy, ProofState};
use super::{Backup, BackupError, Kind, Level, known, order, watch};
use crate::clock::Stamp;

/// After this long a partial copy is no longer being made.
const PARTIAL_STAYS: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The decision about one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PruneDecision {
    #[serde(flatten)]
    pub backup: Backup,
    pub keep: bool,
    /// Every reason to keep it, or the one reason to delete it.
    pub reasons: Vec<String>,
}

impl Policy {
    /// The settings of the configuration.
    pub fn of(settings: &Context) -> Self {
        let backup = &settings.backup;
        let [daily, weekly, monthly] = [backup.keep_daily, backup.keep_weekly, backup.keep_monthly]
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Self { daily, weekly, monthly, ..Self::default() }
    }
}

/// Decides about `backups`. A backup found good at `level` counts as proven.
///
/// # Errors
/// [`BackupError::Refused`] while the clock is not set, unless `trusted`: a clock that is wrong by a year
/// makes every backup old.
pub fn decide(
    backups: Vec<Backup>,
    policy: &Policy,
    level: Level,
    clock: &Stamp,
    trusted: bool,
) -> Result<Vec<PruneDecision>, BackupError> {
    if !clock.synced && !trusted {
        return Err(BackupError::Refused(
            "nothing was deleted, because the clock is not set by NTP and may be wrong: wait until it is, or \
             say --trust-clock if you know that it is right"
                .to_owned(),
        ));
    }
    let now = Timestamp::from_millisecond(clock.wall_unix_ms)
        .map_err(|_| BackupError::Refused("the clock shows a time that cannot be".to_owned()))?;
    let mut candidates: Vec<Candidate> = backups.iter().map(|backup| candidate(backup, level)).collect();
    for candidate in &mut candidates {
        // The name was the next free second, not a time in the future.
        if candidate.taken_at > now && candidate.taken_at.duration_since(now) <= order::TOLERANCE {
            candidate.taken_at = now;
        }
    }
    let decisions = retention::decide(&candidates, policy, now, &TimeZone::system());
    let fates = backups.into_iter().zip(decisions).map(|(backup, decision)| {
        let keep = decision.keep();
        let Decision { reasons, .. } = decision;
        PruneDecision { backup, keep, reasons: reasons.iter().map(ToString::to_string).collect() }
    });
    Ok(fates.collect())
}

fn candidate(backup: &Backup, level: Level) -> Candidate {
    let damaged = backup.fault.is_some() || backup.last_proof().is_some_and(|proof| !proof.ok);
    let hold = match backup.kind {
        _ if backup.released => None,
        _ if backup.fault.is_some() => Some(Hold::Unreadable),
        Kind::Scheduled => None,
        Kind::OnDemand => Some(Hold::OnDemand),
        Kind::Safety => Some(Hold::Safety),
    };
    let standing = match damaged {
        true => ProofState::Failed,
        false if backup.is_proven_to(level) => ProofState::Proven,
        false => ProofState::Unproven,
    };
    let taken_at = backup.day_of.unwrap_or(backup.taken_at);
    Candidate { name: backup.name.clone(), taken_at, standing, hold }
}

/// Syncs the backups that stay and their notes, before others are deleted because of them. The process that
/// made or proved one may have been killed before its names were durable.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn settle(lock: &Lock, fates: &[PruneDecision]) -> Result<(), BackupError> {
    let stays = |fate: &&PruneDecision| fate.keep && fate.backup.fault.is_none();
    fates.iter().filter(stays).try_for_each(|fate| lock::sync_folder(&fate.backup.path))?;
    lock::sync_folder(lock.dir())
}

/// Deletes a backup. The backups that stay were [`settle`]d before.
///
/// # Errors
/// [`BackupError::Disk`]; the leftovers are then no backup any more, and the next process that locks the
/// folder removes them.
pub fn remove(lock: &Lock, backup: &Backup) -> Result<(), BackupError> {
    let doomed = lock.dir().join(format!(".deleting-{}", backup.name));
    let disk = BackupError::disk("the backup could not be deleted", &backup.path);
    fs::rename(&backup.path, &doomed).map_err(&disk)?;
    lock::sync_folder(lock.dir())?;
    fs::remove_dir_all(&doomed).map_err(disk)
}

/// The result for the backups of one place.
#[derive(Debug, Serialize)]
pub struct Place {
    pub deleted: usize,
    pub freed_bytes: u64,
    pub backups: Vec<PruneDecision>,
    /// Partial copies that were removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partial: Vec<String>,
}

/// The results for the backups here, and for the copies.
#[derive(Debug, Serialize)]
pub struct Pruned {
    pub dry_run: bool,
    #[serde(flatten)]
    pub here: Place,
    /// The copies at `backup.remote`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Place>,
    /// Why the copies were not pruned.
    #[serde(skip)]
    pub failed: Option<BackupError>,
}

impl Place {
    fn of(backups: Vec<PruneDecision>, partial: Vec<String>) -> Self {
        let going = || backups.iter().filter(|fate| !fate.keep).map(|fate| &fate.backup);
        let freed_bytes = going().map(|b| b.bytes).fold(0, u64::saturating_add);
        Self { deleted: going().count(), freed_bytes, backups, partial }
    }

    fn going(&self) -> impl Iterator<Item = &Backup> {
        self.backups.iter().filter(|fate| !fate.keep).map(|fate| &fate.backup)
    }
}

/// Prunes here, then at the remote, if there is one. A failure at the remote is reported with the result
/// here.
///
/// # Errors
/// [`BackupError`] of the local part.
pub async fn prune(run: &Run<'_>, dry_run: bool, trust_clock: bool) -> Result<Pruned, BackupError> {
    let all = super::list(run.lock.dir(), run.clock)?;
    let released: Vec<String> = all.iter().filter(|b| b.released).map(|b| b.name.clone()).collect();
    let here = Place::of(decided(run, all, trust_clock)?, Vec::new());
    if !dry_run && here.deleted > 0 {
        settle(run.lock, &here.backups)?;
        // Forgotten first, or a power cut would leave a note of backups that no longer exist.
        let forgotten = known::forget(&run.settings.paths.data, here.going());
        for backup in here.going() {
            run.cancel.check()?;
            remove(run.lock, backup)?;
        }
        if forgotten.is_err() {
            // A full disk has room now.
            known::forget(&run.settings.paths.data, here.going())?;
        }
    }
    let mut pruned = Pruned { dry_run, here, remote: None, failed: None };
    if run.settings.backup.remote.is_some() {
        match elsewhere(run, &released, dry_run, trust_clock).await {
            Ok(place) => pruned.remote = Some(place),
            Err(e) => pruned.failed = Some(e),
        }
    }
    Ok(pruned)
}

fn decided(run: &Run<'_>, all: Vec<Backup>, trust_clock: bool) -> Result<Vec<PruneDecision>, BackupError> {
    let level = run.settings.backup.verify;
    decide(all, &Policy::of(run.settings), level, &run.clock.stamp(), trust_clock)
}

async fn elsewhere(
    run: &Run<'_>,
    released: &[String],
    dry_run: bool,
    trust_clock: bool,
) -> Result<Place, BackupError> {
    let index = remote::index(run).await?;
    if !dry_run && remote::miss(run, &index)? {
        watch::recheck(run);
    }
    let device = &run.settings.device;
    // Copies of another device, and unreadable copies, are not deleted.
    let ours = |copied: &Copied| copied.manifest.as_ref().is_ok_and(|read| read.manifest.device == *device);
    let copies = index.copies.into_iter().filter(ours).map(|copied| {
        let mut backup = copied.backup;
        backup.released |= released.contains(&backup.name);
        backup
    });
    let fates = decided(run, copies.collect(), trust_clock)?;
    let now = Timestamp::from_millisecond(run.clock.now_unix_ms()).unwrap_or_default();
    let old =
        |name: &String| super::time_of(name).is_some_and(|taken| now.duration_since(taken) > PARTIAL_STAYS);
    let place = Place::of(fates, index.partial.into_iter().filter(old).collect());
    if !dry_run {
        for name in place.going().map(|backup| &backup.name).chain(&place.partial) {
            run.cancel.check()?;
            remote::remove(run, name).await?;
        }
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(now: &str, synced: bool) -> Stamp {
        let wall_unix_ms = now.parse::<Timestamp>().unwrap().as_millisecond();
        Stamp { wall_unix_ms, synced, boot_id: "b".into(), monotonic_ns: 0 }
    }

    #[test]
    fn nothing_goes_while_the_clock_is_not_set() {
        let (policy, clock) = (Policy::default(), stamp("2026-11-23T03:00:00Z", false));
        assert!(matches!(
            decide(Vec::new(), &policy, Level::Restore, &clock, false),
            Err(BackupError::Refused(_))
        ));
        assert_eq!(decide(Vec::new(), &policy, Level::Restore, &clock, true).unwrap(), []);
    }

    #[test]
    fn what_counts_as_proven_is_what_the_configuration_asks_for() {
        let restored = [(Level::Restore, true)];
        let quick_later = [(Level::Restore, true), (Level::Quick, true)];
        let broke_later = [(Level::Restore, true), (Level::Quick, false)];
        let mended = [(Level::Restore, false), (Level::Quick, true)];
        for (proofs, level, standing) in [
            (&restored[..], Level::Restore, ProofState::Proven),
            (&quick_later[..], Level::Restore, ProofState::Proven),
            (&broke_later[..], Level::Quick, ProofState::Failed),
            (&mended[..], Level::Restore, ProofState::Unproven),
            (&mended[..], Level::Quick, ProofState::Proven),
            (&[][..], Level::Quick, ProofState::Unproven),
        ] {
            let found =
                candidate(&Backup::sample("jarvis-backup-20261122-020000", Kind::Scheduled, proofs), level);
            assert_eq!((found.standing, found.hold), (standing, None), "{proofs:?} {level:?}");
        }
    }

    #[test]
    fn what_was_asked_for_or_cannot_be_read_is_held() {
        let proven = [(Level::Restore, true)];
        let held = |backup: &Backup| candidate(backup, Level::Restore).hold;
        let mut asked = Backup::sample("jarvis-backup-20261122-020000", Kind::OnDemand, &proven);
        assert_eq!(held(&asked), Some(Hold::OnDemand));
        asked.released = true;
        assert_eq!(held(&asked), None);
        let mut unreadable = Backup::sample("jarvis-backup-20261122-020000", Kind::OnDemand, &[]);
        unreadable.fault = Some("made by a newer version".to_owned());
        assert_eq!(held(&unreadable), Some(Hold::Unreadable));
        assert_eq!(
            held(&Backup::sample("jarvis-backup-20261122-020000", Kind::Safety, &proven)),
            Some(Hold::Safety)
        );
    }
}

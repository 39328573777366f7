//! Deleting the backups that no day, week or month needs; [`retention`] says which these are.
//!
//! A backup goes in two steps, each of which can be cut off: its folder gets a name that no listing knows, durably, and
//! then everything in it is removed. What a cut leaves behind, the next process that takes the folder removes.

use std::fs;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::context::Context;
use super::lock::{self, Lock};
use super::retention::{self, Candidate, Decision, Hold, Policy, Standing};
use super::{Backup, BackupError, Kind, Level, order};
use crate::clock::Stamp;

/// What is to become of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fate {
    #[serde(flatten)]
    pub backup: Backup,
    pub keep: bool,
    /// Every reason to keep it, or the one for which it goes.
    pub reasons: Vec<String>,
}

impl Policy {
    /// As the configuration has it.
    pub fn of(settings: &Context) -> Self {
        let backup = &settings.backup;
        let [daily, weekly, monthly] = [backup.keep_daily, backup.keep_weekly, backup.keep_monthly]
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Self { daily, weekly, monthly, ..Self::default() }
    }
}

/// Decides about `backups`. One that was found good at `level` counts as proven.
///
/// # Errors
/// [`BackupError::Refused`] while the clock is not set, unless `trusted`: a clock that is wrong by a year makes every
/// backup old.
pub fn decide(
    backups: Vec<Backup>,
    policy: &Policy,
    level: Level,
    clock: &Stamp,
    trusted: bool,
) -> Result<Vec<Fate>, BackupError> {
    if !clock.synced && !trusted {
        return Err(BackupError::Refused(
            "nothing was deleted, because the clock is not set by NTP and may be wrong: wait until it is, or say \
             --trust-clock if you know that it is right"
                .to_owned(),
        ));
    }
    let now = Timestamp::from_millisecond(clock.wall_unix_ms)
        .map_err(|_| BackupError::Refused("the clock shows a time that cannot be".to_owned()))?;
    let mut candidates: Vec<Candidate> = backups.iter().map(|backup| candidate(backup, level)).collect();
    for candidate in &mut candidates {
        // The second of a name that was free, not the future.
        if candidate.taken_at > now && candidate.taken_at.duration_since(now) <= order::TOLERANCE {
            candidate.taken_at = now;
        }
    }
    let decisions = retention::decide(&candidates, policy, now, &TimeZone::system());
    let fates = backups.into_iter().zip(decisions).map(|(backup, decision)| {
        let keep = decision.keep();
        let Decision { reasons, .. } = decision;
        Fate { backup, keep, reasons: reasons.iter().map(ToString::to_string).collect() }
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
        true => Standing::Failed,
        false if backup.is_proven_to(level) => Standing::Proven,
        false => Standing::Unproven,
    };
    let taken_at = backup.day_of.unwrap_or(backup.taken_at);
    Candidate { name: backup.name.clone(), taken_at, standing, hold }
}

/// Makes the backups that stay durable, with what is known of them: whoever made or proved one may have been killed before the
/// names were, and for its sake others go.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn settle(lock: &Lock, fates: &[Fate]) -> Result<(), BackupError> {
    let stays = |fate: &&Fate| fate.keep && fate.backup.fault.is_none();
    fates.iter().filter(stays).try_for_each(|fate| lock::sync_folder(&fate.backup.path))?;
    lock::sync_folder(lock.dir())
}

/// Deletes a backup. What stays was [`settle`]d before.
///
/// # Errors
/// [`BackupError::Disk`]; what is left of it then is no backup any more and is removed by the next that takes the folder.
pub fn remove(lock: &Lock, backup: &Backup) -> Result<(), BackupError> {
    let doomed = lock.dir().join(format!(".deleting-{}", backup.name));
    let disk = BackupError::disk("the backup could not be deleted", &backup.path);
    fs::rename(&backup.path, &doomed).map_err(&disk)?;
    lock::sync_folder(lock.dir())?;
    fs::remove_dir_all(&doomed).map_err(disk)
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
            (&restored[..], Level::Restore, Standing::Proven),
            (&quick_later[..], Level::Restore, Standing::Proven),
            (&broke_later[..], Level::Quick, Standing::Failed),
            (&mended[..], Level::Restore, Standing::Unproven),
            (&mended[..], Level::Quick, Standing::Proven),
            (&[][..], Level::Quick, Standing::Unproven),
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

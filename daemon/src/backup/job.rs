//! A backup as one job for every interface: make it, prove it, copy it to the remote, prune by the calendar,
//! and notify the daemon.
//!
//! A failed step keeps the results of the earlier ones. A backup that was made but not proven stays and is
//! named. A failed copy does not keep the old backups from being deleted.

use super::create::{self, Run};
use super::manifest::Manifest;
use super::prune::{self, Pruned};
use super::remote::{self, CopyNote};
use super::{Backup, BackupError, Kind, Level, Proof, find, known, verify, watch};

/// The steps of the job.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Why the backup is made: this decides how long it is kept.
    pub kind: Kind,
    /// The level of the proof.
    pub level: Level,
    /// Whether it is copied to `backup.remote`, if that is set.
    pub upload: bool,
    /// Whether the backups that the calendar does not need are deleted afterwards. `true` trusts the clock
    /// even if NTP did not set it.
    pub prune: Option<bool>,
}

/// The results of a finished job.
#[derive(Debug)]
pub struct Done {
    pub backup: Backup,
    pub manifest: Manifest,
    pub proof: Proof,
    /// `None` if no copy was requested.
    pub copied: Option<Result<CopyNote, BackupError>>,
    /// `None` if no pruning was requested.
    pub pruned: Option<Result<Pruned, BackupError>>,
}

/// The reason why there is no proven backup.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    NotMade(#[from] BackupError),
    #[error("{name} was made and is not proven")]
    NotProven { name: String, source: BackupError },
}

/// Runs all steps of `job`.
///
/// # Errors
/// [`JobError`]. A failure after the proof is in [`Done`].
pub async fn run(run: &Run<'_>, job: Job) -> Result<Done, JobError> {
    let made = create::create(run, job.kind).await?;
    let name = made.name;
    let not_proven = |source| JobError::NotProven { name: name.clone(), source };
    let proof =
        verify::verify(run, &run.lock.dir().join(&name), job.level, &made.keys).await.map_err(not_proven)?;
    let mut backup = find(run.lock.dir(), &name, run.clock).map_err(not_proven)?;
    known::learn_or_warn(run, true);
    watch::well(run);
    let mut copied = None;
    if run.settings.backup.remote.is_some() && job.upload {
        copied = Some(remote::upload(run, &backup).await);
        backup = find(run.lock.dir(), &name, run.clock).map_err(not_proven)?;
        // Makes the daemon look again.
        watch::well(run);
    }
    let pruned = match job.prune {
        Some(trust_clock) => Some(prune::prune(run, false, trust_clock).await),
        None => None,
    };
    Ok(Done { backup, manifest: made.manifest, proof, copied, pruned })
}

//! A backup as one job that any face can start: make it, prove it, copy it elsewhere, delete what the
//! calendar does not need, and have the daemon look.
//!
//! Each step that fails leaves what the steps before it did: a backup that was made and is not proven stays
//! and is named, and a copy that failed does not keep the old backups from being deleted.

use super::create::{self, Run};
use super::manifest::Manifest;
use super::prune::{self, Pruned};
use super::remote::{self, CopyNote};
use super::{Backup, BackupError, Kind, Level, Proof, find, known, verify, watch};

/// Which steps are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Why the backup is made: this decides how long it is kept.
    pub kind: Kind,
    /// How thoroughly it is proven.
    pub level: Level,
    /// Whether it is copied to `backup.remote`, where there is one.
    pub upload: bool,
    /// Whether what the calendar does not need is deleted then; `true`: by the clock as it is, also if NTP
    /// did not set it.
    pub prune: Option<bool>,
}

/// A job that was done.
#[derive(Debug)]
pub struct Done {
    pub backup: Backup,
    pub manifest: Manifest,
    pub proof: Proof,
    /// `None` where no copy was wanted.
    pub copied: Option<Result<CopyNote, BackupError>>,
    /// `None` where nothing was to be deleted.
    pub pruned: Option<Result<Pruned, BackupError>>,
}

/// Why there is no proven backup.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    NotMade(#[from] BackupError),
    #[error("{name} was made and is not proven")]
    NotProven { name: String, source: BackupError },
}

/// Does all of `job`.
///
/// # Errors
/// [`JobError`]. What fails after the proof is in [`Done`].
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
        // The daemon looks again.
        watch::well(run);
    }
    let pruned = match job.prune {
        Some(trust_clock) => Some(prune::prune(run, false, trust_clock).await),
        None => None,
    };
    Ok(Done { backup, manifest: made.manifest, proof, copied, pruned })
}

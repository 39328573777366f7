//! Copies a backup to a remote with rclone.
//!
//! ```text
//!  NAME/database.zst, queue.zst, config.zst ─copied─▶ REMOTE/NAME/… ─read back─▶ hashes of the manifest? ─▶ proofs.json
//!                                                                                                    └─▶ manifest.json
//!  remote.json beside the local backup: the result and its time
//! ```
//!
//! Invariants:
//!
//! 1. `manifest.json` is written last and deleted first: a copy with a manifest was found whole, a copy
//!    without one is none.
//! 2. A fetched copy counts only by its hashes, under a name that no listing knows until then.
//! 3. No event at the remote changes the local backup.

mod fetch;
mod index;
mod rclone;

use std::ffi::OsString;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::rclone::{Ended, Rclone};
use super::create::Run;
use super::manifest::{self, FileEntry, Manifest};
use super::stream::Checker;
use super::{Backup, BackupError, Level, Proof, RELEASED};
use crate::durable;
use crate::error::chain;

pub use fetch::fetch;
pub use index::{Copied, Index, index};

/// How a new copy at the remote is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The sizes of its files are compared.
    Sizes,
    /// The whole copy is read back and compared with the hashes of the manifest.
    Content,
}

/// The result of the last copy, or of the last verification of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyNote {
    /// The remote, as configured at that time.
    pub remote: String,
    pub at: Timestamp,
    pub ok: bool,
    pub check: Check,
    /// The fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Copies the missing files of `backup` to the remote, verifies the copy, and notes the result beside the
/// backup.
///
/// # Errors
/// [`BackupError`]; the local backup is unchanged.
pub async fn upload(run: &Run<'_>, backup: &Backup) -> Result<CopyNote, BackupError> {
    let rclone = Rclone::of(run)?;
    let read = manifest::read(&backup.path)?;
    let sent = send(run, &rclone, backup, &read).await;
    if let Err(e @ BackupError::Cancelled) = sent {
        return Err(e);
    }
    let check = run.settings.backup.remote_verify;
    let note = note_of(run, &rclone, check, sent.as_ref().err());
    let noted = manifest::note_copy(&backup.path, &read.sha256, note.clone());
    sent?;
    match noted {
        // The copy exists, even if the note cannot be written.
        Err(e) if e.is_unwritable() => log::warn!("{}", chain(&e)),
        noted => noted?,
    }
    Ok(note)
}

fn note_of(run: &Run<'_>, rclone: &Rclone<'_>, check: Check, error: Option<&BackupError>) -> CopyNote {
    CopyNote {
        remote: rclone.remote.to_owned(),
        at: now(run),
        ok: error.is_none(),
        check,
        detail: error.map(|e| chain(e)),
    }
}

fn now(run: &Run<'_>) -> Timestamp {
    Timestamp::from_millisecond(run.clock.now_unix_ms()).unwrap_or_default()
}

async fn send(
    run: &Run<'_>,
    rclone: &Rclone<'_>,
    backup: &Backup,
    read: &manifest::Read,
) -> Result<(), BackupError> {
    let (name, folder) = (&backup.name, &backup.path);
    let local = manifest::bytes(folder)?;
    let there = remote_manifest(rclone, name).await?;
    if there.as_ref().is_some_and(|there| *there != local && is_of_another(there, name)) {
        return Err(BackupError::Refused(format!(
            "another backup called {name} is at {}: give each device a folder of its own there \
             (backup.remote)",
            rclone.remote
        )));
    }
    send_files(rclone, folder, &read.manifest, false).await?;
    match check_copy(run, rclone, &read.manifest).await {
        Err(BackupError::CopyDamaged { detail, .. }) => {
            log::warn!("the copy of {name} at {} is sent again: {detail}", rclone.remote);
            if there.is_some() {
                delete(rclone, name, manifest::MANIFEST).await?;
            }
            // A damaged file with the right size and time would count as whole.
            send_files(rclone, folder, &read.manifest, true).await?;
            check_copy(run, rclone, &read.manifest).await?;
        }
        checked => checked?,
    }
    let mut proofs = manifest::read_proofs(folder, &read.sha256);
    if run.settings.backup.remote_verify == Check::Content {
        proofs.push(Proof { level: Level::Quick, at: now(run), ok: true, detail: None });
    }
    write_proofs(run, rclone, name, &read.sha256, proofs).await?;
    if backup.released {
        put(rclone, &folder.join(RELEASED), name, RELEASED).await?;
    }
    put(rclone, &folder.join(manifest::MANIFEST), name, manifest::MANIFEST).await?;
    if remote_manifest(rclone, name).await?.as_ref() != Some(&local) {
        return Err(damaged(rclone, name, "its manifest is not what was written"));
    }
    Ok(())
}

/// Whether a readable manifest is about another backup; a truncated or damaged one is replaced.
fn is_of_another(bytes: &[u8], name: &str) -> bool {
    manifest::parse(bytes, name).is_ok()
}

async fn remote_manifest(rclone: &Rclone<'_>, name: &str) -> Result<Option<Vec<u8>>, BackupError> {
    let path = rclone.at(&format!("{name}/{}", manifest::MANIFEST));
    let bytes = rclone.text(&["cat", &path], index::MAX_SMALL_BYTES).await?;
    // Some stores answer a request for a missing file with nothing.
    Ok(bytes.filter(|bytes| !bytes.is_empty()))
}

/// Sends the files of the manifest.
async fn send_files(
    rclone: &Rclone<'_>,
    folder: &Path,
    manifest: &Manifest,
    again: bool,
) -> Result<(), BackupError> {
    rclone.progress.begin(manifest.files.iter().map(|file| file.bytes).sum());
    let mut args: Vec<OsString> = vec![
        "copy".into(),
        folder.into(),
        rclone.at(&manifest.name).into(),
        "--transfers".into(),
        "2".into(),
    ];
    if again {
        args.push("--ignore-times".into());
    }
    for entry in &manifest.files {
        args.push("--include".into());
        args.push(format!("/{}", entry.role.file(manifest.encrypted)).into());
    }
    rclone.command(&args).await
}

/// Uploads one small file and replaces any existing one.
async fn put(rclone: &Rclone<'_>, from: &Path, name: &str, file: &str) -> Result<(), BackupError> {
    let to = rclone.at(&format!("{name}/{file}"));
    let args: [OsString; 4] = ["copyto".into(), from.into(), to.into(), "--ignore-times".into()];
    rclone.command(&args).await
}

async fn delete(rclone: &Rclone<'_>, name: &str, file: &str) -> Result<(), BackupError> {
    let path = rclone.at(&format!("{name}/{file}"));
    rclone.command(&["deletefile", &path]).await
}

async fn write_proofs(
    run: &Run<'_>,
    rclone: &Rclone<'_>,
    name: &str,
    sha256: &str,
    proofs: Vec<Proof>,
) -> Result<(), BackupError> {
    let scratch = run.lock.scratch()?;
    manifest::write_proofs(scratch.path(), sha256, proofs)?;
    put(rclone, &scratch.path().join(manifest::PROOFS), name, manifest::PROOFS).await
}

/// Verifies a copy as the configuration asks.
async fn check_copy(run: &Run<'_>, rclone: &Rclone<'_>, manifest: &Manifest) -> Result<(), BackupError> {
    match run.settings.backup.remote_verify {
        Check::Content => check_content(rclone, manifest).await,
        Check::Sizes => {
            let files = index::files(rclone, &manifest.name).await?;
            match index::wrong_size(manifest, &files) {
                None => Ok(()),
                Some(wrong) => Err(damaged(rclone, &manifest.name, wrong)),
            }
        }
    }
}

/// Reads every byte of the copy back.
async fn check_content(rclone: &Rclone<'_>, manifest: &Manifest) -> Result<(), BackupError> {
    rclone.progress.begin(manifest.files.iter().map(|file| file.bytes).sum());
    let mut before = 0;
    for entry in &manifest.files {
        check_file(rclone, manifest, entry).await?;
        before += entry.bytes;
        rclone.progress.reach(before);
    }
    Ok(())
}

async fn check_file(rclone: &Rclone<'_>, manifest: &Manifest, entry: &FileEntry) -> Result<(), BackupError> {
    let file = entry.role.file(manifest.encrypted);
    let path = rclone.at(&format!("{}/{file}", manifest.name));
    let wrong = |detail: String| damaged(rclone, &manifest.name, format!("{file}: {detail}"));
    let mut checker = Checker::new(manifest.chunk_bytes);
    let ended = rclone
        .run(&["cat", &path], |bytes| {
            checker.push(bytes);
            match checker.read() > entry.bytes {
                true => Err(wrong(format!("it has more than {} bytes", entry.bytes))),
                false => Ok(()),
            }
        })
        .await?;
    match ended {
        Ended::NothingThere => Err(wrong("it is not there".to_owned())),
        Ended::Well => checker.finish(entry).map_err(wrong),
    }
}

/// Reads the whole copy called `which` back, and notes the result at the remote, and here if the backup is
/// still here.
///
/// # Errors
/// `CopyDamaged` if it differs from the data written; else the reason why it could not be verified.
pub async fn verify(run: &Run<'_>, which: &str) -> Result<(String, Proof), BackupError> {
    let rclone = Rclone::of(run)?;
    let copied = index(run).await?.take(which)?;
    let name = copied.backup.name.as_str();
    let read = copied.manifest.map_err(|fault| damaged(&rclone, name, fault))?;
    let found = check_content(&rclone, &read.manifest).await;
    let at = now(run);
    let proof = match &found {
        Ok(()) => Proof { level: Level::Quick, at, ok: true, detail: None },
        Err(BackupError::CopyDamaged { detail, .. }) => {
            Proof { level: Level::Quick, at, ok: false, detail: Some(detail.clone()) }
        }
        Err(_) => {
            return found
                .map(|()| (name.to_owned(), Proof { level: Level::Quick, at, ok: false, detail: None }));
        }
    };
    let mut proofs = copied.backup.proofs.clone();
    proofs.push(proof.clone());
    let written = write_proofs(run, &rclone, name, &read.sha256, proofs).await;
    let local = run.lock.dir().join(name);
    if manifest::read(&local).is_ok_and(|local| local.sha256 == read.sha256) {
        let note = note_of(run, &rclone, Check::Content, found.as_ref().err());
        manifest::note_copy(&local, &read.sha256, note)?;
    }
    found?;
    written.map(|()| (copied.backup.name, proof))
}

/// Marks the copy of an on-demand backup as no longer needed.
///
/// # Errors
/// [`BackupError`].
pub async fn release(run: &Run<'_>, name: &str) -> Result<(), BackupError> {
    let rclone = Rclone::of(run)?;
    index(run).await?.take(name)?;
    let scratch = run.lock.scratch()?;
    let mark = scratch.path().join(RELEASED);
    durable::create_file(&mark).map_err(BackupError::disk("the mark could not be made", &mark))?;
    put(&rclone, &mark, name, RELEASED).await
}

/// Notes the local backups whose copies are gone from the remote, of which `index` is the whole content. The
/// local listing then shows it: a note of the copy would otherwise outlive the copy. Returns whether there
/// are any.
///
/// # Errors
/// [`BackupError::Disk`] if the local folder cannot be read.
pub fn miss(run: &Run<'_>, index: &Index) -> Result<bool, BackupError> {
    let mut missed = false;
    let remote = run.settings.backup.remote.as_ref().map_or("", |remote| remote.0.as_str());
    for backup in super::list(run.lock.dir(), run.clock)? {
        let Some(note) = backup.copy.filter(|copy| copy.ok && copy.remote == remote) else { continue };
        if index.copies.iter().any(|copied| copied.backup.name == backup.name) {
            continue;
        }
        let detail = Some("it is not there any more".to_owned());
        let note = CopyNote { ok: false, at: now(run), detail, ..note };
        let noted = manifest::read(&backup.path)
            .and_then(|read| manifest::note_copy(&backup.path, &read.sha256, note));
        missed = true;
        if let Err(e) = noted {
            log::warn!("{}", chain(&e));
        }
    }
    Ok(missed)
}

/// Deletes a copy, or its remains.
///
/// # Errors
/// [`BackupError::Remote`]; the remains are then no copy any more.
pub async fn remove(run: &Run<'_>, name: &str) -> Result<(), BackupError> {
    let rclone = Rclone::of(run)?;
    if remote_manifest(&rclone, name).await?.is_some() {
        delete(&rclone, name, manifest::MANIFEST).await?;
    }
    let here = run.lock.dir().join(name);
    if here.is_dir() {
        manifest::forget_copy(&here)?;
    }
    let path = rclone.at(name);
    // A store without folders keeps none after the last file is gone.
    rclone.run(&["purge", &path], |_| Ok(())).await.map(drop)
}

fn damaged(rclone: &Rclone<'_>, name: &str, detail: impl Into<String>) -> BackupError {
    BackupError::CopyDamaged {
        name: name.to_owned(),
        remote: rclone.remote.to_owned(),
        detail: detail.into(),
    }
}

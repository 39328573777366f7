//! Fetches a copy back into the folder of backups.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::index::{index, wrong_size};
use super::rclone::Rclone;
use crate::backup::create::Run;
use crate::backup::keys::Keys;
use crate::backup::lock::{SPARE_BYTES, Scratch, sync_folder};
use crate::backup::{Backup, BackupError, Level, RELEASED, find, manifest, verify};

/// Fetches the copy called `which`. It has a name that no listing knows until its hashes were found right.
///
/// # Errors
/// [`BackupError`]; nothing is left behind.
pub async fn fetch(run: &Run<'_>, which: &str) -> Result<Backup, BackupError> {
    let rclone = Rclone::of(run)?;
    let copied = index(run).await?.take(which)?;
    let name = copied.backup.name;
    let target = run.lock.dir().join(&name);
    if fs::symlink_metadata(&target).is_ok() {
        return Err(BackupError::Refused(format!(
            "{name} is in {} already: move that folder away to have the copy instead",
            run.lock.dir().display()
        )));
    }
    let there = copied.manifest.map_err(|fault| super::damaged(&rclone, &name, fault))?.manifest;
    if let Some(wrong) = wrong_size(&there, &super::index::files(&rclone, &name).await?) {
        return Err(super::damaged(&rclone, &name, wrong));
    }
    let bytes: u64 = there.files.iter().map(|file| file.bytes).sum();
    run.lock.needs(bytes.saturating_add(SPARE_BYTES))?;
    // A manifest is valid only in a folder with its name, so the folder has that name from the beginning.
    let partial = run.lock.dir().join(format!(".partial-{name}"));
    let disk = BackupError::disk("the folder of the backup could not be made", &partial);
    let partial = Scratch::of(partial).map_err(&disk)?;
    let folder = partial.path().join(&name);
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(disk)?;

    let mut args: Vec<OsString> = vec!["copy".into(), rclone.at(&name).into(), folder.clone().into()];
    let small = [manifest::MANIFEST, manifest::PROOFS, RELEASED].map(str::to_owned);
    for file in there.files.iter().map(|file| file.role.file(there.encrypted)).chain(small) {
        args.push("--include".into());
        args.push(format!("/{file}").into());
    }
    run.progress.begin(bytes);
    rclone.command(&args).await?;
    settle(&folder)?;
    verify::verify(run, &folder, Level::Quick, &Keys::default()).await.map_err(|e| match e {
        BackupError::Damaged { detail, .. } => super::damaged(&rclone, &name, detail),
        e => e,
    })?;
    let disk = BackupError::disk("the backup could not be put in its place", &target);
    fs::rename(&folder, &target).map_err(disk)?;
    sync_folder(run.lock.dir())?;
    find(run.lock.dir(), &name, run.clock)
}

/// Makes files private to their owner, and durable.
fn settle(folder: &Path) -> Result<(), BackupError> {
    let disk = BackupError::disk("what came back could not be written", folder);
    let each = || {
        for entry in fs::read_dir(folder)? {
            let file = File::open(entry?.path())?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.sync_all()?;
        }
        Ok(())
    };
    each().map_err(disk)?;
    sync_folder(folder)
}

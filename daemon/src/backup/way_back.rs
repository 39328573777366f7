//! The facts from the backups after the memory vanished: that there was one, and the backup that restores it.

use std::path::Path;

use super::context::Context;
use super::manifest::{self, Manifest, Origin, Role};
use super::restore::messages;
use super::{Backup, Level, known, list, watch};
use crate::clock::Clock;
use crate::durable::behind_link;
use crate::store::StoreError;
use crate::store::vanished::{self, Backups, KnownBackups, Missing, OnlyInBackup, Vanished};

/// The policy if the memory of these settings vanished: hold new turns apart, or refuse. Postgres gives back
/// its rows; a file outside the data folder is not the memory.
pub fn policy(settings: &Context, hold_apart: bool) -> Vanished {
    if settings.paths.db != behind_link(&settings.paths.data.join("jarvis.db")) {
        return Vanished::Begin;
    }
    let of = settings.clone();
    let backups = Backups::new(move || asked(&of));
    if settings.postgres.is_some() {
        return Vanished::PullBack(backups);
    }
    if hold_apart { Vanished::HoldApart(backups) } else { Vanished::Refuse(backups) }
}

/// Checks whether the memory of this device vanished, without changing anything.
///
/// # Errors
/// [`StoreError`] if the database cannot be read.
pub async fn missing(settings: &Context) -> Result<Option<Missing>, StoreError> {
    vanished::inspect(&settings.paths.db, &policy(settings, false)).await
}

/// Asked only after the memory vanished or while it is held apart. An unreadable folder tells nothing.
pub fn asked(settings: &Context) -> KnownBackups {
    let dir = &settings.paths.backups;
    let all = list(dir, &Clock::System).unwrap_or_default();
    let proven = known::read(&settings.paths.data).ok().flatten();
    let proven = proven.as_ref().and_then(known::Known::newest_proven);
    let evidence = if all.iter().rev().any(|backup| is_of(backup, &settings.device)) {
        Some(format!("backups of it are in {}", dir.display()))
    } else {
        let noted = || noted(&settings.paths.data);
        proven.map(|name| format!("{name} was proven to be a backup of it")).or_else(noted)
    };
    let way_back = match newest_good(&all, &settings.device) {
        Some((name, proven)) => {
            let state = if proven { "the newest proven backup" } else { "the newest backup, not proven yet" };
            format!("`jarvisd backup restore {name} --in-place` brings back {state}")
        }
        None => {
            let one = proven.map_or("one".to_owned(), |name| format!("one, such as {name},"));
            format!(
                "no good backup of it is in {}: put {one} there, and `jarvisd backup restore latest \
                 --in-place` brings it back",
                dir.display()
            )
        }
    };
    let contents = newest_contents(&all, &settings.device);
    KnownBackups { evidence, way_back, contents, undelivered: undelivered(&all, &settings.device) }
}

/// The undelivered messages in the newest backup of Postgres by the device `id`.
fn undelivered(all: &[Backup], id: &str) -> Option<OnlyInBackup> {
    let read = all.iter().rev().filter(|backup| backup.fault.is_none());
    let mut manifests = read.filter_map(|backup| Some(manifest::read(&backup.path).ok()?.manifest));
    let newest = manifests.find(|made| made.origin == Origin::Postgres && made.device == id)?;
    let messages = newest.undelivered.filter(|undelivered| undelivered.messages > 0)?.messages;
    Some(OnlyInBackup { backup: newest.name, messages })
}

/// A successful run of `jarvisd backup` proves that there was a memory.
fn noted(data: &Path) -> Option<String> {
    let last = watch::noted(data).filter(|last| last.failed_unit.is_none())?;
    Some(format!("a backup of it was made or looked at on {}", last.at.strftime("%Y-%m-%d")))
}

/// The contents of the newest proven backup of the device `id` that is not empty.
fn newest_contents(all: &[Backup], id: &str) -> Option<String> {
    let proven = all.iter().rev().filter(|backup| backup.is_proven_to(Level::Restore) && is_of(backup, id));
    let mut manifests = proven.filter_map(|backup| Some(manifest::read(&backup.path).ok()?.manifest));
    let newest = manifests.find(|made| !is_empty(made))?;
    Some(format!("the backup {} holds {} messages of it", newest.name, words(&newest)))
}

/// Whether nobody was ever known in the memory of this backup.
fn is_empty(manifest: &Manifest) -> bool {
    let database = manifest.file(Role::Database).ok();
    let rows = |table| database.and_then(|file| file.tables.get(table)).map_or(0, |table| table.rows);
    ["users", "messages", "tombstones"].into_iter().all(|table| rows(table) == 0)
}

/// The number of messages in a backup, including those that Postgres did not have.
pub fn words(manifest: &Manifest) -> u64 {
    messages(manifest).saturating_add(manifest.undelivered.unwrap_or_default().messages)
}

/// Whether it is a backup of the database of the device `id`.
fn is_of(backup: &Backup, id: &str) -> bool {
    let read = manifest::read(&backup.path).ok();
    read.is_some_and(|read| read.manifest.origin == Origin::Sqlite && read.manifest.device == id)
}

/// The newest proven backup, of this device if there is one, else the newest usable one; and whether it is
/// proven.
fn newest_good(all: &[Backup], id: &str) -> Option<(String, bool)> {
    let of_sqlite = |backup: &&Backup| {
        manifest::read(&backup.path).is_ok_and(|read| read.manifest.origin == Origin::Sqlite)
    };
    let usable =
        |backup: &&Backup| backup.fault.is_none() && backup.last_proof().is_none_or(|proof| proof.ok);
    let proven = |backup: &&Backup| backup.is_proven_to(Level::Restore);
    let full = |backup: &&Backup| manifest::read(&backup.path).is_ok_and(|read| !is_empty(&read.manifest));
    let newest = |good: &dyn Fn(&&Backup) -> bool| {
        let mut newest_first = all.iter().rev().filter(good);
        let mut all_own = newest_first.clone().filter(|backup| is_of(backup, id));
        let own = all_own.clone().find(full).or_else(|| all_own.next());
        own.or_else(|| newest_first.find(of_sqlite)).map(|backup| backup.name.clone())
    };
    match newest(&proven) {
        Some(name) => Some((name, true)),
        None => newest(&usable).map(|name| (name, false)),
    }
}

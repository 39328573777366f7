//! The findings of `doctor` on backups: the daemon's own warnings, the folder, and the free space.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::Finding;
use crate::backup::context::Context;
use crate::backup::watch::{self, State as Seen};
use crate::backup::{Backup, known};
use crate::cli::output;
use crate::clock::Clock;
use crate::health::Condition;

const CHECK: &str = "backups";

/// The newest proven one with its age, then the folder. Nothing is locked, and nothing
/// stays.
pub fn backups(settings: &Context) -> Vec<Finding> {
    let seen = watch::state(settings, &Clock::System);
    let here = seen.backups.as_deref().unwrap_or_default();
    let mut findings = vec![state(settings, &seen, here)];
    findings.extend(folder(settings, here));
    findings
}

fn state(settings: &Context, seen: &Seen, here: &[Backup]) -> Finding {
    let what = proven(settings, seen, here);
    match seen.condition.sentence() {
        None => Finding::ok(CHECK, what),
        Some(sentence) => {
            // The health's sentences give the remedy behind the last colon.
            let (wrong, fix) =
                sentence.rsplit_once(": ").unwrap_or((sentence, "`jarvisd backup list` tells more"));
            let message = if here.is_empty() { wrong.to_owned() } else { format!("{wrong}; {what}") };
            match seen.condition {
                Condition::Away { .. } | Condition::Failed { .. } => Finding::fail(CHECK, message, fix),
                _ => Finding::warn(CHECK, message, fix),
            }
        }
    }
}

/// The newest proven backup, its age, its proof, and the copy elsewhere.
fn proven(settings: &Context, seen: &Seen, here: &[Backup]) -> String {
    let Some(newest) = here.iter().rfind(|backup| backup.is_proven_to(settings.backup.verify)) else {
        return "none is proven".to_owned();
    };
    let age = match seen.days {
        None => "of unknown age".to_owned(),
        Some(0) => "less than a day old".to_owned(),
        Some(1) => "a day old".to_owned(),
        Some(days) => format!("{days} days old"),
    };
    let proof = newest.last_proof().map_or_else(String::new, |proof| {
        format!(", proof ({}) of {}", proof.level.as_str(), output::time(proof.at.as_millisecond()))
    });
    let copy = match &settings.backup.remote {
        None => "no copy elsewhere is set up (backup.remote)".to_owned(),
        Some(remote) => match &newest.copy {
            Some(copy) if copy.ok && copy.remote == remote.0 => format!("copied to {}", remote.0),
            _ => format!("not copied to {}", remote.0),
        },
    };
    format!("the newest proven one of {} is {}, {age}{proof}; {copy}", here.len(), newest.name)
}

/// The folder, whether it can be written to, and whether the next backup fits.
fn folder(settings: &Context, here: &[Backup]) -> Option<Finding> {
    const FIX: &str = "give the folder to the user of the daemon, or set backup.dir to another one";
    let dir = &settings.paths.backups;
    let there = dir.ancestors().find(|part| part.exists())?;
    if let Err(e) = try_to_write(there) {
        let why = format!("{} cannot be written to ({e})", dir.display());
        return Some(Finding::warn(CHECK, why, FIX));
    }
    if there != dir {
        // With no known backup, the first one makes the folder.
        return None;
    }
    let free = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(e) => return Some(Finding::warn(CHECK, format!("{}: {e}", dir.display()), "check the disk")),
    };
    let last = here.last().map_or(0, |backup| backup.bytes);
    let message = format!(
        "{:.1} GB free in {}, {}",
        free as f64 / 1e9,
        dir.display(),
        if known::is_apart(settings) { "a disk of its own" } else { "the disk of the memory" }
    );
    // Room for the copy of the database, the backup, and its restored copy.
    let database = fs::metadata(&settings.paths.db).map_or(0, |db| db.len());
    let need = last.saturating_add(database.saturating_mul(2));
    Some(if free < need {
        Finding::warn(CHECK, format!("{message}, too little for the next one"), "free some space")
    } else {
        Finding::ok(CHECK, message)
    })
}

/// Makes a file in `folder` and removes it: permissions alone do not tell of a file system that takes no
/// files.
fn try_to_write(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".jarvisd-doctor-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    let written = file.write_all(b"doctor").and_then(|()| file.sync_all());
    fs::remove_file(&path)?;
    written
}

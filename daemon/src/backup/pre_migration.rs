//! A safety backup before the database of this device or of the house is brought to a newer schema.
//!
//! The backup is no condition. It may fail for lack of room, for an unwritable folder, for another process at
//! work, or because it is too slow. That costs a warning, because the device must answer. Migrations are one
//! transaction, so a failed one leaves the old database. The backup is for a migration that succeeds and
//! should not have.

use std::time::Duration;

use super::progress::Progress;

use super::cancel::Cancel;
use super::context::Context;
use super::create::{Run, create_from};
use super::lock::Lock;
use super::sqlite::{self, Access};
use super::{BackupError, Kind, known};
use crate::clock::Clock;
use crate::error::chain;
use crate::notify::start::{self, SAFETY_BACKUP, Wait};
use crate::store::VERSION;
use crate::store::postgres::{self, PgSettings};

/// No person waits for Postgres, but the other devices of the house soon write with the newer program.
const LONGEST_THERE: Duration = Duration::from_secs(600);

/// Makes a safety backup of the database of this device if opening it would migrate it.
pub async fn back_up_device(settings: &Context) {
    if is_old(settings).await {
        let _waiting = start::waits(Wait::SafetyBackup);
        tell("the database", made(settings, None, SAFETY_BACKUP).await);
    }
}

/// Makes a safety backup of the Postgres of the house if connecting to it would migrate it. A server that
/// does not answer is reported by the connection itself.
pub async fn back_up_if_connecting_migrates(settings: &Context, there: &PgSettings) {
    if postgres::version(there).await.is_ok_and(postgres::is_old) {
        back_up_postgres(settings, there).await;
    }
}

/// Makes a safety backup of the Postgres of the house, which is about to be migrated.
pub async fn back_up_postgres(settings: &Context, there: &PgSettings) {
    tell("Postgres", made(settings, Some(there), LONGEST_THERE).await);
}

fn tell(what: &str, made: Result<String, BackupError>) {
    match made {
        Ok(name) => {
            log::info!("{name} is a backup of {what} as it was before its schema is brought up to date");
        }
        Err(e) => log::warn!(
            "the schema of {what} is brought up to date without a backup of it as it was: {}",
            chain(&e)
        ),
    }
}

async fn made(
    settings: &Context,
    there: Option<&PgSettings>,
    longest: Duration,
) -> Result<String, BackupError> {
    known::may_write(settings, &Clock::System)?;
    let lock = Lock::take(&settings.paths.backups)?;
    let (cancel, progress) = (Cancel::default(), Progress::hidden());
    let run = Run { settings, clock: &Clock::System, lock: &lock, cancel: &cancel, progress: &progress };
    match tokio::time::timeout(longest, create_from(&run, Kind::Safety, there)).await {
        Ok(made) => made.map(|made| made.name),
        Err(_) => {
            cancel.cancel();
            Err(BackupError::Refused(format!("it took longer than {} s", longest.as_secs())))
        }
    }
}

/// Whether the file is one of ours with an older schema. A file that cannot be read is reported when it is
/// opened.
async fn is_old(settings: &Context) -> bool {
    let db = &settings.paths.db;
    if !db.exists() {
        return false;
    }
    let Ok(mut conn) = sqlite::connect(db, Access::Read).await else { return false };
    let identity = sqlite::identity(&mut conn, db).await;
    sqlite::close(conn).await;
    identity.is_ok_and(|identity| identity.ours && identity.schema_version < VERSION)
}

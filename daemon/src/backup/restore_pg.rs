//! Restores a backup of Postgres.
//!
//! ```text
//!  hashes ─▶ hold the writers of the house ─▶ safety backup ─▶ one transaction: drop, run the dump, compare, new house ─▶ log
//! ```
//!
//! The writers' lock is held throughout, so nothing is written between the safety backup and the commit.
//! Turns go on on the devices and wait in their queues. The restored database gets a new house id: every
//! device sees another database, sends everything it has, deletions included, and reads everything. So
//! nothing said since the backup is lost while any device still has it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::bring_back::{BroughtBack, bring_back, lacking};
use super::create::{Run, create_from};
use super::keys::Keys;
use super::manifest::{FileEntry, Manifest, Origin, Role};
use super::merge::{Finding, FoundConversations, Selection};
use super::pg::{self, another_session, load, of, plain, session};
use super::restore::{Restored, data_folder, messages, not_newer, note};
use super::scratch::ScratchDatabase;
use super::undelivered::Undelivered;
use super::verify::check_hashes;
use super::{BackupError, Kind};
use crate::error::chain;
use crate::memory::{MemoryError, UserId};
use crate::store::postgres::{Pg, PgSettings, schema::WRITE_LOCK, write::CHANNEL};

crate::store::sql::statements! {
    /// Held until the session ends.
    HOLD_WRITERS = "SELECT pg_advisory_lock($1)";
    INSTALLED = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'jarvis')";
    EXISTS = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    DROP_SCHEMA = "DROP SCHEMA IF EXISTS jarvis CASCADE";
    NEW_HOUSE = "UPDATE jarvis.house SET id = gen_random_uuid()";
    /// Every device registers anew: the holders in the backup are outdated.
    NO_HOLDERS = "UPDATE jarvis.devices SET memory = NULL, token = NULL";
    /// Wakes the connected devices: they look at once, and find another house.
    TELL = "SELECT pg_notify($1, '')";
    PEOPLE = "SELECT id, name FROM jarvis.users WHERE lower(name) = lower($1)";
    OWNER = "SELECT u.id, u.name FROM jarvis.conversations c JOIN jarvis.users u ON u.id = c.owner
        WHERE c.id = $1";
    /// The JSON that `conversation export` writes. It runs on the schema of the backup, which may be older: a
    /// column that not every version has is read as `to_jsonb(c) ->> 'column'`.
    EXPORT = "SELECT json_build_object('id', c.id, 'title', c.title,
            'created_unix_ms', (extract(epoch FROM c.created_at) * 1000)::bigint,
            'updated_unix_ms', (extract(epoch FROM c.updated_at) * 1000)::bigint, 'session_id', c.session_id,
            'messages', coalesce((SELECT json_agg(json_build_object('id', m.id, 'seq', m.seq, 'role',
                m.role, 'kind', m.kind,
                'text', m.text, 'wall_unix_ms', (extract(epoch FROM m.wall_time) * 1000)::bigint,
                'clock_synced', m.clock_synced, 'meta', m.meta,
                'sources', coalesce((SELECT json_agg(s.source) FROM jarvis.message_sources s
                    WHERE s.message = m.id), '[]'::json)) ORDER BY m.seq)
                FROM jarvis.messages m WHERE m.conversation = c.id), '[]'::json))::text AS doc
        FROM jarvis.conversations c WHERE c.owner = $1 AND ($2::uuid IS NULL OR c.id = $2)
        ORDER BY c.created_at DESC";
}

/// First schema version that stores which memory holds the id of a device.
const HOLDERS_SINCE: i64 = 4;

/// Brings only the messages that Postgres did not have into the memory of this device.
///
/// # Errors
/// [`BackupError`]; a backup of a device's own database is refused.
pub async fn undelivered(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
) -> Result<Restored, BackupError> {
    let started = Instant::now();
    checked(run, folder, manifest).await?;
    let db = &run.settings.paths.db;
    data_folder(db)?;
    let BroughtBack { messages: brought_back, left_out } = bring_back(run, folder, manifest, keys).await?;
    let restored = Restored {
        to: db.display().to_string(),
        messages: brought_back,
        brought_back,
        left_out,
        ..done(manifest, &run.settings.device, None, started)
    };
    note(run, &run.settings.paths.data, &restored)?;
    Ok(restored)
}

/// Replaces the database of the house with the rows of a backup.
///
/// # Errors
/// [`BackupError`]; the database is then unchanged.
pub async fn in_place(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
    settings: &PgSettings,
) -> Result<Restored, BackupError> {
    let started = Instant::now();
    let entry = checked(run, folder, manifest).await?;
    data_folder(&run.settings.paths.db)?;
    let mut conn = session(settings).await?;
    // For the safety backup; checked before writers are blocked.
    another_session(settings).await?;
    let held = sqlx::query(HOLD_WRITERS).bind(WRITE_LOCK).execute(&mut conn).await;
    held.map_err(of(settings))?;
    let there: bool = sqlx::query_scalar(INSTALLED).fetch_one(&mut conn).await.map_err(of(settings))?;
    let safety = match there {
        true => Some(create_from(run, Kind::Safety, Some(settings)).await?.name),
        false => None,
    };
    replace(&mut conn, run, (folder, manifest, entry, keys), settings).await?;
    let _ = conn.close().await;
    migrate(settings).await?;
    let BroughtBack { messages: brought_back, left_out } = bring_back(run, folder, manifest, keys).await?;
    let restored = Restored { brought_back, left_out, ..done(manifest, &settings.shown, safety, started) };
    note(run, &run.settings.paths.data, &restored)?;
    Ok(restored)
}

/// Restores a backup into another database, `to`: a name on the same server, created if needed, or an
/// address.
///
/// # Errors
/// [`BackupError`]; a database that already has tables of Jarvis is refused.
pub async fn to_database(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
    (settings, to): (&PgSettings, &str),
) -> Result<Restored, BackupError> {
    let started = Instant::now();
    // Checked first, so that a damaged backup creates no database.
    let entry = checked(run, folder, manifest).await?;
    let target = if to.contains(['@', ':', '/']) {
        let target = PgSettings::new(to, &settings.device);
        let target = target.map_err(|e| BackupError::Refused(chain(&e)))?;
        PgSettings {
            password_file: settings.password_file.clone(),
            ca_file: settings.ca_file.clone(),
            ..target
        }
    } else if plain(to) {
        make_database(settings, to).await?;
        settings.at(to)
    } else {
        return Err(BackupError::Refused(format!(
            "\"{to}\" cannot be the name of a database: use lower-case letters, digits and \"_\", or an \
             address postgres://…"
        )));
    };
    let mut conn = session(&target).await?;
    if sqlx::query_scalar(INSTALLED).fetch_one(&mut conn).await.map_err(of(&target))? {
        return Err(BackupError::Refused(format!(
            "the database {} has a schema \"jarvis\" already: name an empty one, or restore with --in-place",
            target.shown
        )));
    }
    replace(&mut conn, run, (folder, manifest, entry, keys), &target).await?;
    let _ = conn.close().await;
    migrate(&target).await?;
    let left_out = lacking(run, folder, manifest, keys).await?;
    let restored = Restored { left_out, ..done(manifest, &target.shown, None, started) };
    // Nothing on this device has changed, and it may be a machine that only inspects backups.
    if let Err(e) = note(run, &run.settings.paths.data, &restored) {
        log::warn!("{}", crate::error::chain(&e));
    }
    Ok(restored)
}

async fn make_database(settings: &PgSettings, name: &str) -> Result<(), BackupError> {
    let mut conn = session(settings).await?;
    let made = async {
        let sql = of(settings);
        if sqlx::query_scalar(EXISTS).bind(name).fetch_one(&mut conn).await.map_err(&sql)? {
            return Ok(());
        }
        let create = AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"));
        sqlx::raw_sql(create).execute(&mut conn).await.map(|_| ()).map_err(sql)
    };
    let made = made.await;
    let _ = conn.close().await;
    made
}

async fn checked<'a>(
    run: &Run<'_>,
    folder: &Path,
    manifest: &'a Manifest,
) -> Result<&'a FileEntry, BackupError> {
    not_newer(manifest)?;
    if manifest.origin != Origin::Postgres {
        return Err(BackupError::Refused(format!(
            "{} is a backup of the database of a device, not of Postgres: restore it with store.postgres_url \
             unset, and everything is sent when it is set again",
            manifest.name
        )));
    }
    check_hashes(run, folder, manifest).await?;
    manifest.file(Role::Database)
}

/// Runs all of it in one transaction.
async fn replace(
    conn: &mut PgConnection,
    run: &Run<'_>,
    backup: (&Path, &Manifest, &FileEntry, &Keys),
    settings: &PgSettings,
) -> Result<(), BackupError> {
    sqlx::raw_sql("BEGIN").execute(&mut *conn).await.map_err(of(settings))?;
    sqlx::query(DROP_SCHEMA).execute(&mut *conn).await.map_err(of(settings))?;
    load(conn, run, backup, settings).await?;
    sqlx::query(NEW_HOUSE).execute(&mut *conn).await.map_err(of(settings))?;
    if backup.1.schema_version >= HOLDERS_SINCE {
        sqlx::query(NO_HOLDERS).execute(&mut *conn).await.map_err(of(settings))?;
    }
    sqlx::query(TELL).bind(CHANNEL).execute(&mut *conn).await.map_err(of(settings))?;
    sqlx::raw_sql("COMMIT").execute(conn).await.map(|_| ()).map_err(of(settings))
}

async fn migrate(settings: &PgSettings) -> Result<(), BackupError> {
    let pg = Pg::connect(settings).await.map_err(|e| BackupError::postgres(&e, &settings.shown))?;
    pg.close().await;
    Ok(())
}

fn done(manifest: &Manifest, to: &str, safety: Option<String>, started: Instant) -> Restored {
    Restored {
        backup: manifest.name.clone(),
        to: to.to_owned(),
        safety,
        set_aside: None,
        held_apart: None,
        messages: messages(manifest),
        brought_back: 0,
        left_out: 0,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// Finds one person's conversations, or one of them, in a backup of Postgres.
pub(super) async fn find(
    run: &Run<'_>,
    folder: &Path,
    manifest: &Manifest,
    keys: &Keys,
    wanted: &Selection,
) -> Result<FoundConversations, BackupError> {
    let settings = run.settings.postgres.as_ref().ok_or_else(|| {
        BackupError::Refused(
            "this backup is of Postgres: set store.postgres_url, so that it can be looked into".to_owned(),
        )
    })?;
    let entry = checked(run, folder, manifest).await?;
    let undelivered = Undelivered::open(run, folder, manifest, keys).await?;
    let scratch = ScratchDatabase::create(settings).await?;
    let found = async {
        let mut conn = session(&scratch.settings).await?;
        sqlx::raw_sql("BEGIN").execute(&mut conn).await.map_err(of(settings))?;
        load(&mut conn, run, (folder, manifest, entry, keys), &scratch.settings).await?;
        let found = find_in(run, &mut conn, wanted, settings, undelivered.as_ref()).await;
        let _ = conn.close().await;
        found
    };
    let found = found.await;
    let dropped = scratch.drop().await;
    if let Some(Undelivered { memory, .. }) = undelivered {
        memory.close().await;
    }
    found.and_then(|found| dropped.map(|()| found))
}

async fn find_in(
    run: &Run<'_>,
    conn: &mut PgConnection,
    wanted: &Selection,
    settings: &PgSettings,
    undelivered: Option<&Undelivered>,
) -> Result<FoundConversations, BackupError> {
    let sql = of(settings);
    pg::set_up(conn, settings).await?;
    let (people, one) = match wanted {
        Selection::Person(name) => (sqlx::query(PEOPLE).bind(name.clone()).fetch_all(&mut *conn).await, None),
        Selection::Conversation(id) => {
            let id = id.0;
            (sqlx::query(OWNER).bind(id).fetch_all(&mut *conn).await, Some(id))
        }
    };
    let people = people.map_err(&sql)?;
    let of_device = match undelivered {
        Some(undelivered) => undelivered.whose(wanted).await?,
        None => None,
    };
    let (id, owner): (Uuid, String) = match (people.as_slice(), wanted) {
        ([person], _) => (person.try_get("id").map_err(&sql)?, person.try_get("name").map_err(&sql)?),
        ([], _) if of_device.is_some() => of_device.map(|user| (user.id.0, user.name)).unwrap_or_default(),
        ([], Selection::Person(name)) => {
            let what = "user in this backup named";
            return Err(MemoryError::NotFound { what, which: name.clone() }.into());
        }
        ([], Selection::Conversation(id)) => {
            let what = "conversation in this backup with the id";
            return Err(MemoryError::NotFound { what, which: id.to_string() }.into());
        }
        _ => {
            return Err(BackupError::Refused(
                "several people in this backup have that name: restore their conversations one by one with \
                 --conversation"
                    .to_owned(),
            ));
        }
    };
    let mut finding = Finding::of(run, owner, UserId(id))?;
    let mut seen = BTreeSet::new();
    let mut rows = sqlx::query(EXPORT).bind(id).bind(one).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(&sql)? {
        run.cancel.check()?;
        let doc: &str = row.try_get("doc").map_err(&sql)?;
        match undelivered {
            Some(undelivered) => finding.add(&undelivered.completed(id, doc, &mut seen).await?)?,
            None => finding.add(doc)?,
        }
    }
    if let Some(undelivered) = undelivered {
        undelivered.rest(id, one, &seen, &mut finding).await?;
    }
    finding.end()
}

//! Stores rows of other devices, which come from Postgres.
//!
//! They are checked like any input. A row that breaks a rule is refused and counted; the rest goes on. Such
//! rules concern an owner that is not its conversation's, a taken place in a conversation, and an invalid
//! name. Nothing is queued, since Postgres has these rows. The exception is deletions that only this device
//! can know of: deletions of answers that repeat a message forgotten elsewhere.
//!
//! Of the names of a row here and there, those given later stay (`named`).

use std::collections::BTreeSet;

use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

mod messages;
mod session;
pub(in crate::memory) mod tables;
mod take_back;
mod tombstone;

pub use take_back::TakenBack;

use super::users::{checked_name, free_name, is_numbered};
use super::{Memory, MemoryError, Result, UserId, boot_rid, device_rid, get, named};
use crate::store::tables::{ConversationRow, Rows, Synced, Tombstone, UserRow, VoiceprintRow};
use crate::store::{StoreError, Tx, pull_cursor, resync, settings};
use crate::text::name_key;

/// Some rows of other devices.
#[derive(Debug, Default)]
pub struct Pulled {
    pub rows: Rows,
    /// Pairs (voiceprint, person) replaced by voiceprints in `rows`.
    pub superseded: Vec<(Uuid, Uuid)>,
    /// Pairs (answer, source message).
    pub sources: Vec<(Uuid, Uuid)>,
    pub tombstones: Vec<Tombstone>,
}

/// The state at the start of a round of reading.
#[derive(Debug, Clone, Copy)]
pub struct RoundStart {
    /// Generation of the file ([`crate::store::Store::generation`]).
    pub generation: u64,
    /// Whether an earlier cursor is stored, which this round continues.
    pub stored: bool,
}

/// The outcome for the rows of a page.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Rows that are new or changed here.
    pub changed: usize,
    pub refused: usize,
    /// Whether voiceprints were left out because of entries that still wait here: they must be tried again.
    pub unsettled: bool,
}

/// Every statement of the modules below, for the test that prepares them.
#[cfg(test)]
pub(super) const BELOW: [&[(&str, &str)]; 4] =
    [tombstone::STATEMENTS, messages::STATEMENTS, session::STATEMENTS, take_back::STATEMENTS];

/// The outcome for one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::memory) enum Outcome {
    Changed,
    /// Changed; the old content must leave the file.
    Erased,
    /// A new deletion of a row that is not here (any more).
    Noted,
    /// Known already, deleted here, or newer here.
    Left,
    /// An entry about it is still to be sent, and decides.
    Waits,
    Refused(&'static str),
}
use Outcome::{Changed, Erased, Left, Noted, Refused, Waits};

/// Seqs stay far below the maximum of the type, so that adding to one never overflows.
const HIGHEST_SEQ: i64 = 1 << 52;

crate::store::sql::statements! {
    BEGIN_ROW = "SAVEPOINT pulled";
    UNDO_ROW = "ROLLBACK TO pulled";
    END_ROW = "RELEASE pulled";
    DEAD = "SELECT 1 FROM tombstones WHERE (kind = ?1 AND id = ?2) OR (kind = 'user' AND id = ?3) LIMIT 1";
    PENDING = "SELECT 1 FROM queue WHERE entity_id = ?1 LIMIT 1";
    USER = "SELECT rid, name, house_name, consent_unix_ms, named FROM users WHERE id = ?1";
    ADD_USER = "INSERT INTO users (id, name, name_key, consent_unix_ms, created_unix_ms, created_synced,
            named, house_name)
        VALUES (?1, ?2, ?3, ?4, ?7, ?8, ?5, ?6)";
    CHANGE_USER = "UPDATE users SET name = ?2, name_key = ?3, consent_unix_ms = ?4, named = ?5,
        house_name = ?6 WHERE id = ?1";
    CONVERSATION = "SELECT c.rid, c.owner, c.device, u.id AS owner_id, c.title, c.title_by_user, c.next_seq,
        c.session_id, c.named
        FROM conversations c JOIN users u ON u.rid = c.owner WHERE c.id = ?1";
    ADD_CONVERSATION = "INSERT INTO conversations (id, owner, title, title_by_user, next_seq, activity,
            created_unix_ms, created_synced, updated_unix_ms, updated_synced, updated_monotonic_ns, boot,
            device, session_id, named)
        VALUES (?1, ?2, ?3, ?4, ?5,
            (SELECT coalesce(max(activity), 0) + 1 FROM conversations WHERE owner = ?2), ?6, ?7, ?8, ?9,
            ?10, ?11, ?12, ?13, ?14)";
    CHANGE_NAMES = "UPDATE conversations SET title = ?2, title_by_user = ?3, session_id = ?4, named = ?5
        WHERE rid = ?1";
    ADVANCE = "UPDATE conversations SET next_seq = ?2, updated_unix_ms = ?3, updated_synced = ?4,
            updated_monotonic_ns = ?5, boot = ?6,
            activity = (SELECT max(activity) + 1 FROM conversations a WHERE a.owner = conversations.owner)
        WHERE rid = ?1";
    ADD_SOURCE = "INSERT INTO message_sources (source, message)
        SELECT source.rid, answer.rid FROM messages source, messages answer
        WHERE source.id = ?1 AND answer.id = ?2 AND source.owner = answer.owner AND source.rid <> answer.rid
        ON CONFLICT DO NOTHING";
    VOICEPRINT_OF = "SELECT id FROM voiceprints WHERE owner = ?1";
    VOICE_WAITS = "SELECT 1 FROM queue WHERE user_id = ?1 AND op IN ('upsert_voiceprint', 'delete_voiceprint')
        LIMIT 1";
}

impl Pulled {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.superseded.is_empty()
            && self.sources.is_empty()
            && self.tombstones.is_empty()
    }
}

impl Memory {
    /// The ids of `ids` that no row of a table here has.
    pub(crate) async fn lacks<T: Synced>(&self, ids: &[Uuid]) -> Result<Vec<Uuid>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = messages::ids(ids.iter().copied());
        let rows = self.read_all(sqlx::query(T::table().here.known).bind(wanted)).await?;
        let here = rows.iter().map(uuid_of).collect::<Result<BTreeSet<_>, _>>()?;
        Ok(ids.iter().filter(|id| !here.contains(id)).copied().collect())
    }

    /// Stores rows of other devices and the new cursor, in one transaction. It stores nothing and returns
    /// `None` in three cases: this device has met another database since they were read, it has another file
    /// than that of `start`, or the cursor was reset since `read` was stored.
    ///
    /// # Errors
    /// Storage errors; a row causes no error.
    pub async fn apply_pulled(
        &self,
        pulled: &Pulled,
        read: &pull_cursor::PullCursor,
        start: RoundStart,
    ) -> Result<Option<Applied>> {
        let (mut tx, stamp) = self.begin().await?;
        let same = self.store.generation() == start.generation
            && (!start.stored || pull_cursor::goes_on(&mut tx, read).await?);
        if !same || !resync::is_with(&mut tx, read.house).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let mut applied = Applied::default();
        let mut scrub = false;
        let copies = !pulled.tombstones.is_empty() && !self.store.damaged_copies().is_empty();
        let here = tables::Place { device: self.here()?.device, stamp: &stamp };
        scrub |= tables::put_all(&mut tx, &pulled.rows, &here, &mut applied).await?;
        for (id, owner) in &pulled.superseded {
            tombstone::supersede(&mut tx, *id, *owner, &stamp).await?;
        }
        for (message, source) in &pulled.sources {
            tx.execute(sqlx::query(ADD_SOURCE).bind(bytes(source)).bind(bytes(message))).await?;
        }
        for row in &pulled.tombstones {
            begin_row(&mut tx).await?;
            let outcome = tombstone::apply(&mut tx, row, &stamp).await;
            // The damaged file may still hold rows that a repair could not read.
            scrub |= copies && matches!(outcome, Ok(Noted));
            scrub |= applied.end_row(&mut tx, "deletion", &row.id, outcome).await?;
        }
        settings::set(&mut tx, pull_cursor::READ, read, stamp.wall_unix_ms).await?;
        if scrub {
            self.want_scrub(&mut tx, &stamp).await?;
        }
        tx.commit().await?;
        if scrub {
            self.scrub().await;
        }
        Ok(Some(applied))
    }
}

impl Applied {
    /// Counts the outcome; returns whether content must leave the file. The partial changes of a refused row
    /// are undone.
    async fn end_row(
        &mut self,
        tx: &mut Tx<'_>,
        what: &str,
        id: &Uuid,
        outcome: Result<Outcome>,
    ) -> Result<bool> {
        if let Err(MemoryError::Store(StoreError::Constraint { .. })) = outcome {
            tx.execute(sqlx::query(UNDO_ROW)).await?;
        }
        let outcome = self.count(what, id, outcome)?;
        tx.execute(sqlx::query(END_ROW)).await?;
        Ok(outcome == Erased)
    }

    /// Counts the outcome. A row refused by a rule of the database counts as refused too.
    fn count(&mut self, what: &str, id: &Uuid, outcome: Result<Outcome>) -> Result<Outcome> {
        let outcome = match outcome {
            Err(MemoryError::Store(StoreError::Constraint { .. })) => {
                Refused("it breaks a rule of the database")
            }
            other => other?,
        };
        match outcome {
            Changed | Erased => self.changed += 1,
            Left | Noted | Waits => {}
            Refused(why) => {
                self.refused += 1;
                log::warn!("a {what} of another device ({id}) is left out: {why}");
            }
        }
        Ok(outcome)
    }
}

async fn begin_row(tx: &mut Tx<'_>) -> Result<()> {
    tx.execute(sqlx::query(BEGIN_ROW)).await?;
    Ok(())
}

async fn put_user(tx: &mut Tx<'_>, row: &UserRow) -> Result<Outcome> {
    if dead(tx, "user", &row.id, &row.id).await? {
        return Ok(Left);
    }
    let Ok(name) = checked_name(&row.name) else { return Ok(Refused("its name cannot be one")) };
    let known = tx.optional(sqlx::query(USER).bind(bytes(&row.id))).await?;
    let Some(known) = known else {
        let local = free_name(tx, &name, UserId(row.id)).await?;
        let add = sqlx::query(ADD_USER)
            .bind(bytes(&row.id))
            .bind(&local)
            .bind(name_key(&local))
            .bind(row.consent_unix_ms)
            .bind(named::bytes(&row.named))
            .bind((local != name).then_some(name))
            .bind(row.created_unix_ms)
            .bind(row.synced);
        tx.execute(add).await?;
        return Ok(Changed);
    };
    let (local, since): (String, Uuid) = (get(&known, "name")?, get(&known, "named")?);
    let shared = get::<Option<String>>(&known, "house_name")?;
    let agreed: Option<i64> = get(&known, "consent_unix_ms")?;
    let later = is_later(tx, &row.id, &row.named, &since).await?;
    let consent = agreed.max(row.consent_unix_ms);
    if !later && consent == agreed {
        return Ok(Left);
    }
    // "Anna (2)" is the local name of an Anna while another Anna is here.
    let same =
        local == name || shared.as_ref().map_or_else(|| is_numbered(&local, &name), |shared| *shared == name);
    let (name, shared) = match (later, same) {
        (false, _) => (local, shared),
        (true, true) => (local.clone(), (local != name).then_some(name)),
        (true, false) => {
            let free = free_name(tx, &name, UserId(row.id)).await?;
            (free.clone(), (free != name).then_some(name))
        }
    };
    let named = row.named.max(since);
    let change = sqlx::query(CHANGE_USER)
        .bind(bytes(&row.id))
        .bind(&name)
        .bind(name_key(&name))
        .bind(consent)
        .bind(named::bytes(&named))
        .bind(shared);
    tx.execute(change).await?;
    Ok(Changed)
}

/// Whether names given at `named` elsewhere replace those of the row `id`, given here at `since`. Without
/// stored moments the order is unknown: a row that waits here to be sent then stays.
async fn is_later(tx: &mut Tx<'_>, id: &Uuid, named: &Uuid, since: &Uuid) -> Result<bool> {
    Ok(named > since || (named.is_nil() && since.is_nil() && !pending(tx, id).await?))
}

async fn put_conversation(
    tx: &mut Tx<'_>,
    row: &ConversationRow,
    here: &tables::Place<'_>,
) -> Result<Outcome> {
    if dead(tx, "conversation", &row.id, &row.owner).await? {
        return Ok(Left);
    }
    if !(1..=HIGHEST_SEQ).contains(&row.next_seq) {
        return Ok(Refused("its next number is out of range"));
    }
    let title: String = row
        .title
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(super::MAX_TITLE_CHARS)
        .collect();
    let boot = boot_rid(tx, &row.boot_id).await?;
    let Some(known) = tx.optional(sqlx::query(CONVERSATION).bind(bytes(&row.id))).await? else {
        let Some(owner) = rid_of_user(tx, &row.owner).await? else {
            return Ok(Refused("its person is not here"));
        };
        let home = match &row.device {
            Some(device) => Some(device_rid(tx, device, here.stamp).await?),
            None => None,
        };
        let session = session::free(tx, row, owner, home, here.device).await?;
        let add = sqlx::query(ADD_CONVERSATION)
            .bind(bytes(&row.id))
            .bind(owner)
            .bind(&title)
            .bind(row.title_by_user)
            .bind(row.next_seq)
            .bind(row.created_unix_ms)
            .bind(row.created_synced)
            .bind(row.updated_unix_ms)
            .bind(row.updated_synced)
            .bind(row.updated_monotonic_ns)
            .bind(boot)
            .bind(home)
            .bind(session)
            .bind(named::bytes(&row.named));
        tx.execute(add).await?;
        return Ok(Changed);
    };
    if get::<Vec<u8>>(&known, "owner_id")? != bytes(&row.owner) {
        return Ok(Refused("it belongs to somebody else here"));
    }
    let rid: i64 = get(&known, "rid")?;
    let mut outcome = Left;
    let (old_title, old_session) =
        (get::<String>(&known, "title")?, get::<Option<String>>(&known, "session_id")?);
    let same = old_title == title
        && get::<bool>(&known, "title_by_user")? == row.title_by_user
        && old_session == row.session_id;
    let since: Uuid = get(&known, "named")?;
    let later = is_later(tx, &row.id, &row.named, &since).await?;
    if later && (!same || row.named > since) {
        // A name that was emptied or replaced may have been forgotten.
        let erased = (!old_title.is_empty() && old_title != title)
            || (old_session.is_some() && old_session != row.session_id);
        let session =
            session::free(tx, row, get(&known, "owner")?, get(&known, "device")?, here.device).await?;
        let names = sqlx::query(CHANGE_NAMES).bind(rid).bind(title).bind(row.title_by_user).bind(session);
        tx.execute(names.bind(named::bytes(&row.named))).await?;
        outcome = if erased { Erased } else { Changed };
    }
    if row.next_seq > get::<i64>(&known, "next_seq")? {
        let advance = sqlx::query(ADVANCE)
            .bind(rid)
            .bind(row.next_seq)
            .bind(row.updated_unix_ms)
            .bind(row.updated_synced)
            .bind(row.updated_monotonic_ns)
            .bind(boot);
        tx.execute(advance).await?;
        outcome = if outcome == Erased { Erased } else { Changed };
    }
    Ok(outcome)
}

/// Stores a voiceprint. The caller has checked that this device's key opens it, and that it is the last one
/// of its person. It replaces the present one, unless a change of the person's voice here has not been sent
/// yet.
async fn put_voiceprint(tx: &mut Tx<'_>, row: &VoiceprintRow) -> Result<Outcome> {
    if dead(tx, "voiceprint", &row.id, &row.owner).await? {
        return Ok(Left);
    }
    let Some(owner) = rid_of_user(tx, &row.owner).await? else {
        return Ok(Refused("its person is not here"));
    };
    let mut outcome = Changed;
    let known = tx.optional(sqlx::query(VOICEPRINT_OF).bind(owner)).await?;
    let known = known.map(|known| uuid_of(&known)).transpose()?;
    if known == Some(row.id) {
        return Ok(Left);
    }
    if tx.optional(sqlx::query(VOICE_WAITS).bind(bytes(&row.owner))).await?.is_some() {
        return Ok(Waits);
    }
    if let Some(id) = known {
        tx.execute(sqlx::query(VoiceprintRow::table().here.delete).bind(bytes(&id))).await?;
        outcome = Erased;
    }
    let mut row = row.clone();
    if serde_json::from_str::<serde_json::Value>(&row.quality).is_err() {
        row.quality = "{}".to_owned();
    }
    tx.execute(row.bind_here(owner, sqlx::query(VoiceprintRow::table().here.put))).await?;
    Ok(outcome)
}

/// Whether the row or its person was deleted here.
async fn dead(tx: &mut Tx<'_>, kind: &str, id: &Uuid, owner: &Uuid) -> Result<bool> {
    let found = sqlx::query(DEAD).bind(kind).bind(bytes(id)).bind(bytes(owner));
    Ok(tx.optional(found).await?.is_some())
}

/// Whether an entry about the row is still to be sent.
async fn pending(tx: &mut Tx<'_>, id: &Uuid) -> Result<bool> {
    Ok(tx.optional(sqlx::query(PENDING).bind(bytes(id))).await?.is_some())
}

async fn rid_of_user(tx: &mut Tx<'_>, id: &Uuid) -> Result<Option<i64>> {
    let row = tx.optional(sqlx::query(USER).bind(bytes(id))).await?;
    Ok(row.map(|row| get(&row, "rid")).transpose()?)
}

fn uuid_of(row: &SqliteRow) -> Result<Uuid, StoreError> {
    get(row, "id")
}

fn bytes(id: &Uuid) -> &[u8] {
    id.as_bytes().as_slice()
}

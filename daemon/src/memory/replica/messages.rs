//! Stores messages of other devices, a page at a time.
//!
//! A device that reads everything back has most messages, and a new one has none. Either way a page costs a
//! few queries for the whole page, and one statement for each new row.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::Outcome::{self, Changed, Left, Refused};
use super::{Applied, HIGHEST_SEQ, bytes};
use crate::clock::Stamp;
use crate::memory::turns::INSERT;
use crate::memory::{MAX_MESSAGE_BYTES, Memory, Result, boot_rid, device_rid, get};
use crate::store::tables::MessageRow;
use crate::store::{StoreError, Tx};

crate::store::sql::statements! {
    /// Lists of ids are JSON arrays of hexadecimal digits.
    KNOWN = "SELECT m.id, m.rid, m.clock_synced, c.id AS conversation_id
        FROM json_each(?1) wanted CROSS JOIN messages m ON m.id = unhex(wanted.value)
        JOIN conversations c ON c.rid = m.conversation";
    /// Input: pairs of a kind and an id.
    DEAD = "SELECT t.kind, t.id FROM json_each(?1) wanted
        CROSS JOIN tombstones t ON t.kind = wanted.value ->> 0 AND t.id = unhex(wanted.value ->> 1)";
    CONVERSATIONS = "SELECT c.id, c.rid, c.owner, u.id AS owner_id
        FROM json_each(?1) wanted CROSS JOIN conversations c ON c.id = unhex(wanted.value)
        JOIN users u ON u.rid = c.owner";
    /// Positions in a list of pairs (answer, source) that are not linked here.
    NOT_LINKED = "SELECT wanted.key AS place FROM json_each(?1) wanted WHERE NOT EXISTS (
        SELECT 1 FROM messages answer CROSS JOIN messages source
            CROSS JOIN message_sources s ON s.source = source.rid AND s.message = answer.rid
        WHERE answer.id = unhex(wanted.value ->> 0) AND source.id = unhex(wanted.value ->> 1))";
    COUNT_UP = "UPDATE conversations SET messages = messages + ?2, next_seq = max(next_seq, ?3)
        WHERE rid = ?1";
    RESTAMP = "UPDATE messages SET wall_unix_ms = ?2, clock_synced = 1 WHERE rid = ?1";
}

/// Links in one query: a page of 200 messages may come with any number of them.
const LINKS: usize = 1_000;

/// A message that exists here.
struct Known {
    rid: i64,
    synced: bool,
    conversation: Uuid,
}

impl Known {
    /// Whether `row` adds nothing to the message here.
    fn covers(&self, row: &MessageRow) -> bool {
        self.conversation == row.conversation && (self.synced || !row.synced)
    }
}

/// A conversation that exists here.
struct Home {
    rid: i64,
    owner: i64,
    owner_id: Uuid,
    /// Number of messages added by the page, and the number after the highest of them.
    added: i64,
    next_seq: i64,
}

/// The local state of the rows of a page and of the rows they need.
struct Page<'r> {
    known: BTreeMap<Uuid, Known>,
    /// Deleted rows, with their kind.
    dead: BTreeSet<(String, Uuid)>,
    conversations: BTreeMap<Uuid, Home>,
    boots: BTreeMap<&'r str, i64>,
    devices: BTreeMap<&'r str, i64>,
}

impl Memory {
    /// Returns the messages that may change something here, or are to be refused. It takes no lock and blocks
    /// nobody.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn news(&self, mut messages: Vec<MessageRow>) -> Result<Vec<MessageRow>> {
        if messages.is_empty() {
            return Ok(messages);
        }
        let wanted = ids(messages.iter().map(|row| row.id));
        let known = known(&self.read_all(sqlx::query(KNOWN).bind(wanted)).await?)?;
        messages.retain(|row| known.get(&row.id).is_none_or(|known| !known.covers(row)));
        Ok(messages)
    }

    /// Returns the links (answer, source message) that are not here.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn lacks_links(&self, links: &[(Uuid, Uuid)]) -> Result<Vec<(Uuid, Uuid)>> {
        let mut lacking = Vec::new();
        for links in links.chunks(LINKS) {
            let pairs: Vec<_> = links.iter().map(|(answer, source)| [hex(answer), hex(source)]).collect();
            let pairs = serde_json::json!(pairs).to_string();
            for row in &self.read_all(sqlx::query(NOT_LINKED).bind(pairs)).await? {
                let place = usize::try_from(get::<i64>(row, "place")?).unwrap_or(usize::MAX);
                lacking.extend(links.get(place).copied());
            }
        }
        Ok(lacking)
    }
}

/// Stores the messages of a page.
pub(super) async fn put(
    tx: &mut Tx<'_>,
    rows: &[MessageRow],
    stamp: &Stamp,
    applied: &mut Applied,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut page = Page::look(tx, rows).await?;
    for row in rows {
        // A rule of the database that refuses the row undoes its statement; a boot or a device added for it
        // may stay.
        let outcome = page.put(tx, row, stamp).await;
        applied.count("message", &row.id, outcome)?;
    }
    for home in page.conversations.values().filter(|home| home.added > 0) {
        let count = sqlx::query(COUNT_UP).bind(home.rid).bind(home.added).bind(home.next_seq);
        tx.execute(count).await?;
    }
    Ok(())
}

impl<'r> Page<'r> {
    async fn look(tx: &mut Tx<'_>, rows: &'r [MessageRow]) -> Result<Self> {
        let found = tx.all(sqlx::query(KNOWN).bind(ids(rows.iter().map(|row| row.id)))).await?;
        let known = known(&found)?;
        let named: BTreeSet<(&str, Uuid)> = rows.iter().flat_map(ties).collect();
        let named: Vec<_> = named.iter().map(|(kind, id)| [(*kind).to_owned(), hex(id)]).collect();
        let found = tx.all(sqlx::query(DEAD).bind(serde_json::json!(named).to_string())).await?;
        let dead = found.iter().map(|row| Ok((get(row, "kind")?, get(row, "id")?)));
        let dead = dead.collect::<Result<_, StoreError>>()?;
        let wanted: BTreeSet<Uuid> = rows.iter().map(|row| row.conversation).collect();
        let mut conversations = BTreeMap::new();
        for row in tx.all(sqlx::query(CONVERSATIONS).bind(ids(wanted))).await? {
            let home = Home {
                rid: get(&row, "rid")?,
                owner: get(&row, "owner")?,
                owner_id: get(&row, "owner_id")?,
                added: 0,
                next_seq: 1,
            };
            conversations.insert(get(&row, "id")?, home);
        }
        Ok(Self { known, dead, conversations, boots: BTreeMap::new(), devices: BTreeMap::new() })
    }

    async fn put(&mut self, tx: &mut Tx<'_>, row: &'r MessageRow, stamp: &Stamp) -> Result<Outcome> {
        if ties(row).iter().any(|(kind, id)| self.dead.contains(&((*kind).to_owned(), *id))) {
            return Ok(Left);
        }
        match self.known.get(&row.id) {
            Some(known) if known.conversation != row.conversation => {
                return Ok(Refused("it is in another conversation here"));
            }
            Some(known) if known.covers(row) => return Ok(Left),
            Some(known) => {
                tx.execute(sqlx::query(RESTAMP).bind(known.rid).bind(row.wall_unix_ms)).await?;
                return Ok(Changed);
            }
            None => {}
        }
        if !(1..HIGHEST_SEQ).contains(&row.seq) {
            return Ok(Refused("its place in the conversation is out of range"));
        }
        // Each NUL of a text becomes three bytes.
        if row.text.len() > 3 * MAX_MESSAGE_BYTES || row.text.contains('\0') {
            return Ok(Refused("its text is too long or none"));
        }
        let Some(home) = self.conversations.get_mut(&row.conversation) else {
            return Ok(Refused("its conversation is not here"));
        };
        if home.owner_id != row.owner {
            return Ok(Refused("its conversation belongs to somebody else"));
        }
        let boot = match self.boots.get(row.boot_id.as_str()) {
            Some(rid) => *rid,
            None => boot_rid(tx, &row.boot_id).await?,
        };
        self.boots.insert(&row.boot_id, boot);
        let device = match self.devices.get(row.device.as_str()) {
            Some(rid) => *rid,
            None => device_rid(tx, &row.device, stamp).await?,
        };
        self.devices.insert(&row.device, device);
        let meta = row.meta.as_deref().filter(|meta| serde_json::from_str::<serde_json::Value>(meta).is_ok());
        let add = sqlx::query(INSERT)
            .bind(bytes(&row.id))
            .bind(home.rid)
            .bind(home.owner)
            .bind(row.seq)
            .bind(&row.role)
            .bind(&row.kind)
            .bind(&row.text)
            .bind(meta)
            .bind(row.wall_unix_ms)
            .bind(row.synced)
            .bind(row.monotonic_ns)
            .bind(boot)
            .bind(device);
        match tx.execute(add).await {
            Err(StoreError::Constraint { unique: true, .. }) => {
                return Ok(Refused("another message has its place in the conversation"));
            }
            done => {
                done?;
            }
        }
        home.added += 1;
        home.next_seq = home.next_seq.max(row.seq + 1);
        Ok(Changed)
    }
}

/// The rows whose deletion covers a message: itself, its conversation, its person.
fn ties(row: &MessageRow) -> [(&'static str, Uuid); 3] {
    [("message", row.id), ("conversation", row.conversation), ("user", row.owner)]
}

fn known(rows: &[sqlx::sqlite::SqliteRow]) -> Result<BTreeMap<Uuid, Known>> {
    let mut known = BTreeMap::new();
    for row in rows {
        let here = Known {
            rid: get(row, "rid")?,
            synced: get(row, "clock_synced")?,
            conversation: get(row, "conversation_id")?,
        };
        known.insert(get(row, "id")?, here);
    }
    Ok(known)
}

/// Ids in the form that the statements above take.
pub(super) fn ids(ids: impl IntoIterator<Item = Uuid>) -> String {
    let list: Vec<String> = ids.into_iter().map(|id| hex(&id)).collect();
    serde_json::json!(list).to_string()
}

fn hex(id: &Uuid) -> String {
    id.simple().to_string()
}

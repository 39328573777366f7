//! Compares every table kept on both sides, except the messages, row by row.
//!
//! The tables follow from [`crate::store::tables`]. Deletions and links, which have no row of their own, are
//! added.
//!
//! A row is on its way while an entry of the queue names it, or while it is newer there than this device has
//! read. Both sides keep changing, so a difference counts only if a second look finds it too.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::{CompareError, Lacking, STEP, all, buried_there};
use crate::store::opener::Opener;
use crate::store::postgres::{Pg, read};
use crate::store::pull_cursor::PullCursor;
use crate::store::queue::Op;
use crate::store::tables::{self, TOMBSTONES};
use crate::store::{Store, StoreError};

/// The parent table of the messages.
pub(super) const CONVERSATIONS_NAME: &str = "conversations";

/// The table in which some rows are not for this device.
const VOICES: &str = "voiceprints";

/// Rows compared at once.
const PAGE: i64 = 500;

/// How a table differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TableComparison {
    pub table: &'static str,
    pub here: i64,
    pub there: i64,
    /// Rows missing in Postgres with no entry that waits for them.
    pub missing_there: usize,
    /// Rows missing here although this device has read past them.
    pub missing_here: usize,
    /// Rows on both sides with different contents.
    pub differ: usize,
    /// Rows on their way to Postgres: not compared.
    pub waiting: usize,
    /// Rows there that this device has not read yet and that differ here: not compared.
    pub unread: usize,
    /// Voiceprints that the key and model of this device do not open: they are for other devices.
    pub of_others: usize,
}

impl TableComparison {
    pub fn differences(&self) -> usize {
        self.missing_there + self.missing_here + self.differ
    }
}

crate::store::sql::statements! {
    DELETIONS = "SELECT t.id, t.user_id AS owner, t.kind AS sum,
            EXISTS (SELECT 1 FROM queue q WHERE q.entity_id = t.id) AS waits
        FROM tombstones t WHERE t.id > ?1 ORDER BY t.id LIMIT ?2";
    BURIED = "SELECT id FROM tombstones WHERE id IN (SELECT unhex(value) FROM json_each(?1))";
    LINKS = "SELECT answer.id AS message, source.id AS source, u.id AS owner,
            EXISTS (SELECT 1 FROM queue q WHERE q.entity_id IN (answer.id, source.id)) AS waits
        FROM messages answer CROSS JOIN message_sources s ON s.message = answer.rid
            CROSS JOIN messages source ON source.rid = s.source
            CROSS JOIN users u ON u.rid = answer.owner
        WHERE (answer.id, source.id) > (?1, ?2) ORDER BY answer.id, source.id LIMIT ?3";
    LINKED = "SELECT 1 FROM messages answer CROSS JOIN messages source
            LEFT JOIN message_sources s ON s.message = answer.rid AND s.source = source.rid
        WHERE answer.id = ?1 AND source.id = ?2 AND s.source IS NULL";
}

/// Statements for Postgres.
pub(super) mod there {
    crate::store::sql::statements! {
        /// A row newer than $4 that $5 did not write is not read yet.
        pub(super) DELETIONS = "SELECT id, owner, kind AS sum, change > $4 AND (origin <> $5 OR $6) AS unread
            FROM jarvis.tombstones WHERE id > $1 AND ($2::uuid IS NULL OR id <= $2) ORDER BY id LIMIT $3";
        pub(super) LINKS = "SELECT message, source FROM jarvis.message_sources
            WHERE (message, source) > ($1, $2) AND ($3::uuid IS NULL OR (message, source) <= ($3, $4))
            ORDER BY message, source LIMIT $5";
        pub(super) MESSAGES = "SELECT id FROM jarvis.messages WHERE id = ANY($1)";
    }
}

/// A table and how a page of it is read on both sides.
struct Table {
    name: &'static str,
    here: &'static str,
    there: &'static str,
    /// The operation to queue for a missing row; deletions carry their own.
    op: Option<Op>,
    /// Whether rows of other devices are read back.
    read_back: bool,
}

fn all_tables() -> Vec<Table> {
    let synced = tables::all().into_iter().filter_map(|table| {
        let (here, there) = table.here.compared.zip(table.there.compared)?;
        Some(Table { name: table.name, here, there, op: Some(table.put), read_back: table.kind.is_some() })
    });
    let deletions =
        Table { name: "deletions", here: DELETIONS, there: there::DELETIONS, op: None, read_back: true };
    synced.chain([deletions]).collect()
}

struct LocalRow {
    owner: Option<Uuid>,
    sum: String,
    waits: bool,
}

struct RemoteRow {
    owner: Option<Uuid>,
    sum: String,
    unread: bool,
}

/// The kind of difference found for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    MissingThere,
    MissingHere,
    Differs,
}

/// Both sides, and the progress of this device.
pub(super) struct Sides<'a> {
    pub(super) store: &'a Store,
    pub(super) pg: &'a mut Pg,
    pub(super) device: &'a str,
    /// How far this database was read; `None`: everything is still to be read.
    pub(super) read: Option<&'a PullCursor>,
    /// Whether everything here is still to be sent to this database.
    pub(super) queueing: bool,
    pub(super) opener: Option<&'a Opener>,
    /// Conversations missing on one side; filled by [`Sides::compare`].
    pub(super) missing_there: BTreeSet<Uuid>,
    pub(super) missing_here: BTreeSet<Uuid>,
}

impl Sides<'_> {
    /// Compares every table.
    pub(super) async fn compare(
        &mut self,
        lacking: &mut Lacking,
    ) -> Result<Vec<TableComparison>, CompareError> {
        let mut compared = Vec::new();
        for table in all_tables() {
            compared.push(self.table(&table, lacking).await?);
        }
        compared.push(self.links(lacking).await?);
        Ok(compared)
    }

    async fn table(&mut self, table: &Table, lacking: &mut Lacking) -> Result<TableComparison, CompareError> {
        let mut result = TableComparison { table: table.name, ..TableComparison::default() };
        let mut after = Uuid::nil();
        loop {
            let (here, last) = self.here(table, after, PAGE).await?;
            let there = self.there(table, after, last).await?;
            result.here += i64::try_from(here.len()).unwrap_or(i64::MAX);
            result.there += i64::try_from(there.len()).unwrap_or(i64::MAX);
            let (mut found, waiting, unread) = self.judge(table, &here, &there).await?;
            result.waiting += waiting;
            result.unread += unread;
            if !found.is_empty() {
                let here = self.up_to(table, after, last).await?;
                let there = self.there(table, after, last).await?;
                let again = self.judge(table, &here, &there).await?.0;
                found.retain(|id, difference| again.get(id) == Some(difference));
                if table.name == VOICES {
                    result.of_others += self.leave_out_others(&there, &mut found).await?;
                }
                for (id, difference) in &found {
                    if table.name == CONVERSATIONS_NAME {
                        self.note_conversation(*id, *difference);
                    }
                    match difference {
                        Difference::MissingThere => result.missing_there += 1,
                        Difference::MissingHere => result.missing_here += 1,
                        Difference::Differs => result.differ += 1,
                    }
                    if let Some(row) = here.get(id).filter(|_| *difference != Difference::MissingHere) {
                        lacking.note(table.op, *id, row.owner, &row.sum);
                    }
                    lacking.read_again |= *difference != Difference::MissingThere;
                }
            }
            match last {
                Some(last) => after = last,
                None => return Ok(result),
            }
        }
    }

    fn note_conversation(&mut self, id: Uuid, difference: Difference) {
        match difference {
            Difference::MissingThere => self.missing_there.insert(id),
            Difference::MissingHere => self.missing_here.insert(id),
            Difference::Differs => false,
        };
    }

    /// Returns the rows that differ, the number on their way there, and the number not read yet.
    async fn judge(
        &mut self,
        table: &Table,
        here: &BTreeMap<Uuid, LocalRow>,
        there: &BTreeMap<Uuid, RemoteRow>,
    ) -> Result<(BTreeMap<Uuid, Difference>, usize, usize), CompareError> {
        let mut found = BTreeMap::new();
        let (mut waiting, mut unread) = (0, 0);
        for (id, row) in here {
            let difference = match there.get(id) {
                Some(theirs) if theirs.sum == row.sum => continue,
                _ if row.waits || self.queueing => {
                    waiting += 1;
                    continue;
                }
                Some(theirs) if theirs.unread => {
                    unread += 1;
                    continue;
                }
                Some(_) => Difference::Differs,
                None => Difference::MissingThere,
            };
            found.insert(*id, difference);
        }
        for (id, row) in there.iter().filter(|(id, _)| table.read_back && !here.contains_key(*id)) {
            if row.unread {
                unread += 1;
            } else {
                found.insert(*id, Difference::MissingHere);
            }
        }
        if found.is_empty() {
            return Ok((found, waiting, unread));
        }
        // A row deleted on one side, with its person or alone, is on its way to the other.
        let owner = |id: &Uuid| here.get(id).map(|row| row.owner).or(there.get(id).map(|row| row.owner));
        let tied: BTreeSet<Uuid> =
            found.keys().flat_map(|id| [Some(*id), owner(id).flatten()]).flatten().collect();
        let buried_here = buried_here(self.store, &tied).await?;
        let tied: Vec<Uuid> = tied.into_iter().collect();
        let buried_there = buried_there(self.pg, &tied).await?;
        found.retain(|id, difference| {
            let buried = match difference {
                Difference::MissingThere => &buried_there,
                Difference::MissingHere => &buried_here,
                Difference::Differs => return true,
            };
            let of_owner = owner(id).flatten().is_some_and(|owner| owner != *id && buried.contains(&owner));
            !(of_owner || (table.op.is_some() && buried.contains(id)))
        });
        Ok((found, waiting, unread))
    }

    /// Removes rows that are missing here because they are for other devices, and returns their number.
    async fn leave_out_others(
        &mut self,
        there: &BTreeMap<Uuid, RemoteRow>,
        found: &mut BTreeMap<Uuid, Difference>,
    ) -> Result<usize, CompareError> {
        let absent = found.iter().filter(|(_, difference)| **difference == Difference::MissingHere);
        let absent: Vec<Uuid> = absent.map(|(id, _)| *id).collect();
        let people: BTreeSet<Uuid> =
            absent.iter().filter_map(|id| there.get(id).and_then(|row| row.owner)).collect();
        let people: Vec<Uuid> = people.into_iter().collect();
        let rows = read::voiceprints_of(&mut self.pg.conn, &people).await?;
        let rows = rows.into_iter().filter_map(|(_, row)| row).collect();
        let ours: BTreeSet<Uuid> = match self.opener {
            Some(opener) => opener.choose(rows).0.into_iter().map(|row| row.id).collect(),
            None => BTreeSet::new(),
        };
        let others: Vec<Uuid> = absent.into_iter().filter(|id| !ours.contains(id)).collect();
        for id in &others {
            found.remove(id);
        }
        Ok(others.len())
    }

    /// A page of rows here, and the last id of the page (`None`: no more).
    async fn here(
        &self,
        table: &Table,
        after: Uuid,
        limit: i64,
    ) -> Result<(BTreeMap<Uuid, LocalRow>, Option<Uuid>), StoreError> {
        let rows = all(self.store, sqlx::query(table.here).bind(after).bind(limit), row_here).await?;
        let full = i64::try_from(rows.len()).unwrap_or(i64::MAX) == limit;
        let last = rows.last().filter(|_| full).map(|(id, _)| *id);
        Ok((rows.into_iter().collect(), last))
    }

    /// Reads the same range again: it may hold more rows by now.
    async fn up_to(
        &self,
        table: &Table,
        after: Uuid,
        last: Option<Uuid>,
    ) -> Result<BTreeMap<Uuid, LocalRow>, StoreError> {
        let (mut found, mut from) = (BTreeMap::new(), after);
        loop {
            let (page, end) = self.here(table, from, PAGE).await?;
            found.extend(page.into_iter().filter(|(id, _)| last.is_none_or(|last| *id <= last)));
            match end {
                Some(end) if last.is_none_or(|last| end < last) => from = end,
                _ => return Ok(found),
            }
        }
    }

    async fn there(
        &mut self,
        table: &Table,
        after: Uuid,
        last: Option<Uuid>,
    ) -> Result<BTreeMap<Uuid, RemoteRow>, CompareError> {
        let (cursor, everything) = self.cursor(table);
        let (mut found, mut from) = (BTreeMap::new(), after);
        loop {
            let query = sqlx::query(table.there).bind(from).bind(last).bind(PAGE);
            let query = query.bind(cursor).bind(self.device).bind(everything);
            let rows = self
                .pg
                .value(STEP, query, |row| {
                    let there = RemoteRow {
                        owner: row.try_get("owner")?,
                        sum: row.try_get("sum")?,
                        unread: row.try_get("unread")?,
                    };
                    Ok((row.try_get::<Uuid, _>("id")?, there))
                })
                .await?;
            let Some((end, _)) = rows.last() else { return Ok(found) };
            from = *end;
            found.extend(rows);
        }
    }

    /// The change number up to which the table was read, and whether this device's own rows are read as well.
    fn cursor(&self, table: &Table) -> (i64, bool) {
        let Some(read) = self.read else { return (0, true) };
        if table.name != VOICES {
            let deletions = table.op.is_none();
            return (read.at.of(if deletions { TOMBSTONES } else { table.name }), !read.caught_up);
        }
        // Without a key no voiceprint is ever read, and none is for this device.
        let Some(opener) = self.opener else { return (i64::MAX, false) };
        let looked = read.voices_of.as_ref().is_some_and(|name| *name == (opener.name)());
        if looked { (read.at.voiceprints, false) } else { (0, true) }
    }

    /// Compares the links from answers to their sources. Links come and go with their messages, so a link
    /// counts only if both messages are on both sides.
    async fn links(&mut self, lacking: &mut Lacking) -> Result<TableComparison, CompareError> {
        let mut result = TableComparison { table: "links", ..TableComparison::default() };
        let mut after = (Uuid::nil(), Uuid::nil());
        loop {
            let query = sqlx::query(LINKS).bind(after.0).bind(after.1).bind(PAGE);
            let rows = all(self.store, query, |row| {
                let pair: (Uuid, Uuid) = (row.try_get("message")?, row.try_get("source")?);
                Ok((pair, (row.try_get::<Uuid, _>("owner")?, row.try_get::<bool, _>("waits")?)))
            })
            .await?;
            let full = i64::try_from(rows.len()).unwrap_or(i64::MAX) == PAGE;
            let last = rows.last().filter(|_| full).map(|(pair, _)| *pair);
            let here: BTreeMap<_, _> = rows.into_iter().collect();
            let there = self.links_there(after, last).await?;
            result.here += i64::try_from(here.len()).unwrap_or(i64::MAX);
            result.there += i64::try_from(there.len()).unwrap_or(i64::MAX);
            let absent: Vec<_> = here.iter().filter(|(pair, _)| !there.contains(pair)).collect();
            let ends: Vec<Uuid> =
                absent.iter().flat_map(|((answer, source), _)| [*answer, *source]).collect();
            let ends: BTreeSet<Uuid> = if ends.is_empty() {
                BTreeSet::new()
            } else {
                let find = sqlx::query(there::MESSAGES).bind(ends);
                self.pg.value(STEP, find, |row| row.try_get("id")).await?.into_iter().collect()
            };
            for ((answer, source), (owner, waits)) in absent {
                if *waits || self.queueing {
                    result.waiting += 1;
                } else if ends.contains(answer) && ends.contains(source) {
                    result.missing_there += 1;
                    lacking.note(Some(Op::InsertMessage), *answer, Some(*owner), "");
                }
            }
            for (answer, source) in there.iter().filter(|pair| !here.contains_key(pair)) {
                let query = sqlx::query(LINKED).bind(*answer).bind(*source);
                // A missing message is reported itself, so its link is not.
                if all(self.store, query, |_| Ok(())).await?.is_empty() {
                    continue;
                }
                if self.read.is_some_and(|read| read.caught_up) {
                    result.missing_here += 1;
                    lacking.read_again = true;
                } else {
                    result.unread += 1;
                }
            }
            match last {
                Some(last) => after = last,
                None => return Ok(result),
            }
        }
    }

    async fn links_there(
        &mut self,
        after: (Uuid, Uuid),
        last: Option<(Uuid, Uuid)>,
    ) -> Result<BTreeSet<(Uuid, Uuid)>, CompareError> {
        let (mut found, mut from) = (BTreeSet::new(), after);
        let (to, to_source) = last.unzip();
        loop {
            let query =
                sqlx::query(there::LINKS).bind(from.0).bind(from.1).bind(to).bind(to_source).bind(PAGE);
            let rows = self
                .pg
                .value(STEP, query, |row| Ok((row.try_get("message")?, row.try_get("source")?)))
                .await?;
            let Some(end) = rows.last() else { return Ok(found) };
            from = *end;
            found.extend(rows);
        }
    }
}

fn row_here(row: &SqliteRow) -> Result<(Uuid, LocalRow), sqlx::Error> {
    let here =
        LocalRow { owner: row.try_get("owner")?, sum: row.try_get("sum")?, waits: row.try_get("waits")? };
    Ok((row.try_get("id")?, here))
}

async fn buried_here(store: &Store, ids: &BTreeSet<Uuid>) -> Result<BTreeSet<Uuid>, StoreError> {
    let wanted: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
    let query = sqlx::query(BURIED).bind(serde_json::json!(wanted).to_string());
    Ok(all(store, query, |row| row.try_get("id")).await?.into_iter().collect())
}

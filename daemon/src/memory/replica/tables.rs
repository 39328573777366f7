//! Describes how the rows of each table are stored here: one line for a plain table.

use sqlx::PgConnection;
use uuid::Uuid;

use super::Outcome::{self, Changed, Erased, Left, Refused, Waits};
use super::{
    Applied, Pulled, TakenBack, begin_row, bytes, dead, messages, pending, put_conversation, put_user,
    put_voiceprint, rid_of_user, take_back,
};
use crate::clock::Stamp;
use crate::memory::Result;
use crate::memory::pull::{PullError, Puller, unique, usable};
use crate::store::Tx;
use crate::store::postgres::read;
use crate::store::queue::enqueue;
use crate::store::tables::{self, ConversationRow, MessageRow, Rows, Synced, UserRow, VoiceprintRow};

/// Device and time for the stored rows.
pub(in crate::memory) struct Place<'a> {
    pub(super) device: i64,
    pub(super) stamp: &'a Stamp,
}

/// Stores the rows of a table that devices read.
pub(in crate::memory) trait Kept: Synced {
    /// Whether the table is read separately, not page by page.
    const APART: bool = false;

    /// Stores a row. A row of a plain table replaces the present one, unless that is still to be sent.
    async fn put(&self, tx: &mut Tx<'_>, _here: &Place<'_>) -> Result<Outcome> {
        put_plain(tx, self).await
    }

    /// Stores the rows of a page; returns whether content must leave the file.
    async fn put_page(
        tx: &mut Tx<'_>,
        rows: &[Self],
        here: &Place<'_>,
        applied: &mut Applied,
    ) -> Result<bool> {
        let mut erased = false;
        for row in rows {
            begin_row(tx).await?;
            let outcome = row.put(tx, here).await;
            applied.unsettled |= matches!(outcome, Ok(Waits));
            erased |= applied.end_row(tx, kind_of::<Self>(), &row.id(), outcome).await?;
        }
        Ok(erased)
    }

    /// Stores and queues rows from a backup.
    async fn take_back(
        tx: &mut Tx<'_>,
        rows: &[Self],
        here: &Place<'_>,
        applied: &mut Applied,
    ) -> Result<TakenBack> {
        for row in rows {
            Self::put_page(tx, std::slice::from_ref(row), here, applied).await?;
            enqueue(tx, Self::table().put, row.id(), row.owner(), here.stamp.wall_unix_ms).await?;
        }
        Ok(TakenBack::default())
    }

    /// Makes a page for `rows`, which are added later, with the rows they need. It may remove some of them.
    async fn page(
        puller: &Puller,
        conn: &mut PgConnection,
        rows: &mut Vec<Self>,
    ) -> std::result::Result<Pulled, PullError> {
        let owners = rows.iter().filter(|_| Self::table().is_owned).filter_map(Self::owner).collect();
        let users = puller.missing_users(conn, owners).await?;
        Ok(Pulled { rows: Rows { users, ..Rows::default() }, ..Pulled::default() })
    }
}

impl Kept for UserRow {
    async fn put(&self, tx: &mut Tx<'_>, _here: &Place<'_>) -> Result<Outcome> {
        put_user(tx, self).await
    }
}

impl Kept for VoiceprintRow {
    const APART: bool = true;

    async fn put(&self, tx: &mut Tx<'_>, _here: &Place<'_>) -> Result<Outcome> {
        put_voiceprint(tx, self).await
    }
}

impl Kept for ConversationRow {
    async fn put(&self, tx: &mut Tx<'_>, here: &Place<'_>) -> Result<Outcome> {
        put_conversation(tx, self, here).await
    }
}

#[cfg(test)]
impl Kept for tables::ProbeRow {}

impl Kept for MessageRow {
    async fn put_page(
        tx: &mut Tx<'_>,
        rows: &[Self],
        here: &Place<'_>,
        applied: &mut Applied,
    ) -> Result<bool> {
        messages::put(tx, rows, here.stamp, applied).await.map(|()| false)
    }

    async fn take_back(
        tx: &mut Tx<'_>,
        rows: &[Self],
        here: &Place<'_>,
        applied: &mut Applied,
    ) -> Result<TakenBack> {
        take_back::messages(tx, rows, here.stamp, applied).await
    }

    async fn page(
        puller: &Puller,
        conn: &mut PgConnection,
        rows: &mut Vec<Self>,
    ) -> std::result::Result<Pulled, PullError> {
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let sources = if ids.is_empty() { Vec::new() } else { read::sources(conn, &ids).await? };
        // After a reset of the cursor, nearly all messages are here.
        *rows = puller.memory.news(std::mem::take(rows)).await?;
        let sources = puller.memory.lacks_links(&sources).await?;
        let conversations = unique(rows.iter().map(|row| row.conversation));
        let lacking = puller.memory.lacks::<ConversationRow>(&conversations).await?;
        let mut conversations = match lacking.as_slice() {
            [] => Vec::new(),
            ids => usable(read::by_id(conn, ids).await?),
        };
        let mut page = ConversationRow::page(puller, conn, &mut conversations).await?;
        page.rows.conversations = conversations;
        Ok(Pulled { sources, ..page })
    }
}

macro_rules! each_table {
    ($({ $(#[$on:meta])* $rows:ident $row:ident $($op:tt)* })+ sent $($sent:tt)*) => {
        pub(super) async fn put_all(
            tx: &mut Tx<'_>,
            rows: &Rows,
            here: &Place<'_>,
            applied: &mut Applied,
        ) -> Result<bool> {
            let mut erased = false;
            $($(#[$on])* { erased |= tables::$row::put_page(tx, &rows.$rows, here, applied).await?; })+
            Ok(erased)
        }

        pub(super) async fn take_all_back(
            tx: &mut Tx<'_>,
            rows: &Rows,
            here: &Place<'_>,
            applied: &mut Applied,
        ) -> Result<TakenBack> {
            let mut taken = TakenBack::default();
            $($(#[$on])* { taken += tables::$row::take_back(tx, &rows.$rows, here, applied).await?; })+
            Ok(taken)
        }
    };
}
tables::for_tables!(each_table);

/// The kind of a deletion of a row of this table.
fn kind_of<T: Synced>() -> &'static str {
    T::table().kind.unwrap_or_default()
}

async fn put_plain<T: Synced>(tx: &mut Tx<'_>, row: &T) -> Result<Outcome> {
    let (id, owner) = (row.id(), row.owner().unwrap_or_default());
    // The local row decides until it was sent.
    if dead(tx, kind_of::<T>(), &id, &owner).await? || pending(tx, &id).await? {
        return Ok(Left);
    }
    let Some(owner) = rid_of_user(tx, &owner).await? else {
        return Ok(Refused("its person is not here"));
    };
    let known = tx.optional(sqlx::query(T::table().here.by_id).bind(bytes(&id))).await?;
    let written = tx.execute(row.bind_here(owner, sqlx::query(T::table().here.put))).await?;
    Ok(match (written, known) {
        (0, _) => Left,
        (_, Some(_)) => Erased,
        (_, None) => Changed,
    })
}

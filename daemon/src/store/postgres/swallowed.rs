//! Rows that the server reports neither as written nor as refused.
//!
//! A `BEFORE` trigger that returns NULL and a rule `DO INSTEAD NOTHING` drop a row without an error. A
//! statement also writes fewer rows than it got if the server has them already, has newer ones, or has buried
//! them. So after fewer rows the missing ones are looked for, in the same transaction.

use super::write::column;
use super::{Pg, PgError};
use crate::store::outgoing::{Batch, Deletion};
use crate::store::tables::{PgQuery, Synced, Table};

const STEP: &str = "looking for what was sent to Postgres";

crate::store::sql::statements! {
    SOURCES = "SELECT 1 FROM unnest($1::uuid[], $2::uuid[]) AS x (message, source)
            JOIN jarvis.messages m ON m.id = x.message JOIN jarvis.messages s ON s.id = x.source
            AND s.owner = m.owner
        WHERE NOT EXISTS (SELECT FROM jarvis.message_sources t WHERE t.message = x.message
        AND t.source = x.source)
        LIMIT 1";
}

impl Pg {
    /// Fails if a row that `query` looks for differs from the row sent; `written` of `sent` were written.
    async fn all_there(
        &mut self,
        (written, sent): (u64, usize),
        table: &str,
        query: PgQuery<'_>,
    ) -> Result<(), PgError> {
        if written >= sent as u64 || self.value(STEP, query, |_| Ok(())).await?.is_empty() {
            return Ok(());
        }
        Err(PgError::swallowed(table))
    }

    /// Checks rows after `written` of them were written.
    pub(super) async fn rows_are_there<T: Synced>(
        &mut self,
        written: u64,
        rows: &[T],
    ) -> Result<(), PgError> {
        let table = T::table();
        let query = T::bind(rows, sqlx::query(table.there.swallowed), true);
        self.all_there((written, rows.len()), table.name, query).await
    }

    pub(super) async fn sources_are_there(&mut self, written: u64, batch: &Batch) -> Result<(), PgError> {
        let rows = &batch.sources;
        let query =
            sqlx::query(SOURCES).bind(column(rows, |(message, _)| *message)).bind(column(rows, |r| r.1));
        self.all_there((written, rows.len()), "message_sources", query).await
    }

    /// Checks deletions after the statements wrote `buried` tombstones and deleted `deleted` rows.
    pub(super) async fn deletions_are_done(
        &mut self,
        (buried, deleted): (u64, u64),
        table: &Table,
        rows: &[Deletion],
    ) -> Result<(), PgError> {
        let query = sqlx::query(table.there.undeleted)
            .bind(table.kind)
            .bind(column(rows, |r| r.id))
            .bind(column(rows, |r| r.owner));
        let name = if buried < rows.len() as u64 { "tombstones or jarvis." } else { "" };
        self.all_there((buried.min(deleted), rows.len()), &format!("{name}{}", table.name), query).await
    }
}

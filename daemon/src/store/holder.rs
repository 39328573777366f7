//! Decides which memory sends under the id of this device.
//!
//! Two cards with one `[device] id` would continue the same conversations, each with its own numbers, and
//! would not read each other. So a file has an identity, and each connection of its forwarder a new token:
//!
//! ```text
//!   the file                  jarvis.devices
//!   … t6 t7    ── same ──▶    t7                this memory holds the id; its next connection makes it t8
//!   … t6                      t7                a copy of the file went on elsewhere: held back
//!   none                      t7                another memory: held back
//!   none                      t7, long silent   the card was replaced: takes over, and reads everything anew
//! ```
//!
//! Invariants:
//!
//! 1. A token is stored in the file before it is in Postgres, so the file knows the token of a connection
//!    that is lost halfway.
//! 2. A batch is sent only if the token there is still ours, in the same transaction.
//! 3. A memory that is held back changes nothing in Postgres and sets nothing aside: its words wait here. If
//!    it has nothing to send, it reads on.
//!
//! Several processes of one memory share its tokens. A restore of Postgres makes another house, in which no
//! memory holds an id.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use uuid::Uuid;

use super::forward::ForwardError;
use super::postgres::{Pg, PgError, PgSettings, schema};
use super::{Store, StoreError, pull_cursor, put_back, settings};

/// Settings key of [`Own`]. A repair of the file keeps it.
pub(crate) const KEY: &str = "holder";
/// Tokens that the file remembers: a Postgres put back by other means than ours shows one of them.
const REMEMBERED: usize = 64;
/// Version of the schema that knows of holders.
const SINCE_VERSION: i32 = 4;

super::sql::statements! {
    IS_EMPTY = "SELECT NOT EXISTS (SELECT 1 FROM users) AND NOT EXISTS (SELECT 1 FROM queue) AS empty";
}

/// Statements for Postgres.
mod there {
    /// Matches a holder seen in the last ten minutes by the clock of the server; a time in the future is
    /// ignored.
    macro_rules! holder {
        () => {
            "SELECT token, (SELECT last_value FROM jarvis.changes) AS drawn, last_seen::text AS seen,
                extract(epoch FROM now() - last_seen)::double precision AS silent_s,
                last_seen NOT BETWEEN now() - interval '10 min' AND now() + interval '10 min' AS silent
            FROM jarvis.devices WHERE id = $1"
        };
    }
    crate::store::sql::statements! {
        pub(super) BEGIN = "BEGIN";
        pub(super) COMMIT = "COMMIT";
        pub(super) ROLLBACK = "ROLLBACK";
        pub(super) ADD = "INSERT INTO jarvis.devices (id) VALUES ($1) ON CONFLICT (id) DO NOTHING";
        pub(super) HOLDER = holder!();
        pub(super) HOLDER_LOCKED = concat!(holder!(), " FOR UPDATE");
        pub(super) TAKE = "UPDATE jarvis.devices SET memory = $2, token = $3, last_seen = now()
            WHERE id = $1";
    }
}

/// All statements, for the test that prepares them.
#[cfg(test)]
pub(crate) const STATEMENTS_THERE: &[(&str, &str)] = there::STATEMENTS;

/// The identity and tokens stored in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Own {
    /// Identity of the file.
    memory: Option<Uuid>,
    /// The device id under which the file was sent.
    device: String,
    /// Tokens, newest last, of any database and id. Each is random, so only its maker knows it.
    tokens: Vec<Uuid>,
    /// Whether the next connection takes the id over from any holder.
    take_over: bool,
    /// When the previous holder was last seen, if everything it wrote until then is here.
    read_until: Option<String>,
}

/// The state stored in the database.
#[derive(Debug, Clone, Default)]
struct There {
    token: Option<Uuid>,
    /// The last change number drawn.
    drawn: i64,
    /// When the holder was last seen, as the server writes it.
    seen: String,
    silent_s: f64,
    silent: bool,
}

/// The right of this memory to the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    Holds,
    TakesOver,
    HeldBack,
}

impl Right {
    fn of(own: &Own, there: &There) -> Self {
        match there.token {
            None => Self::Holds,
            Some(token) if own.tokens.contains(&token) => Self::Holds,
            Some(_) if there.silent || own.take_over => Self::TakesOver,
            Some(_) => Self::HeldBack,
        }
    }
}

async fn own(store: &Store) -> Result<Own, StoreError> {
    Ok(settings::get(store, KEY).await?.unwrap_or_default())
}

async fn there(pg: &mut Pg, sql: &'static str, device: &str) -> Result<There, PgError> {
    let rows = pg
        .value("asking who sends under this id", sqlx::query(sql).bind(device), |row| {
            Ok(There {
                token: row.try_get("token")?,
                drawn: row.try_get("drawn")?,
                seen: row.try_get("seen")?,
                silent_s: row.try_get("silent_s")?,
                silent: row.try_get("silent")?,
            })
        })
        .await?;
    Ok(rows.into_iter().next().unwrap_or_default())
}

/// Makes this memory the one that sends as `device` on this connection.
///
/// # Errors
/// [`PgError::is_held_back`] if another memory holds the id.
pub(super) async fn claim(
    store: &Store,
    pg: &mut Pg,
    device: &str,
    now_unix_ms: i64,
) -> Result<(), ForwardError> {
    pg.run(sqlx::query(there::ADD).bind(device)).await.map_err(ForwardError::Postgres)?;
    pg.run(sqlx::query(there::BEGIN)).await.map_err(ForwardError::Postgres)?;
    let claimed = claim_within(store, pg, device, now_unix_ms).await;
    let end = if claimed.is_ok() { there::COMMIT } else { there::ROLLBACK };
    let ended = pg.run(sqlx::query(end)).await.map_err(ForwardError::Postgres);
    let token = claimed?;
    ended?;
    pg.token = Some(token);
    Ok(())
}

async fn claim_within(
    store: &Store,
    pg: &mut Pg,
    device: &str,
    now_unix_ms: i64,
) -> Result<Uuid, ForwardError> {
    let there = there(pg, there::HOLDER_LOCKED, device).await.map_err(ForwardError::Postgres)?;
    // Read under the lock: another process of this memory may have made a token meanwhile.
    let own = own(store).await?;
    let right = Right::of(&own, &there);
    if right == Right::HeldBack {
        return Err(ForwardError::Postgres(PgError::held_back(device, there.silent_s)));
    }
    if right == Right::TakesOver {
        log::warn!(
            "this memory takes over the device id \"{device}\"; another one that had it is held back from \
             now on"
        );
    }
    let renamed = !own.device.is_empty() && own.device != device;
    // A later batch of another holder would have changed the time.
    let knows_all = own.read_until.as_deref() == Some(there.seen.as_str());
    let token = Uuid::now_v7();
    // The token of the previous holder stays too: it is still there if this connection is lost now.
    let before = there.token.filter(|token| !own.tokens.contains(token));
    let mut tokens: Vec<Uuid> = own.tokens.into_iter().chain(before).chain([token]).collect();
    tokens.drain(..tokens.len().saturating_sub(REMEMBERED));
    let memory = own.memory.unwrap_or_else(Uuid::now_v7);
    let next =
        Own { memory: Some(memory), device: device.to_owned(), tokens, take_over: false, read_until: None };
    pg.drawn = there.drawn;
    let put_back = there.drawn < put_back::known(store, pg.house).await?;
    if put_back {
        put_back::renew_house(pg).await.map_err(ForwardError::Postgres)?;
    }
    let mut tx = store.begin().await?;
    settings::set(&mut tx, KEY, &next, now_unix_ms).await?;
    if put_back {
        put_back::note(&mut tx, pg.house, now_unix_ms).await?;
    }
    if renamed || (right == Right::TakesOver && !knows_all) {
        // Some rows written under the id are not known here.
        pull_cursor::read_again_in(&mut tx).await?;
    }
    tx.commit().await?;
    let take = sqlx::query(there::TAKE).bind(device).bind(memory).bind(token);
    pg.run(take).await.map_err(ForwardError::Postgres)?;
    Ok(token)
}

/// Whether another process of this memory made the present token, so that this connection can go on with it.
/// False after a database was put back.
pub(super) async fn adopt(store: &Store, pg: &mut Pg, device: &str) -> Result<bool, ForwardError> {
    let there = there(pg, there::HOLDER, device).await.map_err(ForwardError::Postgres)?;
    let own = own(store).await?;
    // The next connection meets a database that was put back.
    let ours = there.token.filter(|token| own.tokens.contains(token) && there.drawn >= pg.drawn);
    if ours.is_some() {
        pg.token = ours;
    }
    Ok(ours.is_some())
}

/// Why this memory would be held back now; `None` if it would not. Changes nothing.
///
/// # Errors
/// [`ForwardError`].
pub async fn held_back(store: &Store, settings: &PgSettings) -> Result<Option<PgError>, ForwardError> {
    let Some(mut pg) = Pg::visit(settings, SINCE_VERSION).await.map_err(ForwardError::Postgres)? else {
        return Ok(None);
    };
    let there = there(&mut pg, there::HOLDER, &settings.device).await;
    pg.close().await;
    let there = there.map_err(ForwardError::Postgres)?;
    let right = Right::of(&own(store).await?, &there);
    Ok((right == Right::HeldBack).then(|| PgError::held_back(&settings.device, there.silent_s)))
}

/// When the holder of this device's id was last seen, as the server writes it; `None` if there is none.
///
/// # Errors
/// [`PgError`].
pub async fn seen(settings: &PgSettings) -> Result<Option<String>, PgError> {
    let Some(mut pg) = Pg::visit(settings, SINCE_VERSION).await? else { return Ok(None) };
    let found = there(&mut pg, there::HOLDER, &settings.device).await;
    pg.close().await;
    let found = found?;
    Ok(found.token.is_some().then_some(found.seen))
}

/// Notes that this memory takes over the id of the device at its next connection. `read_until` is the time
/// from [`seen`] up to which it has read everything.
///
/// # Errors
/// [`StoreError`].
pub async fn take_over(
    store: &Store,
    read_until: Option<String>,
    now_unix_ms: i64,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let own: Own = settings::get_in(&mut tx, KEY).await?.unwrap_or_default();
    settings::set(&mut tx, KEY, &Own { take_over: true, read_until, ..own }, now_unix_ms).await?;
    tx.commit().await
}

/// Whether this is the memory of a new card: it never sent anything and has nothing to send.
///
/// # Errors
/// [`StoreError`].
pub async fn is_new(store: &Store) -> Result<bool, StoreError> {
    if own(store).await?.memory.is_some() {
        return Ok(false);
    }
    let mut reader = store.reader().await?;
    let row = sqlx::query(IS_EMPTY).fetch_one(&mut *reader).await.map_err(|e| store.classify(e))?;
    row.try_get("empty").map_err(StoreError::Sql)
}

/// The [`Own`] of a file that a person put back: it takes over at its next connection.
pub(crate) const TAKES_OVER: &str = "{\"take_over\":true}";

// Every schema of this program has holders.
const _: () = assert!(SINCE_VERSION <= schema::VERSION);

//! SQLite, the journal of this device: one file, one writer, a few readers.
//!
//! Invariants, each with a test:
//!
//! 1. A write transaction is `BEGIN IMMEDIATE … COMMIT` on the one writer connection; it is on the disk when
//!    [`Tx::commit`] returns (`synchronous=FULL`, WAL: one fsync).
//! 2. A row and its queue entry are one transaction.
//! 3. A transaction that was not committed leaves nothing behind: its connection is closed, whatever the
//!    error.
//! 4. A file of another program or of a newer schema is refused with a sentence, never written to. A damaged
//!    file is moved aside, its readable rows are saved ([`salvage`]), and the user is told.
//! 5. A file that was moved, removed or replaced under the running process is noticed before a commit is
//!    acknowledged.
//! 6. A file that can only be read (full disk, no permission) is read; each write tries again.
//! 7. If a memory vanished, an empty file takes its place only after the owner has decided so ([`vanished`]).
//! 8. Two processes may have the file open at once: each waits for the other up to [`BUSY_TIMEOUT`].
//!
//! `docs/design/store.md` says why.

pub mod compare;
pub mod forward;
pub mod heal;
pub mod holder;
mod open;
pub mod opener;
pub mod outgoing;
mod peek;
pub mod postgres;
pub mod pull_cursor;
pub mod put_back;
pub mod queue;
mod renumber;
pub(crate) mod resync;
pub mod salvage;
mod schema;
mod scrub;
pub mod section;
pub(crate) mod settings;
pub(crate) mod sql;
mod sqlite;
pub mod tables;
pub mod vanished;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use open::CHECK_AT_OPEN_BYTES;
pub(crate) use open::refuse_pipe;
pub use schema::VERSION;
pub(crate) use sqlite::classify;
pub use sqlite::{BUSY_TIMEOUT, Store, StoreOptions, Tx};

/// Why the store cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the disk that holds {} is full: nothing was stored and nothing already stored was touched; free \
         some space",
        path.display()
    )]
    DiskFull { path: PathBuf },
    /// The path holds no file, or nothing of the earlier memory, until the owner has decided.
    #[error("{0}")]
    Vanished(vanished::Missing),
    #[error("the database {} is in use by another process: try again", path.display())]
    Busy { path: PathBuf },
    #[error(
        "the database {} is damaged ({detail}): jarvisd repairs it when it opens it; if that fails, restore \
         the latest backup",
        path.display()
    )]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "{} is not a Jarvis database ({detail}): move it away or choose another data folder",
        path.display()
    )]
    NotOurs { path: PathBuf, detail: String },
    #[error(
        "the database {} has schema version {found}, this program knows up to {known}: install the newer \
         jarvisd",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the database {} cannot be written: check its owner and permissions", path.display())]
    ReadOnly { path: PathBuf },
    /// The write may be lost: none of it counts as stored.
    #[error("the database {} was moved or replaced while it was written to: try again", path.display())]
    Replaced { path: PathBuf },
    #[error("the database {} cannot be opened: check the folder, its owner and permissions", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "the disk that holds {} failed, or is a share without locks and syncing: use a disk of this machine",
        path.display()
    )]
    Disk {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    /// A constraint refused a row; callers that expect this turn it into their own error.
    #[error("a rule of the database refused the row")]
    Constraint {
        unique: bool,
        #[source]
        source: sqlx::Error,
    },
    /// A statement failed in a way that no user can cause.
    #[error("the database refused a statement")]
    Sql(#[source] sqlx::Error),
}

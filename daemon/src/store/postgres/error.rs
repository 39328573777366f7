//! Errors of Postgres, sorted by the remedy.
//!
//! SQLSTATE codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::fmt;
use std::time::Duration;

use crate::error::Exit;

const TLS_ADVICE: &str =
    "check store.postgres_ca_file, the name in store.postgres_url, and the server's certificate";

/// How the failed work continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClass {
    /// The network, a restart, a lock: the fault passes by itself.
    Retry,
    /// The fault passes when a person has acted (password, authority, disk, schema): it is reported and
    /// retried ever more rarely.
    Blocked,
    /// Too much at once: smaller pieces may pass.
    TooMuch,
    /// The server will never take these rows.
    Rejected,
}

/// A failed step at Postgres. `Display` names the step. The source is the cause: the server's message, never
/// its DETAIL, which repeats the row.
#[derive(Debug)]
pub struct PgError {
    step: &'static str,
    fate: RetryClass,
    sqlstate: Option<String>,
    cause: Option<Cause>,
    /// The remedy, if known.
    advice: Option<&'static str>,
    /// Whether the connection is still usable.
    alive: bool,
    /// Whether another memory sends under the id of this device.
    held_back: bool,
}

#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

impl fmt::Display for PgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.step)
    }
}

impl std::error::Error for PgError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

impl PgError {
    /// The exit code of a command that fails with this error: 75 if the fault passes by itself, else 69.
    pub fn exit(&self) -> Exit {
        if self.fate == RetryClass::Blocked { Exit::Unavailable } else { Exit::TryAgain }
    }

    /// Classifies an error of sqlx.
    pub(crate) fn of(step: &'static str, error: &sqlx::Error) -> Self {
        let plain = |fate, advice| Self {
            step,
            fate,
            sqlstate: None,
            cause: Some(Cause(crate::error::chain(error))),
            advice,
            alive: false,
            held_back: false,
        };
        match error {
            sqlx::Error::Database(database) => {
                let code = database.code().map(|code| code.into_owned()).unwrap_or_default();
                let (fate, advice) = judge(&code);
                Self {
                    step,
                    fate,
                    cause: Some(Cause(one_line(database.message()))),
                    // Class 57P and 08 end the session.
                    alive: !code.starts_with("57P") && !code.starts_with("08"),
                    sqlstate: Some(code),
                    advice,
                    held_back: false,
                }
            }
            // A failed TLS handshake comes as an error of the socket.
            sqlx::Error::Io(e) if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                Self { cause: Some(Cause(e.to_string())), ..plain(RetryClass::Blocked, Some(TLS_ADVICE)) }
            }
            sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Self {
                cause: Some(Cause("the connection was closed".into())),
                ..plain(RetryClass::Retry, None)
            },
            sqlx::Error::Io(e) => {
                Self { cause: Some(Cause(e.to_string())), ..plain(RetryClass::Retry, None) }
            }
            sqlx::Error::Tls(e) => Self {
                cause: Some(Cause(crate::error::chain(e.as_ref()))),
                ..plain(RetryClass::Blocked, Some(TLS_ADVICE))
            },
            sqlx::Error::Configuration(e) => Self {
                cause: Some(Cause(crate::error::chain(e.as_ref()))),
                ..plain(RetryClass::Blocked, Some("check the section [store] of the configuration"))
            },
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::RowNotFound => plain(
                RetryClass::Blocked,
                Some("the schema there is not what this program made; see docs/postgres.md"),
            ),
            _ => plain(RetryClass::Retry, None),
        }
    }

    /// An error that no retry changes.
    pub(super) fn settings(step: &'static str, cause: Option<String>) -> Self {
        Self {
            step,
            fate: RetryClass::Blocked,
            sqlstate: None,
            cause: cause.map(Cause),
            advice: None,
            alive: false,
            held_back: false,
        }
    }

    pub(super) fn silent(step: &'static str, deadline: Duration) -> Self {
        let cause = format!("no answer within {} s", deadline.as_secs());
        Self {
            step,
            // A statement may have been too much for the server; a connection attempt was not.
            fate: if deadline > super::CONNECT_DEADLINE { RetryClass::TooMuch } else { RetryClass::Retry },
            sqlstate: None,
            cause: Some(Cause(cause)),
            advice: None,
            alive: false,
            held_back: false,
        }
    }

    /// The connection ended on its own.
    pub(crate) fn lost(step: &'static str) -> Self {
        Self {
            step,
            fate: RetryClass::Retry,
            sqlstate: None,
            cause: Some(Cause("the connection ended".to_owned())),
            advice: None,
            alive: false,
            held_back: false,
        }
    }

    /// A table accepted a row without an error but does not hold it.
    pub(super) fn swallowed(table: &str) -> Self {
        Self {
            step: "sending to Postgres",
            fate: RetryClass::Rejected,
            sqlstate: None,
            cause: Some(Cause(format!(
                "jarvis.{table} did not keep a row, and the server reports no error: \
                 a trigger or a rule drops it"
            ))),
            advice: None,
            alive: true,
            held_back: false,
        }
    }

    /// Another memory sends as `device`, and did so `silent_s` seconds ago.
    pub(in crate::store) fn held_back(device: &str, silent_s: f64) -> Self {
        let cause = format!(
            "another memory sends as \"{device}\" and did so {:.0} s ago; what is said here waits on this \
             device",
            silent_s.max(0.0)
        );
        Self {
            step: "sending under the id of this device",
            fate: RetryClass::Retry,
            sqlstate: None,
            cause: Some(Cause(cause)),
            advice: Some(
                "give this device an id of its own (device.id), or run `jarvisd store take-over` if it \
                 replaces the other",
            ),
            alive: true,
            held_back: true,
        }
    }

    /// Whether another memory sends under the id of this device.
    pub fn is_held_back(&self) -> bool {
        self.held_back
    }

    pub(super) fn advised(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    /// The same failure, when one session exists already and this would have been a second one.
    pub(super) fn of_another_session(self) -> Self {
        let advice = self.advice.or(Some(super::MORE_SESSIONS_ADVICE));
        Self { step: "opening another session at Postgres beside the first", advice, ..self }
    }

    pub fn retry_class(&self) -> RetryClass {
        self.fate
    }

    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// Whether the connection is usable after a rollback.
    pub fn connection_lives(&self) -> bool {
        self.alive
    }

    /// Whether another message has the place of this one in its conversation. The server's message names the
    /// constraint.
    pub fn is_place_taken(&self) -> bool {
        self.sqlstate() == Some("23505") && self.cause().contains("messages_conversation_seq_key")
    }

    /// Whether tables or the schema are gone: a new connection creates them again.
    pub fn schema_gone(&self) -> bool {
        matches!(self.sqlstate.as_deref(), Some("42P01" | "3F000"))
    }

    /// The server's words, or another known cause.
    pub fn cause(&self) -> String {
        self.cause.as_ref().map_or_else(|| self.step.to_owned(), |cause| cause.0.clone())
    }

    /// One sentence for a person, with the remedy if there is one.
    pub fn sentence(&self, shown: &str) -> String {
        let mut sentence = match &self.cause {
            Some(Cause(cause)) => format!("{} ({shown}) failed: {cause}", self.step),
            None => format!("{} ({shown})", self.step),
        };
        if let Some(advice) = self.advice {
            sentence.push_str("; ");
            sentence.push_str(advice);
        }
        sentence
    }
}

/// Puts the server's message on one line: it is text from outside.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

fn judge(code: &str) -> (RetryClass, Option<&'static str>) {
    match code {
        "28P01" => (RetryClass::Blocked, Some("check the password file (store.postgres_password_file)")),
        "28000" => {
            (RetryClass::Blocked, Some("check the user in store.postgres_url and the server's pg_hba.conf"))
        }
        "3D000" => (
            RetryClass::Blocked,
            Some("create the database (docs/postgres.md) or correct store.postgres_url"),
        ),
        "42501" => (
            RetryClass::Blocked,
            Some(
                "let the role of store.postgres_url own its database, or the schema \"jarvis\" in it \
                 (docs/postgres.md)",
            ),
        ),
        "25006" => (
            RetryClass::Retry,
            Some(
                "the server is read-only: store.postgres_url must name the primary, and \
                 default_transaction_read_only \
                 must be off for its role and database",
            ),
        ),
        // A named statement of another client, or none of ours: a pooler handed the session on.
        "42P05" | "26000" => (RetryClass::Blocked, Some(super::SESSIONS_ADVICE)),
        "53300" => {
            (RetryClass::Retry, Some("all connections of the server are in use; raise its max_connections"))
        }
        "53100" => (RetryClass::Retry, Some("the disk of the Postgres server is full")),
        "57014" | "53200" => (RetryClass::TooMuch, None),
        _ => match code.get(..2).unwrap_or_default() {
            "08" | "40" | "53" | "55" | "57" | "58" | "XX" | "25" => (RetryClass::Retry, None),
            "54" => (RetryClass::TooMuch, None),
            // P0: a trigger added by a person refuses the row.
            "22" | "23" | "44" | "P0" => (RetryClass::Rejected, None),
            _ => (RetryClass::Blocked, None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_row_is_to_blame_for_is_rejected() {
        for code in ["22003", "22P05", "23505", "23503", "23514", "P0001"] {
            assert_eq!(judge(code).0, RetryClass::Rejected, "{code}");
        }
        for code in ["08006", "40001", "40P01", "53300", "53100", "55P03", "57P01", "57P03", "25006", "XX000"]
        {
            assert_eq!(judge(code).0, RetryClass::Retry, "{code}");
        }
        for code in ["28P01", "28000", "3D000", "42501", "42P01", "42703", ""] {
            assert_eq!(judge(code).0, RetryClass::Blocked, "{code}");
        }
        assert_eq!(judge("57014").0, RetryClass::TooMuch);
    }
}

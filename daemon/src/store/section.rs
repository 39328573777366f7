//! Section `[store]` of the configuration.

use crate::config::{FilePath, PostgresUrl, section};

section! {
    /// Where memory is kept. It is always kept in SQLite on the device. With the address of a Postgres
    /// database it is also sent there, and devices that share the database see what was said to the others:
    /// [postgres.md](postgres.md).
    Store = "store" {
        /// Address of a Postgres database, as in `"postgres://jarvis@database.local/jarvis"`; for a Unix
        /// socket `"postgres://jarvis@/jarvis?host=/run/postgresql"`. `?sslmode=` says how TLS is used;
        /// without it TLS is used where the server offers it, and demanded and verified (`verify-full`) if
        /// `postgres_ca_file` is set. An IPv6 address stands in brackets; a password inside the address is
        /// percent-encoded, and shown nowhere.
        postgres_url: Option<PostgresUrl> = None, Rule::any();
        /// File whose first line is the password. Without it the systemd credential `postgres-password` is
        /// used, where there is one.
        postgres_password_file: Option<FilePath> = None, Rule::any();
        /// Certificate authority of the server, PEM. The authorities of the system count as well.
        postgres_ca_file: Option<FilePath> = None, Rule::any();
        /// Certificate with which this device proves itself, PEM; with its key.
        postgres_client_cert: Option<FilePath> = None, Rule::any();
        /// Key of that certificate, PEM.
        postgres_client_key: Option<FilePath> = None, Rule::any();
        /// Most that the database on the device may grow to, in MiB. Once it has, new turns are answered and
        /// not stored, which is said; nothing that is stored is dropped for space.
        max_mib: Option<u32> = None, Rule::if_set(Rule::between(16, 1_000_000))
            .default_is("as much as the disk has");
        /// How long an answer may wait, at most, for what other devices have just written. Only while
        /// Postgres answers.
        fresh_ms: u32 = 150, Rule::between(0, 2_000);
        /// Days that a row of the audit log is kept, here and in Postgres; each device deletes what it wrote
        /// itself. Nothing is deleted while the clock is not set.
        audit_days: u32 = 365, Rule::between(1, 36_500);
    }
}

//! Postgres, which the devices of a house may share: addresses, connections, deadlines.
//!
//! Invariants:
//!
//! 1. Postgres is never on the path of an answer: only the tasks `forward` and `pull` and the command line
//!    connect.
//! 2. Every call has a deadline on this side (`within`), whatever the network does. A server that accepts and
//!    never answers, or a half-open connection, counts as a refusal.
//! 3. No secret reaches a log or an error: the address is shown masked, the password is read from its file at
//!    each connection and wiped.

mod error;
pub mod read;
pub mod schema;
mod survey;
mod swallowed;
pub mod write;

#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::config::{FilePath, PostgresUrl};

pub use error::PgError;
pub(in crate::store) use error::RetryClass;
pub use schema::{VERSION, is_old};
pub use survey::{Survey, survey};

/// Time limit for a connection to be made and greeted.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Time limit of one statement on this side; the server gives up a little earlier, so that its reason
/// arrives.
pub const STATEMENT_DEADLINE: Duration = Duration::from_secs(35);

/// Settings of every session, which override those of the role, the database or the server. The server ends
/// the transactions of a vanished client after half a minute, so that its locks do not hold up the other
/// devices. It gives up on statements before [`STATEMENT_DEADLINE`]. `synchronous_commit` is raised if the
/// server has it off, since an answered commit is deleted from the queue here.
const SESSION: &str = "
    SET statement_timeout = '30s';
    SET lock_timeout = '15s';
    SET idle_in_transaction_session_timeout = '30s';
    SET tcp_keepalives_idle = 20;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 30000;
    SET default_transaction_isolation = 'read committed';
    SET client_encoding = 'UTF8';
    SET search_path = pg_catalog;
    SET row_security = on;
    SET standard_conforming_strings = on;
    SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings
        WHERE name IN ('idle_session_timeout', 'transaction_timeout');
    SET TIME ZONE 'UTC';
    SET jarvis.role = 'forwarder';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// The first question, in the simple protocol: behind a pooler that does not keep sessions, a prepared
/// statement of another client may have the name already. A new session has no mark of ours.
const GREETING: &str = "SELECT pg_catalog.current_setting('server_version_num') AS version,
    pg_catalog.current_setting('server_encoding') AS encoding,
    coalesce(pg_catalog.current_setting('jarvis.session', true), '') AS session";

/// Oldest server: `gen_random_uuid()` without an extension.
const OLDEST_SERVER: i32 = 130_000;

/// The remedy if a session does not stay a session. A session that is handed on does not show whether the
/// pooler shares it or only fails to reset it, so both settings are named.
const SESSIONS_ADVICE: &str = "set pool_mode = session for this database and \
    server_reset_query = DISCARD ALL in PgBouncer, or name the server itself in store.postgres_url";

/// The remedy if the pooler has only one session.
const MORE_SESSIONS_ADVICE: &str = "several are needed at once: a pooler must have at least two for this \
    database, and three for a restore in place (default_pool_size in PgBouncer)";

/// The address of the database and the credentials.
#[derive(Debug, Clone)]
pub struct PgSettings {
    pub address: PostgresUrl,
    /// The address with its password masked.
    pub shown: String,
    pub password_file: Option<FilePath>,
    pub ca_file: Option<FilePath>,
    pub client_cert: Option<FilePath>,
    pub client_key: Option<FilePath>,
    /// `[device] id`: marks the rows that this device writes.
    pub device: String,
}

impl PgSettings {
    /// Settings from an address alone.
    ///
    /// # Errors
    /// [`PgError`] if `url` is no address.
    pub fn new(url: &str, device: &str) -> Result<Self, PgError> {
        let address = PostgresUrl::parse(url)
            .map_err(|why| PgError::settings("the address of Postgres cannot be used", Some(why)))?;
        Ok(Self {
            shown: address.to_string(),
            address,
            password_file: None,
            ca_file: None,
            client_cert: None,
            client_key: None,
            device: device.to_owned(),
        })
    }

    /// Another database of the same server.
    pub fn at(&self, database: &str) -> Self {
        let address = self.address.at(database);
        Self { shown: address.to_string(), address, ..self.clone() }
    }

    /// The environment that leads the programs of Postgres to the same database, without the password. A
    /// schema from [`NAMED_SINCE`] on knows them by their name. An older one needs an option, which a pooler
    /// does not let through.
    pub(crate) fn client_env(&self, schema_version: i64) -> Result<Vec<(&'static str, String)>, PgError> {
        let options = self.options()?;
        let socket = options.get_socket().map(|socket| socket.to_string_lossy().into_owned());
        let file = |path: &Option<FilePath>, key: &str| {
            let path = path.as_ref().map(|path| path.as_path().to_string_lossy().into_owned());
            path.or_else(|| self.address.parameter(key))
        };
        let mode = match options.get_ssl_mode() {
            PgSslMode::Disable => "disable",
            PgSslMode::Allow => "allow",
            PgSslMode::Prefer => "prefer",
            PgSslMode::Require => "require",
            PgSslMode::VerifyCa => "verify-ca",
            PgSslMode::VerifyFull => "verify-full",
        };
        let ca = file(&self.ca_file, "sslrootcert").or_else(|| env("PGSSLROOTCERT"));
        // libpq has no default CA file, while the other client uses the system's authorities.
        let ca = ca.or_else(|| mode.starts_with("verify").then(|| SYSTEM_AUTHORITIES.to_owned()));
        let mut session = options.get_options().unwrap_or_default().to_owned();
        if schema_version < NAMED_SINCE {
            session.push_str(" -c jarvis.role=forwarder");
        }
        let session = Some(session.trim().to_owned()).filter(|session| !session.is_empty());
        let all = [
            ("PGHOST", Some(socket.unwrap_or_else(|| options.get_host().to_owned()))),
            ("PGPORT", Some(options.get_port().to_string())),
            ("PGUSER", Some(options.get_username().to_owned())),
            ("PGDATABASE", Some(options.get_database().unwrap_or(options.get_username()).to_owned())),
            ("PGSSLMODE", Some(mode.to_owned())),
            ("PGSSLROOTCERT", ca),
            ("PGSSLCERT", file(&self.client_cert, "sslcert").or_else(|| env("PGSSLCERT"))),
            ("PGSSLKEY", file(&self.client_key, "sslkey").or_else(|| env("PGSSLKEY"))),
            ("PGPASSFILE", env("PGPASSFILE")),
            ("PGOPTIONS", session),
            ("PGAPPNAME", Some(BACKUP_NAME.to_owned())),
            ("PGCONNECT_TIMEOUT", Some("10".to_owned())),
        ];
        Ok(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
    }

    /// The password from its file, the address, or the environment, in the order of the other client.
    pub(crate) fn password(&self) -> Result<Option<Zeroizing<String>>, PgError> {
        if let Some(path) = &self.password_file {
            return read_password(path).map(Some);
        }
        match self.address.password() {
            Some(password) => Ok(Some(password)),
            None => env("PGPASSWORD").map(checked).transpose(),
        }
    }

    /// As [`Self::options`], off the async threads: the files may be on a slow disk.
    async fn read_options(&self) -> Result<PgConnectOptions, PgError> {
        let settings = self.clone();
        let read = tokio::task::spawn_blocking(move || settings.options()).await;
        read.unwrap_or_else(|e| {
            Err(PgError::settings("reading the password was interrupted", Some(e.to_string())))
        })
    }

    fn options(&self) -> Result<PgConnectOptions, PgError> {
        let mut options = PgConnectOptions::from_url(&self.address.for_driver())
            .map_err(|_| PgError::settings("store.postgres_url is no address of Postgres", None))?
            .application_name(&format!("jarvisd {}", self.device))
            // Numbers travel in binary, and PgBouncer refuses unknown parameters.
            .extra_float_digits(None)
            .log_statements(log::LevelFilter::Off)
            .log_slow_statements(log::LevelFilter::Off, Duration::MAX);
        if let Some(path) = &self.password_file {
            options = options.password(read_password(path)?.as_str());
        } else {
            self.password()?;
        }
        // The driver's errors repeat the paths it gets.
        let given = |key: &str, path: &Option<FilePath>| {
            let shown = path.as_ref().map(FilePath::to_be_shown).transpose();
            let shown = shown.map(|path| path.map(Path::to_owned));
            shown.map_err(|e| {
                PgError::settings("a file for Postgres cannot be read", Some(format!("{key}: {e}")))
            })
        };
        let ca = given("store.postgres_ca_file", &self.ca_file)?;
        let cert = given("store.postgres_client_cert", &self.client_cert)?;
        let key = given("store.postgres_client_key", &self.client_key)?;
        if let Some(path) = ca {
            options = options.ssl_root_cert(path);
        }
        if let (Some(cert), Some(key)) = (cert, key) {
            options = options.ssl_client_cert(cert).ssl_client_key(key);
        }
        if options.get_socket().is_some() || self.address.is_scoped {
            // A socket does not leave the machine, and the driver's TLS does not accept an address with an
            // interface as a name.
            options = options.ssl_mode(PgSslMode::Disable);
        } else if !self.address.names_ssl_mode {
            // An owner who names an authority wants the server verified. Without one, TLS is used if the
            // server has it.
            let mode = if self.ca_file.is_some() { PgSslMode::VerifyFull } else { PgSslMode::Prefer };
            options = options.ssl_mode(mode);
        }
        Ok(options)
    }
}

/// Name under which the policies of the schema let a backup read every row, and the first version with these
/// policies.
const BACKUP_NAME: &str = "jarvisd backup";
const NAMED_SINCE: i64 = 4;

/// CA bundle of Debian and its derivatives.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A variable of the environment that is set and not empty.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The first line of the file.
fn read_password(path: &FilePath) -> Result<Zeroizing<String>, PgError> {
    let unreadable = |e: std::io::Error| {
        let step = "reading the password file of Postgres (store.postgres_password_file)";
        PgError::settings(step, Some(format!("{path}: {e}")))
    };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    let password = crate::plain::password(&text).map_err(|why| {
        let step = "reading the password file of Postgres (store.postgres_password_file)";
        PgError::settings(step, Some(format!("{path} {why}")))
    })?;
    Ok(Zeroizing::new(password.to_owned()))
}

/// Checks a password of the environment; addresses are checked with the configuration.
fn checked(password: String) -> Result<Zeroizing<String>, PgError> {
    let password = Zeroizing::new(password);
    if crate::plain::has_control(&password) {
        let step = "the password in PGPASSWORD holds a control character; remove it";
        return Err(PgError::settings(step, None));
    }
    Ok(password)
}

/// A connection with its session set and its schema at our version.
#[derive(Debug)]
pub struct Pg {
    pub(crate) conn: PgConnection,
    /// The id of this database (`jarvis.house`).
    pub house: Uuid,
    /// Token under which this memory holds the id of its device ([`crate::store::holder`]); `None` on a
    /// connection that only reads.
    pub(super) token: Option<Uuid>,
    /// The last change number drawn, as this connection last saw it.
    pub(super) drawn: i64,
}

impl Pg {
    /// Connects and changes nothing; `None` if the schema is older than `least`.
    pub(super) async fn visit(settings: &PgSettings, least: i32) -> Result<Option<Self>, PgError> {
        const STEP: &str = "reading the schema of Postgres";
        let mut conn = open(settings).await?;
        if schema::version(&mut conn).await? < least {
            return Ok(None);
        }
        let house =
            within(STATEMENT_DEADLINE, STEP, sqlx::query_scalar(schema::HOUSE).fetch_one(&mut conn)).await?;
        Ok(Some(Self { conn, house, token: None, drawn: 0 }))
    }

    /// Connects, sets the session up, brings the schema to [`VERSION`].
    ///
    /// # Errors
    /// [`PgError`], which tells whether a retry helps; a newer schema and an old server are among them.
    pub async fn connect(settings: &PgSettings) -> Result<Self, PgError> {
        Self::connect_after(settings, std::future::ready(())).await
    }

    /// As [`Pg::connect`], with a step run before the schema of a database in use is brought to [`VERSION`].
    ///
    /// # Errors
    /// As [`Pg::connect`].
    pub async fn connect_after(
        settings: &PgSettings,
        before_migration: impl Future<Output = ()>,
    ) -> Result<Self, PgError> {
        let mut conn = open(settings).await?;
        let house = schema::migrate(&mut conn, before_migration).await?;
        Ok(Self { conn, house, token: None, drawn: 0 })
    }

    /// Closes the connection with a goodbye, so that the server does not log a lost client.
    pub async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_millis(500), self.conn.close()).await;
    }

    /// Whether the server answers on this connection and its database is still the same: a restore replaces
    /// the database and cuts no connection.
    pub async fn is_same(&mut self) -> Result<bool, PgError> {
        let asked = sqlx::query_scalar::<_, Uuid>(schema::HOUSE).fetch_one(&mut self.conn);
        let house = within(CONNECT_DEADLINE, "asking Postgres for a sign of life", asked).await?;
        Ok(house == self.house)
    }
}

/// Connects, changes nothing, and returns the version of the schema there (0: none).
///
/// # Errors
/// As [`Pg::connect`].
pub async fn version(settings: &PgSettings) -> Result<i32, PgError> {
    let mut conn = open(settings).await?;
    let found = schema::version(&mut conn).await;
    let _ = tokio::time::timeout(Duration::from_millis(500), conn.close()).await;
    found
}

/// Connects, changes nothing, and returns the id of the house's database there (`None`: none yet).
///
/// # Errors
/// As [`Pg::connect`].
pub async fn which(settings: &PgSettings) -> Result<Option<Uuid>, PgError> {
    let mut conn = open(settings).await?;
    let house = match schema::version(&mut conn).await {
        Ok(0) => Ok(None),
        Ok(_) => schema::house(&mut conn).await.map(Some),
        Err(e) => Err(e),
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), conn.close()).await;
    house
}

/// Connects for a backup, without checking the schema.
pub(crate) async fn open(settings: &PgSettings) -> Result<PgConnection, PgError> {
    let options = settings.read_options().await?;
    let mut conn = within(CONNECT_DEADLINE, "connecting to Postgres", options.connect()).await?;
    set_up(&mut conn).await?;
    Ok(conn)
}

async fn set_up(conn: &mut PgConnection) -> Result<(), PgError> {
    let step = "setting up the session at Postgres";
    let mark = Uuid::now_v7();
    let (version, encoding, left) = within(CONNECT_DEADLINE, step, async {
        let row = sqlx::raw_sql(GREETING).fetch_one(&mut *conn).await?;
        let of = |name| row.try_get::<String, _>(name);
        Ok((of("version")?, of("encoding")?, of("session")?))
    })
    .await?;
    let version: i32 = version.parse().unwrap_or(OLDEST_SERVER);
    if version < OLDEST_SERVER {
        let found = format!("it is version {}, at least 13 is needed", version / 10_000);
        return Err(PgError::settings("the Postgres server is too old", Some(found)));
    }
    if encoding != "UTF8" {
        let cause = format!(
            "the database has the encoding {encoding}, and only UTF8 can store everything that is said"
        );
        return Err(PgError::settings("connecting to Postgres", Some(cause)).advised(
            "create a new one with `createdb --encoding=UTF8 --template=template0` and name it in \
             store.postgres_url: \
             every device sends everything to it",
        ));
    }
    let own = within(CONNECT_DEADLINE, step, async {
        sqlx::raw_sql(SESSION).execute(&mut *conn).await?;
        let set = AssertSqlSafe(format!("SET jarvis.session = '{mark}'"));
        sqlx::raw_sql(set).execute(&mut *conn).await?;
        let row = sqlx::raw_sql(GREETING).fetch_one(&mut *conn).await?;
        row.try_get::<String, _>("session")
    })
    .await?;
    if left.is_empty() && own == mark.to_string() {
        return Ok(());
    }
    let cause = match own == mark.to_string() {
        true => "a pooler stands before it that hands a session on as another client has left it",
        false => "a pooler stands before it that gives a session to several clients",
    };
    Err(PgError::settings(step, Some(cause.to_owned())).advised(SESSIONS_ADVICE))
}

/// Proves, while a session is held, that a second one can be had. A pooler without one lets a client wait
/// silently, so the deadline of [`open`] decides.
///
/// # Errors
/// [`PgError`], with the setting to change.
pub(crate) async fn prove_another_session(settings: &PgSettings) -> Result<(), PgError> {
    let conn = open(settings).await.map_err(PgError::of_another_session)?;
    let _ = tokio::time::timeout(CONNECT_DEADLINE, conn.close()).await;
    Ok(())
}

/// A pool of one connection, since a listener accepts nothing else.
pub(crate) async fn listening_pool(settings: &PgSettings) -> Result<PgPool, PgError> {
    let options = settings.read_options().await?;
    let connect = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(CONNECT_DEADLINE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(|conn, _| {
            Box::pin(async move {
                conn.execute(sqlx::raw_sql(SESSION)).await?;
                Ok(())
            })
        });
    within(CONNECT_DEADLINE, "connecting to Postgres", connect.connect_with(options)).await
}

/// Runs one step with a deadline on this side.
///
/// # Errors
/// The server's error, or a timeout. After a timeout the connection is unusable.
pub(crate) async fn within<T>(
    deadline: Duration,
    step: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, PgError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done.map_err(|e| PgError::of(step, &e)),
        Err(_) => Err(PgError::silent(step, deadline)),
    }
}

//! The scratch database that proves a backup of Postgres.

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::BackupError;
use super::pg::{LEFTOVERS, STEP, of, plain, session};
use crate::store::postgres::{PgError, PgSettings};

/// A new database that is dropped afterwards.
pub(super) struct ScratchDatabase {
    pub(super) settings: PgSettings,
    name: String,
    home: PgSettings,
}

impl ScratchDatabase {
    /// Creates it on the server of `settings`, and drops the remains of an interrupted run of this device.
    pub(super) async fn create(settings: &PgSettings) -> Result<Self, BackupError> {
        let device = crate::text::hex(&Sha256::digest(settings.device.as_bytes()));
        let prefix = format!("jarvis_scratch_{}_", device.get(..8).unwrap_or_default());
        let name = format!("{prefix}{}", uuid::Uuid::now_v7().simple());
        let mut conn = session(settings).await?;
        let made = async {
            let left: Vec<String> = sqlx::query_scalar(LEFTOVERS)
                .bind(&prefix)
                .fetch_all(&mut conn)
                .await
                .map_err(of(settings))?;
            for old in left.iter().filter(|old| plain(old)) {
                log::info!("dropping {old}, which an interrupted run left behind");
                drop_database(&mut conn, old).await.map_err(of(settings))?;
            }
            // The server refuses an existing name: it can never be a database in use.
            let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
            let created = sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut conn).await;
            created.map(|_| ()).map_err(|e| {
                let error = PgError::of(STEP, &e);
                if error.sqlstate() != Some("42501") {
                    return BackupError::postgres(&error, &settings.shown);
                }
                BackupError::Refused(
                    "this needs a scratch database, and the role of store.postgres_url may not create one: \
                     run ALTER ROLE … CREATEDB on the server, or set backup.verify to \"full\""
                        .to_owned(),
                )
            })
        };
        let made = made.await;
        let _ = conn.close().await;
        made?;
        Ok(Self { settings: settings.at(&name), name, home: settings.clone() })
    }

    pub(super) async fn drop(self) -> Result<(), BackupError> {
        let mut conn = session(&self.home).await?;
        let dropped = drop_database(&mut conn, &self.name).await;
        let _ = conn.close().await;
        dropped.map_err(of(&self.home))
    }
}

/// Drops a scratch database, even while a killed run's session is in it.
///
/// A forced drop ends sessions of our own role, and is refused while the server cleans the database
/// (autovacuum, 42501). A plain drop makes the server stop its cleaning, and is refused while a session is
/// there (55006), after a wait of 5 s. So each follows the other.
async fn drop_database(conn: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    const TRIES: u32 = 6;
    let mut left = TRIES;
    loop {
        let how = if left.is_multiple_of(2) { " WITH (FORCE)" } else { "" };
        let drop = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}{how}"));
        left -= 1;
        match sqlx::raw_sql(drop).execute(&mut *conn).await {
            Err(sqlx::Error::Database(e)) if left > 0 && in_use(e.code().as_deref()) => {}
            done => return done.map(|_| ()),
        }
    }
}

fn in_use(code: Option<&str>) -> bool {
    matches!(code, Some("42501" | "55006"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::postgres::tests::server;

    /// The server cleans databases under a role whose sessions our role may not end; here a superuser takes
    /// that part.
    #[tokio::test]
    async fn a_database_goes_although_a_session_that_is_not_ours_is_in_it_for_a_moment() {
        let postgres = server::Postgres::with(server::Options { fsync: false, ..Default::default() });
        postgres.execute("ALTER ROLE jarvis CREATEDB");
        let settings = PgSettings::new(&postgres.url_with_password(), "kitchen").unwrap();
        let scratch = ScratchDatabase::create(&settings).await.unwrap();
        let (name, port) = (scratch.name.clone(), postgres.port());
        let (socket, password) = (postgres.socket_dir(), postgres.password().to_owned());
        let there = move || {
            let mut client = std::process::Command::new("psql")
                .args(["-X", "-U", "postgres", "-h", socket.to_str().unwrap(), "-p", &port.to_string()])
                .args(["-d", &name, "-c", "SELECT pg_sleep(3)"])
                .env("PGPASSWORD", password)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            client.wait().unwrap().success()
        };
        let stranger = tokio::task::spawn_blocking(there);
        let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3)%'
            AND datname LIKE 'jarvis_scratch%'";
        postgres.wait_for(sleeps, "1");
        tokio::time::timeout(Duration::from_secs(60), scratch.drop()).await.unwrap().unwrap();
        assert!(stranger.await.unwrap(), "its session ended by itself");
        assert_eq!(
            postgres.value("SELECT count(*) FROM pg_database WHERE datname LIKE 'jarvis_scratch%'"),
            "0"
        );
    }
}

//! Surveys a database before anything is sent to it, for `doctor`.

use sqlx::{Connection as _, Row as _};

use super::{
    CONNECT_DEADLINE, PgError, PgSettings, STATEMENT_DEADLINE, open, prove_another_session, schema, within,
};

super::super::sql::statements! {
    /// The rights that the program needs: to create or migrate its schema, and to create a scratch database.
    RIGHTS = "SELECT current_user::text AS role, current_setting('server_version') AS server,
        pg_is_in_recovery() AS replica, current_setting('transaction_read_only') = 'on' AS read_only,
        (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user) AS creates_databases,
        coalesce((SELECT pg_has_role(nspowner, 'USAGE') OR has_schema_privilege(oid, 'CREATE')
            FROM pg_namespace WHERE nspname = 'jarvis'),
            has_database_privilege(current_database(), 'CREATE')) AS creates,
        NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'jarvis' AND c.relkind = 'r' AND NOT pg_has_role(c.relowner, 'USAGE')) AS owns";
}

/// The findings. The survey changes nothing.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Version of the schema; 0: none.
    pub schema: i32,
    /// Version of the server.
    pub server: String,
    pub role: String,
    /// Whether the server is a replica.
    pub replica: bool,
    pub read_only: bool,
    /// Whether the role can create or migrate the schema.
    pub creates: bool,
    /// Whether every table there belongs to the role.
    pub owns: bool,
    /// Whether the role can create databases, which a proof by restoring needs.
    pub creates_databases: bool,
}

/// Connects as the forwarder would and checks its needs. It makes a second connection beside the first: this
/// detects a pooler that does not keep sessions or has only one.
///
/// # Errors
/// As [`super::Pg::connect`].
pub async fn survey(settings: &PgSettings) -> Result<Survey, PgError> {
    const STEP: &str = "asking Postgres for the rights of its role";
    let mut conn = open(settings).await?;
    prove_another_session(settings).await?;
    let schema = schema::version(&mut conn).await?;
    let row = within(STATEMENT_DEADLINE, STEP, sqlx::query(RIGHTS).fetch_one(&mut conn)).await?;
    let read = || {
        Ok(Survey {
            schema,
            server: row.try_get("server")?,
            role: row.try_get("role")?,
            replica: row.try_get("replica")?,
            read_only: row.try_get("read_only")?,
            creates: row.try_get("creates")?,
            owns: row.try_get("owns")?,
            creates_databases: row.try_get("creates_databases")?,
        })
    };
    let found = read().map_err(|e| PgError::of(STEP, &e));
    let _ = tokio::time::timeout(CONNECT_DEADLINE, conn.close()).await;
    found
}

//! The lines about Postgres: whether everything works that sending and backups need, and the missing rows.

use super::Finding;
use super::checks::look_only;
use crate::app::Settings;
use crate::backup::Level;
use crate::cli::output;
use crate::store::postgres::{PgSettings, Survey, survey};
use crate::store::{holder, put_back, queue};

const CHECK: &str = "Postgres";

/// Connects as the forwarder would, and changes nothing.
pub async fn postgres(settings: &Settings) -> Vec<Finding> {
    let Some(database) = settings.postgres() else {
        return vec![Finding::ok(CHECK, "none is set: memory stays on this device")];
    };
    let mut findings = match survey(&database).await {
        Ok(found) => of_survey(settings, &database, &found),
        Err(e) => {
            let fix =
                "docs/postgres.md tells how it is set up; the device works without it and goes on trying";
            vec![Finding::warn(CHECK, e.sentence(&database.shown), fix)]
        }
    };
    findings.extend(of_memory(settings, &database).await);
    findings
}

fn of_survey(settings: &Settings, database: &PgSettings, found: &Survey) -> Vec<Finding> {
    let Survey { server, role, schema, .. } = found;
    let shown = &database.shown;
    let state = match schema {
        0 => "answers; the daemon will make the schema there".to_owned(),
        version => format!("answers, schema version {version}"),
    };
    let mut findings =
        vec![Finding::ok(CHECK, format!("{shown} {state} (PostgreSQL {server}, encoding UTF8)"))];
    if found.replica {
        let fix = "name the primary in store.postgres_url";
        findings.push(Finding::warn(CHECK, "it is a replica, which takes nothing", fix));
    } else if found.read_only {
        let fix = format!(
            "on the server: ALTER ROLE {role} RESET default_transaction_read_only, and the same of the \
             database"
        );
        findings.push(Finding::warn(CHECK, "its transactions are read-only: nothing is taken", fix));
    }
    if !found.creates || !found.owns {
        let what = if *schema == 0 { "make the schema \"jarvis\"" } else { "bring its tables up to date" };
        let fix = format!(
            "on the server: CREATE SCHEMA jarvis AUTHORIZATION {role}, or give that role what is there"
        );
        findings.push(Finding::warn(CHECK, format!("the role {role} may not {what}"), fix));
    }
    if settings.backup.verify == Level::Restore && !found.creates_databases {
        let fix = format!("on the server: ALTER ROLE {role} CREATEDB; or set backup.verify to \"full\"");
        let what =
            format!("the role {role} may not create the database in which a backup is proven (CREATEDB)");
        findings.push(Finding::warn(CHECK, what, fix));
    }
    findings
}

/// Reports the rows of this memory that Postgres lacks, and the reasons. A local database that cannot be
/// opened has a line of its own.
async fn of_memory(settings: &Settings, database: &PgSettings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !settings.paths.db.exists() {
        return findings;
    }
    let Ok(memory) = look_only(settings).await else { return findings };
    if let Ok(refused) = queue::refused(memory.store()).await {
        let fix = "mend what the list names, then `jarvisd queue dead-letter retry --all`";
        findings.extend(refused.sentence().map(|sentence| Finding::warn(CHECK, sentence, fix)));
        findings.extend(refused.given_up_sentence().map(|sentence| Finding::ok(CHECK, sentence)));
    }
    if let Ok(Some(found)) = put_back::found(memory.store()).await {
        let when = output::time(found.noticed_unix_ms);
        findings.push(Finding::ok(CHECK, format!("{} (noticed {when})", put_back::SENTENCE)));
    }
    // A server that does not answer has a line already.
    if let Ok(Some(error)) = holder::held_back(memory.store(), database).await {
        let fix = "docs/postgres.md, \"Several devices\", tells when to do which";
        findings.push(Finding::warn(CHECK, error.sentence(&database.shown), fix));
    }
    memory.close().await;
    findings
}

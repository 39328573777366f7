//! Changes of a running server: other settings, passwords and certificates, cut connections, a second
//! server.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::Duration;

use super::making::hba;
use super::{Certificate, Postgres, ROLE};

impl Postgres {
    /// Changes a setting of the running server; a setting that needs a restart must be followed by one.
    pub fn set(&self, name: &str, value: &str) {
        self.execute(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.reload();
    }

    pub fn reset(&self, name: &str) {
        self.execute(&format!("ALTER SYSTEM RESET {name}"));
        self.reload();
    }

    /// Every new transaction is read-only, as on a server that is being moved.
    pub fn read_only(&self, on: bool) {
        if on {
            self.set("default_transaction_read_only", "on");
        } else {
            // Such a server refuses this very statement in a transaction of the default kind.
            self.execute(
                "SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only",
            );
            self.reload();
        }
        let wanted = if on { "on" } else { "off" };
        self.wait_for("SHOW default_transaction_read_only", wanted);
    }

    /// Replaces `pg_hba.conf`. The first line is always the superuser's own, through the socket.
    pub fn set_hba(&self, lines: &str) {
        fs::write(self.data().join("pg_hba.conf"), hba(lines)).unwrap();
        self.reload();
    }

    /// The password that the server knows; Jarvis's file keeps the old one.
    pub fn set_password(&self, password: &str) {
        self.execute(&format!("ALTER ROLE {ROLE} PASSWORD '{password}'"));
    }

    /// Shows another certificate from the next connection on.
    pub fn show(&self, certificate: Certificate) {
        self.install(certificate);
        self.reload();
        // The postmaster reads it when it handles the signal; later connections get the new one.
        sleep(Duration::from_millis(300));
    }

    /// Certificate and key (of the user who runs the tests) by which the server knows the role `name`.
    pub fn client_certificate(&self, name: &str) -> (PathBuf, PathBuf) {
        let stem = format!("client-{name}");
        self.sign(&stem, "ca", &format!("/CN={name}"), "extendedKeyUsage=clientAuth", "30");
        let path = |ending| self.dir.path().join(format!("{stem}.{ending}"));
        (path("crt"), path("key"))
    }

    /// Cuts every connection of `jarvis`. Returns how many there were.
    pub fn cut_connections(&self) -> usize {
        self.query(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
        ))
        .len()
    }

    /// Throws the database away and makes an empty one in its place.
    pub fn lose_database(&self) {
        self.lose_database_to("");
    }

    /// The same with further options of `CREATE DATABASE`.
    pub fn lose_database_to(&self, options: &str) {
        self.has_database.store(false, Relaxed);
        self.execute(&format!("DROP DATABASE {ROLE} WITH (FORCE)"));
        self.execute(&format!("CREATE DATABASE {ROLE} OWNER {ROLE} {options}"));
        self.has_database.store(true, Relaxed);
    }

    /// The database of Jarvis as a script, as the owner of the server dumps it.
    pub fn dump(&self) -> String {
        let mut dump = self.tool("pg_dump");
        dump.args(["--clean", "--if-exists", "--schema=jarvis", "-U", "postgres", "-d", ROLE]);
        dump.args(["-p", &self.port.to_string(), "-h"]).arg(self.socket_dir());
        let output = dump.env("PGPASSWORD", &self.password).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A hot standby of this server, read-only until [`Postgres::promote`]. From here on this server answers
    /// a COMMIT only after the standby has it, so that a failover loses no answered COMMIT.
    pub fn standby(&self) -> Self {
        let mut other = Self::empty(self.options.clone(), self.password.clone());
        other.must(
            other
                .tool("pg_basebackup")
                .args([
                    "-U",
                    "postgres",
                    "-p",
                    &self.port.to_string(),
                    "-X",
                    "stream",
                    "-c",
                    "fast",
                    "-R",
                    "-h",
                ])
                .arg(self.socket_dir())
                .arg("-D")
                .arg(other.data())
                .env("PGPASSWORD", &self.password),
        );
        if self.options.tls {
            for file in ["ca.crt", "ca.key", "stranger.crt", "stranger.key"] {
                fs::copy(self.dir.path().join(file), other.dir.path().join(file)).unwrap();
            }
            other.install(Certificate::Good);
        }
        other.write_conf();
        other.has_database.store(true, Relaxed);
        other.boot();
        self.set("synchronous_standby_names", "*");
        self.wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "1");
        other
    }

    /// Makes a standby the server that takes writes.
    pub fn promote(&self) {
        assert_eq!(self.value("SELECT pg_promote(true, 60)"), "t");
        self.set("synchronous_standby_names", "");
        self.wait_for("SELECT pg_is_in_recovery()", "f");
    }

    /// With `diskfull.c` preloaded: from now on no file of a table can grow, or it can again.
    pub fn disk_full(&self, full: bool) {
        assert!(self.options.preload.is_some(), "start it with diskfull.c preloaded");
        let flag = self.dir.path().join("disk-is-full");
        if full {
            fs::write(flag, "").unwrap();
        } else {
            fs::remove_file(flag).unwrap();
        }
    }
}

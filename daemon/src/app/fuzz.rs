//! Any bytes as a configuration, and as an address in one.

use std::os::unix::ffi::OsStringExt as _;

use sqlx::ConnectOptions as _;

use std::ffi::OsString;
use std::path::Path;

use super::{Settings, load};
use crate::config::{BrokerUrl, Effective, Fault, Options, PostgresUrl};
use crate::fuzzing::{Folder, parts, sure};

/// A file, and behind each 0xFF a variable.
pub fn config(bytes: &[u8]) -> bool {
    thread_local! { static ROOT: Folder = Folder::new(); }
    let mut parts = parts(bytes);
    let file = parts.next().unwrap_or_default();
    let env = parts.take(16).map(|variable| {
        let (name, value) = variable.split_at(variable.iter().position(|b| *b == b'=').unwrap_or(0));
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        (text(name), text(value.get(1..).unwrap_or_default()))
    });
    let root = ROOT.with(|root| root.0.clone());
    let first = load_from(&root, file, env.collect());
    let settings = match first {
        Ok(settings) => settings,
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a fault");
            for fault in &faults {
                let shown = fault.to_string();
                assert!(!shown.chars().any(char::is_control), "{shown:?}");
                assert!(shown.len() < 4_096, "{} bytes in one fault", shown.len());
            }
            return false;
        }
    };
    // A shown value can be written into a file, and means the same there.
    let open = |value: &&Effective| value.value.as_ref().is_some_and(|shown| !shown.contains("***"));
    let lines = settings.effective.iter().filter(open);
    let text: String =
        lines.map(|e| format!("{} = {}\n", e.key, e.value.as_deref().unwrap_or_default())).collect();
    let again = sure(load_from(&root, text.as_bytes(), Vec::new()), &text);
    for shown in settings.effective.iter().filter(open) {
        let back = again.effective.iter().find(|other| other.key == shown.key);
        assert_eq!(back.and_then(|back| back.value.as_ref()), shown.value.as_ref(), "{}", shown.key);
    }
    true
}

fn load_from(root: &Path, file: &[u8], env: Vec<(OsString, OsString)>) -> Result<Settings, Vec<Fault>> {
    let folder = root.join("etc/jarvis");
    sure(std::fs::create_dir_all(&folder), "the folder");
    sure(std::fs::write(folder.join("jarvis.toml"), file), "the file");
    load(&Options { root: Some(root.to_owned()), config_file: None, env })
}

/// One address, of a broker and of a database.
pub fn address(bytes: &[u8]) -> bool {
    let (mut of_broker, mut of_database) = (false, false);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(broker) = BrokerUrl::parse(&text) {
        let shown = broker.to_string();
        assert!(!broker.host.is_empty() && broker.port > 0, "{shown}");
        assert!(!shown.contains('@'), "a broker's address names no user: {shown}");
        let again = sure(BrokerUrl::parse(&shown), &shown);
        assert_eq!(again, broker);
        of_broker = true;
    }
    if let Ok(database) = PostgresUrl::parse(&text) {
        let shown = database.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        // The password is not shown: a mask stands in its place, wherever it was given.
        let again = sure(PostgresUrl::parse(&shown), &shown);
        if database.password().is_some_and(|password| !password.is_empty()) {
            let masked = again.password().map(|password| password.to_string());
            assert_eq!(masked.as_deref(), Some("***"), "{shown}");
        }
        assert_eq!(again.to_string(), shown);
        let read = [database.crosses_network, database.is_scoped, database.names_ssl_mode];
        assert_eq!(read, [again.crosses_network, again.is_scoped, again.names_ssl_mode], "{shown}");
        let _ = sqlx::postgres::PgConnectOptions::from_url(&database.for_driver());
        let _ = database.at("other").to_string();
        of_database = true;
    }
    of_broker || of_database
}

//! The file is damaged, removed, replaced or unwritable while the memory is in use: every acknowledged turn
//! exists afterwards.

use std::fs;

use super::*;
use crate::health::Health;

async fn texts(memory: &Memory, user: UserId) -> Vec<String> {
    let mut texts = Vec::new();
    for conversation in memory.export_conversations(user).await.unwrap() {
        let said = conversation.messages.into_iter().filter(|m| m.message.role == Role::User);
        texts.extend(said.map(|m| m.message.text));
    }
    texts
}

fn sentence(health: &Health, part: &str) -> String {
    let status = health.status();
    status.components.get(part).and_then(|c| c.condition.sentence()).unwrap_or_default().to_owned()
}

struct Running {
    home: Home,
    health: Health,
    anna: UserId,
    here: ConversationId,
}

impl Running {
    async fn new() -> Self {
        let home = Home::new().await;
        let health = Health::new();
        home.memory.report_to(&health);
        let anna = home.memory.add_user("Anna").await.unwrap().id;
        let here = say(&home.memory, anna, Target::New, "before", "ok").await.unwrap().conversation_id;
        Self { home, health, anna, here }
    }

    async fn say(&self, text: &str) -> Result<Appended> {
        say(&self.home.memory, self.anna, Target::Existing(self.here), text, "ok").await
    }

    /// Closes and opens the memory again: shows the real content of the file at the path.
    async fn on_disk(&mut self) -> Vec<String> {
        self.home.restart().await;
        self.home.memory.check().await.unwrap();
        texts(&self.home.memory, self.anna).await
    }
}

#[tokio::test]
async fn a_file_that_is_removed_is_written_again_with_everything_in_it() {
    for remove in [
        &["jarvis.db"][..],
        &["jarvis.db", "jarvis.db-wal"],
        &["jarvis.db", "jarvis.db-wal", "jarvis.db-shm"],
        &["jarvis.db-wal"],
    ] {
        let mut running = Running::new().await;
        for n in 0..3 {
            for file in remove {
                fs::remove_file(running.home.folder.path().join(file)).unwrap();
            }
            running.say(&format!("after {n}")).await.unwrap();
        }
        let told = sentence(&running.health, "database");
        assert!(told.contains("removed") && told.contains("nothing is lost"), "{remove:?}: {told}");
        assert_eq!(running.on_disk().await, ["before", "after 0", "after 1", "after 2"], "{remove:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(running.home.path()).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_is_used_and_the_turn_is_in_it() {
    let mut running = Running::new().await;
    // A backup of now, later restored by a person who did not stop the daemon.
    let backup = running.home.folder.path().join("backup");
    let into = sqlx::query("VACUUM INTO ?1").bind(backup.display().to_string());
    let mut reader = running.home.memory.store().reader().await.unwrap();
    into.execute(&mut *reader).await.unwrap();
    drop(reader);
    running.say("not in the backup").await.unwrap();
    fs::rename(&backup, running.home.path()).unwrap();
    running.say("after").await.unwrap();
    assert!(sentence(&running.health, "database").contains("replaced"));
    assert_eq!(running.on_disk().await, ["before", "after"]);
}

#[tokio::test]
async fn a_turn_whose_file_goes_away_under_it_is_not_acknowledged_before_it_is_written_again() {
    let mut running = Running::new().await;
    let memory = running.home.memory.clone();
    // As if it happened between the statements of a transaction.
    let (mut tx, stamp) = memory.begin().await.unwrap();
    memory.want_scrub(&mut tx, &stamp).await.unwrap();
    fs::remove_file(running.home.path()).unwrap();
    let refused = tx.commit().await;
    assert!(matches!(refused, Err(StoreError::Replaced { .. })), "{refused:?}");
    running.say("after").await.unwrap();
    assert_eq!(memory.scrub_wish().await.unwrap(), None, "what was refused is not there");
    assert_eq!(running.on_disk().await, ["before", "after"]);
}

#[tokio::test]
async fn damage_that_a_statement_meets_is_repaired_while_the_memory_is_in_use() {
    let mut running = Running::new().await;
    for n in 0..150 {
        running.say(&format!("number {n} {}", "many words ".repeat(30))).await.unwrap();
    }
    running.home.restart().await;
    running.home.memory.report_to(&running.health);
    let path = running.home.path();
    // Damages the inner pages of its tables under the open file, so that a statement must meet it.
    let mut bytes = fs::read(&path).unwrap();
    let size = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    let inner = (1..bytes.len() / size).filter(|page| matches!(bytes[page * size], 0x05)).collect::<Vec<_>>();
    assert!(!inner.is_empty());
    for page in inner {
        bytes[page * size..(page + 1) * size].fill(0xA5);
    }
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    // Closed only after SQLite is done with it: closing drops the locks of this process.
    let dialogue = crate::dialogue::Dialogue::new(
        running.home.memory.clone(),
        crate::dialogue::Responder::Builtin(crate::dialogue::Builtin::default()),
        crate::config::Live::default(),
    );
    let user = User { id: running.anna, name: "Anna".into(), consent_unix_ms: None, created_unix_ms: 0 };
    let select = crate::dialogue::Select::Id(running.here);
    let turn =
        dialogue.turn(&user, select, "remember that the roof leaks", TurnMeta::default()).await.unwrap();
    assert_eq!(turn.seq, 303);
    drop(file);
    let told = sentence(&running.health, "database");
    assert!(told.contains("has been repaired") && told.contains("no loss is known"), "{told}");
    let there = running.on_disk().await;
    assert_eq!((there.len(), there.last().unwrap().as_str()), (152, "remember that the roof leaks"));
    running.home.memory.report_to(&running.health);
    assert!(sentence(&running.health, "database").contains("1 damaged copies are kept"));
}

/// A private small file system, if the test may mount one.
struct Mount {
    folder: tempfile::TempDir,
}

impl Mount {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Self { folder };
        let at = mount.folder.path().to_str().unwrap();
        if run(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", at]) {
            return Some(mount);
        }
        crate::testdata::skipped("mounting a small file system needs root");
        None
    }

    fn remount(&self, how: &str) {
        assert!(run(&["mount", "-o", &format!("remount,{how}"), self.folder.path().to_str().unwrap()]));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run(&["umount", "-l", self.folder.path().to_str().unwrap()]);
    }
}

fn run(command: &[&str]) -> bool {
    std::process::Command::new(command[0])
        .args(&command[1..])
        .output()
        .is_ok_and(|done| done.status.success())
}

#[tokio::test]
async fn a_read_only_disk_is_read_and_written_again_when_it_can_be() {
    let Some(mount) = Mount::new("8m") else { return };
    let path = mount.folder.path().join("jarvis.db");
    let memory = open(&path).await;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let here = say(&memory, anna, Target::New, "before", "ok").await.unwrap().conversation_id;
    memory.close().await;
    mount.remount("ro");
    let memory = open(&path).await;
    let health = Health::new();
    memory.report_to(&health);
    assert!(sentence(&health, "store").contains("cannot be stored"), "{}", sentence(&health, "store"));
    assert_eq!(texts(&memory, anna).await, ["before"]);
    assert_eq!(memory.search(anna, "before", None, None, 5).await.unwrap().items.len(), 1);
    for _ in 0..3 {
        let refused = say(&memory, anna, Target::Existing(here), "now", "ok").await.unwrap_err();
        assert!(matches!(refused, MemoryError::Store(StoreError::ReadOnly { .. })), "{refused:?}");
        assert_eq!(texts(&memory, anna).await, ["before"], "it is still read");
    }
    mount.remount("rw");
    memory.mend().await.unwrap();
    assert_eq!(sentence(&health, "store"), "");
    say(&memory, anna, Target::Existing(here), "again", "ok").await.unwrap();
    memory.close().await;
    assert_eq!(texts(&open(&path).await, anna).await, ["before", "again"]);
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_is_read_and_stores_again_when_there_is_space() {
    let Some(mount) = Mount::new("4m") else { return };
    let path = mount.folder.path().join("jarvis.db");
    let memory = open(&path).await;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let here = say(&memory, anna, Target::New, "before", "ok").await.unwrap().conversation_id;
    memory.close().await;
    let ballast = mount.folder.path().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    // In another boot, so that a row must be written at once.
    let clock = crate::clock::DrivenClock::new("another-boot", NOON_UNIX_MS, true);
    let memory = Memory::open(&path, &device(), Clock::Driven(clock)).await.unwrap();
    assert_eq!(texts(&memory, anna).await, ["before"]);
    let refused = say(&memory, anna, Target::Existing(here), "now", "ok").await.unwrap_err();
    assert!(refused.is_disk_full(), "{refused:?}");
    assert_eq!(texts(&memory, anna).await, ["before"]);
    fs::remove_file(&ballast).unwrap();
    drop(file);
    say(&memory, anna, Target::Existing(here), "again", "ok").await.unwrap();
    memory.close().await;
    assert_eq!(texts(&open(&path).await, anna).await, ["before", "again"]);
}

#[tokio::test]
async fn with_no_room_for_a_repair_the_damaged_file_waits_for_the_next_start() {
    let Some(mount) = Mount::new("16m") else { return };
    let path = mount.folder.path().join("jarvis.db");
    let memory = open(&path).await;
    let anna = memory.add_user("Anna").await.unwrap().id;
    for n in 0..40 {
        say(&memory, anna, Target::New, &format!("number {n} {}", "words ".repeat(500)), "ok").await.unwrap();
    }
    memory.close().await;
    let mut bytes = fs::read(&path).unwrap();
    bytes[..100].fill(0);
    fs::write(&path, bytes).unwrap();
    let ballast = mount.folder.path().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let refused = Memory::open(&path, &device(), Clock::System).await.unwrap_err();
    assert!(refused.is_disk_full(), "{refused:?}");
    fs::remove_file(&ballast).unwrap();
    drop(file);
    let memory = open(&path).await;
    assert_eq!(texts(&memory, anna).await.len(), 40);
}

/// A word of the full-text index without its message: the structure of the file is sound, the search is not.
#[tokio::test]
async fn damage_that_only_a_statement_finds_is_said_and_then_repaired() {
    let running = Running::new().await;
    let (memory, anna) = (running.home.memory.clone(), running.anna);
    running.say("the quince is ripe").await.unwrap();
    running.say("the medlar is not").await.unwrap();
    let mut behind = memory.store().begin().await.unwrap();
    for sql in [
        "DROP TRIGGER messages_fts_delete",
        "DELETE FROM messages WHERE text LIKE '%quince%'",
        "CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages BEGIN
            INSERT INTO messages_fts (messages_fts, rowid, text, owner, role, kind)
            VALUES ('delete', old.rid, old.text, old.owner, old.role, old.kind);
        END",
    ] {
        behind.execute(sqlx::query(sql)).await.unwrap();
    }
    behind.commit().await.unwrap();
    memory.check().await.unwrap();
    let search = async |word: &'static str| memory.search(anna, word, None, None, 5).await;
    let found = async |word: &'static str| search(word).await.unwrap().items.len();

    let met = search("quince").await;
    assert!(met.as_ref().is_err_and(MemoryError::is_damaged), "{met:?}");
    memory.mend().await.unwrap();
    let told = sentence(&running.health, "database");
    assert!(told.contains("does not find") && told.contains("repaired"), "{told}");
    assert!(memory.store().damaged_copies().is_empty(), "it is only watched");
    assert_eq!(found("medlar").await, 1);

    assert!(search("quince").await.is_err());
    running.say("and later").await.unwrap();
    let told = sentence(&running.health, "database");
    assert!(told.contains("has been repaired"), "{told}");
    assert_eq!(memory.store().damaged_copies().len(), 1);
    assert_eq!((found("quince").await, found("medlar").await, found("later").await), (0, 1, 1));
    assert_eq!(texts(&memory, anna).await, ["before", "the medlar is not", "and later"]);
}

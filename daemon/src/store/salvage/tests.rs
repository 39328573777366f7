//! Damage × place: whatever is broken, the device goes on, every row on sound pages is there, and none is
//! made up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::clock::Clock;
use crate::memory::{
    Device, Kind, Memory, NewTurn, NewVoiceprint, Said, SessionId, Target, TurnMeta, UserId,
};
use crate::store::StoreOptions;
use crate::store::heal;

/// xorshift: a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).unwrap()).unwrap()
    }
}

async fn open(path: &Path) -> Memory {
    Memory::open(path, &Device { id: "kitchen".into() }, Clock::System).await.unwrap()
}

async fn say(
    memory: &Memory,
    user: UserId,
    target: Target<'_>,
    kind: Kind,
    text: &str,
) -> crate::memory::Appended {
    let meta = TurnMeta::default();
    let turn =
        NewTurn { text, kind, reply: "I heard you.", responder: "t", sources: &[], forget: &[], meta: &meta };
    memory.append_turn(user, target, &turn).await.unwrap()
}

/// A household of three: many conversations, texts of all lengths, voiceprints, forgotten things.
pub(super) async fn household(path: &Path, turns: usize) -> Memory {
    let memory = open(path).await;
    let mut random = Random(77);
    for name in ["Anna", "Bob", "Carla"] {
        let user = memory.add_user(name).await.unwrap().id;
        let print = NewVoiceprint {
            wrapped_key: vec![7; 60],
            blob: vec![9; 6_000],
            model_sha256: "a".repeat(64),
            front_end_sha256: "b".repeat(64),
            samples: 3,
            net_speech_s: 12.0,
            quality: serde_json::json!([]),
        };
        memory.put_voiceprint(user, &print).await.unwrap();
        let session = SessionId::new("tablet").unwrap();
        let mut here =
            say(&memory, user, Target::Session(&session), Kind::Say, "hello").await.conversation_id;
        for n in 0..turns {
            let padding = match random.below(8) {
                0 => "a long story ".repeat(1_000),
                1..=3 => "some more words ".repeat(random.below(40)),
                _ => String::new(),
            };
            let kind = if random.below(5) == 0 { Kind::Note } else { Kind::Say };
            let target = if random.below(12) == 0 { Target::New } else { Target::Existing(here) };
            let text = format!("{name} says {n} 열쇠 🙂 {padding}");
            let turn = say(&memory, user, target, kind, &text).await;
            here = turn.conversation_id;
            if n % 17 == 5 {
                let secret = say(&memory, user, Target::Existing(here), Kind::Note, "the qwsecret").await;
                memory.forget(user, &[secret.user_message_id]).await.unwrap();
            }
        }
    }
    memory
}

/// Messages by id: (text, pages that they lie on).
fn messages(path: &Path) -> BTreeMap<Vec<u8>, (String, BTreeSet<u32>)> {
    let image = Image::open(path, PAGE_SIZES).unwrap();
    let mut found = BTreeMap::new();
    for number in 1..=image.pages() {
        for record in read(&image, number) {
            if shape::table_of(&record).is_none_or(|table| table.of.name != "messages") {
                continue;
            }
            let (Value::Blob(id), Value::Text(text)) = (&record.values[1], &record.values[7]) else {
                panic!()
            };
            let pages = record.overflow.iter().copied().chain([number]).collect();
            found.insert(id.clone(), (text.clone(), pages));
        }
    }
    found
}

async fn stored(memory: &Memory) -> BTreeMap<Vec<u8>, String> {
    let mut reader = memory.store().reader().await.unwrap();
    let rows = sqlx::query("SELECT id, text FROM messages").fetch_all(&mut *reader).await.unwrap();
    rows.iter().map(|row| (row.get("id"), row.get("text"))).collect()
}

async fn number(memory: &Memory, sql: &'static str) -> i64 {
    let mut reader = memory.store().reader().await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut *reader).await.unwrap()
}

const ODD: &str = "SELECT count(*) FROM conversations c
    WHERE c.messages <> (SELECT count(*) FROM messages m WHERE m.conversation = c.rid)
        OR c.next_seq <= (SELECT coalesce(max(m.seq), 0) FROM messages m WHERE m.conversation = c.rid)";

/// A damaged copy of `original` (and its log) in a folder of its own.
pub(super) fn copy(original: &Path, folder: &Path) -> PathBuf {
    let path = folder.join("jarvis.db");
    fs::copy(original, &path).unwrap();
    let log = heal::beside(original, "-wal");
    if log.exists() {
        fs::copy(log, heal::beside(&path, "-wal")).unwrap();
    }
    path
}

/// The memory works: everything can be read, searched and gone on with.
async fn works(memory: &Memory, what: &str) {
    memory.check().await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
    assert_eq!(number(memory, ODD).await, 0, "{what}");
    for user in memory.list_users().await.unwrap() {
        memory.export_user(user.id).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        memory.search(user.id, "says words", None, None, 50).await.unwrap();
        let turn = say(memory, user.id, Target::New, Kind::Say, "it goes on").await;
        say(memory, user.id, Target::Existing(turn.conversation_id), Kind::Say, "and on").await;
    }
}

/// Damage by a number: the file, the pages that it is on, and its description.
pub(super) fn damaged(bytes: &[u8], page_bytes: usize, seed: u64) -> (Vec<u8>, BTreeSet<u32>, String) {
    let pages = bytes.len() / page_bytes;
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut file = bytes.to_vec();
    let mut broken: BTreeSet<u32> = BTreeSet::new();
    let mut what = format!("seed {seed}:");
    for _ in 0..=random.below(3) {
        let page = random.below(pages);
        let range = page * page_bytes..(page + 1) * page_bytes;
        let (name, hit) = match random.below(7) {
            0 => {
                file[range].fill(0xA5);
                ("filled", vec![page])
            }
            1 => {
                file[range].fill(0);
                ("zeroed", vec![page])
            }
            2 => {
                file[range].fill_with(|| u8::try_from(random.below(256)).unwrap());
                ("random", vec![page])
            }
            3 => {
                // A sector of 512 bytes.
                let at = range.start + 512 * random.below(page_bytes / 512);
                file[at..at + 512].fill(0);
                ("sector", vec![page])
            }
            4 => {
                let other = random.below(pages);
                file.copy_within(other * page_bytes..(other + 1) * page_bytes, range.start);
                ("copied over", vec![page])
            }
            5 => {
                file[..100].fill(0);
                ("header", vec![])
            }
            _ => {
                let cut = bytes.len() - random.below(bytes.len() / 2);
                file[cut..].fill(0);
                file.truncate(cut.min(file.len()));
                file.resize(cut, 0);
                ("cut", (cut / page_bytes..pages).collect())
            }
        };
        what = format!("{what} {name} {page}");
        broken.extend(hit.into_iter().map(|page| u32::try_from(page + 1).unwrap()));
        file.resize(file.len().max(page_bytes), 0);
        if file.len() < bytes.len() {
            break;
        }
    }
    (file, broken, what)
}

#[tokio::test]
async fn random_damage_anywhere_leaves_every_sound_row_and_makes_none_up() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("jarvis.db");
    household(&original, 60).await.close().await;
    let before = messages(&original);
    let bytes = fs::read(&original).unwrap();
    let page_bytes = Image::open(&original, PAGE_SIZES).unwrap().size();
    let pages = bytes.len() / page_bytes;
    assert!(before.len() > 300 && pages > 100, "{} messages, {pages} pages", before.len());
    let mut healed = 0;
    let seeds = std::env::var("JARVIS_SALVAGE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(70_u64);
    for seed in 1..=seeds {
        let (file, broken, what) = damaged(&bytes, page_bytes, seed);
        let folder = tempfile::tempdir().unwrap();
        let path = copy(&original, folder.path());
        fs::write(&path, &file).unwrap();
        let opened = Memory::open(&path, &Device { id: "kitchen".into() }, Clock::System).await;
        let memory = opened.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let after = stored(&memory).await;
        for (id, (text, on)) in &before {
            if on.is_disjoint(&broken) {
                assert_eq!(after.get(id), Some(text), "{what}: lost {:?}", text.get(..30));
            }
        }
        for (id, text) in &after {
            let known = before.get(id).unwrap_or_else(|| panic!("{what}: made up {:?}", text.get(..30)));
            // Words that were changed in place, on a page of their own, cannot be told from sound ones.
            assert!(&known.0 == text || !known.1.is_disjoint(&broken), "{what}");
        }
        assert!(after.values().all(|text| !text.contains("qwsecret")), "{what}");
        works(&memory, &what).await;
        healed += usize::from(!heal::copies(&path).is_empty());
        memory.close().await;
    }
    assert!(healed > 40, "{healed} of {seeds}");
}

#[tokio::test]
async fn the_log_counts_also_when_the_database_beside_it_is_broken_or_gone() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("jarvis.db");
    household(&original, 30).await.close().await;
    let memory = open(&original).await;
    let anna = memory.user_by_name("Anna").await.unwrap().id;
    let mut latest = Vec::new();
    for n in 0..20 {
        let text = format!("only in the log {n}");
        latest.push(say(&memory, anna, Target::New, Kind::Note, &text).await.user_message_id);
    }
    // What a power cut leaves: database and log as they are now.
    let cut = tempfile::tempdir().unwrap();
    let cut = copy(&original, cut.path());
    memory.close().await;
    let before = messages(&cut);
    let page_bytes = Image::open(&cut, PAGE_SIZES).unwrap().size();
    for (what, damage) in [
        ("header", Some(0..100)),
        ("a page in the middle", Some(9 * page_bytes..10 * page_bytes)),
        ("everything", Some(0..usize::MAX)),
        ("the file itself", None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = copy(&cut, folder.path());
        match &damage {
            Some(range) => {
                let mut bytes = fs::read(&path).unwrap();
                let end = range.end.min(bytes.len());
                bytes[range.start..end].fill(0xA5);
                fs::write(&path, bytes).unwrap();
            }
            None => fs::remove_file(&path).unwrap(),
        }
        let memory = open(&path).await;
        let after = stored(&memory).await;
        assert!(after.keys().all(|id| before.contains_key(id)), "{what}");
        for id in &latest {
            assert!(after.contains_key(id.0.as_bytes().as_slice()), "{what}");
        }
        works(&memory, what).await;
        memory.close().await;
    }
}

#[tokio::test]
async fn an_answer_that_was_being_given_is_saved_as_far_as_it_went() {
    for (what, lost) in [("header", 0..100), ("the conversations", 0..0)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jarvis.db");
        let memory = household(&path, 3).await;
        let anna = memory.user_by_name("Anna").await.unwrap().id;
        let here = say(&memory, anna, Target::New, Kind::Say, "hello").await.conversation_id;
        let meta = TurnMeta::default();
        let said = Said { text: "tell me more", responder: "t", sources: &[], meta: &meta };
        let mut turn = memory.open_turn(anna, Target::Existing(here), &said).await.unwrap();
        memory.add_sentence(&mut turn, "There is more.").await.unwrap();
        drop(turn);
        memory.close().await;
        let image = Image::open(&path, PAGE_SIZES).unwrap();
        let pages = match what {
            "header" => Vec::new(),
            _ => pages::tree::below(&image, Schema::read(&image).roots["conversations"]),
        };
        let mut bytes = fs::read(&path).unwrap();
        bytes[lost].fill(0xA5);
        for page in pages {
            let start = (page as usize - 1) * image.size();
            bytes[start..start + image.size()].fill(0xA5);
        }
        fs::write(&path, bytes).unwrap();
        let memory = open(&path).await;
        assert!(memory.store().take_problem().unwrap().contains("has been repaired"), "{what}");
        let after = stored(&memory).await;
        let has = |text: &str| after.values().any(|stored| stored == text);
        assert!(has("tell me more") && has("There is more."), "{what}");
        assert_eq!(number(&memory, "SELECT count(*) FROM open_turns").await, 0, "{what}");
        works(&memory, what).await;
        memory.close().await;
    }
}

/// Pages whose loss tears apart what hangs together.
pub(super) fn places(image: &Image) -> Vec<(&'static str, Vec<u32>)> {
    let schema = Schema::read(image);
    let root = |name: &str| schema.roots[name];
    let below = |name: &str| pages::tree::below(image, root(name));
    vec![
        ("people", vec![root("users")]),
        (
            "people and their names",
            vec![root("users"), root("sqlite_autoindex_users_1"), root("sqlite_autoindex_users_2")],
        ),
        ("device and boot", vec![root("devices"), root("boots"), root("sqlite_autoindex_devices_1")]),
        ("conversations", below("conversations")),
        ("the schema", vec![1]),
        ("the queue", below("queue")),
        ("an inner page", vec![root("messages")]),
        ("the index of words", below("messages_fts_data")),
    ]
}

#[tokio::test]
async fn what_hangs_together_is_mended_when_its_parents_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("jarvis.db");
    household(&original, 40).await.close().await;
    let before = messages(&original);
    let image = Image::open(&original, PAGE_SIZES).unwrap();
    for (what, lost) in places(&image) {
        let folder = tempfile::tempdir().unwrap();
        let path = copy(&original, folder.path());
        let mut bytes = fs::read(&path).unwrap();
        for page in &lost {
            let start = (*page as usize - 1) * image.size();
            bytes[start..start + image.size()].fill(0xA5);
        }
        fs::write(&path, bytes).unwrap();
        let memory = open(&path).await;
        assert!(memory.store().take_problem().unwrap().contains("has been repaired"), "{what}");
        let after = stored(&memory).await;
        let sound = before.iter().filter(|(_, (_, on))| on.iter().all(|page| !lost.contains(page)));
        for (id, (text, _)) in sound {
            assert_eq!(after.get(id), Some(text), "{what}");
        }
        let mut names: Vec<String> = memory.list_users().await.unwrap().into_iter().map(|u| u.name).collect();
        names.sort();
        match what {
            // The index of names has them in lower case.
            "people" => assert_eq!(names, ["anna", "bob", "carla"], "{what}"),
            "people and their names" => {
                assert_eq!(names, ["Recovered person 1", "Recovered person 2", "Recovered person 3"]);
            }
            _ => assert_eq!(names, ["Anna", "Bob", "Carla"], "{what}"),
        }
        if what != "people and their names" && what != "the schema" {
            assert_eq!(memory.list_voiceprints().await.unwrap().len(), 3, "{what}");
        }
        if what == "device and boot" {
            let anna = memory.user_by_name("Anna").await.unwrap().id;
            let now = memory.clock().stamp();
            let current = memory.current_conversation(anna, i64::MAX, &now).await.unwrap();
            assert!(current.is_some(), "the one device there is goes on with its conversations");
        }
        if what == "the index of words" || what == "the schema" {
            let carla = memory.user_by_name("Carla").await.unwrap().id;
            let hits = memory.search(carla, "Carla says 7", None, None, 5).await.unwrap().items;
            assert!(hits.iter().any(|hit| hit.message.text.starts_with("Carla says 7 ")), "{what}");
        }
        works(&memory, what).await;
        // It was moved aside once; it is sound now.
        memory.close().await;
        let again = open(&path).await;
        assert_eq!(again.store().take_problem(), None, "{what}");
        assert_eq!(heal::copies(&path).len(), 1, "{what}");
        again.close().await;
    }
}

#[tokio::test]
async fn a_damaged_database_of_version_1_is_salvaged_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let mut conn =
        SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(include_str!("../testdata/version-1.sql")).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let before = messages(&path);
    assert_eq!((before.len(), Image::open(&path, PAGE_SIZES).unwrap().size()), (6, 4096));
    let mut bytes = fs::read(&path).unwrap();
    bytes[..100].fill(0);
    fs::write(&path, bytes).unwrap();
    let memory = open(&path).await;
    assert_eq!(stored(&memory).await.len(), 6);
    let anna = memory.user_by_name("Anna").await.unwrap().id;
    let listed = memory.list_conversations(anna, None, 5).await.unwrap().items;
    let homes: Vec<_> = listed.iter().map(|c| c.device.as_deref().unwrap()).collect();
    assert_eq!(homes, ["bedroom", "kitchen"]);
    assert_eq!(number(&memory, "SELECT seq FROM sqlite_sequence WHERE name = 'queue'").await, 9);
    works(&memory, "version 1").await;
}

#[tokio::test]
async fn a_repair_that_was_interrupted_is_finished_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    household(&path, 10).await.close().await;
    let before = messages(&path);
    // As it is after the file was moved aside, and half of the new one written.
    fs::rename(&path, heal::beside(&path, ".corrupt.20261122T120000Z")).unwrap();
    fs::write(heal::beside(&path, ".salvage"), b"SQLite format 3\0 half of it").unwrap();
    let look_only = StoreOptions { keep_damaged: true, ..StoreOptions::default() };
    assert!(crate::store::Store::open(&path, &look_only).await.is_err());
    let memory = open(&path).await;
    assert_eq!(stored(&memory).await.len(), before.len());
    works(&memory, "interrupted").await;
    assert!(!heal::beside(&path, ".salvage").exists());
}

#[tokio::test]
async fn an_empty_or_missing_file_where_a_database_was_is_told() {
    for empty in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jarvis.db");
        fs::write(folder.path().join("voiceprint.key"), [7; 32]).unwrap();
        if empty {
            fs::write(&path, b"").unwrap();
        }
        let memory = open(&path).await;
        let problem = memory.store().take_problem().unwrap();
        assert!(problem.contains("restore the latest backup"), "{problem}");
        memory.add_user("Anna").await.unwrap();
        memory.close().await;
        assert_eq!(open(&path).await.store().take_problem(), None);
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        open(&folder.path().join("jarvis.db")).await.store().take_problem(),
        None,
        "a first start is none"
    );
}

#[tokio::test]
async fn few_damaged_copies_are_kept_and_forgetting_deletes_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let memory = open(&path).await;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let secret = say(&memory, anna, Target::New, Kind::Note, "the qwsecret is here").await;
    memory.close().await;
    for _ in 0..5 {
        let mut bytes = fs::read(&path).unwrap();
        bytes[..100].fill(0);
        fs::write(&path, bytes).unwrap();
        open(&path).await.close().await;
    }
    assert_eq!(heal::copies(&path).len(), heal::KEPT_COPIES);
    let memory = open(&path).await;
    assert!(!memory.notes(anna, 5).await.unwrap().is_empty());
    memory.forget(anna, &[secret.user_message_id]).await.unwrap();
    memory.close().await;
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("qwsecret"), "{}", path.display());
    }
    assert!(heal::copies(&path).is_empty());
}

#[test]
fn the_reader_of_pages_knows_nothing_of_this_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/salvage/pages");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for foreign in ["crate::", "super::super", "uuid", "sqlx", "StoreError", "messages", "jarvis"] {
            assert!(!text.contains(foreign), "{foreign} in {}", text.lines().next().unwrap());
        }
        files += 1;
    }
    assert!(files >= 4);
}

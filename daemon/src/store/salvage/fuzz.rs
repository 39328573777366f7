//! Any bytes as a damaged database, and behind the mark of a log as that.

use std::path::PathBuf;

use super::*;
use crate::clock::Clock;
use crate::fuzzing::{Folder, run, sure};
use crate::memory::{Device, Kind, Memory, MemoryError, NewTurn, Target, TurnMeta};

/// More pages than that would be waited for too long here.
const MAX_BYTES: usize = 1 << 18;

/// Writes the files; a log gets the checksums that its content asks for.
fn damaged(bytes: &[u8]) -> PathBuf {
    thread_local! { static FOLDER: Folder = Folder::new(); }
    let path = FOLDER.with(|folder| folder.0.join("damaged.db"));
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    let is_mark = |four: &[u8]| matches!(four, [0x37, 0x7f, 0x06, 0x82 | 0x83]);
    let at = bytes.windows(4).rposition(is_mark).unwrap_or(bytes.len());
    let (file, log) = bytes.split_at(at);
    sure(std::fs::write(&path, file), "the file");
    let mut log = log.to_vec();
    pages::image::sign(&mut log);
    sure(std::fs::write(path.with_file_name("damaged.db-wal"), log), "the log");
    path
}

/// The records of a page are no longer than the file.
pub fn pages(bytes: &[u8]) -> bool {
    let path = damaged(bytes);
    let image = sure(Image::open(&path, PAGE_SIZES), "an image");
    let there = bytes.len().min(MAX_BYTES);
    let mut rows = 0;
    for number in image.numbers() {
        let found = read(&image, number);
        let text: usize = found.iter().flat_map(|found| &found.values).map(size_of_value).sum();
        assert!(text <= there + image.size(), "{text} bytes on page {number} of a file of {there}");
        for found in found {
            if let Some(table) = shape::table_of(&found) {
                let _ = row(table, found);
                rows += 1;
            }
        }
    }
    let schema = Schema::read(&image);
    for name in schema.roots.keys() {
        let _ = (schema.entries(&image, name), schema.by_row(&image, name));
        let whole = schema.whole(&image, name).unwrap_or_default();
        let text: usize = whole.iter().flat_map(|record| &record.values).map(size_of_value).sum();
        assert!(text <= there + image.size(), "{text} bytes in {name} of a file of {there}");
    }
    rows > 0
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        _ => 0,
    }
}

/// No damage is an error, and what comes of it is a memory that works.
pub fn salvage(bytes: &[u8]) -> bool {
    let path = damaged(bytes);
    let fresh = path.with_file_name("jarvis.db");
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(crate::store::heal::beside(&fresh, end));
    }
    run(async {
        let done = sure(super::salvage(&path, &fresh, 1_700_000_000_000).await, "salvaged");
        let memory = Memory::open(&fresh, &Device { id: "kitchen".into() }, Clock::System).await;
        let memory = sure(memory, "a memory");
        let (mut people, mut messages) = (0, 0);
        for user in sure(memory.list_users().await, "people") {
            let export = sure(memory.export_user(user.id).await, "an export");
            people += 1;
            messages += export.conversations.iter().map(|one| one.messages.len()).sum::<usize>();
            let meta = TurnMeta::default();
            let turn = NewTurn {
                text: "And now?",
                kind: Kind::Say,
                reply: "I am here.",
                responder: "builtin",
                sources: &[],
                forget: &[],
                meta: &meta,
            };
            let before = export.conversations.first().map(|one| Target::Existing(one.id));
            for target in before.into_iter().chain([Target::New]) {
                match memory.append_turn(user.id, target, &turn).await {
                    // Begun on another device.
                    Err(MemoryError::OtherHome { .. }) => {}
                    done => drop(sure(done, "a turn")),
                }
            }
        }
        assert!(people <= done.saved("people") + done.recovered_people, "{people} people of {done:?}");
        assert!(messages as u64 <= done.saved("messages"), "{messages} messages of {done:?}");
        memory.close().await;
        messages > 0
    })
}

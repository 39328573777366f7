//! Tests of the memory on a real file: rows, restarts, isolation of people, deletion, crashes.

mod clock;
mod crash;
mod deletion;
mod heal;
mod homes;
mod house;
mod import;
mod isolation;
mod long;
mod open;
mod pages;
mod rows;
mod search;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use super::*;

/// 2026-11-22 12:00 UTC.
const NOON_UNIX_MS: i64 = 1_795_348_800_000;

fn device() -> Device {
    Device { id: "kitchen".into() }
}

async fn open(path: &Path) -> Memory {
    Memory::open(path, &device(), Clock::System).await.unwrap()
}

struct Home {
    memory: Memory,
    folder: tempfile::TempDir,
}

impl Home {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let memory = open(&folder.path().join("jarvis.db")).await;
        Self { memory, folder }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("jarvis.db")
    }

    async fn restart(&mut self) {
        self.memory.close().await;
        self.memory = open(&self.path()).await;
    }
}

fn hand_driven() -> (Clock, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(NOON_UNIX_MS));
    (Clock::Fixed(now.clone()), now)
}

/// A plain turn.
async fn say(memory: &Memory, user: UserId, target: Target<'_>, text: &str, reply: &str) -> Result<Appended> {
    say_as(memory, user, target, Kind::Say, text, reply, &[]).await
}

#[expect(clippy::too_many_arguments, reason = "a test helper that spells a turn out")]
async fn say_as(
    memory: &Memory,
    user: UserId,
    target: Target<'_>,
    kind: Kind,
    text: &str,
    reply: &str,
    sources: &[MessageId],
) -> Result<Appended> {
    let meta = TurnMeta::default();
    let turn = NewTurn { text, kind, reply, responder: "test", sources, forget: &[], meta: &meta };
    memory.append_turn(user, target, &turn).await
}

/// A voiceprint that differs from others only by this byte.
fn print(byte: u8) -> NewVoiceprint {
    NewVoiceprint {
        wrapped_key: vec![byte; 60],
        blob: vec![byte; 900],
        model_sha256: "a".repeat(64),
        front_end_sha256: "b".repeat(64),
        samples: 3,
        net_speech_s: 12.5,
        quality: serde_json::json!([{ "snr_db": 21.0 }]),
    }
}

/// Entries of the queue as (op, number), by op.
async fn queued(memory: &Memory) -> Vec<(String, i64)> {
    let rows = memory
        .read_all(sqlx::query("SELECT op, count(*) AS n FROM queue GROUP BY op ORDER BY op"))
        .await
        .unwrap();
    rows.iter().map(|row| (get(row, "op").unwrap(), get(row, "n").unwrap())).collect()
}

async fn count(memory: &Memory, sql: &'static str) -> i64 {
    get(&memory.read_optional(sqlx::query(sql)).await.unwrap().unwrap(), "n").unwrap()
}

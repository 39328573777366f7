//! The power goes at any moment: acknowledged turns are there when it comes back.
//!
//! A process writes turns while `powercut.c` records every write and sync below SQLite. Then the files are
//! rebuilt as a disk may have them after a cut at many points of the recording. Unsynced data are lost, torn
//! or reordered. The files are opened as the daemon opens them.
//!
//! `JARVIS_POWER_CUTS` sets the number of cuts (300), `JARVIS_TEST_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use crate::support::powercut::{Disk, Event, Luck, read_log};
use crate::support::preload;
use crate::support::random::Random;
use jarvisd::clock::Clock;
use jarvisd::memory::{ConversationId, Device, Kind, Memory, MessageId, NewTurn, Target, TurnMeta, UserId};

const FILE: &str = "jarvis.db";
/// Actions of the writer; about one in ten of them is not a turn.
const ACTIONS: usize = 400;

async fn open(dir: &Path) -> Memory {
    let clock = Clock::Fixed(Arc::new(AtomicI64::new(1_800_000_000_000)));
    Memory::open(&dir.join(FILE), &Device { id: "kitchen".into() }, clock).await.unwrap()
}

/// Writes one line to the recording, and only then to the reader.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The recorded process; started by the tests below, in an environment that names the place.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os("JARVIS_POWERCUT_DIR") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(write(Path::new(&dir), &mut Random::for_test("writer")));
}

async fn write(dir: &Path, random: &mut Random) {
    let mut memory = open(dir).await;
    let user = memory.add_user("Anna").await.unwrap().id;
    say(&format!("\nuser {user}"));
    let mut conversation: Option<ConversationId> = None;
    let mut turns: Vec<(ConversationId, [MessageId; 2])> = Vec::new();
    for n in 0..ACTIONS {
        match random.below(40) {
            0 => {
                // Closing moves the WAL into the file and removes it.
                memory.close().await;
                memory = open(dir).await;
            }
            1 => memory.store().checkpoint_truncate().await.map(drop).unwrap(),
            2 | 3 => memory.store().checkpoint().await.unwrap(),
            4 if !turns.is_empty() => {
                let (_, ids) = turns.swap_remove(random.below(turns.len()));
                let both = format!("{} {}", ids[0], ids[1]);
                say(&format!("gone? {both}"));
                memory.forget(user, &ids).await.unwrap();
                say(&format!("gone {both}"));
            }
            5 if turns.len() > 20 => {
                let (id, _) = turns[random.below(turns.len())];
                let (those, others): (Vec<_>, Vec<_>) = turns.into_iter().partition(|(of, _)| *of == id);
                turns = others;
                let all: Vec<String> =
                    those.iter().flat_map(|(_, ids)| ids.iter().map(ToString::to_string)).collect();
                say(&format!("gone? {}", all.join(" ")));
                memory.delete_conversation(user, id).await.unwrap();
                say(&format!("gone {}", all.join(" ")));
                conversation = conversation.filter(|current| *current != id);
            }
            6 => conversation = None,
            _ => {}
        }
        let text = format!("turn {n}: {}", "something was said ".repeat(1 + random.below(60)));
        let new = NewTurn {
            text: &text,
            kind: Kind::Note,
            reply: &format!("reply {n}"),
            responder: "builtin",
            sources: &[],
            forget: &[],
            meta: &TurnMeta::default(),
        };
        let target = conversation.map_or(Target::New, Target::Existing);
        let stored = memory.append_turn(user, target, &new).await.unwrap();
        conversation = Some(stored.conversation_id);
        let ids = [stored.user_message_id, stored.assistant_message_id];
        turns.push((stored.conversation_id, ids));
        say(&format!("turn {} {} {} {n}", stored.conversation_id, ids[0], ids[1]));
    }
    memory.close().await;
    say("end");
}

/// Runs the writer under the recorder.
fn recording(seed: u64, deaf: bool) -> Vec<Event> {
    let home = tempfile::tempdir().unwrap();
    let (dir, log) = (home.path().join("data"), home.path().join("log"));
    std::fs::create_dir(&dir).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["powercut::writer", "--exact", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", preload::powercut())
        .env("JARVIS_POWERCUT_DIR", &dir)
        .env("JARVIS_POWERCUT_LOG", &log)
        .env("JARVIS_TEST_SEED", seed.to_string())
        .stdout(Stdio::null());
    if deaf {
        command.env("JARVIS_POWERCUT_DEAF", "1");
    }
    assert!(command.status().unwrap().success());
    let events = read_log(&log);
    let mut disk = Disk::default();
    events.iter().for_each(|event| disk.apply(event));
    assert_eq!(disk.differs(&dir), None, "something went past the recorder");
    events
}

/// The writer's promises up to some moment.
#[derive(Debug, Default, Clone)]
struct Promised {
    user: Option<UserId>,
    /// Messages that must be there, with their place in the order of all turns.
    there: BTreeMap<MessageId, usize>,
    /// Messages whose removal was begun: they may be there or not.
    open: BTreeSet<MessageId>,
    gone: BTreeSet<MessageId>,
}

impl Promised {
    fn hear(&mut self, said: &str) {
        for line in said.lines() {
            let mut words = line.split(' ');
            let what = words.next();
            let rest: Vec<&str> = words.collect();
            let ids = || rest.iter().map(|id| id.parse::<MessageId>().unwrap());
            match what {
                Some("user") => self.user = Some(rest[0].parse().unwrap()),
                Some("turn") => {
                    let n: usize = rest[3].parse().unwrap();
                    self.there.insert(rest[1].parse().unwrap(), 2 * n);
                    self.there.insert(rest[2].parse().unwrap(), 2 * n + 1);
                }
                Some("gone?") => {
                    ids().for_each(|id| {
                        self.there.remove(&id);
                        self.open.insert(id);
                    });
                }
                Some("gone") => {
                    ids().for_each(|id| {
                        self.open.remove(&id);
                        self.gone.insert(id);
                    });
                }
                _ => {}
            }
        }
    }
}

/// Fails with the promise broken by the files in `dir`, opened as the daemon opens them.
async fn broken_promise(dir: &Path, promised: &Promised) -> Result<(), String> {
    let clock = Clock::Fixed(Arc::new(AtomicI64::new(1_800_000_000_000)));
    let device = Device { id: "kitchen".into() };
    let memory = Memory::open(&dir.join(FILE), &device, clock).await.map_err(|e| format!("{e}: {e:?}"))?;
    memory.check().await.map_err(|e| format!("{e}: {e:?}"))?;
    let result = compare(&memory, promised).await;
    memory.close().await;
    result?;
    let left = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    if left.iter().any(|name| name.to_string_lossy().contains("corrupt")) {
        return Err(format!("taken for damaged: {left:?}"));
    }
    let output = Command::new("sqlite3").arg(dir.join(FILE)).arg("PRAGMA integrity_check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if said == "ok" { Ok(()) } else { Err(said) }
}

async fn compare(memory: &Memory, promised: &Promised) -> Result<(), String> {
    let Some(user) = promised.user else { return Ok(()) };
    memory.user(user).await.map_err(|e| e.to_string())?;
    let mut missing = promised.there.clone();
    let mut from = None;
    loop {
        let page = memory.list_conversations(user, from, 100).await.map_err(|e| e.to_string())?;
        for conversation in &page.items {
            let messages =
                memory.history(user, conversation.id, None, 10_000).await.map_err(|e| e.to_string())?;
            if messages.len() % 2 != 0 {
                return Err(format!("half a turn in {}", conversation.id));
            }
            let mut last = (0, 0);
            for message in messages {
                if promised.gone.contains(&message.id) {
                    return Err(format!("forgotten and back: {}", message.id));
                }
                let at = missing.remove(&message.id);
                let now = (message.seq, at.unwrap_or(last.1));
                if now.0 <= last.0 || now.1 < last.1 {
                    return Err(format!("out of order: {} after {last:?}", message.id));
                }
                last = now;
            }
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    match missing.keys().next() {
        Some(id) => Err(format!("{} acknowledged messages are lost, among them {id}", missing.len())),
        None => Ok(()),
    }
}

/// Cuts the power `cuts` times along one recording. Returns the faults, each with the record of its cut.
fn cut(events: &[Event], cuts: usize, random: &mut Random) -> Vec<(usize, String)> {
    // The interesting moments are around syncs and promises; half of the cuts go there.
    let close: Vec<usize> = events
        .iter()
        .enumerate()
        .filter(|(_, event)| matches!(event, Event::Sync { .. } | Event::DirSync { .. } | Event::Said(_)))
        .map(|(at, _)| at)
        .collect();
    let mut moments: Vec<usize> = (0..cuts)
        .map(|n| {
            if n % 2 == 0 {
                random.below(events.len() + 1)
            } else {
                (random.pick(&close) + random.below(3)).min(events.len())
            }
        })
        .collect();
    moments.sort_unstable();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut disk, mut promised, mut done) = (Disk::default(), Promised::default(), 0);
    let mut broken = Vec::new();
    for moment in moments {
        for event in &events[done..moment] {
            disk.apply(event);
            if let Event::Said(said) = event {
                promised.hear(said);
            }
        }
        done = moment;
        let luck = *random.pick(&[Luck::Nothing, Luck::Everything, Luck::Prefix, Luck::Any, Luck::Scattered]);
        let dir = tempfile::tempdir().unwrap();
        disk.after_power_cut(luck, random).write(dir.path());
        if let Err(why) = runtime.block_on(broken_promise(dir.path(), &promised)) {
            broken.push((moment, format!("{luck:?}: {why}")));
        }
    }
    broken
}

#[test]
fn whatever_the_disk_makes_of_unsynced_writes_every_acknowledged_turn_is_there() {
    let mut random = Random::for_test("power cut");
    let cuts = std::env::var("JARVIS_POWER_CUTS").map_or(300, |n| n.parse().unwrap());
    let events = recording(random.seed(), false);
    let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    println!(
        "{} records, {} writes, {} syncs, {} cuts",
        events.len(),
        count(|e| matches!(e, Event::Write { .. })),
        count(|e| matches!(e, Event::Sync { .. })),
        cuts
    );
    assert!(count(|e| matches!(e, Event::Sync { .. })) >= ACTIONS, "a turn without a sync");
    let broken = cut(&events, cuts, &mut random);
    assert!(
        broken.is_empty(),
        "{} of {cuts} cuts broke a promise: {:#?}",
        broken.len(),
        &broken[..broken.len().min(10)]
    );
}

#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let mut random = Random::new(7);
    let events = recording(random.seed(), true);
    let broken = cut(&events, 40, &mut random);
    assert!(broken.len() > 10, "the simulation loses nothing: {broken:?}");
}

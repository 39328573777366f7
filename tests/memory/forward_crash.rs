//! Killed at any moment — the device, Postgres, the network between: every acknowledged turn is in Postgres
//! exactly once and in order after everything has settled.
//!
//! `JARVIS_CRASH_CYCLES` sets the number of kills (100), `JARVIS_TEST_SEED` repeats their plan. The
//! instruction that a kill meets depends on the machine; only the plan is repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::household::{DEVICE, Rows, local_rows, rows_in, settings};
use crate::support::postgres::{Postgres, Stop};
use crate::support::proxy::{Mode, Proxy};
use crate::support::random::Random;
use crate::support::{Root, wait_until};
use jarvisd::clock::Clock;
use jarvisd::health::Health;
use jarvisd::memory::{ConversationId, Device, Kind, Memory, MessageId, NewTurn, Target, TurnMeta};
use jarvisd::store::forward::Forwarder;
use jarvisd::store::postgres::PgSettings;
use jarvisd::store::queue;
use jarvisd::supervisor::Supervisor;
use serde_json::Value;

/// The device: talks to itself as fast as it can, forwards, keeps its file tidy. Started and killed by the
/// test below.
#[test]
fn device() {
    let Some(path) = std::env::var_os("JARVIS_CRASH_DB") else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    let settings = PgSettings {
        password_file: Some(std::path::PathBuf::from(variable("JARVIS_CRASH_PASSWORD_FILE")).into()),
        ..PgSettings::new(&variable("JARVIS_CRASH_URL"), DEVICE).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(talk(Path::new(&path), settings, variable("JARVIS_CRASH_FIRST").parse().unwrap()));
}

async fn talk(path: &Path, settings: PgSettings, first: usize) {
    let memory = Memory::open(path, &Device { id: DEVICE.into() }, Clock::System).await.unwrap();
    let user = memory.user_by_name("Anna").await.unwrap().id;
    let mut supervisor = Supervisor::new();
    let health = Health::default();
    let forwarder = Forwarder::new(memory.store().clone(), memory.clock().clone(), settings);
    supervisor.task("forward", forwarder.run(health, supervisor.token())).unwrap();
    let (tidy, stop) = (memory.clone(), supervisor.token());
    let work = async move {
        tidy.maintain(stop, 365).await;
        Ok::<(), std::convert::Infallible>(())
    };
    supervisor.task("maintain", work).unwrap();
    let mut random = Random::new(u64::try_from(first).unwrap());
    let mut conversation: Option<ConversationId> =
        memory.list_conversations(user, None, 1).await.unwrap().items.first().map(|latest| latest.id);
    for n in first.. {
        let (text, reply) =
            (format!("question {n}"), format!("answer {n} {}", "word ".repeat(random.below(80))));
        if random.one_in(30) {
            conversation = None;
        }
        let turn = NewTurn {
            text: &text,
            kind: Kind::Say,
            reply: &reply,
            responder: "builtin",
            sources: &[],
            forget: &[],
            meta: &TurnMeta::default(),
        };
        let target = conversation.map_or(Target::New, Target::Existing);
        let stored = memory.append_turn(user, target, &turn).await.unwrap();
        conversation = Some(stored.conversation_id);
        let line = format!(
            "turn {} {} {} {n}\n",
            stored.conversation_id, stored.user_message_id, stored.assistant_message_id
        );
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).unwrap();
        out.flush().unwrap();
        drop(out);
        tokio::time::sleep(Duration::from_millis(u64::try_from(random.below(8)).unwrap())).await;
    }
}

/// A device process and the turns that it has acknowledged.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

/// Number of a turn, its conversation, its two messages.
type Acknowledged = BTreeMap<usize, (ConversationId, MessageId, MessageId)>;

impl Running {
    fn start(server: &Postgres, proxy: &Proxy, path: &Path, first: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["forward_crash::device", "--exact", "--nocapture", "--test-threads=1"])
            .env("JARVIS_CRASH_DB", path)
            .env("JARVIS_CRASH_URL", server.url_at(proxy.port()))
            .env("JARVIS_CRASH_PASSWORD_FILE", server.password_file())
            .env("JARVIS_CRASH_FIRST", first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // Some kills come before it has done anything, but not all.
        let mut line = String::new();
        while !line.contains("running 1 test") {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the device did not start");
        }
        Self { child, lines }
    }

    /// `kill -9`; returns all turns acknowledged by then.
    fn kill(mut self, acknowledged: &mut Acknowledged) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut said = String::new();
        self.lines.read_to_string(&mut said).unwrap();
        for line in said.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [.., "turn", conversation, question, answer, n] = words[..] else {
                assert!(!line.contains("panicked"), "{line}");
                continue;
            };
            let ids = (conversation.parse().unwrap(), question.parse().unwrap(), answer.parse().unwrap());
            assert!(acknowledged.insert(n.parse().unwrap(), ids).is_none());
        }
    }
}

fn cycles() -> usize {
    std::env::var("JARVIS_CRASH_CYCLES").map_or(100, |n| n.parse().unwrap())
}

fn moment(random: &mut Random, longest_ms: usize) -> Duration {
    Duration::from_millis(u64::try_from(random.below(longest_ms)).unwrap())
}

#[test]
fn every_acknowledged_turn_is_in_postgres_once_and_in_order_whatever_was_killed_when() {
    let mut random = Random::for_test("crash");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let started = Instant::now();
    let mut server = Postgres::start();
    let proxy = Proxy::to(server.port());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jarvis.db");
    let user = runtime.block_on(async {
        let memory = Memory::open(&path, &Device { id: DEVICE.into() }, Clock::System).await.unwrap();
        let user = memory.add_user("Anna").await.unwrap().id;
        memory.close().await;
        user
    });

    let mut acknowledged = Acknowledged::new();
    let mut victims = BTreeMap::<&str, usize>::new();
    let mut running = None;
    for cycle in 0..cycles() {
        let device =
            running.take().unwrap_or_else(|| Running::start(&server, &proxy, &path, cycle * 1_000_000));
        sleep(moment(&mut random, 500));
        let victim = match random.below(8) {
            0..4 => {
                device.kill(&mut acknowledged);
                "device"
            }
            4 => {
                server.stop(Stop::Immediate);
                sleep(moment(&mut random, 300));
                server.boot();
                running = Some(device);
                "postgres, immediate"
            }
            5 => {
                server.stop(Stop::Kill);
                if random.one_in(2) {
                    device.kill(&mut acknowledged);
                } else {
                    running = Some(device);
                }
                server.boot();
                "postgres, kill -9"
            }
            _ => {
                // A killed proxy leaves sockets that the kernel closes and a port that refuses, or it dies
                // with a COMMIT in its hands.
                proxy.set(*random.pick(&[
                    Mode::Refuse,
                    Mode::Refuse,
                    Mode::LoseCommitAnswer,
                    Mode::LoseCommit,
                ]));
                sleep(moment(&mut random, 300));
                proxy.set(Mode::Refuse);
                sleep(moment(&mut random, 100));
                proxy.set(Mode::Pass);
                running = Some(device);
                "network"
            }
        };
        *victims.entry(victim).or_default() += 1;
    }
    if let Some(device) = running {
        device.kill(&mut acknowledged);
    }

    // Everything is up again and nobody speaks: it settles.
    let local = runtime.block_on(async {
        let memory = Memory::open(&path, &Device { id: DEVICE.into() }, Clock::System).await.unwrap();
        memory.check().await.unwrap();
        let mut supervisor = Supervisor::new();
        let settings = settings(&server, proxy.port());
        let forwarder = Forwarder::new(memory.store().clone(), memory.clock().clone(), settings);
        supervisor.task("forward", forwarder.run(Health::default(), supervisor.token())).unwrap();
        let deadline = Instant::now() + 2 * crate::support::PATIENCE;
        loop {
            let depth = queue::depth(memory.store()).await.unwrap();
            assert_eq!(depth.dead_letters, 0);
            if depth.entries == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{depth:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        supervisor.drain(Duration::from_secs(10)).await;
        let local = local_rows(&memory, user).await;
        memory.close().await;
        local
    });
    let there = rows_in(&server);
    assert_eq!(there, local, "Postgres and the device differ");
    let stored = acknowledged_are_there(&acknowledged, &there);
    println!(
        "{} kills {victims:?} in {:.0} s: {} turns acknowledged, {stored} stored, {} commits made ambiguous, \
         0 lost, 0 twice",
        cycles(),
        started.elapsed().as_secs_f64(),
        acknowledged.len(),
        proxy.lost_commits(),
    );
}

/// Each acknowledged turn is in its conversation, both halves one after the other, in the order of speech.
/// Returns the number of turns there, acknowledged or not.
fn acknowledged_are_there(acknowledged: &Acknowledged, there: &Rows) -> usize {
    let mut places = BTreeMap::<MessageId, (ConversationId, usize)>::new();
    let mut texts = BTreeSet::new();
    for (conversation, messages) in there {
        assert_eq!(messages.len() % 2, 0, "half a turn in {conversation}");
        for (at, (id, text)) in messages.iter().enumerate() {
            assert!(places.insert(*id, (*conversation, at)).is_none());
            assert!(texts.insert(text), "said once and stored twice: {text:?}");
        }
    }
    let mut last = BTreeMap::<ConversationId, usize>::new();
    for (n, (conversation, question, answer)) in acknowledged {
        let place = places.get(question).unwrap_or_else(|| panic!("turn {n} was acknowledged and is lost"));
        assert_eq!(place.0, *conversation);
        assert_eq!(places.get(answer), Some(&(*conversation, place.1 + 1)), "the answer of turn {n}");
        if let Some(before) = last.insert(*conversation, place.1) {
            assert!(place.1 > before, "turn {n} is out of order");
        }
    }
    texts.len() / 2
}

#[test]
fn the_real_daemon_and_the_real_command_line_lose_nothing_either() {
    let mut random = Random::for_test("daemon crash");
    let rounds = (cycles() / 12).max(4);
    let mut server = Postgres::start();
    let proxy = Proxy::to(server.port());
    let root = Root::with_config(&format!(
        "[device]\nid = \"{DEVICE}\"\n[store]\npostgres_url = \"{}\"\npostgres_password_file = \"{}\"\n",
        server.url_at(proxy.port()),
        server.password_file().display()
    ));
    root.ok(&["user", "add", "anna"]);
    let mut acknowledged = Vec::new();
    let mut daemon = root.daemon();
    for round in 0..rounds {
        for n in 0..4 {
            let text = format!("remember that item {round}-{n} is on the shelf");
            let mut child = root.command(&["ask", "--user", "anna", "--json", &text]).spawn().unwrap();
            if random.one_in(3) {
                sleep(moment(&mut random, 150));
                child.kill().unwrap();
            }
            if random.one_in(4) {
                proxy.set(Mode::Refuse);
                proxy.set(*random.pick(&[Mode::Pass, Mode::LoseCommitAnswer]));
            }
            let output = child.wait_with_output().unwrap();
            if let Ok(reply) = serde_json::from_slice::<Value>(&output.stdout) {
                acknowledged.push(reply);
            }
        }
        proxy.set(Mode::Pass);
        match random.below(3) {
            0 => server.restart(*random.pick(&[Stop::Immediate, Stop::Kill])),
            _ => {
                daemon.child.kill().unwrap();
                daemon.child.wait().unwrap();
                daemon = root.daemon();
            }
        }
    }
    wait_until("the queue to be empty", || root.json(&["queue", "status"])["entries"] == 0);
    assert_eq!(daemon.stop(), Some(0));
    let there = rows_in(&server);
    let all: Vec<&MessageId> = there.values().flatten().map(|(id, _)| id).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    let mut last = BTreeMap::<ConversationId, usize>::new();
    for reply in &acknowledged {
        let conversation: ConversationId = reply["conversation_id"].as_str().unwrap().parse().unwrap();
        let messages = &there[&conversation];
        let at = |half: &str| {
            let id: MessageId = reply[half].as_str().unwrap().parse().unwrap();
            messages.iter().position(|(there, _)| *there == id).unwrap_or_else(|| panic!("lost: {reply}"))
        };
        let (question, answer) = (at("user_message_id"), at("assistant_message_id"));
        assert_eq!(answer, question + 1);
        assert!(
            last.insert(conversation, question).is_none_or(|before| before < question),
            "out of order: {reply}"
        );
    }
    println!(
        "{} of {} turns acknowledged in {rounds} rounds, {} stored",
        acknowledged.len(),
        4 * rounds,
        all.len() / 2
    );
    assert!(acknowledged.len() >= rounds, "hardly anything was acknowledged");
}

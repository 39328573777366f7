//! A process that dies at any moment: every turn it acknowledged is there, once, in order.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

const DATABASE: &str = "JARVIS_TEST_CRASH_DATABASE";
const TURNS: &str = "JARVIS_TEST_CRASH_TURNS";

fn child(name: &str, database: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("memory::tests::crash::{name}"), "--ignored", "--nocapture"]);
    command.env(DATABASE, database).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Not a test: what the tests below start and kill. Writes turns and prints the number of each one that is
/// stored.
#[tokio::test]
#[ignore = "the child process of the crash tests"]
async fn writes_turns_until_it_is_killed() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let turns = std::env::var(TURNS).ok().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let memory = open(Path::new(&path)).await;
    let user = match memory.user_by_name("Anna").await {
        Ok(user) => user,
        Err(_) => memory.add_user("Anna").await.unwrap(),
    };
    let latest = memory.list_conversations(user.id, None, 1).await.unwrap().items.pop();
    let (id, mut n) = match latest {
        Some(conversation) => {
            let last = memory.history(user.id, conversation.id, None, 1).await.unwrap();
            (conversation.id, last.first().map_or(0, |m| m.seq / 2))
        }
        None => (memory.new_conversation(user.id, None).await.unwrap(), 0),
    };
    for _ in 0..turns {
        n += 1;
        let turn = say(&memory, user.id, Target::Existing(id), &format!("turn {n}"), "ok").await.unwrap();
        assert_eq!(turn.seq, 2 * n - 1);
        println!("\nstored {n}");
    }
}

#[tokio::test]
async fn every_acknowledged_turn_survives_kill_nine_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let mut acknowledged = 0;
    for round in 0..12_u64 {
        let mut writer = child("writes_turns_until_it_is_killed", &path).spawn().unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let killer = std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let stored = lines.map_while(std::io::Result::ok);
                stored.filter_map(|line| line.strip_prefix("stored ")?.parse::<i64>().ok()).last()
            });
            std::thread::sleep(Duration::from_millis(60 + round * 37 % 150));
            writer.kill().unwrap(); // SIGKILL
            writer.wait().unwrap();
            reader.join().unwrap()
        });
        acknowledged = killer.unwrap_or(acknowledged).max(acknowledged);
        let memory = open(&path).await;
        memory.check().await.unwrap();
        let Ok(user) = memory.user_by_name("Anna").await else {
            assert_eq!(acknowledged, 0);
            continue;
        };
        let Some(conversation) = memory.list_conversations(user.id, None, 1).await.unwrap().items.pop()
        else {
            assert_eq!(acknowledged, 0);
            continue;
        };
        let history = memory.history(user.id, conversation.id, None, 1_000_000).await.unwrap();
        let stored = i64::try_from(history.len()).unwrap();
        assert_eq!(history.iter().map(|m| m.seq).collect::<Vec<_>>(), (1..=stored).collect::<Vec<_>>());
        assert!(
            stored % 2 == 0 && stored / 2 >= acknowledged,
            "{stored} messages, {acknowledged} turns acknowledged"
        );
        assert!(stored / 2 <= acknowledged + 1, "{stored} messages, {acknowledged} turns acknowledged");
        let pending = queued(&memory).await;
        assert_eq!(pending.iter().find(|(op, _)| op == "insert_message").map_or(0, |(_, n)| *n), stored);
        acknowledged = stored / 2;
    }
    assert!(acknowledged > 0, "no round lived long enough to write");
}

#[tokio::test]
async fn a_turn_costs_one_fsync() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    open(&path).await.close().await;
    let count = |turns: usize| -> Option<usize> {
        let trace = folder.path().join("trace");
        let child = child("writes_turns_until_it_is_killed", &path);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"]).arg(&trace).arg(child.get_program());
        strace.args(child.get_args()).env(DATABASE, &path).env(TURNS, turns.to_string());
        let done = strace.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !done.is_ok_and(|status| status.success()) {
            return None;
        }
        Some(std::fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains("sync(")).count())
    };
    // The first run also writes the user and the conversation; the difference of the next two is turns alone.
    let counts = [1, 20, 120].map(count);
    let [Some(_), Some(few), Some(many)] = counts else {
        crate::testdata::skipped("strace is not installed or may not trace");
        return;
    };
    // Starting a fresh write-ahead log costs up to two more, once a process; a second fsync a turn would be
    // 100 more.
    assert!((many - few).abs_diff(100) <= 2, "{few} fsyncs for 20 turns, {many} for 120");
}

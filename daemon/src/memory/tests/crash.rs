//! A process that is killed at any moment: every turn and every sentence it acknowledged exists once, in
//! order.

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

/// Not a test but the child process of the tests below. Writes turns and prints the number of each stored
/// one.
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

/// Not a test but a child process. Gives answers in two sentences and prints the number of each stored step.
#[tokio::test]
#[ignore = "the child process of the crash tests"]
async fn gives_answers_in_sentences_until_it_is_killed() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let turns = std::env::var(TURNS).ok().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let memory = open(Path::new(&path)).await;
    let user = match memory.user_by_name("Anna").await {
        Ok(user) => user.id,
        Err(_) => memory.add_user("Anna").await.unwrap().id,
    };
    let session = SessionId::new("kitchen").unwrap();
    let (id, _) = memory.get_or_create_conversation(user, &session, None).await.unwrap();
    let meta = TurnMeta::default();
    let mut step = memory.conversation(user, id).await.unwrap().messages / 2 * 3;
    let mut stored = || {
        step += 1;
        println!("\nstored {step}");
    };
    for _ in 0..turns {
        let said = Said { text: "go on", responder: "test", sources: &[], meta: &meta };
        let mut turn = memory.open_turn(user, Target::Existing(id), &said).await.unwrap();
        stored();
        for sentence in ["one", "two"] {
            memory.add_sentence(&mut turn, sentence).await.unwrap();
            stored();
        }
        memory.close_turn(turn, Ended::Complete, &Effects::default()).await.unwrap();
    }
}

/// Lets the child write for a while and kills it; returns the last step that it printed. In every second
/// round the time starts with the first step, so that a busy machine writes as well.
fn killed_after(name: &str, path: &Path, round: u64, time: Duration) -> Option<i64> {
    let mut writer = child(name, path).spawn().unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let (begun, first) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let stored = lines.map_while(std::io::Result::ok);
            let steps = stored.filter_map(|line| line.strip_prefix("stored ")?.parse::<i64>().ok());
            let mut last = None;
            for step in steps {
                // One waiting message is enough.
                let _ = begun.try_send(());
                last = Some(step);
            }
            last
        });
        if round % 2 == 1 {
            first.recv().unwrap();
        }
        std::thread::sleep(time);
        writer.kill().unwrap(); // SIGKILL
        writer.wait().unwrap();
        reader.join().unwrap()
    })
}

#[tokio::test]
async fn every_acknowledged_sentence_survives_kill_nine_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let (mut acknowledged, mut before, mut cut) = (0, 0, 0);
    for round in 0..12_u64 {
        let time = Duration::from_millis(60 + round * 41 % 150);
        let killed = killed_after("gives_answers_in_sentences_until_it_is_killed", &path, round, time);
        acknowledged = killed.unwrap_or(acknowledged).max(acknowledged);
        let memory = open(&path).await;
        memory.check().await.unwrap();
        let user = match memory.user_by_name("Anna").await {
            Ok(user) => user.id,
            Err(_) => continue,
        };
        let session = SessionId::new("kitchen").unwrap();
        let Some(id) = memory.session(user, &session).await.unwrap() else { continue };
        let history = memory.history(user, id, None, 1_000_000).await.unwrap();
        let seqs: Vec<i64> = history.iter().map(|message| message.seq).collect();
        assert_eq!(seqs, (1..=i64::try_from(history.len()).unwrap()).collect::<Vec<_>>());
        let turns: Vec<_> = history.chunks(2).collect();
        let Some((last, whole)) = turns.split_last().filter(|_| turns.len() > before) else { continue };
        assert!(whole.iter().all(|turn| turn[0].text == "go on" && turn.len() == 2), "{turns:?}");
        // Every acknowledged step exists: of the last turn the words and the sentences so far.
        let sentences = last[1].text.split_whitespace().count();
        let steps = i64::try_from(whole.len() * 3 + 1 + sentences).unwrap();
        assert!((acknowledged..=acknowledged + 1).contains(&steps), "{steps} steps, {acknowledged} known");
        let marked = last[1].meta.as_ref().is_some_and(|meta| meta["ended"] == "cut");
        assert!(marked || sentences == 2, "{last:?}");
        cut += usize::from(marked);
        let pending = queued(&memory).await;
        let inserts = pending.iter().find(|(op, _)| op == "insert_message").map_or(0, |(_, n)| *n);
        assert_eq!(inserts, i64::try_from(history.len()).unwrap());
        // The next round counts on from whole turns.
        before = turns.len();
        acknowledged = i64::try_from(before * 3).unwrap();
    }
    assert!(acknowledged > 0 && cut > 0, "{acknowledged} steps, {cut} turns cut");
}

#[tokio::test]
async fn every_acknowledged_turn_survives_kill_nine_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let mut acknowledged = 0;
    for round in 0..12_u64 {
        let time = Duration::from_millis(60 + round * 37 % 150);
        let killer = killed_after("writes_turns_until_it_is_killed", &path, round, time);
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

/// The fsyncs of a hundred turns, or `None` if they cannot be counted.
async fn fsyncs_of_100_turns(name: &str) -> Option<usize> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    open(&path).await.close().await;
    let count = |turns: usize| -> Option<usize> {
        let trace = folder.path().join("trace");
        let child = child(name, &path);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"]).arg(&trace).arg(child.get_program());
        strace.args(child.get_args()).env(DATABASE, &path).env(TURNS, turns.to_string());
        let done = strace.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !done.is_ok_and(|status| status.success()) {
            return None;
        }
        Some(std::fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains("sync(")).count())
    };
    // The first run also writes the user and the conversation; the difference of the other two is turns
    // alone.
    let counts = [1, 20, 120].map(count);
    let [Some(_), Some(few), Some(many)] = counts else {
        crate::testdata::skipped("strace is not installed or may not trace");
        return None;
    };
    Some(many - few)
}

#[tokio::test]
async fn a_turn_costs_one_fsync_and_an_answer_in_sentences_one_for_each_and_two_more() {
    for (name, expected) in
        [("writes_turns_until_it_is_killed", 100), ("gives_answers_in_sentences_until_it_is_killed", 400)]
    {
        let Some(counted) = fsyncs_of_100_turns(name).await else { return };
        // Starting a fresh write-ahead log costs up to two more, once a process. One more fsync per turn
        // would be 100 more.
        assert!(counted.abs_diff(expected) <= 2, "{name}: {counted} fsyncs for 100 turns");
    }
}

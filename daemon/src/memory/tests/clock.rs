//! Tests of an unset clock, and of one that jumps years in both directions after it was set.

use super::*;
use crate::clock::DrivenClock;

const YEAR_MS: i64 = 365 * 86_400_000;

async fn open_at(path: &Path, clock: &Arc<DrivenClock>) -> Memory {
    Memory::open(path, &device(), Clock::Driven(clock.clone())).await.unwrap()
}

async fn times(memory: &Memory, sql: &'static str) -> Vec<(i64, bool)> {
    let rows = memory.read_all(sqlx::query(sql)).await.unwrap();
    rows.iter().map(|row| (get(row, "t").unwrap(), get(row, "s").unwrap())).collect()
}

const MESSAGES: &str = "SELECT wall_unix_ms AS t, clock_synced AS s FROM messages ORDER BY rid";
const CREATED: &str = "SELECT created_unix_ms AS t, created_synced AS s FROM conversations ORDER BY rid";
const UPDATED: &str = "SELECT updated_unix_ms AS t, updated_synced AS s FROM conversations ORDER BY rid";
const AUDIT: &str = "SELECT wall_unix_ms AS t, clock_synced AS s FROM audit ORDER BY rid";

#[tokio::test]
async fn rows_from_before_the_clock_was_set_get_their_true_time_whichever_way_it_jumps() {
    for guess in [0, NOON_UNIX_MS - 20 * YEAR_MS, NOON_UNIX_MS + 30 * YEAR_MS] {
        let folder = tempfile::tempdir().unwrap();
        let clock = DrivenClock::new("boot-1", guess, false);
        let memory = open_at(&folder.path().join("j.db"), &clock).await;
        let anna = memory.add_user("Anna").await.unwrap().id;
        let turn = say(&memory, anna, Target::New, "one", "1").await.unwrap();
        let here = Target::Existing(turn.conversation_id);
        clock.pass(60_000);
        // The unset clock jumps too.
        clock.set(guess + 5 * YEAR_MS, false);
        say(&memory, anna, here, "two", "2").await.unwrap();
        memory
            .append_audit(&NewAudit { user: Some(anna), action: "verify", outcome: "verified", detail: None })
            .await
            .unwrap();
        let empty = memory.new_conversation(anna, Some("Empty")).await.unwrap();
        assert_eq!(memory.restamp().await.unwrap(), 0, "nothing is known yet");
        clock.pass(30_000);
        let before = queued(&memory).await;

        clock.set(NOON_UNIX_MS, true);
        let late = TurnMeta {
            at: Some(Stamp {
                wall_unix_ms: guess,
                synced: false,
                boot_id: "boot-1".into(),
                monotonic_ns: 86_000_000_000,
            }),
            ..TurnMeta::default()
        };
        assert_eq!(memory.restamp().await.unwrap(), 4 + 2 + 1);
        let two = NOON_UNIX_MS - 30_000;
        let one = two - 60_000;
        assert_eq!(times(&memory, MESSAGES).await, [(one, true), (one, true), (two, true), (two, true)]);
        assert_eq!(times(&memory, CREATED).await, [(one, true), (two, true)]);
        assert_eq!(times(&memory, UPDATED).await, [(two, true), (two, true)]);
        assert_eq!(times(&memory, AUDIT).await, [(two, true)]);
        // Each row is queued again, once.
        let after = queued(&memory).await;
        let added = |op: &str| {
            let of = |list: &[(String, i64)]| list.iter().find(|(o, _)| o == op).map_or(0, |(_, n)| *n);
            of(&after) - of(&before)
        };
        assert_eq!((added("insert_message"), added("upsert_conversation"), added("append_audit")), (4, 2, 1));
        assert_eq!(memory.restamp().await.unwrap(), 0);

        // Words heard before and stored after the clock was set are found as well.
        let turn = NewTurn {
            text: "three",
            kind: Kind::Say,
            reply: "3",
            responder: "t",
            sources: &[],
            forget: &[],
            meta: &late,
        };
        memory.append_turn(anna, here, &turn).await.unwrap();
        assert_eq!(memory.restamp().await.unwrap(), 1);
        assert_eq!(times(&memory, MESSAGES).await[4], (NOON_UNIX_MS - 5_000, true));

        // Numbers give the order, whatever the times are, even after jumps of a clock that claims to be
        // right.
        clock.set(NOON_UNIX_MS - 10 * YEAR_MS, true);
        say(&memory, anna, here, "four", "4").await.unwrap();
        clock.set(NOON_UNIX_MS + 10 * YEAR_MS, true);
        say(&memory, anna, here, "five", "5").await.unwrap();
        let history = memory.history(anna, turn_id(here), None, 20).await.unwrap();
        let said: Vec<_> = history.iter().filter(|m| m.role == Role::User).map(|m| m.text.as_str()).collect();
        assert_eq!(said, ["one", "two", "three", "four", "five"]);
        let listed = memory.list_conversations(anna, None, 5).await.unwrap().items;
        assert_eq!(listed.iter().map(|c| c.id).collect::<Vec<_>>(), [turn_id(here), empty]);
        // Within one boot a jump does not count as time passed.
        let now = memory.clock().stamp();
        assert_eq!(memory.current_conversation(anna, 1_000, &now).await.unwrap(), Some(turn_id(here)));
    }
}

fn turn_id(target: Target<'_>) -> ConversationId {
    match target {
        Target::Existing(id) => id,
        _ => panic!("{target:?}"),
    }
}

#[tokio::test]
async fn rows_of_an_earlier_boot_keep_their_guess_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j.db");
    let clock = DrivenClock::new("boot-1", 5_000, false);
    let memory = open_at(&path, &clock).await;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let turn = say(&memory, anna, Target::New, "one", "1").await.unwrap();
    memory.close().await;
    let clock = DrivenClock::new("boot-2", NOON_UNIX_MS, true);
    let memory = open_at(&path, &clock).await;
    assert_eq!(memory.restamp().await.unwrap(), 0);
    assert_eq!(times(&memory, MESSAGES).await, [(5_000, false), (5_000, false)]);
    // It continues in the new boot: its latest turn has a time, its beginning is still a guess.
    say(&memory, anna, Target::Existing(turn.conversation_id), "two", "2").await.unwrap();
    assert_eq!(times(&memory, CREATED).await, [(5_000, false)]);
    assert_eq!(times(&memory, UPDATED).await, [(NOON_UNIX_MS, true)]);
    // The clock is lost and found again in one boot.
    clock.set(1_000, false);
    say(&memory, anna, Target::New, "three", "3").await.unwrap();
    assert_eq!(memory.restamp().await.unwrap(), 0);
    clock.pass(1_000);
    clock.set(NOON_UNIX_MS + 2_000, true);
    assert_eq!(memory.restamp().await.unwrap(), 3);
    assert_eq!(times(&memory, MESSAGES).await[4], (NOON_UNIX_MS + 1_000, true));
}

#[tokio::test]
async fn a_running_daemon_restamps_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let clock = DrivenClock::new("boot-1", 0, false);
    let memory = open_at(&folder.path().join("j.db"), &clock).await;
    let anna = memory.add_user("Anna").await.unwrap().id;
    say(&memory, anna, Target::New, "one", "1").await.unwrap();
    clock.set(NOON_UNIX_MS, true);
    let stop = CancellationToken::new();
    let watch = async {
        for _ in 0..500 {
            if times(&memory, MESSAGES).await.iter().all(|(_, synced)| *synced) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    tokio::join!(memory.maintain(stop.clone(), 365), watch);
    assert_eq!(times(&memory, MESSAGES).await, [(NOON_UNIX_MS, true), (NOON_UNIX_MS, true)]);
}

#[tokio::test]
async fn a_clock_that_is_lost_while_rows_get_their_time_ends_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let clock = DrivenClock::new("boot-1", 0, false);
    let memory = open_at(&folder.path().join("j.db"), &clock).await;
    let anna = memory.add_user("Anna").await.unwrap().id;
    say(&memory, anna, Target::New, "one", "1").await.unwrap();
    clock.set(NOON_UNIX_MS, true);
    // The work has begun with a set clock, and waits for this transaction.
    let tx = memory.store.begin().await.unwrap();
    let lose = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        clock.set(NOON_UNIX_MS, false);
        tx.rollback().await.unwrap();
    };
    let work = tokio::time::timeout(Duration::from_secs(30), memory.restamp());
    let (done, ()) = tokio::join!(work, lose);
    assert_eq!(done.expect("it ends").unwrap(), 0);
    clock.set(NOON_UNIX_MS, true);
    assert_eq!(memory.restamp().await.unwrap(), 3, "and is done once the clock is set again");
}

#[tokio::test]
async fn old_rows_of_the_audit_log_go_once_the_clock_is_set_and_a_guess_is_as_old_as_the_rows_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = DrivenClock::new("boot-1", 4_000, false);
    let memory = open_at(&folder.path().join("j.db"), &clock).await;
    let entry = NewAudit { user: None, action: "verify", outcome: "rejected", detail: None };
    let write = async || memory.append_audit(&entry).await.unwrap();
    write().await;
    clock.set(NOON_UNIX_MS - 2 * YEAR_MS, true);
    write().await;
    clock.set(5_000, false);
    write().await;
    clock.set(NOON_UNIX_MS, true);
    write().await;
    clock.set(NOON_UNIX_MS, false);
    assert_eq!(memory.prune_audit(365).await.unwrap(), None, "no clock, no age");
    assert_eq!(times(&memory, AUDIT).await.len(), 4);
    clock.set(NOON_UNIX_MS, true);
    assert_eq!(memory.prune_audit(3 * 365).await.unwrap(), Some(0));
    assert_eq!(memory.prune_audit(365).await.unwrap(), Some(2));
    assert_eq!(times(&memory, AUDIT).await, [(5_000, false), (NOON_UNIX_MS, true)]);
}

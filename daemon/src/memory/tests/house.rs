//! A new database gets every row of this device, in pieces, whatever happens in between.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;
use uuid::Uuid;

use super::*;
use crate::store::outgoing;
use crate::store::pull_cursor::PullCursor;
use crate::store::queue::{Route, sent};
use crate::store::resync::{
    Handshake, Sent, handshake_in_pieces, is_with, queue_piece, sent_to, still_to_queue,
};

/// The operation of an entry, and its row.
type Entry = (String, Vec<u8>);

const OLD: Uuid = Uuid::from_u128(1);
const NEW: Uuid = Uuid::from_u128(2);
const OTHER: Uuid = Uuid::from_u128(3);
/// Small pieces, since these memories are small.
const PIECE: i64 = 3;

async fn handshake(store: &Store, house: Uuid, now_unix_ms: i64) -> Result<Handshake, StoreError> {
    handshake_in_pieces(store, house, now_unix_ms, PIECE).await
}

async fn queue_more(store: &Store, house: Uuid, now_unix_ms: i64) -> Result<bool, StoreError> {
    queue_piece(store, house, now_unix_ms, PIECE).await
}

/// Every row and every deletion, as the entry that sends it.
const EVERYTHING: &str = "SELECT 'upsert_user' AS op, id FROM users UNION ALL SELECT 'upsert_voiceprint', id
    FROM voiceprints
    UNION ALL SELECT 'upsert_conversation', id FROM conversations UNION ALL SELECT 'insert_message', id
    FROM messages
    UNION ALL SELECT 'append_audit', id FROM audit UNION ALL SELECT 'delete_' || kind, id FROM tombstones";
const QUEUE: &str = "SELECT op, entity_id AS id FROM queue ORDER BY seq";

async fn entries(memory: &Memory, sql: &'static str) -> Vec<Entry> {
    let rows = memory.read_all(sqlx::query(sql)).await.unwrap();
    rows.iter().map(|row| (row.get("op"), row.get("id"))).collect()
}

/// A house with a row of each kind; [`OLD`] has all of them except the last turn.
async fn household() -> (Home, UserId, UserId) {
    let home = Home::new().await;
    let memory = &home.memory;
    let (anna, bob) = (memory.add_user("Anna").await.unwrap().id, memory.add_user("Bob").await.unwrap().id);
    for (user, n) in [(anna, 5), (bob, 4)] {
        for n in 0..n {
            let said = say(memory, user, Target::New, &format!("talk {n}"), "yes").await.unwrap();
            say(memory, user, Target::Existing(said.conversation_id), "more", "yes").await.unwrap();
            if n == 1 {
                memory.delete_conversation(user, said.conversation_id).await.unwrap();
            }
        }
        memory.put_voiceprint(user, &print(1)).await.unwrap();
    }
    for n in 0..5 {
        let gone = memory.add_user(&format!("Gone {n}")).await.unwrap().id;
        memory.delete_user(gone).await.unwrap();
    }
    assert!(!handshake(memory.store(), OLD, NOON_UNIX_MS).await.unwrap().another);
    send_all(memory, OLD).await;
    say(memory, anna, Target::New, "not sent yet", "yes").await.unwrap();
    (home, anna, bob)
}

/// Removes all entries from the queue as if they had been sent to `house`; returns them.
async fn send_all(memory: &Memory, house: Uuid) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let more = queue_more(memory.store(), house, NOON_UNIX_MS).await.unwrap();
        all.extend(entries(memory, QUEUE).await);
        let route = Route { generation: memory.store().generation(), house };
        assert!(sent(memory.store(), route, i64::MAX, 0, NOON_UNIX_MS).await.unwrap());
        if !more && count(memory, "SELECT count(*) AS n FROM queue").await == 0 {
            return all;
        }
    }
}

/// Begins the handshake with `house` and is killed after `commits` commits; returns whether it was finished
/// before.
async fn killed_while_meeting(home: &mut Home, house: Uuid, commits: usize) -> bool {
    let mut seen = home.memory.store().commits();
    seen.mark_unchanged();
    let killed = async {
        for _ in 0..commits {
            seen.changed().await.unwrap();
        }
    };
    let done = tokio::select! {
        biased;
        () = killed => false,
        met = handshake(home.memory.store(), house, NOON_UNIX_MS) => met.is_ok(),
    };
    // As after a kill: nothing is closed in order.
    home.memory = open(&home.path()).await;
    done
}

/// Checks that every row was queued, after the rows it needs.
fn complete(queued: &[Entry], memory: &[Entry]) {
    let known: BTreeSet<&Entry> = queued.iter().collect();
    for row in memory {
        assert!(known.contains(row), "{row:?} was not queued");
    }
    let order = ["delete_", "upsert_user", "upsert_voiceprint", "upsert_conversation", "insert_message"];
    let rank = |op: &str| order.iter().position(|kind| op.starts_with(kind)).unwrap_or(order.len());
    let mut first = BTreeMap::new();
    for (at, (op, _)) in queued.iter().enumerate() {
        first.entry(rank(op)).or_insert(at);
    }
    let firsts: Vec<usize> = first.into_values().collect();
    assert!(firsts.is_sorted(), "{queued:?}");
}

#[tokio::test]
async fn another_database_gets_everything_wherever_the_device_is_killed_in_between() {
    for commits in 1.. {
        let (mut home, anna, _) = household().await;
        let done = killed_while_meeting(&mut home, NEW, commits).await;
        // Until then an older program takes this file for one that was never sent.
        assert_eq!(home.memory.setting::<Uuid>("postgres_house").await.unwrap(), None);
        let met = handshake(home.memory.store(), NEW, NOON_UNIX_MS).await.unwrap();
        assert!(met.more && !met.another, "{met:?}");
        assert!(still_to_queue(home.memory.store()).await.unwrap() > Some(20));
        let queued = send_all(&home.memory, NEW).await;
        complete(&queued, &entries(&home.memory, EVERYTHING).await);
        assert_eq!(queued.len(), BTreeSet::from_iter(&queued).len(), "once is enough");
        // The end is noted.
        assert!(!handshake(home.memory.store(), NEW, NOON_UNIX_MS).await.unwrap().more);
        assert_eq!(still_to_queue(home.memory.store()).await.unwrap(), None);
        say(&home.memory, anna, Target::New, "afterwards", "yes").await.unwrap();
        assert_eq!(send_all(&home.memory, NEW).await.len(), 3);
        if done {
            assert!(commits > 8, "there were {commits} commits to be killed at");
            break;
        }
    }
}

#[tokio::test]
async fn everything_is_sent_only_once_nothing_is_left_to_be_queued() {
    let (home, ..) = household().await;
    let store = home.memory.store();
    let route = |house| Route { generation: store.generation(), house };
    assert_eq!(sent_to(store, OLD).await.unwrap(), Sent::Waits);
    assert!(sent(store, route(OLD), i64::MAX, 0, NOON_UNIX_MS).await.unwrap());
    assert_eq!(sent_to(store, OLD).await.unwrap(), Sent::All);
    assert_eq!(sent_to(store, NEW).await.unwrap(), Sent::Elsewhere);
    handshake(store, NEW, NOON_UNIX_MS).await.unwrap();
    let mut empty_in_between = 0;
    loop {
        assert!(sent(store, route(NEW), i64::MAX, 0, NOON_UNIX_MS).await.unwrap());
        // The queue is empty now, again and again.
        assert_eq!(count(&home.memory, "SELECT count(*) AS n FROM queue").await, 0);
        if sent_to(store, NEW).await.unwrap() == Sent::All {
            break;
        }
        assert_eq!(sent_to(store, NEW).await.unwrap(), Sent::Queueing);
        assert!(crate::store::queue::depth(store).await.unwrap().queueing);
        empty_in_between += 1;
        queue_more(store, NEW, NOON_UNIX_MS).await.unwrap();
    }
    assert!(empty_in_between > 3, "{empty_in_between}");
    assert!(!crate::store::queue::depth(store).await.unwrap().queueing);
}

#[tokio::test]
async fn what_happens_in_between_is_queued_as_well() {
    for commits in 1.. {
        let (mut home, anna, bob) = household().await;
        let done = killed_while_meeting(&mut home, NEW, commits).await;
        let memory = &home.memory;
        let page = memory.list_conversations(anna, None, 10).await.unwrap().items;
        say(memory, anna, Target::Existing(page[1].id), "in between", "yes").await.unwrap();
        // The newest rows: the next rows may get their numbers.
        memory.delete_conversation(anna, page[0].id).await.unwrap();
        let made = say(memory, bob, Target::New, "in their place", "yes").await.unwrap();
        let third = memory.add_user("Carl").await.unwrap().id;
        memory.put_voiceprint(third, &print(3)).await.unwrap();
        memory.delete_voiceprint(bob).await.unwrap();
        handshake(memory.store(), NEW, NOON_UNIX_MS).await.unwrap();
        assert!(queue_more(memory.store(), NEW, NOON_UNIX_MS).await.unwrap());
        memory.rename_conversation(bob, made.conversation_id, "renamed").await.unwrap();
        say(memory, bob, Target::Existing(made.conversation_id), "again", "yes").await.unwrap();
        let queued: BTreeSet<Entry> = send_all(memory, NEW).await.into_iter().collect();
        for row in entries(memory, EVERYTHING).await {
            assert!(queued.contains(&row), "killed after {commits} commits: {row:?} was not queued");
        }
        if done {
            break;
        }
    }
}

#[tokio::test]
async fn a_third_database_in_between_gets_everything_too_and_so_does_the_first_one_again() {
    for commits in [1, 4, 9, 99] {
        for third in [OTHER, OLD] {
            let (mut home, ..) = household().await;
            killed_while_meeting(&mut home, NEW, commits).await;
            let met = handshake(home.memory.store(), third, NOON_UNIX_MS).await.unwrap();
            assert!(met.another && met.more, "{met:?}");
            complete(&send_all(&home.memory, third).await, &entries(&home.memory, EVERYTHING).await);
        }
    }
}

#[tokio::test]
async fn nothing_leaves_the_queue_for_a_database_that_is_no_longer_ours() {
    let (home, ..) = household().await;
    let store = home.memory.store();
    let route = |house| Route { generation: store.generation(), house };
    assert!(!sent(store, route(NEW), i64::MAX, 0, NOON_UNIX_MS).await.unwrap());
    handshake(store, NEW, NOON_UNIX_MS).await.unwrap();
    let before = entries(&home.memory, QUEUE).await;
    assert!(!sent(store, route(OLD), i64::MAX, 0, NOON_UNIX_MS).await.unwrap());
    assert_eq!(entries(&home.memory, QUEUE).await, before);
    assert!(!queue_more(store, OLD, NOON_UNIX_MS).await.unwrap());
    // No row is taken from it either.
    let read = |house| PullCursor { house, ..PullCursor::default() };
    let start = RoundStart { generation: store.generation(), stored: false };
    assert_eq!(home.memory.apply_pulled(&Pulled::default(), &read(OLD), start).await.unwrap(), None);
    assert!(home.memory.apply_pulled(&Pulled::default(), &read(NEW), start).await.unwrap().is_some());
    let mut tx = store.begin().await.unwrap();
    assert!(is_with(&mut tx, NEW).await.unwrap() && !is_with(&mut tx, OLD).await.unwrap());
}

#[tokio::test]
async fn an_older_program_in_between_leaves_a_mark_that_counts_no_more() {
    let (mut home, ..) = household().await;
    killed_while_meeting(&mut home, NEW, 4).await;
    // It has queued everything and noted its database.
    home.memory.set_setting("postgres_house", &NEW).await.unwrap();
    let met = handshake(home.memory.store(), NEW, NOON_UNIX_MS).await.unwrap();
    assert!(!met.more && !met.another, "{met:?}");
    assert_eq!(still_to_queue(home.memory.store()).await.unwrap(), None);
    assert!(handshake(home.memory.store(), OTHER, NOON_UNIX_MS).await.unwrap().more);
    complete(&send_all(&home.memory, OTHER).await, &entries(&home.memory, EVERYTHING).await);
}

#[tokio::test]
async fn an_answer_that_goes_first_is_tied_to_what_it_was_made_from_when_that_goes() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let note = say(&home.memory, anna, Target::New, "the key is blue", "noted").await.unwrap();
    let source = note.user_message_id;
    let answer =
        say_as(&home.memory, anna, Target::New, Kind::Ask, "which?", "blue", &[source]).await.unwrap();
    let pair = (answer.assistant_message_id.0, source.0);
    let end = count(&home.memory, "SELECT max(seq) AS n FROM queue").await;
    for after in 0..end {
        let batch = outgoing::read(home.memory.store(), after, 1, u64::MAX).await.unwrap().unwrap();
        let of_either = batch.rows.messages.iter().any(|m| m.id == pair.0 || m.id == pair.1);
        assert_eq!(batch.sources, if of_either { vec![pair] } else { vec![] });
    }
    let all = outgoing::read(home.memory.store(), 0, 100, u64::MAX).await.unwrap().unwrap();
    assert_eq!(all.sources, [pair], "once");
}

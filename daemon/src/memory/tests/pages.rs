//! Pages of rows of another device.

use uuid::Uuid;

use super::*;
use crate::store::outgoing;
use crate::store::pull_cursor::{PullCursor, read_again};
use crate::store::resync::handshake;
use crate::store::tables::{MessageRow, Rows};

const HOUSE: Uuid = Uuid::from_u128(1);

/// A device that has met the house, and a page of another one: three turns of one person, with the last two
/// made from the first.
async fn devices() -> (Home, Home, Pulled) {
    let (there, here) = (Home::new().await, Home::new().await);
    let anna = there.memory.add_user("Anna").await.unwrap().id;
    let first = say(&there.memory, anna, Target::New, "the key is blue", "noted").await.unwrap();
    let again = Target::Existing(first.conversation_id);
    for target in [again, Target::New] {
        let sources = [first.user_message_id];
        say_as(&there.memory, anna, target, Kind::Ask, "which key?", "blue", &sources).await.unwrap();
    }
    handshake(here.memory.store(), HOUSE, NOON_UNIX_MS).await.unwrap();
    let page = page_of(&there).await;
    assert_eq!((page.rows.messages.len(), page.sources.len()), (6, 2));
    (there, here, page)
}

async fn page_of(home: &Home) -> Pulled {
    let all = outgoing::read(home.memory.store(), 0, 100, u64::MAX).await.unwrap().unwrap();
    Pulled { rows: all.rows, sources: all.sources, ..Pulled::default() }
}

fn start(home: &Home, stored: bool) -> RoundStart {
    RoundStart { generation: home.memory.store().generation(), stored }
}

async fn apply(home: &Home, page: &Pulled) -> Applied {
    let read = PullCursor { house: HOUSE, ..PullCursor::default() };
    home.memory.apply_pulled(page, &read, start(home, false)).await.unwrap().unwrap()
}

/// Checks the counted numbers of each conversation against its messages.
async fn counts_are_right(memory: &Memory) {
    let wrong = "SELECT count(*) AS n FROM conversations c WHERE messages <> (SELECT count(*)
        FROM messages m WHERE
        m.conversation = c.rid) OR next_seq <= (SELECT max(seq) FROM messages m
        WHERE m.conversation = c.rid)";
    assert_eq!(count(memory, wrong).await, 0);
}

#[tokio::test]
async fn what_is_here_is_no_news() {
    let (_there, here, page) = devices().await;
    let memory = &here.memory;
    assert_eq!(memory.news(page.rows.messages.clone()).await.unwrap().len(), 6);
    assert_eq!(memory.lacks_links(&page.sources).await.unwrap(), page.sources);
    assert_eq!(apply(&here, &page).await, Applied { changed: 9, ..Applied::default() });
    counts_are_right(memory).await;
    assert!(memory.news(page.rows.messages.clone()).await.unwrap().is_empty());
    assert!(memory.lacks_links(&page.sources).await.unwrap().is_empty());
    assert!(memory.news(Vec::new()).await.unwrap().is_empty());
    assert!(memory.lacks_links(&[]).await.unwrap().is_empty());
    // Applying it anyway is harmless.
    assert_eq!(apply(&here, &page).await, Applied::default());
    counts_are_right(memory).await;
    // One lost message, and one lost link.
    let mut tx = memory.store().begin().await.unwrap();
    tx.execute(sqlx::query("DELETE FROM messages WHERE text = 'noted'")).await.unwrap();
    tx.execute(sqlx::query("DELETE FROM message_sources WHERE message = (SELECT max(rid) FROM messages)"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(memory.news(page.rows.messages.clone()).await.unwrap().len(), 1);
    assert_eq!(memory.lacks_links(&page.sources).await.unwrap().len(), 1);
    let only_links = Pulled { sources: page.sources.clone(), ..Pulled::default() };
    assert!(!only_links.is_empty());
    apply(&here, &only_links).await;
    assert!(memory.lacks_links(&page.sources).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_message_is_news_when_its_time_is_known_or_it_says_something_else() {
    let (_there, here, mut page) = devices().await;
    page.rows.messages[0].synced = false;
    apply(&here, &page).await;
    let one = |change: &dyn Fn(&mut MessageRow)| {
        let mut row = page.rows.messages[0].clone();
        change(&mut row);
        vec![row]
    };
    let dated = one(&|row| (row.synced, row.wall_unix_ms) = (true, 77));
    let moved = one(&|row| row.conversation = Uuid::from_u128(9));
    assert!(here.memory.news(one(&|_| {})).await.unwrap().is_empty());
    for (messages, became) in [
        (dated, Applied { changed: 1, ..Applied::default() }),
        (moved, Applied { refused: 1, ..Applied::default() }),
    ] {
        let messages = here.memory.news(messages).await.unwrap();
        assert_eq!(messages.len(), 1);
        let rows = Rows { messages, ..Rows::default() };
        assert_eq!(apply(&here, &Pulled { rows, ..Pulled::default() }).await, became);
    }
    assert_eq!(count(&here.memory, "SELECT count(*) AS n FROM messages WHERE wall_unix_ms = 77").await, 1);
    // After it was dated, an undated version of it is old.
    assert!(here.memory.news(one(&|_| {})).await.unwrap().is_empty());
}

#[tokio::test]
async fn rows_that_break_a_rule_leave_the_rest_of_their_page_alone() {
    let (_there, here, mut page) = devices().await;
    let good = page.rows.messages.len();
    let bad: [&dyn Fn(&mut MessageRow); 9] = [
        &|_| {}, // the place of the previous one
        &|row| row.seq = 0,
        &|row| row.seq = i64::MAX,
        &|row| (row.seq, row.role) = (70, "admin".into()),
        &|row| (row.seq, row.text) = (71, "a\0b".into()),
        &|row| (row.seq, row.owner) = (72, Uuid::from_u128(9)),
        &|row| (row.seq, row.conversation) = (73, Uuid::from_u128(9)),
        &|row| (row.seq, row.device) = (74, "d".repeat(65)),
        &|row| (row.seq, row.boot_id) = (75, String::new()),
    ];
    for (n, change) in bad.iter().enumerate() {
        let mut row = page.rows.messages[0].clone();
        row.id = Uuid::now_v7();
        change(&mut row);
        page.rows.messages.insert(1 + n % 4, row);
    }
    let mut last = page.rows.messages[0].clone();
    (last.id, last.seq, last.meta) = (Uuid::now_v7(), 90, Some("no JSON".into()));
    page.rows.messages.push(last);
    let applied = apply(&here, &page).await;
    assert_eq!((applied.changed, applied.refused), (good + 1 + 3, bad.len()));
    assert_eq!(count(&here.memory, "SELECT count(*) AS n FROM messages").await, good as i64 + 1);
    assert_eq!(count(&here.memory, "SELECT max(next_seq) AS n FROM conversations").await, 91);
    counts_are_right(&here.memory).await;
    here.memory.check().await.unwrap();
}

#[tokio::test]
async fn what_was_deleted_here_does_not_come_back_whatever_of_it_was_deleted() {
    for what in ["message", "conversation", "user"] {
        let (_there, here, page) = devices().await;
        apply(&here, &page).await;
        let anna = UserId(page.rows.users[0].id);
        let gone = match what {
            "message" => {
                let history =
                    here.memory.history(anna, ConversationId(page.rows.conversations[0].id), None, 9).await;
                let ids: Vec<_> = history.unwrap().iter().take(1).map(|m| m.id).collect();
                here.memory.forget(anna, &ids).await.unwrap();
                // The answers made from it, and the questions that they answered, were deleted with it.
                1
            }
            "conversation" => {
                let id = ConversationId(page.rows.conversations[0].id);
                here.memory.delete_conversation(anna, id).await.unwrap();
                4
            }
            _ => {
                here.memory.delete_user(anna).await.unwrap();
                6
            }
        };
        let left = count(&here.memory, "SELECT count(*) AS n FROM messages").await;
        assert!(left <= 6 - gone, "{what}: {left}");
        assert_eq!(apply(&here, &page).await, Applied::default(), "{what}");
        assert_eq!(count(&here.memory, "SELECT count(*) AS n FROM messages").await, left, "{what}");
        counts_are_right(&here.memory).await;
    }
}

#[tokio::test]
async fn a_page_is_left_out_once_everything_is_to_be_read_again() {
    let (_there, here, page) = devices().await;
    let read = PullCursor { house: HOUSE, reading: Uuid::from_u128(7), ..PullCursor::default() };
    let apply = async |read: &PullCursor, stored| {
        here.memory.apply_pulled(&page, read, start(&here, stored)).await.unwrap().is_some()
    };
    assert!(apply(&read, false).await);
    assert!(apply(&read, true).await);
    read_again(here.memory.store()).await.unwrap();
    assert!(!apply(&read, true).await);
    // Another process has begun at the beginning since.
    let other = PullCursor { reading: Uuid::from_u128(8), ..read.clone() };
    assert!(apply(&other, false).await);
    assert!(!apply(&read, true).await);
    assert!(apply(&other, true).await);
    // Facts learnt from another file do not hold for this one.
    let before = RoundStart { generation: here.memory.store().generation() - 1, stored: true };
    assert_eq!(here.memory.apply_pulled(&page, &other, before).await.unwrap(), None);
}

#[test]
fn a_note_of_an_older_version_is_read() {
    let note = r#"{"house":"00000000-0000-0000-0000-000000000001","users":1,"voiceprints":2,
        "conversations":3,"messages":4,"tombstones":5,"caught_up":true}"#;
    let read: PullCursor = serde_json::from_str(note).unwrap();
    assert_eq!((read.at.messages, read.reading, read.caught_up), (4, Uuid::nil(), true));
}

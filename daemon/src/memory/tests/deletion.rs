//! Forgotten data is gone: rows, index, queue, titles, and the bytes of the files.

use super::isolation::Random;
use super::*;

/// Whether any file of the database holds `word`, in any case.
pub(super) fn on_disk(home: &Home, word: &str) -> Option<String> {
    for entry in std::fs::read_dir(home.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap().to_ascii_lowercase();
        if String::from_utf8_lossy(&bytes).contains(word) {
            return Some(path.display().to_string());
        }
    }
    None
}

#[tokio::test]
async fn forgetting_a_message_takes_its_answer_and_every_answer_made_from_it() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let note =
        say_as(memory, anna, Target::New, Kind::Note, "remember the qwvault code", "I will: qwvault", &[])
            .await
            .unwrap();
    let here = Target::Existing(note.conversation_id);
    let other = say_as(memory, anna, here, Kind::Note, "remember the milk", "I will", &[]).await.unwrap();
    let both = [note.user_message_id, other.user_message_id];
    say_as(memory, anna, here, Kind::Ask, "what do you remember", "qwvault and milk", &both).await.unwrap();
    say_as(memory, anna, Target::New, Kind::Ask, "the code", "qwvault", &[note.user_message_id])
        .await
        .unwrap();
    assert!(on_disk(&home, "qwvault").is_some());
    assert_eq!(
        memory.conversation(anna, note.conversation_id).await.unwrap().title,
        "remember the qwvault code"
    );

    assert_eq!(memory.forget(anna, &[note.user_message_id]).await.unwrap(), 6);

    let left = memory.history(anna, note.conversation_id, None, 50).await.unwrap();
    assert_eq!(left.iter().map(|m| m.text.as_str()).collect::<Vec<_>>(), ["remember the milk", "I will"]);
    assert_eq!(memory.conversation(anna, note.conversation_id).await.unwrap().title, "remember the milk");
    assert!(memory.search(anna, "qwvault", None, None, 10).await.unwrap().items.is_empty());
    assert_eq!(on_disk(&home, "qwvault"), None);
    let pending = queued(memory).await;
    assert!(
        pending.contains(&("insert_message".into(), 2)) && pending.contains(&("delete_message".into(), 6)),
        "{pending:?}"
    );
    assert_eq!(count(memory, "SELECT count(*) AS n FROM tombstones WHERE kind = 'message'").await, 6);
    // The next turn does not take the number of a forgotten one.
    assert_eq!(say(memory, anna, here, "next", "ok").await.unwrap().seq, 7);
}

#[tokio::test]
async fn deleting_a_conversation_leaves_a_tombstone_and_no_pending_message() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let turn = say(memory, anna, Target::New, "qwsecret one", "qwsecret two").await.unwrap();
    memory.rename_conversation(anna, turn.conversation_id, "qwsecret title").await.unwrap();
    memory.delete_conversation(anna, turn.conversation_id).await.unwrap();
    assert!(matches!(
        memory.conversation(anna, turn.conversation_id).await,
        Err(MemoryError::NotFound { .. })
    ));
    assert_eq!(queued(memory).await, [("delete_conversation".into(), 1), ("upsert_user".into(), 1)]);
    assert_eq!(
        count(memory, "SELECT count(*) AS n FROM messages_fts WHERE messages_fts MATCH 'qwsecret'").await,
        0
    );
    assert_eq!(on_disk(&home, "qwsecret"), None);
    assert!(matches!(
        memory.delete_conversation(anna, turn.conversation_id).await,
        Err(MemoryError::NotFound { .. })
    ));
}

#[tokio::test]
async fn deleting_a_person_leaves_one_deletion_and_an_audit_log_without_them() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Qwanna").await.unwrap().id;
    let bob = memory.add_user("Bob").await.unwrap().id;
    // More than are removed from the index one by one.
    for n in 0..60 {
        say(memory, anna, Target::New, &format!("qwanna says {n}"), "yes qwanna").await.unwrap();
        say(memory, bob, Target::New, &format!("bob says {n}"), "yes bob").await.unwrap();
    }
    memory
        .append_audit(&NewAudit { user: Some(anna), action: "verify", outcome: "verified", detail: None })
        .await
        .unwrap();
    memory.delete_user(anna).await.unwrap();
    assert!(matches!(memory.user(anna).await, Err(MemoryError::NotFound { .. })));
    assert!(matches!(memory.delete_user(anna).await, Err(MemoryError::NotFound { .. })));
    assert_eq!(on_disk(&home, "qwanna"), None);
    let about = sqlx::query("SELECT op FROM queue WHERE user_id = ?1").bind(anna.bytes());
    let about = memory.read_all(about).await.unwrap();
    assert_eq!(
        about.iter().map(|row| get::<String>(row, "op").unwrap()).collect::<Vec<_>>(),
        ["delete_user"]
    );
    assert_eq!(memory.list_audit(None, None, 10).await.unwrap()[0].user_id, None);
    assert_eq!(memory.list_conversations(bob, None, 100).await.unwrap().items.len(), 60);
    memory.add_user("qwanna").await.unwrap();
}

#[tokio::test]
async fn deleting_a_long_conversation_leaves_the_index_of_the_others_and_no_byte_of_it() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let long = say(memory, anna, Target::New, "qwlong begins", "yes").await.unwrap().conversation_id;
    for n in 0..60 {
        say(memory, anna, Target::Existing(long), &format!("qwlong {n}"), "yes").await.unwrap();
    }
    say(memory, anna, Target::New, "a qwshort one", "yes").await.unwrap();
    memory.delete_conversation(anna, long).await.unwrap();
    let found = |word: &str| {
        count(
            memory,
            format!("SELECT count(*) AS n FROM messages_fts WHERE messages_fts MATCH '{word}'").leak(),
        )
    };
    assert_eq!((found("qwlong").await, found("qwshort").await), (0, 1));
    assert_eq!(on_disk(&home, "qwlong"), None);
    memory.store().check().await.unwrap();
}

/// Everywhere a person's text can be: messages, titles, session ids, summaries, dead letters, damaged copies.
#[tokio::test]
async fn deleting_a_person_leaves_no_byte_of_theirs_in_any_file() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Qwanna").await.unwrap().id;
    let bob = memory.add_user("Bob").await.unwrap().id;
    let session = SessionId::new("qwtablet").unwrap();
    let id =
        say(memory, anna, Target::Session(&session), "qwhello", "qwanswer").await.unwrap().conversation_id;
    memory.rename_conversation(anna, id, "Qwtitle").await.unwrap();
    for n in 0..120 {
        let text = format!("Today the qwbus number {n} was late again, as it always is.");
        say(memory, anna, Target::Existing(id), &text, "I am sorry for the qwbus.").await.unwrap();
    }
    assert!(memory.summary(anna, id).await.unwrap().text.contains("qwbus"));
    say(memory, bob, Target::New, "I stay", "fine").await.unwrap();
    let (mut tx, _) = memory.begin().await.unwrap();
    let dead = sqlx::query(
        "INSERT INTO dead_letter (seq, op, entity_id, user_id, payload, created_unix_ms, failed_unix_ms,
         attempts, error)
         VALUES (999, 'delete_message', ?1, ?2, '{\"why\": \"qwpayload\"}', 0, 0, 1, 'qwerror')",
    );
    tx.execute(dead.bind(id.0.as_bytes().to_vec()).bind(anna.bytes())).await.unwrap();
    tx.commit().await.unwrap();
    let aside = home.folder.path().join("jarvis.db.corrupt.20261122T120000Z");
    for ending in ["", "-wal"] {
        std::fs::write(format!("{}{ending}", aside.display()), "the qwbus again").unwrap();
    }
    for word in ["qwanna", "qwtablet", "qwhello", "qwanswer", "qwtitle", "qwbus", "qwpayload", "qwerror"] {
        assert!(on_disk(&home, word).is_some(), "{word}");
    }
    memory.delete_user(anna).await.unwrap();
    for word in ["qwanna", "qwtablet", "qwhello", "qwanswer", "qwtitle", "qwbus", "qwpayload", "qwerror"] {
        assert_eq!(on_disk(&home, word), None, "{word}");
    }
    assert_eq!(memory.list_conversations(bob, None, 5).await.unwrap().items.len(), 1);
}

/// Writes around it split, merge and reuse pages; no copy of a forgotten word may stay in any of them.
#[tokio::test]
async fn no_byte_of_forgotten_text_stays_whatever_happened_around_it() {
    for seed in [7, 99] {
        let mut random = Random(seed);
        let home = Home::new().await;
        let memory = &home.memory;
        let anna = memory.add_user("Anna").await.unwrap().id;
        let mut live: Vec<(String, Appended)> = Vec::new();
        let mut dead: Vec<String> = Vec::new();
        for step in 0..600 {
            if live.len() < 30 || random.below(5) < 3 {
                let word = format!("qw{seed}x{step}z");
                let padding = "lorem ipsum dolor ".repeat(random.below(60));
                let target = match live.len() {
                    0 => Target::New,
                    n if random.below(4) > 0 => Target::Existing(live[random.below(n)].1.conversation_id),
                    _ => Target::New,
                };
                let turn = say(memory, anna, target, &format!("{word} {padding}"), &word).await.unwrap();
                live.push((word, turn));
            } else {
                let (word, turn) = live.swap_remove(random.below(live.len()));
                if memory.forget(anna, &[turn.assistant_message_id]).await.unwrap() > 0 {
                    dead.push(word);
                }
            }
        }
        memory.store().checkpoint_truncate().await.unwrap();
        let left: Vec<_> =
            dead.iter().filter_map(|word| on_disk(&home, word).map(|file| (word, file))).collect();
        assert!(
            left.is_empty(),
            "seed {seed}: {} of {} forgotten words left: {left:?}",
            left.len(),
            dead.len()
        );
        assert!(on_disk(&home, &live[0].0).is_some());
    }
}

#[tokio::test]
async fn a_running_daemon_takes_forgotten_text_out_of_the_file_by_itself() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let stop = CancellationToken::new();
    let forget = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let turn = say(memory, anna, Target::New, "qwgone", "qwgone").await.unwrap();
        memory.forget(anna, &[turn.user_message_id]).await.unwrap();
        for _ in 0..500 {
            if count(memory, "SELECT count(*) AS n FROM settings WHERE key = 'scrub'").await == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(on_disk(&home, "qwgone"), None);
        stop.cancel();
    };
    tokio::join!(memory.maintain(stop.clone(), 365), forget);
}

#[tokio::test]
async fn a_wish_that_comes_while_another_is_granted_is_kept() {
    let home = Home::new().await;
    let memory = &home.memory;
    wish(memory).await;
    let first = memory.scrub_wish().await.unwrap().unwrap();
    wish(memory).await;
    memory.grant_scrub(&first).await.unwrap();
    let second = memory.scrub_wish().await.unwrap().unwrap();
    assert_ne!(first, second);
    memory.scrub_if_wanted().await.unwrap();
    assert_eq!(memory.scrub_wish().await.unwrap(), None);
}

#[tokio::test]
async fn while_a_reader_keeps_old_pages_alive_the_wish_stays() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { busy_timeout: Some(Duration::from_millis(50)), ..StoreOptions::default() };
    let path = folder.path().join("jarvis.db");
    let memory = Memory::open_with(&path, &device(), Clock::System, &options).await.unwrap();
    wish(&memory).await;
    let mut reader = memory.store().reader().await.unwrap();
    sqlx::query("BEGIN").execute(&mut *reader).await.unwrap();
    sqlx::query("SELECT count(*) FROM users").fetch_all(&mut *reader).await.unwrap();
    let refused = memory.scrub_if_wanted().await;
    assert!(matches!(refused, Err(MemoryError::Store(StoreError::Busy { .. }))), "{refused:?}");
    assert!(memory.scrub_wish().await.unwrap().is_some());
    sqlx::query("COMMIT").execute(&mut *reader).await.unwrap();
    drop(reader);
    memory.scrub_if_wanted().await.unwrap();
    assert_eq!(memory.scrub_wish().await.unwrap(), None);
}

#[tokio::test]
async fn the_end_is_not_delayed_by_tidying_up_that_waits_for_another_process() {
    let home = Home::new().await;
    wish(&home.memory).await;
    let other = open(&home.path()).await;
    let in_the_way = other.store().begin().await.unwrap();
    let stop = CancellationToken::new();
    let begun = std::time::Instant::now();
    let end = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
    };
    tokio::join!(home.memory.maintain(stop.clone(), 365), end);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(in_the_way);
    assert!(home.memory.scrub_wish().await.unwrap().is_some());
}

#[test]
fn taking_text_out_of_a_full_disk_is_tried_ever_more_rarely() {
    assert_eq!(scrub_pause(0), Duration::ZERO);
    assert_eq!(scrub_pause(1), Duration::from_secs(60));
    assert_eq!(scrub_pause(2), Duration::from_secs(120));
    assert_eq!(scrub_pause(u32::MAX), Duration::from_secs(3_600));
}

/// Sets a wish like a deletion.
async fn wish(memory: &Memory) {
    let (mut tx, stamp) = memory.begin().await.unwrap();
    memory.want_scrub(&mut tx, &stamp).await.unwrap();
    tx.commit().await.unwrap();
}

/// Whether a block of the index holds these letters, in a live word or in one only marked as deleted.
async fn in_the_index(memory: &Memory, start: &str) -> bool {
    let rows = memory.read_all(sqlx::query("SELECT block FROM messages_fts_data")).await.unwrap();
    rows.iter().any(|row| {
        let block: Vec<u8> = get(row, "block").unwrap();
        block.windows(start.len()).any(|bytes| bytes == start.as_bytes())
    })
}

#[tokio::test]
async fn the_words_of_many_messages_leave_the_index_and_those_of_the_others_stay() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let bob = memory.add_user("Bob").await.unwrap().id;
    let here = say(memory, anna, Target::New, "qwword", "yes").await.unwrap().conversation_id;
    let there = say(memory, anna, Target::New, "I stay", "zwstays").await.unwrap().conversation_id;
    for n in 0..60 {
        let text = format!("qwword{n:02} and qwword{:02} and the bicycle", n * 7 % 60);
        say(memory, anna, Target::Existing(here), &text, "yes, the bicycle").await.unwrap();
        say(memory, bob, Target::New, &format!("bicycle {n}"), "zwbob").await.unwrap();
    }
    let found = async |user, words| memory.search(user, words, None, None, 200).await.unwrap().items.len();
    assert_eq!((found(anna, "bicycle").await, in_the_index(memory, "qwword").await), (120, true));
    memory.delete_conversation(anna, here).await.unwrap();
    assert_eq!((found(anna, "bicycle").await, in_the_index(memory, "qwword").await), (0, false));
    assert_eq!(on_disk(&home, "qwword"), None);
    assert_eq!((found(bob, "bicycle").await, found(anna, "zwstays").await), (60, 1));
    memory.store().check().await.unwrap();
    // Few messages are removed one by one again, and many trigger a rebuild once more.
    let mode = "SELECT CAST(v AS INTEGER) AS n FROM messages_fts_config WHERE k = 'secure-delete'";
    assert_eq!(count(memory, mode).await, 1);
    memory.delete_conversation(anna, there).await.unwrap();
    assert!(!in_the_index(memory, "zwstays").await);
    say(memory, anna, Target::New, "a bicycle", "indeed").await.unwrap();
    memory.delete_user(bob).await.unwrap();
    assert!(!in_the_index(memory, "zwbob").await);
    assert_eq!(on_disk(&home, "zwbob"), None);
    assert_eq!(found(anna, "bicycle").await, 1);
    memory.delete_user(anna).await.unwrap();
    assert_eq!(on_disk(&home, "bicycle"), None);
    memory.store().check().await.unwrap();
}

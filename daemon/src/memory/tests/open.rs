//! A turn in steps: open, sentence by sentence, closed; and left open at each step.

use super::deletion::on_disk;
use super::*;

const SENTENCES: [&str; 3] = ["The kettle is qwhot.", "It has two litres.", "Mind the steam."];

fn said<'a>(sources: &'a [MessageId], meta: &'a TurnMeta) -> Said<'a> {
    Said { text: "tell me about the qwkettle", responder: "model", sources, meta }
}

/// A turn with `sentences` sentences of its answer.
async fn open_turn(memory: &Memory, user: UserId, target: Target<'_>, sentences: usize) -> OpenTurn {
    let mut turn = memory.open_turn(user, target, &said(&[], &TurnMeta::default())).await.unwrap();
    for sentence in &SENTENCES[..sentences] {
        let durable = memory.add_sentence(&mut turn, sentence).await.unwrap();
        assert_eq!(durable.as_str(), *sentence);
    }
    turn
}

async fn texts(memory: &Memory, user: UserId, conversation: ConversationId) -> Vec<String> {
    let history = memory.history(user, conversation, None, 50).await.unwrap();
    history.into_iter().map(|message| message.text).collect()
}

async fn open_turns(memory: &Memory) -> i64 {
    count(memory, "SELECT count(*) AS n FROM open_turns").await
}

fn marks(home: &Home) -> usize {
    let names = std::fs::read_dir(home.folder.path()).unwrap();
    names.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains(".turn-")).count()
}

/// The end of the newest answer of the conversation.
async fn ended(memory: &Memory, user: UserId, conversation: ConversationId) -> Option<String> {
    let last = memory.history(user, conversation, None, 1).await.unwrap().pop().unwrap();
    Some(last.meta?.get("ended")?.as_str()?.to_owned())
}

#[tokio::test]
async fn an_answer_in_sentences_becomes_one_message_with_its_effects() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let note = say_as(memory, anna, Target::New, Kind::Note, "the kettle", "noted", &[]).await.unwrap();
    let here = Target::Existing(note.conversation_id);
    let meta = TurnMeta {
        confidence: Some(0.5),
        engine: Some("vosk".into()),
        device: Some("hall".into()),
        at: None,
    };
    let mut turn = memory.open_turn(anna, here, &said(&[note.user_message_id], &meta)).await.unwrap();
    for sentence in SENTENCES {
        memory.add_sentence(&mut turn, sentence).await.unwrap();
        assert_eq!(texts(memory, anna, note.conversation_id).await, ["the kettle", "noted"], "it is open");
    }
    assert_eq!(queued(memory).await.iter().find(|(op, _)| op == "insert_message").unwrap().1, 2);
    assert_eq!((turn.reply(), marks(&home)), (SENTENCES.join(" "), 1));

    let effects = Effects { kind: Kind::Ask, ..Effects::default() };
    let closed = memory.close_turn(turn, Ended::Complete, &effects).await.unwrap();

    assert_eq!((closed.seq, closed.created, closed.reply.as_str()), (3, false, SENTENCES.join(" ").as_str()));
    let [words, answer] =
        memory.history(anna, note.conversation_id, None, 2).await.unwrap().try_into().unwrap();
    assert_eq!((words.id, words.seq, words.kind), (closed.user_message_id, 3, Kind::Ask));
    assert_eq!(words.text, "tell me about the qwkettle");
    assert_eq!(words.meta, Some(serde_json::json!({ "confidence": 0.5, "engine": "vosk" })));
    assert_eq!((answer.id, answer.seq), (closed.assistant_message_id, 4));
    assert_eq!(answer.text, SENTENCES.join(" "));
    assert_eq!(answer.meta, Some(serde_json::json!({ "engine": "model" })));
    assert_eq!(memory.sources(anna, answer.id).await.unwrap(), [note.user_message_id]);
    let hall = "SELECT count(*) AS n FROM messages m JOIN devices d ON d.rid = m.device WHERE d.id = 'hall'";
    assert_eq!(count(memory, hall).await, 2);
    assert_eq!(queued(memory).await.iter().find(|(op, _)| op == "insert_message").unwrap().1, 4);
    assert_eq!((open_turns(memory).await, marks(&home)), (0, 0));
    // The repeated message is forgotten with it.
    assert_eq!(memory.forget(anna, &[note.user_message_id]).await.unwrap(), 4);
}

#[tokio::test]
async fn a_turn_that_is_left_open_at_any_step_is_closed_as_cut_at_the_next_start() {
    for sentences in 0..=SENTENCES.len() {
        let mut home = Home::new().await;
        let anna = home.memory.add_user("Anna").await.unwrap().id;
        let first = say(&home.memory, anna, Target::New, "hello", "hi").await.unwrap();
        let here = Target::Existing(first.conversation_id);
        drop(open_turn(&home.memory, anna, here, sentences).await);
        assert_eq!((open_turns(&home.memory).await, marks(&home)), (1, 1));

        home.restart().await;

        let memory = &home.memory;
        let answer = SENTENCES[..sentences].join(" ");
        let all = ["hello", "hi", "tell me about the qwkettle", answer.as_str()];
        assert_eq!(texts(memory, anna, first.conversation_id).await, all);
        assert_eq!(ended(memory, anna, first.conversation_id).await.as_deref(), Some("cut"));
        assert_eq!(queued(memory).await.iter().find(|(op, _)| op == "insert_message").unwrap().1, 4);
        assert_eq!((open_turns(memory).await, marks(&home)), (0, 0));
        assert_eq!(say(memory, anna, here, "next", "ok").await.unwrap().seq, 5);
        assert_eq!(memory.close_left_open().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_turn_that_began_a_conversation_or_a_session_begins_it_when_it_is_closed() {
    let mut home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let tablet = SessionId::new("tablet").unwrap();
    drop(open_turn(&home.memory, anna, Target::New, 1).await);
    drop(open_turn(&home.memory, anna, Target::Session(&tablet), 2).await);
    drop(open_turn(&home.memory, anna, Target::Session(&tablet), 3).await);
    assert!(home.memory.list_conversations(anna, None, 9).await.unwrap().items.is_empty());
    home.restart().await;
    let conversations = home.memory.list_conversations(anna, None, 9).await.unwrap().items;
    assert_eq!(conversations.iter().map(|c| c.messages).collect::<Vec<_>>(), [4, 2], "in their order");
    assert_eq!(home.memory.session(anna, &tablet).await.unwrap(), Some(conversations[0].id));
    let last = texts(&home.memory, anna, conversations[0].id).await.pop().unwrap();
    assert_eq!(last, SENTENCES.join(" "));
}

#[tokio::test]
async fn a_turn_that_is_being_answered_is_left_alone_by_every_other_process() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let mut turn = open_turn(&home.memory, anna, Target::New, 1).await;
    let other = open(&home.path()).await;
    assert_eq!(other.close_left_open().await.unwrap(), 0);
    assert_eq!((open_turns(&other).await, marks(&home)), (1, 1));
    home.memory.add_sentence(&mut turn, SENTENCES[1]).await.unwrap();
    let closed = home.memory.close_turn(turn, Ended::Complete, &Effects::default()).await.unwrap();
    assert_eq!(texts(&other, anna, closed.conversation_id).await[1], SENTENCES[..2].join(" "));
    assert_eq!(ended(&other, anna, closed.conversation_id).await, None);
    assert_eq!((other.close_left_open().await.unwrap(), marks(&home)), (0, 0));
    // A mark left by a crash before the row was written.
    std::fs::write(home.path().with_file_name(format!("jarvis.db.turn-{}", "0".repeat(32))), "").unwrap();
    assert_eq!((other.close_left_open().await.unwrap(), marks(&home)), (0, 0));
}

#[tokio::test]
async fn an_answer_that_is_cut_or_fails_is_stored_as_far_as_it_was_heard_and_marked() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    for (end, stored, mark) in [
        (Ended::Cut { heard: 0 }, String::new(), Some("cut")),
        (Ended::Cut { heard: 2 }, SENTENCES[..2].join(" "), Some("cut")),
        (Ended::Cut { heard: 9 }, SENTENCES.join(" "), Some("cut")),
        (Ended::Failed, SENTENCES.join(" "), Some("failed")),
    ] {
        let turn = open_turn(memory, anna, Target::New, 3).await;
        let closed = memory.close_turn(turn, end, &Effects::default()).await.unwrap();
        assert_eq!(texts(memory, anna, closed.conversation_id).await[1], stored, "{end:?}");
        assert_eq!(ended(memory, anna, closed.conversation_id).await.as_deref(), mark, "{end:?}");
    }
}

#[tokio::test]
async fn forgetting_reaches_an_answer_that_is_still_being_given() {
    for what in ["person", "conversation", "source"] {
        let home = Home::new().await;
        let memory = &home.memory;
        let anna = memory.add_user("Anna").await.unwrap().id;
        let bob = memory.add_user("Bob").await.unwrap().id;
        let note = say_as(memory, anna, Target::New, Kind::Note, "remember this", "yes", &[]).await.unwrap();
        let kept = say(memory, anna, Target::New, "hello", "hi").await.unwrap();
        let meta = TurnMeta::default();
        let target = match what {
            "conversation" => Target::Existing(note.conversation_id),
            _ => Target::Existing(kept.conversation_id),
        };
        let mut turn = memory.open_turn(anna, target, &said(&[note.user_message_id], &meta)).await.unwrap();
        memory.add_sentence(&mut turn, SENTENCES[0]).await.unwrap();
        let bobs = open_turn(memory, bob, Target::New, 0).await;
        assert!(on_disk(&home, "qwhot").is_some());
        match what {
            "person" => memory.delete_user(anna).await.unwrap(),
            "conversation" => memory.delete_conversation(anna, note.conversation_id).await.unwrap(),
            _ => assert_eq!(memory.forget(anna, &[note.user_message_id]).await.unwrap(), 2),
        }
        let refused = memory.add_sentence(&mut turn, SENTENCES[1]).await.unwrap_err();
        assert!(matches!(refused, MemoryError::NotFound { .. }), "{what}: {refused}");
        assert_eq!(turn.reply(), SENTENCES[0]);
        let refused = memory.close_turn(turn, Ended::Complete, &Effects::default()).await.unwrap_err();
        assert!(matches!(refused, MemoryError::NotFound { .. }), "{what}: {refused}");
        assert_eq!(on_disk(&home, "qwhot"), None, "{what}");
        memory.close_turn(bobs, Ended::Complete, &Effects::default()).await.unwrap();
        assert_eq!((memory.close_left_open().await.unwrap(), marks(&home)), (0, 0), "{what}");
    }
}

#[tokio::test]
async fn words_that_are_not_to_be_kept_leave_the_file_when_the_turn_is_closed() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let turn = open_turn(memory, anna, Target::New, 3).await;
    assert!(on_disk(&home, "qwkettle").is_some() && on_disk(&home, "qwhot").is_some());
    let effects = Effects {
        kind: Kind::Ask,
        store_as: Some("forget everything about …".into()),
        answer_as: Some("I have forgotten it.".into()),
        ..Effects::default()
    };
    let closed = memory.close_turn(turn, Ended::Complete, &effects).await.unwrap();
    assert_eq!(closed.reply.as_str(), SENTENCES.join(" "), "it is spoken");
    let stored = texts(memory, anna, closed.conversation_id).await;
    assert_eq!(stored, ["forget everything about …", "I have forgotten it."]);
    assert_eq!((on_disk(&home, "qwkettle"), on_disk(&home, "qwhot")), (None, None));
}

#[tokio::test]
async fn a_turn_that_cannot_be_stored_is_refused_before_anybody_is_asked() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let bobs =
        say(memory, memory.add_user("Bob").await.unwrap().id, Target::New, "hello", "hi").await.unwrap();
    let meta = TurnMeta::default();
    let refused = memory.open_turn(anna, Target::Existing(bobs.conversation_id), &said(&[], &meta)).await;
    assert!(matches!(refused, Err(MemoryError::NotFound { .. })), "{refused:?}");
    let long = "x".repeat(MAX_MESSAGE_BYTES);
    let refused =
        memory.open_turn(anna, Target::New, &Said { text: &format!("{long}x"), ..said(&[], &meta) }).await;
    assert!(matches!(refused, Err(MemoryError::TooLong { .. })), "{refused:?}");
    let mut turn = open_turn(memory, anna, Target::New, 1).await;
    let refused = memory.add_sentence(&mut turn, &long).await.unwrap_err();
    assert!(matches!(refused, MemoryError::TooLong { .. }), "{refused}");
    assert_eq!(turn.reply(), SENTENCES[0]);
    drop(turn);
    assert_eq!((memory.close_left_open().await.unwrap(), marks(&home)), (1, 0));
}

#[tokio::test]
async fn words_of_a_boot_without_a_clock_keep_its_time_when_another_boot_closes_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let boot = |name: &str, synced| Clock::Driven(crate::clock::DrivenClock::new(name, NOON_UNIX_MS, synced));
    let memory = Memory::open(&path, &device(), boot("first", false)).await.unwrap();
    let anna = memory.add_user("Anna").await.unwrap().id;
    drop(open_turn(&memory, anna, Target::New, 1).await);
    memory.close().await;
    let memory = Memory::open(&path, &device(), boot("second", true)).await.unwrap();
    memory.restamp().await.unwrap();
    let of_first = "SELECT count(*) AS n FROM messages m JOIN boots b ON b.rid = m.boot
        WHERE b.boot_id = 'first' AND m.clock_synced = 0";
    assert_eq!(count(&memory, of_first).await, 2);
}

//! An export comes back unchanged, and a file that is no export stores nothing.

use super::*;

async fn exported(memory: &Memory, user: UserId) -> serde_json::Value {
    serde_json::to_value(memory.export_conversations(user).await.unwrap()).unwrap()
}

async fn talk(memory: &Memory, user: UserId) -> Appended {
    let session = SessionId::new("tablet").unwrap();
    let note =
        say_as(memory, user, Target::New, Kind::Note, "remember the key", "I will", &[]).await.unwrap();
    let sources = [note.user_message_id];
    let here = Target::Existing(note.conversation_id);
    say_as(memory, user, here, Kind::Ask, "what about the key", "the key", &sources).await.unwrap();
    say(memory, user, Target::Session(&session), "Schöne Ferien 열쇠 🙂", "ok").await.unwrap();
    memory.rename_conversation(user, note.conversation_id, "Keys").await.unwrap();
    note
}

#[tokio::test]
async fn what_was_exported_comes_back_on_another_device_and_forgetting_still_takes_all_of_it() {
    let (home, other) = (Home::new().await, Home::new().await);
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let note = talk(&home.memory, anna).await;
    let before = exported(&home.memory, anna).await;
    let there = other.memory.add_user("Anna").await.unwrap().id;
    let current = say(&other.memory, there, Target::New, "already here", "ok").await.unwrap();
    let done = other.memory.import_conversations(there, &before.to_string()).await.unwrap();
    assert_eq!((done.conversations, done.messages, done.skipped), (2, 6, 0));
    let mut after = exported(&other.memory, there).await;
    assert_eq!(after.as_array_mut().unwrap().pop().unwrap()["messages"][0]["text"], "already here");
    assert_eq!(after, before);
    // The conversation of this device continues.
    let now = other.memory.clock().stamp();
    let continued = other.memory.current_conversation(there, i64::MAX, &now).await.unwrap();
    assert_eq!(continued, Some(current.conversation_id));
    // A second import doubles nothing.
    let again = other.memory.import_conversations(there, &before.to_string()).await.unwrap();
    assert_eq!((again.conversations, again.skipped), (0, 2));
    assert_eq!(other.memory.forget(there, &[note.user_message_id]).await.unwrap(), 4);
    let next =
        say(&other.memory, there, Target::Existing(note.conversation_id), "go on", "ok").await.unwrap();
    assert_eq!(next.seq, 5);
    other.memory.check().await.unwrap();
    // One conversation, and the whole export of a person, come back as well.
    for json in [
        serde_json::to_string(&home.memory.export_conversation(anna, note.conversation_id).await.unwrap()),
        serde_json::to_string(&home.memory.export_user(anna).await.unwrap()),
    ] {
        let third = Home::new().await;
        let user = third.memory.add_user("Third").await.unwrap().id;
        let done = third.memory.import_conversations(user, &json.unwrap()).await.unwrap();
        assert!(done.messages >= 4, "{done:?}");
        assert_eq!(third.memory.conversation(user, note.conversation_id).await.unwrap().title, "Keys");
    }
}

#[tokio::test]
async fn what_comes_back_under_new_ids_is_still_forgotten_with_what_it_was_made_from() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let note = talk(&home.memory, anna).await;
    let elsewhere = [note.user_message_id];
    say_as(&home.memory, anna, Target::New, Kind::Ask, "and where is it", "the key is here", &elsewhere)
        .await
        .unwrap();
    let exported = home.memory.export_conversations(anna).await.unwrap();
    home.memory.delete_conversation(anna, note.conversation_id).await.unwrap();
    for conversation in home.memory.list_conversations(anna, None, 9).await.unwrap().items {
        home.memory.delete_conversation(anna, conversation.id).await.unwrap();
    }
    let mut links = Vec::new();
    // The newest first, so that sources come after their answers.
    for conversation in exported.iter().rev() {
        let json = serde_json::to_string(conversation).unwrap();
        let (done, elsewhere) = home.memory.import_conversation(anna, &json).await.unwrap();
        assert_eq!(done.conversations, 1);
        links.extend(elsewhere);
    }
    home.memory.link_sources(anna, &links).await.unwrap();
    let oldest = home.memory.list_conversations(anna, None, 9).await.unwrap().items.pop().unwrap();
    assert_ne!(oldest.id, note.conversation_id);
    let messages = home.memory.history(anna, oldest.id, None, 9).await.unwrap();
    let first = messages.into_iter().find(|message| message.text == "remember the key").unwrap();
    assert_eq!(home.memory.forget(anna, &[first.id]).await.unwrap(), 6);
}

#[tokio::test]
async fn ids_that_are_deleted_or_somebody_elses_are_replaced_by_new_ones() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let bob = home.memory.add_user("Bob").await.unwrap().id;
    let note = talk(&home.memory, anna).await;
    let before = exported(&home.memory, anna).await;
    let text = before.to_string();
    let exported_ids = home.memory.list_conversations(anna, None, 10).await.unwrap().items;
    let exported_ids: Vec<_> = exported_ids.into_iter().map(|c| c.id).collect();
    assert_eq!(home.memory.import_conversations(bob, &text).await.unwrap().conversations, 2);
    assert_eq!(exported(&home.memory, anna).await, before, "Anna's are as they were");
    let bobs = home.memory.list_conversations(bob, None, 10).await.unwrap().items;
    assert!(bobs.iter().all(|c| c.id != note.conversation_id));
    home.memory.delete_conversation(anna, note.conversation_id).await.unwrap();
    let done = home.memory.import_conversations(anna, &text).await.unwrap();
    assert_eq!((done.conversations, done.skipped), (1, 1));
    assert!(home.memory.conversation(anna, note.conversation_id).await.is_err(), "its tombstone stands");
    assert_eq!(home.memory.notes(anna, 5).await.unwrap().len(), 1);
    for user in [anna, bob] {
        let again = home.memory.import_conversations(user, &text).await.unwrap();
        assert_eq!((again.conversations, again.skipped), (0, 2), "what came back under another id is there");
    }
    let replaced = home.memory.list_conversations(anna, None, 10).await.unwrap().items;
    let replaced = replaced.iter().find(|c| exported_ids.iter().all(|id| *id != c.id)).unwrap().id;
    home.memory.delete_conversation(anna, replaced).await.unwrap();
    let done = home.memory.import_conversations(anna, &text).await.unwrap();
    assert_eq!((done.conversations, done.skipped), (1, 1), "deleted once more, it comes back once more");
}

#[tokio::test]
async fn a_file_that_is_no_export_is_refused_and_stores_nothing() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    talk(&home.memory, anna).await;
    let good = exported(&home.memory, anna).await;
    let target = home.memory.add_user("Target").await.unwrap().id;
    let before = queued(&home.memory).await;
    let change = |at: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(at).unwrap() = value;
        changed.to_string()
    };
    let id = good.pointer("/0/messages/0/id").unwrap().clone();
    for bad in [
        String::new(),
        "{".into(),
        "[1, 2]".into(),
        "{\"conversations\": {}}".into(),
        "null".into(),
        change("/0/id", "not an id".into()),
        change("/0/messages/0/seq", 0.into()),
        change("/0/messages/1/seq", 1.into()),
        change("/0/messages/1/seq", i64::MAX.into()),
        change("/0/messages/1/id", id.clone()),
        change("/1/messages/0/id", id),
        change("/0/messages/0/role", "system".into()),
        change("/0/messages/0/kind", "order".into()),
        change("/0/messages/0/text", "x".repeat(MAX_MESSAGE_BYTES + 1).into()),
        change("/0/messages/0/wall_unix_ms", (-1).into()),
        change("/0/updated_unix_ms", i64::MAX.into()),
        change("/1/session_id", "a\u{200b}b".into()),
        change("/0/messages/1/meta", "text".into()),
    ] {
        let error = home.memory.import_conversations(target, &bad).await.expect_err(&bad);
        assert_eq!(error.exit(), crate::error::Exit::Data, "{error:?}");
        assert!(!error.to_string().contains("key"), "{error}");
    }
    assert_eq!(home.memory.count_conversations(target).await.unwrap(), 0);
    assert_eq!(queued(&home.memory).await, before);
    // A title is normalised.
    let odd = change("/0/title", format!("\u{202e}Trip\u{200b} {}", "x".repeat(100)).into());
    home.memory.import_conversations(target, &odd).await.unwrap();
    let titles = home.memory.list_conversations(target, None, 5).await.unwrap().items;
    assert!(
        titles.iter().any(|c| c.title.starts_with("Trip x") && c.title.chars().count() == 80),
        "{titles:?}"
    );
}

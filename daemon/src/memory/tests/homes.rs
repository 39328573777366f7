//! A conversation has one writing device; a session id has one conversation.

use super::*;

/// The same file as seen by another device of the house: a replica.
async fn bedroom(home: &Home) -> Memory {
    Memory::open(&home.path(), &Device { id: "bedroom".into() }, Clock::System).await.unwrap()
}

#[tokio::test]
async fn a_conversation_is_continued_only_by_the_device_on_which_it_began() {
    let home = Home::new().await;
    let kitchen = &home.memory;
    let anna = kitchen.add_user("Anna").await.unwrap().id;
    let here = say(kitchen, anna, Target::New, "said in the kitchen", "yes").await.unwrap().conversation_id;
    let bedroom = bedroom(&home).await;
    let now = bedroom.clock().stamp();
    assert_eq!(bedroom.current_conversation(anna, i64::MAX, &now).await.unwrap(), None);
    let before = queued(kitchen).await;
    let error = say(&bedroom, anna, Target::Existing(here), "said in the bedroom", "no").await.unwrap_err();
    assert!(
        matches!(&error, MemoryError::OtherHome { conversation, device: Some(device) }
            if *conversation == here && device == "kitchen"),
        "{error:?}"
    );
    assert!(error.to_string().contains("\"kitchen\""), "{error}");
    assert!(matches!(bedroom.home(anna, here).await, Err(MemoryError::OtherHome { .. })));
    assert_eq!(queued(kitchen).await, before);
    // Every device may read, rename, forget and delete.
    assert_eq!(bedroom.history(anna, here, None, 10).await.unwrap().len(), 2);
    bedroom.rename_conversation(anna, here, "Kitchen talk").await.unwrap();
    let there = say(&bedroom, anna, Target::New, "said in the bedroom", "yes").await.unwrap().conversation_id;
    assert_eq!(bedroom.current_conversation(anna, i64::MAX, &now).await.unwrap(), Some(there));
    assert_eq!(kitchen.current_conversation(anna, i64::MAX, &now).await.unwrap(), Some(here));
    let listed = kitchen.list_conversations(anna, None, 10).await.unwrap().items;
    let homes: Vec<_> = listed.iter().map(|c| (c.id, c.device.as_deref())).collect();
    assert_eq!(homes, [(there, Some("bedroom")), (here, Some("kitchen"))]);
    bedroom.delete_conversation(anna, here).await.unwrap();
}

#[tokio::test]
async fn a_session_id_finds_one_conversation_of_one_person_on_one_device() {
    let mut home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let bob = home.memory.add_user("Bob").await.unwrap().id;
    let session = SessionId::new("tablet/7").unwrap();
    assert_eq!(home.memory.session(anna, &session).await.unwrap(), None);
    let first = say(&home.memory, anna, Target::Session(&session), "one", "1").await.unwrap();
    assert!(first.created);
    let second = say(&home.memory, anna, Target::Session(&session), "two", "2").await.unwrap();
    assert_eq!((second.conversation_id, second.created, second.seq), (first.conversation_id, false, 3));
    let (theirs, made) = home.memory.get_or_create_conversation(bob, &session, Some("Bob's")).await.unwrap();
    assert!(made && theirs != first.conversation_id);
    home.restart().await;
    let again = home.memory.get_or_create_conversation(anna, &session, None).await.unwrap();
    assert_eq!(again, (first.conversation_id, false));
    let shown = home.memory.conversation(anna, first.conversation_id).await.unwrap();
    assert_eq!(shown.session_id.as_deref(), Some("tablet/7"));
    let bedroom = bedroom(&home).await;
    let (there, made) = bedroom.get_or_create_conversation(anna, &session, None).await.unwrap();
    assert!(made && there != first.conversation_id);
    // Deleting the conversation frees the name.
    home.memory.delete_conversation(anna, first.conversation_id).await.unwrap();
    let (anew, made) = home.memory.get_or_create_conversation(anna, &session, None).await.unwrap();
    assert!(made && anew != first.conversation_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_with_one_session_id_at_once_get_one_conversation() {
    let home = Home::new().await;
    let other = open(&home.path()).await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    for n in 0..10 {
        let session = SessionId::new(&format!("s{n}")).unwrap();
        let (one, two) = tokio::join!(
            say(&home.memory, anna, Target::Session(&session), "one", "1"),
            say(&other, anna, Target::Session(&session), "two", "2")
        );
        assert_eq!(one.unwrap().conversation_id, two.unwrap().conversation_id);
    }
    assert_eq!(home.memory.count_conversations(anna).await.unwrap(), 10);
}

#[test]
fn session_ids_that_cannot_be_told_apart_are_refused() {
    for id in ["", " a", "a ", "a\nb", "a\u{200b}", "\u{202e}a", &"x".repeat(129)] {
        assert!(matches!(SessionId::new(id), Err(MemoryError::InvalidSession { .. })), "{id:?}");
    }
    for id in ["a", "Tür 7", "550e8400-e29b-41d4-a716-446655440000", &"é".repeat(128)] {
        assert_eq!(SessionId::new(id).unwrap().as_str(), id);
    }
}

#[tokio::test]
async fn names_that_look_alike_are_one_name_also_in_a_database_of_version_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql(include_str!("../../store/testdata/version-1.sql")).execute(&mut conn).await.unwrap();
    let twin =
        "INSERT INTO users VALUES (3, x'0193a000000070008000000000000009', 'José', 'josé', NULL, 1, 1)";
    sqlx::raw_sql(twin).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
    let memory = open(&path).await;
    assert_eq!(memory.user_by_name("jos\u{e9}").await.unwrap().created_unix_ms, 1);
    let other = memory.user_by_name("JOSE\u{301} (2)").await.unwrap();
    assert_eq!(memory.list_conversations(other.id, None, 5).await.unwrap().items.len(), 1);
    assert!(matches!(memory.add_user("Jose\u{301}").await, Err(MemoryError::NameTaken { .. })));
    for odd in ["An\u{200b}na", "Anna\u{202e}", "\u{feff}Anna", "Anna\u{fe0f}"] {
        assert!(matches!(memory.add_user(odd).await, Err(MemoryError::InvalidName { .. })), "{odd:?}");
    }
    // Words, notes and order of the old rows are unchanged.
    let anna = memory.user_by_name("anna").await.unwrap().id;
    let notes = memory.notes(anna, 5).await.unwrap();
    assert_eq!(notes[0].text, "remember that the spare key is under the blue pot");
    assert_eq!(memory.recall(anna, "spare key", Words::All, 5).await.unwrap(), notes);
    assert_eq!(memory.forget(anna, &[notes[0].id]).await.unwrap(), 4);
}

#[tokio::test]
async fn people_are_listed_page_by_page() {
    let home = Home::new().await;
    let names = ["Änne", "bob", "Zoë", "anna", "열쇠", "Carl"];
    for name in names {
        home.memory.add_user(name).await.unwrap();
    }
    let (mut seen, mut from) = (Vec::new(), None);
    loop {
        let page = home.memory.page_users(from.as_ref(), 2).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|user| user.name));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["anna", "bob", "Carl", "Zoë", "Änne", "열쇠"]);
}

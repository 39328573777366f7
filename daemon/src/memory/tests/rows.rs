//! Written rows exist, also after a restart.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn people_are_found_by_name_whatever_its_case_and_names_are_unique() {
    let home = Home::new().await;
    let anna = home.memory.add_user("  Ánna   Maria ").await.unwrap();
    assert_eq!(anna.name, "Ánna Maria");
    assert_eq!(home.memory.user_by_name("áNNA maria").await.unwrap(), anna);
    assert!(matches!(home.memory.add_user("ÁNNA MARIA").await, Err(MemoryError::NameTaken { .. })));
    let bob = home.memory.add_user("Bob 🙂").await.unwrap();
    assert!(matches!(
        home.memory.rename_user(bob.id, "ánna maria").await,
        Err(MemoryError::NameTaken { .. })
    ));
    home.memory.rename_user(anna.id, "anna MARIA").await.unwrap();
    let names: Vec<_> = home.memory.list_users().await.unwrap().into_iter().map(|user| user.name).collect();
    assert_eq!(names, ["anna MARIA", "Bob 🙂"]);
    assert!(matches!(home.memory.user_by_name("nobody").await, Err(MemoryError::NotFound { .. })));
}

#[tokio::test]
async fn names_that_cannot_be_names_are_refused_with_the_reason() {
    let home = Home::new().await;
    for (name, reason) in [
        ("", "empty"),
        ("  \u{3000} ", "empty"),
        ("a\0b", "control"),
        ("line\nbreak", "control"),
        ("\u{1b}[31m", "control"),
        (&"x".repeat(65), "64"),
    ] {
        let error = home.memory.add_user(name).await.unwrap_err();
        assert!(matches!(error, MemoryError::InvalidName { .. }), "{name:?}: {error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    home.memory.add_user(&"x".repeat(64)).await.unwrap();
    home.memory.add_user("'; DROP TABLE users; --").await.unwrap();
    assert_eq!(home.memory.list_users().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_conversation_and_its_order_survive_a_restart() {
    let mut home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let first = say(&home.memory, anna, Target::New, "one", "1").await.unwrap();
    let here = Target::Existing(first.conversation_id);
    say(&home.memory, anna, here, "two", "2").await.unwrap();
    home.restart().await;
    let now = home.memory.clock().stamp();
    let current = home.memory.current_conversation(anna, 60_000, &now).await.unwrap();
    assert_eq!(current, Some(first.conversation_id));
    let third = say(&home.memory, anna, here, "three", "3").await.unwrap();
    assert_eq!(third.seq, 5);
    let history = home.memory.history(anna, first.conversation_id, None, 100).await.unwrap();
    let said: Vec<_> = history.iter().map(|m| (m.seq, m.role, m.text.as_str())).collect();
    use Role::{Assistant, User};
    assert_eq!(
        said,
        [
            (1, User, "one"),
            (2, Assistant, "1"),
            (3, User, "two"),
            (4, Assistant, "2"),
            (5, User, "three"),
            (6, Assistant, "3")
        ]
    );
    let window = home.memory.history(anna, first.conversation_id, Some(5), 2).await.unwrap();
    assert_eq!(window.iter().map(|m| m.seq).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test]
async fn a_turn_keeps_how_the_words_came_in() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let at = Stamp { wall_unix_ms: 1_000, synced: false, boot_id: "x".into(), monotonic_ns: 77 };
    let meta = TurnMeta {
        confidence: Some(0.97),
        engine: Some("vosk".into()),
        at: Some(at),
        device: Some("bedroom".into()),
    };
    let turn = NewTurn {
        text: "hello",
        kind: Kind::Say,
        reply: "hi",
        responder: "builtin",
        sources: &[],
        forget: &[],
        meta: &meta,
    };
    let appended = home.memory.append_turn(anna, Target::New, &turn).await.unwrap();
    let history = home.memory.history(anna, appended.conversation_id, None, 10).await.unwrap();
    let heard = history[0].meta.as_ref().unwrap();
    assert_eq!(heard["engine"], "vosk");
    assert!((heard["confidence"].as_f64().unwrap() - 0.97).abs() < 1e-6);
    assert_eq!((history[0].wall_unix_ms, history[0].clock_synced), (1_000, false));
    assert_eq!(history[1].meta.as_ref().unwrap()["engine"], "builtin");
    assert_eq!(count(&home.memory, "SELECT count(*) AS n FROM devices").await, 2);
}

#[tokio::test]
async fn rows_and_queue_entries_are_written_together_parents_first() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let first = say(&home.memory, anna, Target::New, "one", "1").await.unwrap();
    say(&home.memory, anna, Target::Existing(first.conversation_id), "two", "2").await.unwrap();
    let rows = home.memory.read_all(sqlx::query("SELECT op FROM queue ORDER BY seq")).await.unwrap();
    let ops: Vec<String> = rows.iter().map(|row| get(row, "op").unwrap()).collect();
    assert_eq!(
        ops,
        [
            "upsert_user",
            "upsert_conversation",
            "insert_message",
            "insert_message",
            "insert_message",
            "insert_message"
        ]
    );
    assert_eq!(count(&home.memory, "SELECT count(*) AS n FROM queue WHERE payload LIKE '%one%'").await, 0);
}

#[tokio::test]
async fn a_conversation_continues_within_its_time_and_a_new_one_is_then_the_current_one() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = hand_driven();
    let memory = Memory::open(&folder.path().join("j.db"), &device(), clock).await.unwrap();
    let anna = memory.add_user("Anna").await.unwrap().id;
    let current = async || memory.current_conversation(anna, 10_000, &memory.clock().stamp()).await.unwrap();
    assert_eq!(current().await, None);
    let first = say(&memory, anna, Target::New, "one", "1").await.unwrap().conversation_id;
    now.fetch_add(10_000, Ordering::Relaxed);
    assert_eq!(current().await, Some(first));
    now.fetch_add(1, Ordering::Relaxed);
    assert_eq!(current().await, None);
    let second = memory.new_conversation(anna, Some("Holiday")).await.unwrap();
    assert_eq!(current().await, Some(second));
    say(&memory, anna, Target::Existing(first), "again", "2").await.unwrap();
    assert_eq!(current().await, Some(first));
    now.fetch_sub(86_400_000, Ordering::Relaxed); // the clock jumps back: the time that has passed is unknown
    assert_eq!(current().await, Some(first));
}

#[tokio::test]
async fn a_conversation_of_another_boot_with_an_unset_clock_continues() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let first = say(&home.memory, anna, Target::New, "one", "1").await.unwrap().conversation_id;
    let later = Stamp { wall_unix_ms: 0, synced: false, boot_id: "another".into(), monotonic_ns: 5 };
    assert_eq!(home.memory.current_conversation(anna, 1, &later).await.unwrap(), Some(first));
}

#[tokio::test]
async fn listing_pages_through_all_conversations_once_latest_first() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let mut made = Vec::new();
    for n in 0..25 {
        made.push(home.memory.new_conversation(anna, Some(&format!("talk {n}"))).await.unwrap());
    }
    say(&home.memory, anna, Target::Existing(made[3]), "up", "yes").await.unwrap();
    let (mut seen, mut from) = (Vec::new(), None);
    loop {
        let page = home.memory.list_conversations(anna, from, 10).await.unwrap();
        seen.extend(page.items.into_iter().map(|c| c.id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    let moved = made.remove(3);
    made.reverse();
    made.insert(0, moved);
    assert_eq!(seen, made);
}

#[tokio::test]
async fn titles_are_first_words_until_a_person_sets_one() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let id = say_as(&home.memory, anna, Target::New, Kind::Ask, "what time is it", "noon", &[])
        .await
        .unwrap()
        .conversation_id;
    let title = async || home.memory.conversation(anna, id).await.unwrap().title;
    assert_eq!(title().await, "");
    let here = Target::Existing(id);
    say(&home.memory, anna, here, "one two three four five six seven eight nine ten", "ok").await.unwrap();
    assert_eq!(title().await, "one two three four five six seven eight");
    home.memory.rename_conversation(anna, id, "My\n  plans ").await.unwrap();
    assert_eq!(title().await, "My plans");
    say(&home.memory, anna, here, "more", "ok").await.unwrap();
    assert_eq!(title().await, "My plans");
    for odd in ["", " \n ", "a\u{7}b", "plans\u{202e}", "pl\u{200b}ans", "\u{2067}x", &"x".repeat(81)] {
        let refused = home.memory.rename_conversation(anna, id, odd).await;
        assert!(matches!(refused, Err(MemoryError::InvalidTitle { .. })), "{odd:?}: {refused:?}");
        assert!(home.memory.new_conversation(anna, Some(odd)).await.is_err(), "{odd:?}");
    }
    assert_eq!(title().await, "My plans");
    home.memory.rename_conversation(anna, id, &"é".repeat(80)).await.unwrap();
    assert_eq!(home.memory.conversation(anna, id).await.unwrap().messages, 6);
}

#[tokio::test]
async fn any_text_is_kept_as_it_is_and_too_much_is_refused() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let long = "a word ".repeat(MAX_MESSAGE_BYTES / 7);
    for text in ["🙂 emoji \u{200d} e\u{301}", "열쇠는 화분 아래", "\"quoted\" 'x' \\ %_", " ", "", &long]
    {
        let turn = say(&home.memory, anna, Target::New, text, text).await.unwrap();
        let history = home.memory.history(anna, turn.conversation_id, None, 2).await.unwrap();
        assert_eq!((history[0].text.as_str(), history[1].text.as_str()), (text, text));
    }
    let nul = say(&home.memory, anna, Target::New, "a\0b", "ok").await.unwrap();
    assert_eq!(home.memory.history(anna, nul.conversation_id, None, 2).await.unwrap()[0].text, "a\u{fffd}b");
    let huge = "x".repeat(1 << 20);
    let before = queued(&home.memory).await;
    let error = say(&home.memory, anna, Target::New, &huge, "ok").await.unwrap_err();
    assert!(matches!(error, MemoryError::TooLong { bytes: 1_048_576, max: MAX_MESSAGE_BYTES }), "{error:?}");
    assert_eq!(queued(&home.memory).await, before);
}

#[tokio::test]
async fn search_takes_any_text_and_ranks_full_matches_first() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    for text in
        ["the spare key is under the blue pot", "blue is my favourite colour", "열쇠는 화분 아래에 있다"]
    {
        say(&home.memory, anna, Target::New, text, "ok").await.unwrap();
    }
    let found = async |text: &str| -> Vec<String> {
        let hits = home.memory.search(anna, text, Some(Role::User), None, 10).await.unwrap();
        hits.items.into_iter().map(|hit| hit.message.text).collect()
    };
    assert_eq!(found("blue keys").await, ["the spare key is under the blue pot"]);
    assert_eq!(found("blue").await.len(), 2);
    assert_eq!(found("blue submarine").await.len(), 2);
    assert_eq!(found("열쇠").await.len(), 1);
    for junk in ["", "\"", "NEAR(", "a AND", "* ^ : -", "\0", "text:blue OR", "🙂"] {
        found(junk).await;
    }
}

#[tokio::test]
async fn a_voiceprint_is_replaced_listed_and_deleted() {
    let mut home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    home.memory.put_voiceprint(anna, &print(1)).await.unwrap();
    home.memory.put_voiceprint(anna, &print(2)).await.unwrap();
    home.restart().await;
    assert!(home.memory.user(anna).await.unwrap().consent_unix_ms.is_some());
    let stored = home.memory.voiceprint(anna).await.unwrap().unwrap();
    assert_eq!((stored.blob.as_slice(), stored.info.samples), ([2; 900].as_slice(), 3));
    assert_eq!(stored.info.quality, print(2).quality);
    assert_eq!(home.memory.list_voiceprints().await.unwrap(), [stored]);
    assert!(
        home.memory
            .put_voiceprint(anna, &NewVoiceprint { model_sha256: "short".into(), ..print(3) })
            .await
            .is_err()
    );
    home.memory.delete_voiceprint(anna).await.unwrap();
    assert_eq!(home.memory.voiceprint(anna).await.unwrap(), None);
    assert!(matches!(home.memory.delete_voiceprint(anna).await, Err(MemoryError::NotFound { .. })));
    home.memory.delete_user(anna).await.unwrap();
    // The refused voiceprint and the deletion of a missing one left no row.
    let audit = home.memory.list_audit(None, None, 10).await.unwrap();
    let actions: Vec<_> = audit.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["user_delete", "voiceprint_delete", "enrol", "enrol"]);
}

#[tokio::test]
async fn audit_and_settings_survive_a_restart() {
    let mut home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let entry = |user, outcome| NewAudit {
        user,
        action: "verify",
        outcome,
        detail: Some(serde_json::json!({ "confidence": 0.12 })),
    };
    home.memory.append_audit(&entry(None, "rejected")).await.unwrap();
    home.memory.append_audit(&entry(Some(anna), "verified")).await.unwrap();
    home.memory.set_setting("gate", &vec![1_u32, 2]).await.unwrap();
    home.memory.set_setting("gate", &vec![3_u32]).await.unwrap();
    home.restart().await;
    let all = home.memory.list_audit(None, None, 10).await.unwrap();
    assert_eq!(all.iter().map(|row| row.outcome.as_str()).collect::<Vec<_>>(), ["verified", "rejected"]);
    assert_eq!(home.memory.list_audit(None, Some(all[0].cursor), 10).await.unwrap().len(), 1);
    assert_eq!(home.memory.list_audit(Some(anna), None, 10).await.unwrap().len(), 1);
    assert_eq!(home.memory.setting::<Vec<u32>>("gate").await.unwrap(), Some(vec![3]));
    assert_eq!(home.memory.setting::<String>("gate").await.unwrap(), None);
    assert_eq!(home.memory.setting::<u32>("none").await.unwrap(), None);
}

#[tokio::test]
async fn an_export_holds_everything_of_one_person_and_nothing_of_another() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let bob = home.memory.add_user("Bob").await.unwrap().id;
    for n in 0..3 {
        let id =
            say(&home.memory, anna, Target::New, &format!("anna {n}"), "ok").await.unwrap().conversation_id;
        say(&home.memory, anna, Target::Existing(id), "anna again", "ok").await.unwrap();
        say(&home.memory, bob, Target::New, "bob's secret", "ok").await.unwrap();
    }
    let export = home.memory.export_user(anna).await.unwrap();
    assert_eq!(export.conversations.len(), 3);
    assert_eq!(export.conversations[0].messages[0].message.text, "anna 0");
    assert!(export.conversations.iter().all(|c| c.messages.len() == 4));
    assert!(!serde_json::to_string(&export).unwrap().contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_on_one_file_write_at_once_and_nothing_is_lost_or_doubled() {
    let home = Home::new().await;
    let other = open(&home.path()).await; // as the command line does beside the daemon
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let id = home.memory.new_conversation(anna, None).await.unwrap();
    let write = async |memory: &Memory, name: &str| {
        for n in 0..50 {
            say(memory, anna, Target::Existing(id), &format!("{name} {n}"), "ok").await.unwrap();
        }
    };
    tokio::join!(write(&home.memory, "daemon"), write(&other, "cli"));
    let history = home.memory.history(anna, id, None, 1000).await.unwrap();
    assert_eq!(history.iter().map(|m| m.seq).collect::<Vec<_>>(), (1..=200).collect::<Vec<i64>>());
    for name in ["daemon", "cli"] {
        let said: Vec<_> =
            history.iter().filter(|m| m.text.starts_with(name)).map(|m| m.text.clone()).collect();
        assert_eq!(said, (0..50).map(|n| format!("{name} {n}")).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_what_was_stored_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let small = StoreOptions { max_bytes: Some(120 * 4096), ..StoreOptions::default() };
    let memory = Memory::open_with(&path, &device(), Clock::System, &small).await.unwrap();
    let anna = memory.add_user("Anna").await.unwrap().id;
    let id = memory.new_conversation(anna, None).await.unwrap();
    let text = "many words ".repeat(200);
    let mut stored = 0;
    let error = loop {
        match say(&memory, anna, Target::Existing(id), &text, "ok").await {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
    };
    assert!(error.is_disk_full(), "{error:?}");
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(say(&memory, anna, Target::Existing(id), &text, "ok").await.unwrap_err().is_disk_full());
    memory.check().await.unwrap();
    assert_eq!(memory.history(anna, id, None, 1000).await.unwrap().len(), 2 * stored);
    memory.close().await;
    // After space is free again it continues at the same place.
    let memory = open(&path).await;
    let next = say(&memory, anna, Target::Existing(id), &text, "ok").await.unwrap();
    assert_eq!(next.seq, 2 * i64::try_from(stored).unwrap() + 1);
}

/// The real case, if the test may mount: a file system of 1 MiB.
#[tokio::test]
async fn a_full_file_system_is_said_and_the_memory_recovers_when_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        std::process::Command::new(args[0]).args(&args[1..]).output().is_ok_and(|done| done.status.success())
    };
    let at = folder.path().to_str().unwrap();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", at]) {
        crate::testdata::skipped("mounting a small file system needs root");
        return;
    }
    let path = folder.path().join("jarvis.db");
    let memory = open(&path).await;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let id = memory.new_conversation(anna, None).await.unwrap();
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![0; 200 * 1024]).unwrap();
    let mut stored = 0;
    let error = loop {
        match say(&memory, anna, Target::Existing(id), "some words to fill the disk", "ok").await {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
    };
    assert!(error.is_disk_full(), "{error:?}");
    std::fs::remove_file(&ballast).unwrap();
    say(&memory, anna, Target::Existing(id), "there is space again", "ok").await.unwrap();
    assert_eq!(memory.history(anna, id, None, 10_000).await.unwrap().len(), 2 * (stored + 1));
    memory.check().await.unwrap();
    memory.close().await;
    // This process keeps a descriptor of the database (store/peek.rs).
    assert!(mount(&["umount", "--lazy", at]));
}

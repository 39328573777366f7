//! Long conversations: a window within a budget, and a running summary without forgotten text.

use super::*;

fn tokens(window: &Window) -> usize {
    let messages: usize = window.messages.iter().map(|m| tokens_of(m.text.len())).sum();
    messages + tokens_of(window.summary.len())
}

#[tokio::test]
async fn a_long_conversation_is_seen_through_a_window_and_a_summary_that_meet() {
    let mut home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let id = home.memory.new_conversation(anna, None).await.unwrap();
    let here = Target::Existing(id);
    say_as(&home.memory, anna, here, Kind::Note, "remember that the safe opens with 4711", "ok", &[])
        .await
        .unwrap();
    for n in 0..200 {
        let text = format!("Today the number {n} bus was late again. {}", "And so on. ".repeat(n % 9));
        say(&home.memory, anna, here, &text, "I heard you.").await.unwrap();
        if n == 100 {
            home.restart().await;
        }
        let window = home.memory.window(anna, id, WINDOW_TOKENS).await.unwrap();
        let summary = home.memory.summary(anna, id).await.unwrap();
        assert!(tokens(&window) <= WINDOW_TOKENS as usize, "{n}: {}", tokens(&window));
        assert!(summary.text.len() <= MAX_SUMMARY_BYTES);
        let first = window.messages.first().unwrap().seq;
        // They meet or overlap. The summary takes a part of the budget, so a few messages may lie between
        // them.
        assert!(first - summary.upto <= 40, "{n}: {first} {}", summary.upto);
        assert_eq!(window.messages.last().unwrap().seq, 2 * n as i64 + 4);
    }
    let summary = home.memory.summary(anna, id).await.unwrap();
    assert!(summary.upto > 300, "{summary:?}");
    assert!(
        summary.text.starts_with("[1 note] remember that the safe opens with 4711\n"),
        "{}",
        summary.text
    );
    let gist = home.memory.gist(anna, id).await.unwrap();
    assert_eq!(gist.last().unwrap().text, "remember that the safe opens with 4711");
    assert!(gist.windows(2).all(|two| two[0].seq > two[1].seq));
}

#[tokio::test]
async fn a_message_longer_than_the_budget_is_cut_for_the_responder_only() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let long = "wörter ".repeat(30_000);
    let turn = say(&home.memory, anna, Target::New, "short", &long).await.unwrap();
    let window = home.memory.window(anna, turn.conversation_id, 100).await.unwrap();
    assert_eq!(window.messages.len(), 1);
    assert!(window.messages[0].text.chars().count() <= 300);
    let history = home.memory.history(anna, turn.conversation_id, None, 5).await.unwrap();
    assert_eq!(history[1].text, long);
}

#[tokio::test]
async fn what_is_forgotten_leaves_the_summary_too() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let id = memory.new_conversation(anna, None).await.unwrap();
    let here = Target::Existing(id);
    say_as(memory, anna, here, Kind::Note, "remember that the qwsafe opens with 4711", "ok", &[])
        .await
        .unwrap();
    let other =
        say_as(memory, anna, here, Kind::Note, "remember that the roof leaks", "ok", &[]).await.unwrap();
    for n in 0..150 {
        let text = format!("Today the number {n} bus was late again.");
        say(memory, anna, here, &text, "I heard you. I am sorry for that.").await.unwrap();
    }
    let before = memory.summary(anna, id).await.unwrap();
    assert!(before.text.contains("qwsafe") && before.upto > 100);
    let forget = memory.matching(anna, "qwsafe").await.unwrap();
    memory.forget(anna, &forget).await.unwrap();
    let after = memory.summary(anna, id).await.unwrap();
    assert!(!after.text.contains("qwsafe") && after.text.contains("the roof leaks"), "{}", after.text);
    assert_eq!(after.upto, before.upto);
    assert!(deletion::on_disk(&home, "qwsafe").is_none());
    // A summary made from the earlier messages is refused.
    assert!(!memory.set_summary(anna, id, &before, "Anna told me the code of her qwsafe.").await.unwrap());
    assert!(memory.set_summary(anna, id, &after, "Anna spoke of qwbuses and a roof.").await.unwrap());
    // A row deleted without this API (a deletion from another device) empties it.
    let (mut tx, _) = memory.begin().await.unwrap();
    let delete = sqlx::query("DELETE FROM messages WHERE id = ?1").bind(other.user_message_id.bytes());
    tx.execute(delete).await.unwrap();
    tx.commit().await.unwrap();
    let emptied = memory.summary(anna, id).await.unwrap();
    assert_eq!((emptied.text.as_str(), emptied.upto), ("", 0));
    // Later turns make it anew, a piece at a time.
    for _ in 0..5 {
        say(memory, anna, here, "and another thing", "yes").await.unwrap();
    }
    assert!(memory.summary(anna, id).await.unwrap().upto > 100);
}

#[tokio::test]
async fn a_summary_of_a_language_model_stays_in_front_of_what_comes_later() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let bob = memory.add_user("Bob").await.unwrap().id;
    let id = memory.new_conversation(anna, None).await.unwrap();
    let talk = async |n: usize| {
        for n in 0..n {
            let text = format!("Today the number {n} bus was late again.");
            say(memory, anna, Target::Existing(id), &text, "I heard you. I am sorry for that.")
                .await
                .unwrap();
        }
    };
    talk(80).await;
    let of = memory.summary(anna, id).await.unwrap();
    assert!(matches!(memory.summary(bob, id).await, Err(MemoryError::NotFound { .. })));
    assert!(!memory.set_summary(bob, id, &of, "mine").await.unwrap());
    assert!(memory.set_summary(anna, id, &of, "Anna is unhappy with the buses.").await.unwrap());
    talk(80).await;
    let later = memory.summary(anna, id).await.unwrap();
    assert!(
        later.text.starts_with("Anna is unhappy with the buses.\n[") && later.upto > of.upto,
        "{later:?}"
    );
    assert!(!memory.set_summary(anna, id, &of, "stale").await.unwrap());
}

/// Titles and session ids chosen by a person are text too.
#[tokio::test]
async fn conversations_lose_names_that_hold_a_forgotten_topic() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let session = SessionId::new("qwplan-7").unwrap();
    let first = say(memory, anna, Target::New, "hello there", "hello").await.unwrap().conversation_id;
    memory.rename_conversation(anna, first, "The Qwplan of May").await.unwrap();
    let second =
        say(memory, anna, Target::Session(&session), "good day", "hello").await.unwrap().conversation_id;
    let mut named = memory.named_after(anna, "qwplan").await.unwrap();
    named.sort();
    assert_eq!(named, [first, second]);
    let meta = TurnMeta::default();
    let (text, reply) = ("forget everything about …", "I have forgotten everything about that.");
    let turn =
        NewTurn { text, kind: Kind::Ask, reply, responder: "test", sources: &[], forget: &[], meta: &meta };
    let acts = Acts { unname: &named, ..Acts::default() };
    memory.append_turn_with(anna, Target::Existing(first), &turn, &acts).await.unwrap();
    let shown = memory.conversation(anna, first).await.unwrap();
    assert_eq!(shown.title, "hello there");
    assert_eq!(memory.conversation(anna, second).await.unwrap().session_id, None);
    assert_eq!(deletion::on_disk(&home, "qwplan"), None);
}

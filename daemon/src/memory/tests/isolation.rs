//! No call of one person reads or changes a row of another.

use super::*;

/// A small generator with a seed, so that a failure can be repeated.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).unwrap()).unwrap()
    }
}

struct Person {
    id: UserId,
    mark: String,
    conversations: Vec<ConversationId>,
    messages: Vec<MessageId>,
}

async fn rows_of(memory: &Memory, person: &Person) -> String {
    let export = memory.export_user(person.id).await.unwrap();
    serde_json::to_string(&(export.conversations, export.user, export.voiceprint)).unwrap()
}

#[tokio::test]
async fn random_calls_never_show_or_touch_another_persons_rows() {
    for seed in [1, 42, 20_261_122] {
        let mut random = Random(seed);
        let home = Home::new().await;
        let memory = &home.memory;
        let mut people = Vec::new();
        for mark in ["alphamark", "betamark", "gammamark"] {
            let id = memory.add_user(mark).await.unwrap().id;
            people.push(Person { id, mark: mark.into(), conversations: Vec::new(), messages: Vec::new() });
        }
        for step in 0..250 {
            let actor = random.below(people.len());
            let victim = random.below(people.len());
            // Half of the ids in calls belong to another person.
            let conversation = match people[victim].conversations.len() {
                0 => ConversationId::new(),
                n => people[victim].conversations[random.below(n)],
            };
            let messages: Vec<MessageId> = match people[victim].messages.len() {
                0 => vec![MessageId::new()],
                n => (0..3).map(|_| people[victim].messages[random.below(n)]).collect(),
            };
            let (user, mark) = (people[actor].id, people[actor].mark.clone());
            let own = actor == victim;
            let before = if own { String::new() } else { rows_of(memory, &people[victim]).await };
            let mut shown = String::new();
            let not_mine = |result: Result<()>| {
                assert!(
                    own || matches!(result, Err(MemoryError::NotFound { .. })),
                    "seed {seed} step {step}: {result:?}"
                );
            };
            let session = SessionId::new(&format!("client {}", random.below(4))).unwrap();
            match random.below(16) {
                0..=2 => {
                    let target = match random.below(5) {
                        0 => Target::New,
                        1 => Target::Session(&session),
                        _ => Target::Existing(conversation),
                    };
                    let text = format!("{mark} shared words {step}");
                    match say_as(memory, user, target, Kind::Note, &text, "ok", &messages).await {
                        Ok(turn) => {
                            assert!(own || !matches!(target, Target::Existing(_)), "seed {seed} step {step}");
                            people[actor].conversations.push(turn.conversation_id);
                            people[actor].messages.extend([turn.user_message_id, turn.assistant_message_id]);
                        }
                        Err(e) => not_mine(Err(e)),
                    }
                }
                3 => match memory.history(user, conversation, None, 50).await {
                    Ok(history) => shown = serde_json::to_string(&history).unwrap(),
                    Err(e) => not_mine(Err(e)),
                },
                4 => {
                    let mut from = None;
                    loop {
                        let page = memory.search(user, "shared words", None, from.as_ref(), 7).await.unwrap();
                        shown += &serde_json::to_string(&page).unwrap();
                        from = page.next;
                        if from.is_none() {
                            break;
                        }
                    }
                }
                5 => {
                    shown =
                        serde_json::to_string(&memory.recall(user, "shared", Words::All, 50).await.unwrap())
                            .unwrap();
                    shown += &serde_json::to_string(&memory.notes(user, 50).await.unwrap()).unwrap();
                }
                6 => {
                    let page = memory.list_conversations(user, None, 100).await.unwrap();
                    shown = serde_json::to_string(&page).unwrap();
                }
                7 => not_mine(memory.rename_conversation(user, conversation, &mark).await),
                8 => match memory.session(user, &session).await.unwrap() {
                    // A session id finds only one's own conversation, so it can be read.
                    Some(id) => {
                        shown = serde_json::to_string(&memory.history(user, id, None, 50).await.unwrap())
                            .unwrap();
                    }
                    None => assert!(!people[actor].mark.is_empty()),
                },
                9 => match memory.window(user, conversation, 500).await {
                    Ok(window) => shown = format!("{} {:?}", window.summary, window.messages),
                    Err(e) => not_mine(Err(e)),
                },
                10 => match memory.gist(user, conversation).await {
                    Ok(gist) => shown = serde_json::to_string(&gist).unwrap(),
                    Err(e) => not_mine(Err(e)),
                },
                11 => match memory.summary(people[victim].id, conversation).await {
                    // Even with a summary read under the other person's rights.
                    Ok(of) => {
                        let set = memory
                            .set_summary(user, conversation, &of, &format!("about {mark}"))
                            .await
                            .unwrap();
                        assert!(own || !set, "seed {seed} step {step}");
                    }
                    Err(e) => assert!(matches!(e, MemoryError::NotFound { .. }), "{e:?}"),
                },
                12 => match memory.export_conversation(user, conversation).await {
                    Ok(whole) if random.below(4) == 0 => {
                        shown = serde_json::to_string(&whole).unwrap();
                        assert_eq!(memory.import_conversations(user, &shown).await.unwrap().skipped, 1);
                    }
                    Ok(whole) => shown = serde_json::to_string(&whole).unwrap(),
                    Err(e) => not_mine(Err(e)),
                },
                13 => {
                    shown = serde_json::to_string(&memory.export_user(user).await.unwrap()).unwrap();
                    for id in memory.named_after(user, "client").await.unwrap() {
                        memory.conversation(user, id).await.unwrap();
                    }
                    let mine = memory.matching(user, "shared").await.unwrap();
                    assert!(
                        mine.iter().all(|id| people[actor].messages.contains(id)),
                        "seed {seed} step {step}"
                    );
                }
                14 if random.below(3) == 0 => not_mine(memory.delete_conversation(user, conversation).await),
                _ => {
                    let gone = memory.forget(user, &messages).await.unwrap();
                    assert!(own || gone == 0, "seed {seed} step {step}");
                    assert!(own || memory.sources(user, messages[0]).await.unwrap().is_empty());
                }
            }
            for other in people.iter().filter(|other| other.id != user) {
                assert!(!shown.contains(&other.mark), "seed {seed} step {step}: {shown}");
            }
            if !own {
                assert_eq!(before, rows_of(memory, &people[victim]).await, "seed {seed} step {step}");
            }
        }
        memory.check().await.unwrap();
        let odd = "SELECT count(*) AS n FROM conversations c
            WHERE c.messages <> (SELECT count(*) FROM messages m WHERE m.conversation = c.rid)";
        assert_eq!(count(memory, odd).await, 0);
    }
}

#[tokio::test]
async fn the_schema_itself_refuses_a_message_in_another_persons_conversation() {
    let home = Home::new().await;
    let anna = home.memory.add_user("Anna").await.unwrap().id;
    let bob = home.memory.add_user("Bob").await.unwrap().id;
    say(&home.memory, anna, Target::New, "mine", "ok").await.unwrap();
    let (mut tx, _) = home.memory.begin().await.unwrap();
    let steal =
        sqlx::query("UPDATE messages SET owner = (SELECT rid FROM users WHERE id = ?1)").bind(bob.bytes());
    assert!(matches!(tx.execute(steal).await, Err(StoreError::Constraint { unique: false, .. })));
}

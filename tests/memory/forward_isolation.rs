//! In the shared database a person's rows are that person's: nobody else sees them, they go when they are
//! forgotten, and no copy brings them back.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::household::{DEVICE, settings};
use crate::support::postgres::Postgres;
use crate::support::random::Random;
use jarvisd::clock::Clock;
use jarvisd::memory::{Appended, Device, Kind, Memory, NewTurn, Target, TurnMeta, UserId};
use jarvisd::store::forward::{Forwarder, Progress};

/// Tables with an owner, and the name of the owner's column.
const OWNED: [(&str, &str); 5] = [
    ("users", "id"),
    ("conversations", "owner"),
    ("messages", "owner"),
    ("message_sources", "owner"),
    ("tombstones", "owner"),
];

async fn open(path: &Path) -> Memory {
    Memory::open(path, &Device { id: DEVICE.into() }, Clock::System).await.unwrap()
}

async fn drain(memory: &Memory, server: &Postgres) {
    let clock = memory.clock().clone();
    let mut forwarder = Forwarder::new(memory.store().clone(), clock, settings(server, server.port()));
    loop {
        match forwarder.run_once().await.unwrap() {
            Progress::Empty => return forwarder.close().await,
            Progress::Buried => panic!("an entry was refused"),
            Progress::Sent(_) | Progress::NotYet => {}
        }
    }
}

async fn say(
    memory: &Memory,
    user: UserId,
    target: Target<'_>,
    text: &str,
    made_from: Option<&Appended>,
) -> Appended {
    let sources: Vec<_> = made_from.map(|stored| stored.user_message_id).into_iter().collect();
    let turn = NewTurn {
        text,
        kind: Kind::Note,
        reply: &format!("I will remember: {text}"),
        responder: "builtin",
        sources: &sources,
        forget: &[],
        meta: &TurnMeta::default(),
    };
    memory.append_turn(user, target, &turn).await.unwrap()
}

/// Three people with a random life each; returns them.
async fn household(memory: &Memory, random: &mut Random) -> Vec<UserId> {
    let mut people = Vec::new();
    for name in ["Anna", "Ben", "Cem"] {
        people.push(memory.add_user(name).await.unwrap().id);
    }
    let mut latest = BTreeMap::<UserId, Appended>::new();
    for n in 0..60 {
        let user = *random.pick(&people);
        let last = latest.get(&user);
        let target = match last {
            Some(last) if !random.one_in(5) => Target::Existing(last.conversation_id),
            _ => Target::New,
        };
        let stored = say(memory, user, target, &format!("secret {n} of {user}"), last).await;
        latest.insert(user, stored);
        if random.one_in(12) {
            let stored = latest.remove(&user).unwrap();
            memory.forget(user, &[stored.user_message_id]).await.unwrap();
        }
    }
    // Everybody has forgotten something, and has answers made from something.
    for user in &people {
        let gone = say(memory, *user, Target::New, "soon forgotten", None).await;
        memory.forget(*user, &[gone.user_message_id]).await.unwrap();
        let kept = say(memory, *user, Target::New, "kept", None).await;
        say(memory, *user, Target::New, "kept again", Some(&kept)).await;
    }
    people
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_sees_and_changes_the_rows_of_the_person_that_it_names_and_no_others() {
    let server = Postgres::start();
    let dir = tempfile::tempdir().unwrap();
    let memory = open(&dir.path().join("jarvis.db")).await;
    let people = household(&memory, &mut Random::for_test("isolation")).await;
    drain(&memory, &server).await;
    let as_person = |user: Option<UserId>, sql: &str| {
        let user = user.map(|user| user.to_string()).unwrap_or_default();
        server.try_query_as_jarvis(&format!("SET jarvis.\"user\" = '{user}'; {sql}"))
    };
    for (table, owner) in OWNED {
        let all = format!("SELECT * FROM jarvis.{table}");
        assert!(!server.query(&all).is_empty(), "nothing to hide in {table}");
        assert_eq!(
            server.try_query_as_jarvis(&all).unwrap(),
            Vec::<Vec<String>>::new(),
            "{table} without a name"
        );
        assert_eq!(as_person(None, &all).unwrap(), Vec::<Vec<String>>::new(), "{table} of nobody");
        for user in &people {
            let order = format!("ORDER BY {table}::text");
            let theirs = server.query(&format!("{all} WHERE {owner} = '{user}' {order}"));
            assert_eq!(
                as_person(Some(*user), &format!("{all} {order}")).unwrap(),
                theirs,
                "{table} of {user}"
            );
        }
        // Ben, who would touch Anna's rows.
        let (anna, ben) = (people[0], people[1]);
        let before = server.query(&format!("{all} ORDER BY {table}::text"));
        let delete = format!("DELETE FROM jarvis.{table} WHERE {owner} = '{anna}' RETURNING 1");
        assert_eq!(as_person(Some(ben), &delete).unwrap(), Vec::<Vec<String>>::new());
        let take =
            format!("UPDATE jarvis.{table} SET {owner} = '{ben}' WHERE {owner} = '{anna}' RETURNING 1");
        assert_eq!(as_person(Some(ben), &take).unwrap(), Vec::<Vec<String>>::new());
        let give = format!("UPDATE jarvis.{table} SET {owner} = '{anna}' WHERE {owner} = '{ben}'");
        let refused = as_person(Some(ben), &give).unwrap_err();
        assert!(refused.contains("row-level security") || refused.contains("violates"), "{table}: {refused}");
        assert_eq!(server.query(&format!("{all} ORDER BY {table}::text")), before, "{table} was changed");
    }
}

/// Everything that the database holds, as text.
fn dump(server: &Postgres) -> String {
    let output = Command::new("pg_dump")
        .args(["-U", "postgres", "-d", "jarvis", "-p", &server.port().to_string(), "-h"])
        .arg(server.socket_dir())
        .env("PGPASSWORD", server.password())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_or_deleted_is_nowhere_in_the_shared_database_either() {
    let server = Postgres::start();
    let dir = tempfile::tempdir().unwrap();
    let memory = open(&dir.path().join("jarvis.db")).await;
    let (anna, ben) = (memory.add_user("Anna").await.unwrap().id, memory.add_user("Ben").await.unwrap().id);
    let kept = say(&memory, ben, Target::New, "the pelican stays", None).await;
    let first = say(&memory, anna, Target::New, "the aardvark is hidden", None).await;
    let there = Target::Existing(first.conversation_id);
    say(&memory, anna, there, "about the aardvark again", Some(&first)).await;
    say(&memory, anna, there, "the flamingo is hers", None).await;
    drain(&memory, &server).await;
    assert!(["aardvark", "pelican", "flamingo"].iter().all(|word| dump(&server).contains(word)));

    // Forgotten: the words, the answer, the turn that was made from them, and a title of those words.
    memory.forget(anna, &[first.user_message_id]).await.unwrap();
    drain(&memory, &server).await;
    let left = dump(&server);
    assert!(!left.contains("aardvark") && left.contains("flamingo"), "{left}");

    memory.delete_user(anna).await.unwrap();
    drain(&memory, &server).await;
    let left = dump(&server);
    assert!(!left.contains("flamingo") && !left.contains("Anna") && left.contains("pelican"), "{left}");
    assert_eq!(
        left.matches(&anna.to_string()).count(),
        2,
        "id and owner of her tombstone, and nothing else:\n{left}"
    );
    let _ = kept;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_the_device_brings_nothing_back_that_was_deleted_since() {
    let server = Postgres::start();
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("jarvis.db"), dir.path().join("copy.db"));
    let memory = open(&path).await;
    let (anna, ben) = (memory.add_user("Anna").await.unwrap().id, memory.add_user("Ben").await.unwrap().id);
    let first = say(&memory, anna, Target::New, "first of Anna", None).await;
    let second = say(&memory, ben, Target::New, "first of Ben", None).await;
    let third = say(&memory, ben, Target::Existing(second.conversation_id), "second of Ben", None).await;
    let fourth = say(&memory, ben, Target::New, "third of Ben", None).await;
    drain(&memory, &server).await;
    memory.store().checkpoint_truncate().await.unwrap();
    std::fs::copy(&path, &copy).unwrap();

    memory.delete_user(anna).await.unwrap();
    memory.forget(ben, &[third.user_message_id]).await.unwrap();
    memory.delete_conversation(ben, fourth.conversation_id).await.unwrap();
    drain(&memory, &server).await;
    let ids = "SELECT id FROM jarvis.messages ORDER BY seq";
    let left = server.query(ids);
    assert_eq!(left, [[second.user_message_id.to_string()], [second.assistant_message_id.to_string()]]);
    let buried = server.query("SELECT kind, id FROM jarvis.tombstones ORDER BY 1, 2");

    // The copy replaces the file, and everything in it is sent once more.
    let old = open(&copy).await;
    let requeue = "
        INSERT INTO queue (op, entity_id, user_id, created_unix_ms) SELECT 'upsert_user', id, id, 0
        FROM users;
        INSERT INTO queue (op, entity_id, user_id, created_unix_ms) SELECT 'upsert_conversation', id, NULL,
        0 FROM conversations;
        INSERT INTO queue (op, entity_id, user_id, created_unix_ms) SELECT 'insert_message', id, NULL, 0
        FROM messages;";
    let done = Command::new("sqlite3").arg(&copy).arg(requeue).status().unwrap();
    assert!(done.success());
    // A person takes over explicitly: otherwise it is held back.
    jarvisd::store::holder::take_over(old.store(), None, old.clock().now_unix_ms()).await.unwrap();
    drain(&old, &server).await;
    assert_eq!(server.query(ids), left);
    assert_eq!(server.query("SELECT kind, id FROM jarvis.tombstones ORDER BY 1, 2"), buried);
    assert_eq!(server.query("SELECT id FROM jarvis.users"), [[ben.to_string()]]);
    let _ = first;
}

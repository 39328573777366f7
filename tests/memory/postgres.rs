//! Memory shared through a real Postgres: turns while it was away, two devices, deletions, refusals.

mod damaged;
mod holders;
mod pooler;
mod put_back;
mod refused;
mod roles;

use std::fs;

use crate::support::mic::Mic;
use crate::support::postgres::{Certificate, Options, Postgres, Stop};
use crate::support::{Root, Voice, wait_until};
use serde_json::Value;

/// A device that knows the database.
fn device(postgres: &Postgres, id: &str) -> Root {
    device_with(postgres, id, &format!("postgres_url = {:?}\n", postgres.url()))
}

fn device_with(postgres: &Postgres, id: &str, store: &str) -> Root {
    Root::with_config(&config(postgres, id, store))
}

fn config(postgres: &Postgres, id: &str, store: &str) -> String {
    format!(
        "[device]\nid = {id:?}\n[store]\npostgres_password_file = {:?}\n{store}",
        postgres.password_file()
    )
}

fn drain(root: &Root) -> Value {
    let drained = root.json(&["queue", "drain"]);
    assert_eq!(drained["entries"], 0, "{drained}");
    drained
}

/// As [`drain`], where Postgres refuses some entries for good.
fn drain_refused(root: &Root) -> Value {
    let output = root.run(&["queue", "drain", "--json"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    let drained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told.contains(&format!("refused {} entr", drained["set_aside"])), "{told}");
    assert!(told.contains("jarvisd queue dead-letter list"), "{told}");
    assert_eq!((&drained["entries"], &drained["complete"]), (&0.into(), &false.into()), "{drained}");
    drained
}

fn pull(root: &Root) -> Value {
    root.json(&["store", "pull"])
}

/// Texts of all of a person's messages, by conversation as listed.
fn texts(root: &Root, user: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for conversation in root.json(&["conversation", "list", "--user", user]).as_array().unwrap() {
        let id = conversation["id"].as_str().unwrap();
        let shown = root.json(&["conversation", "show", id, "--user", user]);
        let messages = shown["messages"].as_array().unwrap();
        texts.extend(messages.iter().map(|m| m["text"].as_str().unwrap().to_owned()));
    }
    texts
}

/// Whether the files of the database hold these bytes.
fn on_disk(root: &Root, text: &str) -> bool {
    let folder = root.path().join("var/lib/jarvis");
    fs::read_dir(folder).unwrap().any(|file| {
        let path = file.unwrap().path();
        let named = path.file_name().unwrap().to_str().unwrap().starts_with("jarvis.db");
        named && fs::read(&path).unwrap().windows(text.len()).any(|w| w == text.as_bytes())
    })
}

/// Two devices of one house; the first knows Anna.
fn house(postgres: &Postgres) -> (Root, Root) {
    let (kitchen, bedroom) = (device(postgres, "kitchen"), device(postgres, "bedroom"));
    kitchen.ok(&["user", "add", "anna"]);
    (kitchen, bedroom)
}

fn ask(root: &Root, user: &str, text: &str) -> Value {
    root.json(&["ask", "--user", user, text])
}

fn stderr_of(root: &Root, args: &[&str], exit: i32) -> String {
    let output = root.run(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {text}");
    text
}

fn server() -> Postgres {
    Postgres::with(Options { fsync: false, ..Options::default() })
}

#[test]
fn what_was_said_while_postgres_was_away_arrives_exactly_once_and_in_order() {
    let mut postgres = server();
    let root = device(&postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    postgres.stop(Stop::Fast);
    for n in 0..5 {
        ask(&root, "anna", &format!("remember that item {n} is on shelf {n}"));
    }
    let away = stderr_of(&root, &["queue", "drain"], 75);
    assert!(away.contains("connecting to Postgres") && away.contains("127.0.0.1"), "{away}");
    let status = root.json(&["queue", "status"]);
    assert_eq!((&status["entries"], &status["reachable"]), (&12.into(), &false.into()), "{status}");

    postgres.boot();
    let drained = root.json(&["queue", "drain"]);
    assert_eq!((&drained["sent"], &drained["entries"]), (&12.into(), &0.into()), "{drained}");
    let rows = postgres.query("SELECT seq, role, text FROM jarvis.messages ORDER BY seq");
    assert_eq!(rows.len(), 10);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row[0], (i + 1).to_string());
        assert_eq!(row[1], if i % 2 == 0 { "user" } else { "assistant" });
        assert!(row[2].contains(&format!("item {}", i / 2)), "{row:?}");
    }
    assert_eq!(root.json(&["queue", "drain"])["sent"], 0);
    assert_eq!(postgres.value("SELECT next_seq FROM jarvis.conversations"), "11");
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.users WHERE name = 'anna'"), "1");
}

#[test]
fn two_devices_see_what_was_said_to_the_other_and_each_goes_on_with_its_own() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    let first = ask(&kitchen, "anna", "remember that the spare key is under the blue pot");
    drain(&kitchen);
    assert_eq!(pull(&bedroom)["refused"], 0);
    assert_eq!(texts(&bedroom, "anna"), texts(&kitchen, "anna"));
    let found = bedroom.json(&["conversation", "search", "--user", "anna", "blue", "pot"]);
    assert!(found.to_string().contains("spare key"), "{found}");
    let reply = ask(&bedroom, "anna", "what do you remember about the spare key");
    assert!(reply["reply"].as_str().unwrap().contains("blue pot"), "{reply}");
    assert_ne!(reply["conversation_id"], first["conversation_id"], "a conversation has one writer");

    drain(&bedroom);
    pull(&kitchen);
    assert_eq!(texts(&kitchen, "anna").len(), 4);
    let again = ask(&kitchen, "anna", "remember that the ladder is in the shed");
    assert_eq!(again["conversation_id"], first["conversation_id"]);
    drain(&kitchen);
    for root in [&kitchen, &bedroom] {
        pull(root);
        assert_eq!(texts(root, "anna").len(), 6);
        // Nothing is sent back.
        assert_eq!(root.json(&["queue", "status"])["entries"], 0);
        assert_eq!(pull(root)["changed"], 0);
        let same = root.json(&["store", "check"]);
        assert_eq!((&same["here"], &same["with_gaps"]), (&same["there"], &0.into()), "{same}");
    }
}

#[test]
fn what_is_forgotten_on_one_device_is_gone_on_the_other_byte_by_byte() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    ask(&kitchen, "anna", "remember that the ladder is in the shed");
    let told = ask(&kitchen, "anna", "remember that the password is zyzzyva");
    drain(&kitchen);
    pull(&bedroom);
    assert!(on_disk(&bedroom, "zyzzyva"));
    ask(&bedroom, "anna", "forget everything about zyzzyva");
    assert!(!on_disk(&bedroom, "zyzzyva"));
    // Written here meanwhile, and not known there: an answer that repeats it.
    let repeated = ask(&kitchen, "anna", "what do you remember about the password");
    assert!(repeated["reply"].as_str().unwrap().contains("zyzzyva"), "{repeated}");
    drain(&bedroom);
    pull(&kitchen);
    assert!(!on_disk(&kitchen, "zyzzyva"), "{:?}", texts(&kitchen, "anna"));
    drain(&kitchen);
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages WHERE text LIKE '%zyzzyva%'"), "0");
    assert!(texts(&kitchen, "anna").iter().any(|text| text.contains("ladder")));
    // A late copy does not bring it back: neither there, nor here.
    let id = told["user_message_id"].as_str().unwrap();
    assert_eq!(postgres.value(&format!("SELECT count(*) FROM jarvis.tombstones WHERE id = '{id}'")), "1");
    for root in [&kitchen, &bedroom] {
        pull(root);
        drain(root);
        assert!(!on_disk(root, "zyzzyva"));
    }

    let conversation = told["conversation_id"].as_str().unwrap();
    kitchen.ok(&["conversation", "rename", conversation, "Quokka trip", "--user", "anna"]);
    drain(&kitchen);
    pull(&bedroom);
    assert!(on_disk(&bedroom, "Quokka"));
    ask(&kitchen, "anna", "forget everything about quokka");
    drain(&kitchen);
    pull(&bedroom);
    assert!(!on_disk(&bedroom, "Quokka"), "a name is forgotten too");
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.conversations WHERE title LIKE '%Quokka%'"), "0");
    kitchen.ok(&["conversation", "delete", conversation, "--user", "anna", "--yes"]);
    drain(&kitchen);
    pull(&bedroom);
    assert!(!on_disk(&bedroom, "ladder"));
}

/// The deletion is sent at once. The restored rows are new to everybody, and no tombstone stands in their
/// way.
#[test]
fn a_forgetting_that_is_undone_reaches_the_other_device_as_well() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    let told = ask(&kitchen, "anna", "remember that the password is zyzzyva");
    drain(&kitchen);
    pull(&bedroom);
    ask(&kitchen, "anna", "forget the password");
    drain(&kitchen);
    pull(&bedroom);
    let there = || postgres.value("SELECT count(*) FROM jarvis.messages WHERE text LIKE '%zyzzyva%'");
    assert_eq!(there(), "0");
    assert!(!on_disk(&bedroom, "zyzzyva") && !on_disk(&kitchen, "zyzzyva"));
    let back = ask(&kitchen, "anna", "bring it back");
    assert_eq!(back["effects"][0]["effect"], "brought_back", "{back}");
    drain(&kitchen);
    pull(&bedroom);
    assert_eq!(there(), "3", "what was said, its answer, and that it is back");
    let reply = ask(&bedroom, "anna", "what do you remember about the password");
    assert!(reply["reply"].as_str().unwrap().contains("zyzzyva"), "{reply}");
    let id = told["user_message_id"].as_str().unwrap();
    assert_eq!(postgres.value(&format!("SELECT count(*) FROM jarvis.messages WHERE id = '{id}'")), "0");
    let (mine, theirs) = (texts(&kitchen, "anna"), texts(&bedroom, "anna"));
    assert!(mine.iter().all(|text| theirs.contains(text)), "{mine:?} {theirs:?}");
    for root in [&kitchen, &bedroom] {
        drain(root);
        let check = root.json(&["store", "check"]);
        assert_eq!(check["findings"], serde_json::json!([]), "{check}");
    }
    // Forgotten again, it is gone again.
    ask(&bedroom, "anna", "forget everything about the password");
    drain(&bedroom);
    pull(&kitchen);
    assert_eq!(there(), "0");
    assert!(!on_disk(&kitchen, "zyzzyva") && !on_disk(&bedroom, "zyzzyva"));
}

#[test]
fn a_deleted_person_is_deleted_everywhere_and_leaves_one_tombstone() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    ask(&kitchen, "anna", "remember that the bicycle is in the cellar");
    drain(&kitchen);
    pull(&bedroom);
    ask(&bedroom, "anna", "remember that the umbrella is in the hall");
    drain(&bedroom);
    bedroom.ok(&["user", "delete", "anna", "--yes"]);
    // Said here before this device heard of it.
    ask(&kitchen, "anna", "remember that the ticket is in the drawer");
    drain(&bedroom);
    drain(&kitchen);
    pull(&kitchen);
    for (root, word) in [(&kitchen, "bicycle"), (&kitchen, "ticket"), (&bedroom, "umbrella")] {
        assert!(!on_disk(root, word), "{word}");
        assert_eq!(root.json(&["user", "list"]).as_array().unwrap().len(), 0);
    }
    for table in ["users", "conversations", "messages", "message_sources"] {
        assert_eq!(postgres.value(&format!("SELECT count(*) FROM jarvis.{table}")), "0", "{table}");
    }
    assert_eq!(postgres.query("SELECT kind FROM jarvis.tombstones"), [["user"]]);
    assert_eq!(kitchen.json(&["queue", "status"])["dead_letters"], 0);
}

#[test]
fn two_people_of_one_name_stay_two_people() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    bedroom.ok(&["user", "add", "Anna"]);
    ask(&kitchen, "anna", "remember that the ladder is in the shed");
    drain(&kitchen);
    drain(&bedroom);
    pull(&bedroom);
    let mut names: Vec<String> = Vec::new();
    for user in bedroom.json(&["user", "list"]).as_array().unwrap() {
        names.push(user["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names, ["Anna", "anna (2)"]);
    assert!(texts(&bedroom, "Anna").is_empty());
    assert_eq!(texts(&bedroom, "anna (2)").len(), 2);
    kitchen.ok(&["user", "rename", "anna", "Hanna"]);
    drain(&kitchen);
    pull(&bedroom);
    assert_eq!(texts(&bedroom, "hanna").len(), 2);
}

#[test]
fn a_rename_that_waits_here_is_not_undone_by_what_comes_from_there() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    let id = ask(&kitchen, "anna", "remember that the ladder is in the shed")["conversation_id"].clone();
    let id = id.as_str().unwrap();
    drain(&kitchen);
    pull(&bedroom);
    bedroom.ok(&["conversation", "rename", id, "Tools", "--user", "anna"]);
    drain(&bedroom);
    kitchen.ok(&["conversation", "rename", id, "Shed", "--user", "anna"]);
    pull(&kitchen);
    assert_eq!(kitchen.json(&["conversation", "list", "--user", "anna"])[0]["title"], "Shed");
    drain(&kitchen);
    pull(&bedroom);
    assert_eq!(bedroom.json(&["conversation", "list", "--user", "anna"])[0]["title"], "Shed");
}

/// A device's first act arrives last, for everything that has a name.
#[test]
fn a_name_that_was_given_earlier_and_arrives_later_does_not_undo_the_newer_one() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    let id = ask(&kitchen, "anna", "remember that the ladder is in the shed")["conversation_id"].clone();
    let id = id.as_str().unwrap();
    drain(&kitchen);
    pull(&bedroom);
    kitchen.ok(&["conversation", "rename", id, "Shed", "--user", "anna"]);
    kitchen.ok(&["user", "rename", "anna", "Hanna"]);
    bedroom.ok(&["conversation", "rename", id, "Tools", "--user", "anna"]);
    bedroom.ok(&["user", "rename", "anna", "Joanna"]);
    drain(&bedroom);
    // The conversation goes on here, so its row comes from both devices.
    kitchen.ok(&["ask", "--user", "hanna", "--conversation", id, "remember that it is rusty"]);
    drain(&kitchen);
    for root in [&kitchen, &bedroom] {
        pull(root);
        let people = root.json(&["user", "list"]);
        assert_eq!((&people[0]["name"], people.as_array().unwrap().len()), (&"Joanna".into(), 1));
        let listed = root.json(&["conversation", "list", "--user", "joanna"]);
        assert_eq!((&listed[0]["title"], &listed[0]["messages"]), (&"Tools".into(), &4.into()));
    }
    assert_eq!(postgres.query("SELECT title, next_seq FROM jarvis.conversations"), [["Tools", "5"]]);
    assert_eq!(postgres.value("SELECT name FROM jarvis.users"), "Joanna");
}

/// "anna (2)" is the bedroom's own way to tell two Annas apart; the house does not use that name.
#[test]
fn the_number_that_a_device_gives_to_a_second_anna_stays_on_that_device() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    bedroom.ok(&["user", "add", "Anna"]);
    drain(&kitchen);
    drain(&bedroom);
    pull(&bedroom);
    let names = |root: &Root| -> Vec<String> {
        let people = root.json(&["user", "list"]);
        people.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&bedroom), ["Anna", "anna (2)"]);
    // The bedroom is the first to fill another database, with everybody it knows.
    postgres.lose_database();
    drain(&bedroom);
    let there = "SELECT name FROM jarvis.users ORDER BY name COLLATE \"C\"";
    assert_eq!(postgres.query(there), [["Anna"], ["anna"]]);
    drain(&kitchen);
    pull(&kitchen);
    pull(&bedroom);
    assert_eq!(postgres.query(there), [["Anna"], ["anna"]]);
    assert_eq!(
        (names(&kitchen), names(&bedroom)),
        (vec!["anna".into(), "Anna (2)".into()], vec!["Anna".into(), "anna (2)".into()])
    );
    // A name that somebody chose there is for everybody.
    bedroom.ok(&["user", "rename", "anna (2)", "Annie"]);
    drain(&bedroom);
    pull(&kitchen);
    assert_eq!(names(&kitchen), ["Anna (2)", "Annie"]);
}

/// A row that was dated again comes after the answer that was made from it, here pages later.
#[test]
fn an_answer_is_forgotten_with_its_source_also_where_the_source_came_after_it() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    ask(&kitchen, "anna", "remember that the zamboni is in the shed");
    let answer = ask(&kitchen, "anna", "what do you remember");
    assert!(answer["reply"].as_str().unwrap().contains("zamboni"), "{answer}");
    drain(&kitchen);
    postgres.query(
        "WITH one AS (SELECT * FROM jarvis.messages ORDER BY seq LIMIT 1)
        INSERT INTO jarvis.messages SELECT gen_random_uuid(), conversation, owner, n, 'user', 'say', \
        'between ' || n, NULL,
            wall_time, clock_synced, monotonic_ns, boot_id, device, origin, nextval('jarvis.changes')
        FROM one, generate_series(10, 300) n RETURNING 1",
    );
    postgres.query(
        "UPDATE jarvis.messages SET change = nextval('jarvis.changes')
        WHERE id IN (SELECT source FROM jarvis.message_sources) RETURNING 1",
    );
    pull(&bedroom);
    assert!(on_disk(&bedroom, "zamboni"));
    let id = answer["conversation_id"].as_str().unwrap();
    let shown = bedroom.json(&["conversation", "show", id, "--user", "anna"]);
    let linked = shown["messages"].as_array().unwrap().iter().filter(|m| m["sources"].is_array()).count();
    assert_eq!(linked, 1, "{shown}");
    bedroom.ok(&["ask", "--user", "anna", "forget everything about zamboni"]);
    assert!(!on_disk(&bedroom, "zamboni"));
}

/// Also where the database itself has lost the rows: the repair may have lost just these.
#[test]
fn a_deletion_elsewhere_deletes_the_damaged_copies_here() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    ask(&kitchen, "anna", "remember that the zamboni is in the shed");
    drain(&kitchen);
    pull(&bedroom);
    // This one has never heard of her.
    let garden = device(&postgres, "garden");
    garden.ok(&["user", "add", "ben"]);
    let copies = |root: &Root| -> Vec<std::path::PathBuf> {
        let copy = root.path().join("var/lib/jarvis/jarvis.db.corrupt.20261122T120000Z");
        vec![copy.with_extension("20261122T120000Z-wal"), copy]
    };
    for root in [&bedroom, &garden] {
        for copy in copies(root) {
            fs::write(copy, "the zamboni again").unwrap();
        }
    }
    pull(&bedroom);
    assert!(copies(&bedroom).iter().all(|copy| copy.exists()), "nothing was deleted yet");
    kitchen.ok(&["user", "delete", "--yes", "anna"]);
    drain(&kitchen);
    for root in [&bedroom, &garden] {
        pull(root);
        assert!(!on_disk(root, "zamboni"));
        assert!(copies(root).iter().all(|copy| !copy.exists()));
    }
}

#[test]
fn what_postgres_refuses_is_set_aside_and_the_rest_goes_on() {
    let postgres = server();
    let root = device(&postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    postgres
        .execute("ALTER TABLE jarvis.messages ADD CONSTRAINT no_secret CHECK (text NOT LIKE '%xylophone%')");
    for n in 0..20 {
        let what = if n % 7 == 3 { "xylophone" } else { "ladder" };
        ask(&root, "anna", &format!("remember that the {what} {n} is in the shed"));
    }
    assert_eq!(drain_refused(&root)["set_aside"], 6);
    // The earlier refusal is told, and is no failure of this time.
    assert!(root.ok(&["queue", "drain"]).contains("refused 6 earlier"));
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages"), "34");
    let dead = root.json(&["queue", "dead-letter", "list"]);
    for letter in dead.as_array().unwrap() {
        assert_eq!((&letter["op"], &letter["sqlstate"]), (&"insert_message".into(), &"23514".into()));
        assert!(letter["error"].as_str().unwrap().contains("no_secret"), "{letter}");
        assert!(!letter.to_string().contains("xylophone"), "the row is not repeated: {letter}");
    }
    assert!(root.ok(&["queue", "status"]).contains("refused 6"));
    let number = dead[0]["seq"].to_string();
    stderr_of(&root, &["queue", "dead-letter", "retry"], 2);
    assert_eq!(root.json(&["queue", "dead-letter", "retry", &number])["dead_letters"], 1);
    assert_eq!(drain_refused(&root)["set_aside"], 1);
    let again = root.json(&["queue", "dead-letter", "list"]);
    assert!(again.as_array().unwrap().iter().any(|letter| letter["attempts"] == 2), "{again}");

    postgres.execute("ALTER TABLE jarvis.messages DROP CONSTRAINT no_secret");
    assert_eq!(
        root.json(&["queue", "dead-letter", "drop", &again[0]["seq"].to_string(), "--yes"])["dead_letters"],
        1
    );
    assert_eq!(root.json(&["queue", "dead-letter", "retry", "--all"])["dead_letters"], 5);
    drain(&root);
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages"), "39");
    assert!(
        stderr_of(&root, &["queue", "dead-letter", "drop", &number, "--yes"], 1).contains("no dead letter")
    );
    // The one that was given up is still here, and the comparison says so.
    assert!(stderr_of(&root, &["store", "check"], 1).contains("1 difference between"));
    // A repair is done although somebody talks, and says that it was not complete.
    root.ok(&["ask", "--user", "anna", "--new", "hello"]);
    let said = root.ok(&["store", "check", "--repair"]);
    assert!(said.contains("Not everything could be compared: ") && said.contains("Queued "), "{said}");
    drain(&root);
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages"), "42");
    root.ok(&["store", "check"]);
    // A repair that finds nothing to mend was not complete either.
    root.ok(&["ask", "--user", "anna", "hello"]);
    assert!(stderr_of(&root, &["store", "check", "--repair"], 75).contains("wait to be sent"));
    drain(&root);
    root.ok(&["store", "check", "--repair"]);
}

#[test]
fn a_new_and_empty_database_gets_everything_again() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    ask(&kitchen, "anna", "remember that the ladder is in the shed");
    drain(&kitchen);
    pull(&bedroom);
    ask(&bedroom, "anna", "remember that the umbrella is in the hall");
    postgres.lose_database();
    // The first to come also brings its knowledge of the other.
    drain(&bedroom);
    drain(&kitchen);
    for root in [&kitchen, &bedroom] {
        pull(root);
        assert_eq!(texts(root, "anna").len(), 4);
        root.ok(&["store", "check"]);
    }
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages"), "4");
}

#[test]
fn a_device_that_lost_its_file_gets_everything_back() {
    let postgres = server();
    let root = device(&postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    let before = ask(&root, "anna", "remember that the ladder is in the shed");
    drain(&root);
    for file in fs::read_dir(root.path().join("var/lib/jarvis")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    pull(&root);
    assert_eq!(texts(&root, "anna").len(), 2);
    let after = ask(&root, "anna", "what do you remember about the ladder");
    assert_eq!(after["conversation_id"], before["conversation_id"], "it is still this device's own");
    drain(&root);
    assert_eq!(
        postgres.value("SELECT string_agg(seq::text, ',' ORDER BY seq) FROM jarvis.messages"),
        "1,2,3,4"
    );
}

#[test]
fn rows_that_break_rules_are_refused_and_do_not_stop_the_others() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    ask(&kitchen, "anna", "remember that the ladder is in the shed");
    drain(&kitchen);
    pull(&bedroom);
    // Somebody with all rights has been there.
    postgres.execute(
        "DO $$ DECLARE c record; BEGIN
            FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
                WHERE connamespace = 'jarvis'::regnamespace AND contype IN ('c', 'f', 'u') AND conrelid <> 0
                ORDER BY contype = 'u' LOOP
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', c.t, c.conname);
            END LOOP; END $$;
         CREATE FUNCTION pg_temp.msg(c uuid, o uuid, s bigint, r text, t text, w timestamptz) RETURNS void \
         LANGUAGE sql AS $$
            INSERT INTO jarvis.messages (id, conversation, owner, seq, role, kind, text, meta, wall_time, \
            clock_synced,
                monotonic_ns, boot_id, device, origin, change)
            VALUES (gen_random_uuid(), c, o, s, r, 'say', t, NULL, w, true, 0, 'b', 'd', 'evil', \
            nextval('jarvis.changes')) $$;
         SELECT pg_temp.msg(id, owner, 1, 'user', 'taken place', now()) FROM jarvis.conversations;
         SELECT pg_temp.msg(id, owner, -4, 'user', 'place below the first', now()) FROM jarvis.conversations;
         SELECT pg_temp.msg(id, owner, 9223372036854775807, 'user', 'place at the end', now()) FROM \
         jarvis.conversations;
         SELECT pg_temp.msg(id, owner, 50, 'admin', 'no such role', now()) FROM jarvis.conversations;
         SELECT pg_temp.msg(id, owner, 51, 'user', repeat('x', 900000), now()) FROM jarvis.conversations;
         SELECT pg_temp.msg(id, owner, 52, 'user', 'no time', 'infinity') FROM jarvis.conversations;
         SELECT pg_temp.msg(id, gen_random_uuid(), 53, 'user', 'of another person', now()) FROM \
         jarvis.conversations;
         SELECT pg_temp.msg(gen_random_uuid(), owner, 54, 'user', 'of no conversation', now()) FROM \
         jarvis.conversations;
         INSERT INTO jarvis.users SELECT gen_random_uuid(), E'\\u202Eanna', NULL, now(), true, 'evil', \
         nextval('jarvis.changes');
         INSERT INTO jarvis.users SELECT gen_random_uuid(), repeat('n', 5000), NULL, now(), true, 'evil', \
         nextval('jarvis.changes');
         INSERT INTO jarvis.tombstones SELECT 'message', id, gen_random_uuid(), now(), 'evil', \
         nextval('jarvis.changes')
            FROM jarvis.messages WHERE seq = 2;
         INSERT INTO jarvis.tombstones SELECT 'planet', id, owner, now(), 'evil', nextval('jarvis.changes')
            FROM jarvis.messages WHERE seq = 2;
         SELECT pg_temp.msg(id, owner, 60, 'user', 'a good one', now()) FROM jarvis.conversations",
    );
    let pulled = pull(&bedroom);
    assert_eq!((&pulled["refused"], &pulled["changed"]), (&12.into(), &1.into()), "{pulled}");
    let there = texts(&bedroom, "anna");
    assert_eq!(there.len(), 3, "{there:?}");
    assert_eq!(there[2], "a good one");
    assert_eq!(pull(&bedroom)["refused"], 0, "refused once, not again and again");
    assert_eq!(bedroom.json(&["user", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_schema_of_a_newer_version_is_refused_with_both_versions() {
    let postgres = server();
    let root = device(&postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    postgres.execute("INSERT INTO jarvis.schema_version (version, program) VALUES (99, 'tomorrow')");
    ask(&root, "anna", "remember that the ladder is in the shed");
    for command in [["queue", "drain"], ["store", "pull"]] {
        let refused = stderr_of(&root, &command, 69);
        assert!(
            refused.contains("99") && refused.contains("up to 4") && refused.contains("newer jarvisd"),
            "{refused}"
        );
    }
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages"), "0");
}

#[test]
fn whoever_cannot_get_in_is_told_why_and_no_secret_is() {
    let postgres = server();
    let root = device(&postgres, "kitchen");
    let file = root.path().join("password");
    fs::write(&file, "hunter2\n").unwrap();
    let config = |url: &str| {
        root.write_config(&format!("[store]\npostgres_url = {url:?}\npostgres_password_file = {file:?}\n"));
    };
    config(&postgres.url());
    let wrong = stderr_of(&root, &["queue", "drain"], 69);
    assert!(wrong.contains("password") && wrong.contains("store.postgres_password_file"), "{wrong}");
    assert!(!wrong.contains("hunter2"), "{wrong}");
    let doctor = root.run(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("postgres_password_file") && !doctor.contains("hunter2"), "{doctor}");

    fs::write(&file, postgres.password()).unwrap();
    config(&format!("{}elsewhere", postgres.url().trim_end_matches("jarvis")));
    let absent = stderr_of(&root, &["queue", "drain"], 69);
    assert!(absent.contains("elsewhere") && absent.contains("create the database"), "{absent}");

    config(&postgres.url());
    postgres.execute("ALTER DATABASE jarvis OWNER TO postgres; REVOKE CREATE ON DATABASE jarvis FROM jarvis");
    let refused = stderr_of(&root, &["queue", "drain"], 69);
    assert!(refused.contains("permission denied") && refused.contains("own its database"), "{refused}");
    // A schema that somebody made for it is enough.
    postgres.execute("CREATE SCHEMA jarvis AUTHORIZATION jarvis");
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    assert_eq!(postgres.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'jarvis'"), "f");
}

#[test]
fn the_server_is_verified_once_an_authority_is_named() {
    let postgres = Postgres::with(Options { fsync: false, tls: true, ..Options::default() });
    let with = |ca: &std::path::Path| {
        let store = format!("postgres_url = {:?}\npostgres_ca_file = {ca:?}\n", postgres.url());
        device_with(&postgres, "kitchen", &store)
    };
    let root = with(&postgres.ca_file());
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    let other = stderr_of(&with(&postgres.other_ca_file()), &["store", "pull"], 69);
    assert!(other.contains("store.postgres_ca_file"), "{other}");
    for certificate in [Certificate::OtherHost, Certificate::Expired, Certificate::OtherAuthority] {
        postgres.show(certificate);
        let refused = stderr_of(&root, &["store", "pull"], 69);
        assert!(refused.contains("store.postgres_ca_file"), "{certificate:?}: {refused}");
    }
}

#[test]
fn a_client_certificate_opens_the_door() {
    let postgres = Postgres::with(Options { fsync: false, tls: true, ..Options::default() });
    postgres.set_hba("hostssl all all all cert");
    let (cert, key) = postgres.client_certificate("jarvis");
    let root = Root::with_config(&format!(
        "[store]\npostgres_url = {:?}\npostgres_ca_file = {:?}\npostgres_client_cert = {cert:?}\n\
         postgres_client_key = {key:?}\n",
        postgres.url(),
        postgres.ca_file()
    ));
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    let without = device(&postgres, "kitchen");
    assert!(stderr_of(&without, &["queue", "drain"], 69).contains("certificate"));
}

#[test]
fn an_ipv6_address_in_brackets_is_reached_by_sending_and_by_backing_up() {
    let conf = vec!["listen_addresses = '::1'".to_owned()];
    let postgres = Postgres::with(Options { fsync: false, conf, ..Options::default() });
    postgres.set_hba("host all all ::1/128 scram-sha-256");
    postgres.execute("ALTER ROLE jarvis CREATEDB");
    let store = format!("postgres_url = \"postgres://jarvis@[::1]:{}/jarvis\"\n", postgres.port());
    let root = device_with(&postgres, "kitchen", &store);
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    assert_eq!(postgres.value("SELECT name FROM jarvis.users"), "anna");
    let made = root.json(&["backup", "create"]);
    let name = made["name"].as_str().unwrap_or("latest");
    root.ok(&["backup", "restore", name, "--to", "elsewhere"]);
    // The same as a parameter, where no bracket is needed and one does no harm.
    for (id, host) in [("bedroom", "::1"), ("hall", "[::1]")] {
        let store =
            format!("postgres_url = \"postgres://jarvis@/jarvis?host={host}&port={}\"\n", postgres.port());
        drain(&device_with(&postgres, id, &store));
    }
}

#[test]
fn a_password_of_any_characters_opens_the_door_wherever_it_stands() {
    let postgres = server();
    postgres.execute("ALTER ROLE jarvis CREATEDB PASSWORD 'p/@:?#%&+=x'");
    let escaped = "p%2F%40%3A%3F%23%25%26%2B%3Dx";
    let (host, port, folder) = ("127.0.0.1", postgres.port(), postgres.socket_dir());
    let folder = folder.display().to_string();
    let in_path = folder.replace('/', "%2F");
    let addresses = [
        format!("postgres://jarvis:{escaped}@{host}:{port}/jarvis"),
        format!("postgres://jarvis:p%2F@:%3F%23%25&+=x@{host}:{port}/jarvis"),
        format!("postgres://jarvis@{host}:{port}/jarvis?password={escaped}"),
        format!("postgres://jarvis@{host}:{port}/jarvis?sslmode=prefer&password=p/%40:?%23%25%26+=x"),
        format!("postgresql://{host}/?user=jarvis&password={escaped}&dbname=jarvis&port={port}"),
        format!("postgres://jarvis:{escaped}@{in_path}:{port}/jarvis"),
        format!("postgres://jarvis:{escaped}@/jarvis?host={folder}&port={port}"),
    ];
    for (n, address) in addresses.iter().enumerate() {
        let device = format!("[device]\nid = \"d{n}\"\n");
        let root = Root::with_config(&format!("{device}[store]\npostgres_url = {address:?}\n"));
        drain(&root);
        let doctor = root.run(&["doctor"]);
        let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(doctor.contains("schema version") && !doctor.contains("p/@:"), "{address}: {doctor}");
        assert!(!doctor.contains(escaped), "{doctor}");
        // The programs of Postgres get the same password, and an invalid address is not repeated.
        root.ok(&["backup", "create"]);
        let target = format!("jarvis:{escaped}@{host}/elsewhere");
        let refused = root.run(&["backup", "restore", "latest", "--to", &target]);
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.contains("scheme") && !refused.contains(escaped), "{refused}");
    }
}

#[test]
fn a_unix_socket_is_enough() {
    let postgres = server();
    let socket = format!(
        "postgres_url = \"postgres://jarvis@/jarvis?host={}&port={}\"\n",
        postgres.socket_dir().display(),
        postgres.port()
    );
    let root = device_with(&postgres, "kitchen", &socket);
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    assert_eq!(postgres.value("SELECT name FROM jarvis.users"), "anna");
}

#[test]
fn without_naming_a_person_no_row_is_seen_and_naming_one_shows_theirs_only() {
    let postgres = server();
    let root = device(&postgres, "kitchen");
    for user in ["anna", "bert"] {
        root.ok(&["user", "add", user]);
        ask(&root, user, "remember that the ladder is in the shed");
    }
    drain(&root);
    let count = |set: &str, table: &str| {
        let sql = format!("{set}; SELECT count(*) FROM jarvis.{table}");
        postgres.try_query_as_jarvis(&sql).unwrap().pop().unwrap().remove(0)
    };
    let anna = postgres.value("SELECT id FROM jarvis.users WHERE name = 'anna'");
    let one = format!("SET jarvis.\"user\" = '{anna}'");
    for (table, of_one, all) in [("users", "1", "2"), ("conversations", "1", "2"), ("messages", "2", "4")] {
        assert_eq!(count("SET jarvis.\"user\" = ''", table), "0", "{table}");
        assert_eq!(count(&one, table), of_one, "{table}");
        assert_eq!(count("SET jarvis.role = 'forwarder'", table), all, "{table}");
    }
    let theft = format!("{one}; UPDATE jarvis.messages SET owner = '{anna}' WHERE true RETURNING id");
    assert_eq!(postgres.try_query_as_jarvis(&theft).unwrap().len(), 2);
    let planted = format!(
        "{one}; INSERT INTO jarvis.users (id, name, created_at, clock_synced, origin, change)
            VALUES (gen_random_uuid(), 'eve', now(), true, 'kitchen', nextval('jarvis.changes'))"
    );
    assert!(postgres.try_query_as_jarvis(&planted).unwrap_err().contains("row-level security"));
}

/// The device with ears, and without a voice.
fn with_microphone(mut root: Root) -> (Root, Mic) {
    let mic = Mic::plug_into(&mut root);
    let config = fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
    let audio = format!("[audio]\ndevice = {0:?}\nplayback_device = {0:?}\n", crate::support::mic::DEVICE);
    root.write_config(&format!("{config}\n{audio}[speech]\nenabled = false\n"));
    (root, mic)
}

#[test]
fn a_voiceprint_is_shared_by_devices_of_one_key_and_harms_no_other() {
    let postgres = server();
    let kitchen = device(&postgres, "kitchen");
    kitchen.enrol("anna", Voice::Rms);
    drain(&kitchen);
    let (bedroom, _mic) = with_microphone(device(&postgres, "bedroom"));
    let key = |root: &Root| root.path().join("var/lib/jarvis/voiceprint.key");
    let people = || bedroom.json(&["user", "list"]);
    let known = || people().as_array().unwrap().first().map(|user| user["voice"] == true);

    let mut daemon = bedroom.daemon();
    daemon.wait_event("ready");
    wait_until("the person", || known().is_some());
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert_ne!(fs::read(key(&bedroom)).unwrap(), fs::read(key(&kitchen)).unwrap());
    assert_eq!(known(), Some(false), "another key: it could not be opened");

    fs::copy(key(&kitchen), key(&bedroom)).unwrap();
    let mut daemon = bedroom.daemon();
    daemon.wait_event("ready");
    wait_until("the voice", || known() == Some(true));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let said = Voice::Rms.says("what time is it and what did we talk about this morning in the kitchen");
    let verified = bedroom.json(&["voice", "verify", "--user", "anna", said.to_str().unwrap()]);
    assert_eq!(verified["outcome"], "verified", "{verified}");
}

fn key(root: &Root) -> std::path::PathBuf {
    root.path().join("var/lib/jarvis/voiceprint.key")
}

/// Puts the key of one device into another.
fn copy_key(from: &Root, to: &Root) {
    fs::create_dir_all(key(to).parent().unwrap()).unwrap();
    fs::copy(key(from), key(to)).unwrap();
}

/// Whether Anna has a voice on this device; `None`: she is not known.
fn has_voice(root: &Root) -> Option<bool> {
    root.json(&["user", "list"]).as_array().unwrap().first().map(|user| user["voice"] == true)
}

/// A kitchen at which Anna is enrolled, all of it in Postgres.
fn enrolled(postgres: &Postgres) -> Root {
    let kitchen = device(postgres, "kitchen");
    kitchen.enrol("anna", Voice::Rms);
    drain(&kitchen);
    pull(&kitchen);
    kitchen
}

#[test]
fn a_voice_comes_back_to_a_new_card_whenever_its_key_does() {
    let postgres = server();
    let kitchen = enrolled(&postgres);
    kitchen.ok(&["store", "check"]);
    // The key first.
    let card = device(&postgres, "kitchen");
    copy_key(&kitchen, &card);
    let unread = stderr_of(&card, &["store", "check"], 75);
    assert!(unread.contains("still to be read"), "{unread}");
    assert_eq!(pull(&card)["voiceprints_read"], true);
    assert_eq!(has_voice(&card), Some(true));
    card.ok(&["store", "check"]);
    assert_eq!(pull(&card)["changed"], 0);
    let said = Voice::Rms.says("what time is it and what did we talk about this morning in the kitchen");
    let verified = card.json(&["voice", "verify", "--user", "anna", said.to_str().unwrap()]);
    assert_eq!(verified["outcome"], "verified", "{verified}");

    // The key comes after the first reading, before anything says that everything was read.
    let card = device(&postgres, "kitchen");
    let told = card.ok(&["store", "pull"]);
    let place = key(&card).display().to_string();
    assert!(told.contains("Nobody's voice is here") && told.contains("1 voiceprint in"), "{told}");
    assert!(told.contains(&place) && !told.contains("missing"), "{told}");
    let pulled = pull(&card);
    assert_eq!((&pulled["voiceprints_read"], &pulled["voiceprints_left"]), (&false.into(), &1.into()));
    assert_eq!(has_voice(&card), Some(false));
    let told = card.ok(&["store", "check"]);
    assert!(told.contains("Voiceprints: 1 in Postgres do not open"), "{told}");
    copy_key(&kitchen, &card);
    assert!(stderr_of(&card, &["store", "check"], 75).contains("still to be read"));
    pull(&card);
    assert_eq!(has_voice(&card), Some(true));
    card.ok(&["store", "check"]);

    // The key comes after a start of the daemon, which has made one of its own.
    let (card, _mic) = with_microphone(device(&postgres, "kitchen"));
    card.ok(&["store", "take-over", "--yes"]);
    let mut daemon = card.daemon();
    daemon.wait_event("ready");
    wait_until("the person", || has_voice(&card).is_some());
    wait_until("everything to be read", || card.run(&["store", "check"]).status.success());
    assert_eq!(has_voice(&card), Some(false));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    copy_key(&kitchen, &card);
    let mut daemon = card.daemon();
    daemon.wait_event("ready");
    wait_until("the voice", || has_voice(&card) == Some(true));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.voiceprints"), "1");
}

#[test]
fn a_first_reading_speaks_of_no_key_where_nobody_is_enrolled() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    drain(&kitchen);
    let told = bedroom.ok(&["store", "pull"]);
    assert!(told.contains("new or changed"), "{told}");
    assert!(!told.contains("key") && !told.to_lowercase().contains("voice"), "{told}");
    assert_eq!(pull(&bedroom)["voiceprints_read"], true);
}

#[test]
fn a_voice_comes_back_after_a_restore() {
    let postgres = server();
    postgres.execute("ALTER ROLE jarvis CREATEDB");
    let kitchen = enrolled(&postgres);
    let name = kitchen.json(&["backup", "create"])["name"].as_str().unwrap().to_owned();
    let restored = |root: &Root| {
        postgres.execute("DELETE FROM jarvis.voiceprints");
        root.ok(&["backup", "restore", &name, "--in-place", "--yes"]);
        drain(root);
        pull(root);
        assert_eq!(has_voice(root), Some(true));
        root.ok(&["store", "check"]);
        assert_eq!(postgres.value("SELECT count(*) FROM jarvis.voiceprints"), "1");
    };
    // On the device that always had it, and on a new card.
    restored(&kitchen);
    let card = device(&postgres, "kitchen");
    copy_key(&kitchen, &card);
    let folder = |root: &Root| root.path().join("var/backups");
    let copied =
        std::process::Command::new("cp").args(["-a", "-T"]).args([folder(&kitchen), folder(&card)]).status();
    assert!(copied.unwrap().success());
    restored(&card);
}

#[test]
fn of_several_voiceprints_of_a_person_the_last_one_stays_and_none_outlives_the_voice() {
    let postgres = server();
    let kitchen = enrolled(&postgres);
    let first = postgres.value("SELECT id FROM jarvis.voiceprints");
    let there = || postgres.value("SELECT count(*) FROM jarvis.voiceprints");
    let phrases = crate::support::ENROLMENT.map(|phrase| Voice::Rms.says(phrase));
    let anew = |root: &Root| {
        let [a, b, c] = phrases.each_ref().map(|path| path.to_str().unwrap());
        root.ok(&["voice", "enroll", "--user", "anna", a, b, c]);
    };
    // A new card knows her, not her voice, and has the key by the time that she enrols again.
    let card = device(&postgres, "kitchen");
    pull(&card);
    copy_key(&kitchen, &card);
    anew(&card);
    // It is not sent yet, and stays.
    pull(&card);
    drain(&card);
    assert_eq!(there(), "2");
    pull(&card);
    drain(&card);
    assert_eq!(there(), "1");
    assert_ne!(postgres.value("SELECT id FROM jarvis.voiceprints"), first);
    card.ok(&["store", "check"]);
    // The other device of the same key keeps the same one.
    let bedroom = device(&postgres, "bedroom");
    copy_key(&kitchen, &bedroom);
    pull(&bedroom);
    bedroom.ok(&["store", "check"]);
    card.ok(&["voice", "delete", "--user", "anna", "--yes"]);
    drain(&card);
    assert_eq!(there(), "0");
    pull(&bedroom);
    assert_eq!(has_voice(&bedroom), Some(false));

    // The key is lost for good: everything sealed with it goes with the voice.
    anew(&card);
    drain(&card);
    let card = device(&postgres, "kitchen");
    pull(&card);
    assert_eq!(has_voice(&card), Some(false));
    anew(&card);
    drain(&card);
    assert_eq!(there(), "2");
    card.ok(&["voice", "delete", "--user", "anna", "--yes"]);
    drain(&card);
    assert_eq!(there(), "0");
    pull(&card);
    assert_eq!(has_voice(&card), Some(false));
    card.ok(&["store", "check"]);
}

#[test]
fn a_row_of_any_table_that_one_side_lacks_or_has_otherwise_is_found() {
    let postgres = server();
    let root = enrolled(&postgres);
    ask(&root, "anna", "remember that the ladder is in the shed");
    ask(&root, "anna", "what do you remember about the ladder");
    ask(&root, "anna", "remember that the umbrella is in the hall");
    ask(&root, "anna", "forget everything about umbrella");
    drain(&root);
    pull(&root);
    root.ok(&["store", "check"]);
    let found = || {
        let output = root.run(&["store", "check", "--json"]);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let check: Value = serde_json::from_slice(&output.stdout).unwrap();
        let differs =
            |table: &&Value| ["missing_there", "missing_here", "differ"].iter().any(|kind| table[*kind] != 0);
        let tables = check["tables"].as_array().unwrap().iter().filter(differs);
        tables.map(|table| table["table"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Lost there: this device has them, and sends them again.
    let losses = [
        ("voiceprints", "DELETE FROM jarvis.voiceprints"),
        ("voiceprints", "UPDATE jarvis.voiceprints SET blob = '\\x00'"),
        ("audit", "DELETE FROM jarvis.audit"),
        ("deletions", "DELETE FROM jarvis.tombstones"),
        ("links", "DELETE FROM jarvis.message_sources"),
    ];
    for (table, loss) in losses {
        let before = postgres.value(&format!("SELECT count(*) FROM jarvis.{}", relation(table)));
        assert_ne!(before, "0", "{table}");
        postgres.execute(loss);
        assert_eq!(found(), [table], "{loss}");
        // The entries of the repair do not stand in the way of its own comparison.
        let repaired = root.json(&["store", "check", "--repair"]);
        assert_eq!(
            (&repaired["everything_compared"], &repaired["left"]["entries"]),
            (&true.into(), &0.into())
        );
        assert_ne!(repaired["queued"], 0, "{repaired}");
        drain(&root);
        pull(&root);
        root.ok(&["store", "check"]);
        assert_eq!(postgres.value(&format!("SELECT count(*) FROM jarvis.{}", relation(table))), before);
    }
    // Rows changed there by other means than a device: found, and reported with their table.
    for (table, change) in [
        ("users", "UPDATE jarvis.users SET name = 'eve'"),
        ("conversations", "UPDATE jarvis.conversations SET title = 'garbled'"),
    ] {
        postgres
            .execute(&format!("BEGIN; CREATE TABLE kept AS SELECT * FROM jarvis.{table}; {change}; COMMIT"));
        assert_eq!(found(), [table], "{change}");
        let column = if table == "users" { "name" } else { "title" };
        postgres.execute(&format!(
            "UPDATE jarvis.{table} t SET {column} = k.{column} FROM kept k WHERE k.id = t.id; DROP TABLE kept"
        ));
        root.ok(&["store", "check"]);
    }
    // Lost here: the rows of other devices, and this device's own, are read again.
    let bedroom = device(&postgres, "bedroom");
    copy_key(&root, &bedroom);
    pull(&bedroom);
    bedroom.ok(&["store", "check"]);
    for (who, loss) in [
        (&bedroom, "DELETE FROM voiceprints"),
        (&root, "DELETE FROM voiceprints"),
        (&bedroom, "DELETE FROM tombstones"),
        (&bedroom, "DELETE FROM message_sources"),
    ] {
        let db = who.path().join("var/lib/jarvis/jarvis.db");
        assert!(std::process::Command::new("sqlite3").arg(&db).arg(loss).status().unwrap().success());
        assert!(stderr_of(who, &["store", "check"], 1).contains("difference"), "{loss}");
        who.ok(&["store", "check", "--repair"]);
        drain(who);
        assert!(stderr_of(who, &["store", "check"], 75).contains("still to be read"), "{loss}");
        pull(who);
        who.ok(&["store", "check"]);
    }
}

/// The table of Postgres that `store check` calls so.
fn relation(table: &str) -> &str {
    match table {
        "links" => "message_sources",
        "deletions" => "tombstones",
        other => other,
    }
}

#[test]
fn the_daemon_sends_what_another_process_wrote_and_says_when_postgres_is_away() {
    let mut postgres = server();
    let bedroom = device(&postgres, "bedroom");
    let (kitchen, mic) = with_microphone(device(&postgres, "kitchen"));
    kitchen.ok(&["user", "add", "anna"]);
    let mut daemon = kitchen.daemon();
    daemon.wait_event("ready");
    ask(&kitchen, "anna", "remember that the ladder is in the shed");
    postgres.wait_for("SELECT count(*) FROM jarvis.messages", "2");
    // Another device's words arrive by notification, long before the minute is over.
    pull(&bedroom);
    ask(&bedroom, "anna", "remember that the umbrella is in the hall");
    drain(&bedroom);
    wait_until("the words of the other device", || texts(&kitchen, "anna").len() == 4);

    postgres.stop(Stop::Immediate);
    daemon.wait_log("postgres: connecting to Postgres");
    ask(&kitchen, "anna", "remember that the bicycle is in the cellar");
    postgres.boot();
    daemon.wait_log("postgres works again");
    postgres.wait_for("SELECT count(*) FROM jarvis.messages WHERE text LIKE '%bicycle%'", "2");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    drop(mic);
    assert_eq!(kitchen.json(&["queue", "status"])["entries"], 0);
}

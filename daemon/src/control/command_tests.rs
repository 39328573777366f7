use super::*;
use crate::control::Face;

fn spec(name: &str) -> &'static CommandSpec {
    COMMANDS.iter().find(|command| command.name == name).unwrap()
}

fn on() -> Voice {
    Voice { pin_valid_s: 60, enrol_by_mqtt: true, ..Voice::default() }
}

fn read(name: &str, payload: impl AsRef<[u8]>) -> Result<Command, &'static str> {
    spec(name).read(payload.as_ref(), Authority::Broker, &on()).map_err(|outcome| outcome.word())
}

#[test]
fn words_are_understood_with_white_space_around_them_and_in_capitals_alone() {
    assert_eq!(read("mute", "ON"), Ok(Command::Switch(Switch::Mute(true))));
    assert_eq!(read("mute", "OFF\n"), Ok(Command::Switch(Switch::Mute(false))));
    assert_eq!(read("listen", " PRESS "), Ok(Command::Switch(Switch::Listen)));
    assert_eq!(read("enrolment", "CANCEL\n"), Ok(Command::Switch(Switch::CancelEnrolment)));
    for (name, payload) in [
        ("mute", &b"on"[..]),
        ("mute", b""),
        ("mute", b"\xff\xfe"),
        ("listen", b"ON"),
        ("enrolment", b"cancel"),
    ] {
        assert_eq!(read(name, payload), Err("not_understood"), "{name}");
    }
    assert_eq!(read("mute", [b'O'; 17]), Err("too_long"));
}

#[test]
fn a_pin_is_understood_and_never_printed() {
    let command = read("pin", r#"{"user":"Anna","pin":"274913"}"#).unwrap();
    assert_eq!(format!("{command:?}"), "Task(Pin { user: \"Anna\", pin: *** })");
    let pin = Pin::typed("274913").unwrap();
    assert_eq!(command, Command::Task(Task::Pin { user: "Anna".into(), pin }));
    assert_eq!(read("pin", r#"{"user":"Anna","pin":"274913","id":"x"}"#), Ok(command));
    for payload in [
        r#"{"user":"Anna","pin":274913}"#,
        r#"{"user":"Anna","pin":"27491"}"#,
        r#"{"user":"Anna","pin":"274913","more":1}"#,
        r#"{"pin":"274913"}"#,
        "274913",
    ] {
        assert_eq!(read("pin", payload), Err("not_understood"), "{payload}");
    }
    let long = format!(r#"{{"user":"{}","pin":"274913"}}"#, "a".repeat(1_000));
    assert_eq!(read("pin", long), Err("too_long"));
}

#[test]
fn an_enrolment_asks_for_each_further_sample_once() {
    let (all, none) = (Style::ALL.to_vec(), Vec::new());
    for (asked, user, adds, further, keep_recordings) in [
        (r#"{"start":"Anna"}"#, "Anna", false, none, false),
        (r#"{"start":"Ben","keep_recordings":true,"id":"7"}"#, "Ben", false, Vec::new(), true),
        (
            r#"{"start":"Ben","further":["loud","far","loud"]}"#,
            "Ben",
            false,
            vec![Style::Loud, Style::Far],
            false,
        ),
        (r#"{"add":"Ben"}"#, "Ben", true, all, false),
        (
            r#"{"add":"Ben","further":["second_microphone"]}"#,
            "Ben",
            true,
            vec![Style::SecondMicrophone],
            false,
        ),
    ] {
        let wanted = EnrolmentRequest { adds, further, keep_recordings };
        let begun = Command::Task(Task::Enrol { user: user.into(), wanted });
        assert_eq!(read("enrolment", asked), Ok(begun));
    }
    for payload in [
        "Anna",
        "{}",
        r#"{"start":1}"#,
        r#"{"start":"Anna","replace":true}"#,
        r#"{"start":"Anna","add":"Anna"}"#,
        r#"{"further":["far"]}"#,
        r#"{"add":"Anna","further":["whispered"]}"#,
    ] {
        assert_eq!(read("enrolment", payload), Err("not_understood"), "{payload}");
    }
}

#[test]
fn a_command_that_is_off_or_needs_more_authority_is_refused_before_it_is_read() {
    for (name, key) in [("pin", "voice.pin_valid_s"), ("enrolment", "voice.enrol_by_mqtt")] {
        let refused = spec(name).read(b"garbage", Authority::Owner, &Voice::default()).unwrap_err();
        assert!(
            refused.word() == "switched_off" && refused.sentence(Face::Mqtt).contains(key),
            "{refused:?}"
        );
    }
    let unverified = Voice { enabled: false, ..on() };
    assert!(!spec("pin").is_on(&unverified), "a PIN stands in for a voice that is verified");
    let owners = CommandSpec { needs: Level::Owner, setting: None, entity: None, ..listen() };
    let word = |from| owners.read(b"PRESS", from, &on()).map_err(|outcome| outcome.word());
    let person = Authority::Person(crate::memory::UserId::new());
    assert_eq!((word(Authority::Broker), word(person)), (Err("refused"), Err("refused")));
    assert_eq!(word(Authority::Owner), Ok(Command::Switch(Switch::Listen)));
}

/// The row of the command `listen`, to be changed.
fn listen() -> CommandSpec {
    let CommandSpec { name, topic, doc, ref payload, needs, answers, .. } = *spec("listen");
    let payload = Payload { form: payload.form, max_bytes: payload.max_bytes, parse: payload.parse };
    CommandSpec { name, topic, doc, payload, needs, setting: None, answers, entity: None }
}

#[test]
fn names_and_topics_are_told_apart_and_each_sentence_says_what_to_do() {
    for (n, one) in COMMANDS.iter().enumerate() {
        for other in &COMMANDS[n + 1..] {
            assert!(one.name != other.name && one.topic != other.topic);
        }
        let refused = spec(one.name).read(b"?", Authority::Broker, &on()).unwrap_err();
        let sentence = refused.sentence(Face::Mqtt);
        assert!(sentence.contains("send") && !sentence.contains('`'), "{sentence}");
    }
}

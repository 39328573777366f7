//! Any bytes as messages of the broker, and any words in published events.

use super::command::Intake;
use super::*;
use crate::control::{Request, Task};
use crate::events::{Attribution, Moment, Reason, TurnId, What};
use crate::fuzzing::{parts, sure};
use crate::memory::{User, UserId};
use crate::pipeline::switches::Switches;
use crate::units::FramePos;

/// A switch, then messages and events behind each 0xFF: a letter for the kind, then its bytes.
pub fn mqtt(bytes: &[u8]) -> bool {
    let mut parts = parts(bytes);
    let switches = parts.next().and_then(<[u8]>::first).copied().unwrap_or(0);
    let parts: Vec<(u8, &[u8])> = parts.filter_map(|part| part.split_first()).map(|(k, b)| (*k, b)).collect();
    topics(&parts);
    published(&parts, switches & 1 > 0, switches & 2 > 0);
    messages(&parts)
}

/// Names either make topics below themselves, or are refused.
fn topics(parts: &[(u8, &[u8])]) {
    for (_, name) in parts {
        let name = String::from_utf8_lossy(name);
        for (base, id) in [("jarvis", &*name), (&*name, "k"), (&*name, &*name)] {
            let Ok(topics) = Topics::new(base, id) else { continue };
            let mute = topics.of("mute/set");
            assert!(mute.starts_with(&format!("{base}/{id}/")));
            assert!(!mute.contains(['+', '#', '\0']) && mute.len() < 256);
        }
    }
}

/// Handles the messages; tells whether one of them was a command.
fn messages(parts: &[(u8, &[u8])]) -> bool {
    let mut accepted = false;
    let (dispatcher, mut requests) = Dispatcher::new(Switches::new(Arc::default()));
    let voice = Voice { pin_valid_s: 60, enrol_by_mqtt: true, ..Voice::default() };
    let mut intake = Intake::new(dispatcher, voice);
    let topics = sure(Topics::new("jarvis", "k"), "topics");
    for (kind, payload) in parts {
        let topic = match kind & 7 {
            0 => topics.of("mute/set"),
            1 => topics.of("listen"),
            2 | 3 => topics.of("pin"),
            4 | 5 => topics.of("enrolment/set"),
            _ => String::new(),
        };
        let topic = if topic.is_empty() { *payload } else { topic.as_bytes() };
        let (before, retained) = (intake.ignored(), kind & 8 > 0);
        let answer = intake.message(&topics, topic, payload, retained);
        let outcome = answer.as_ref().and_then(|answer| answer.get("outcome")?.as_str());
        match requests.try_recv() {
            Ok(Request { task: Task::Pin { user, .. } | Task::Enrol { user, .. }, .. }) => {
                assert!(!retained && intake.ignored() == before && user.len() < 512);
                assert!(matches!(outcome, None | Some("accepted")));
                accepted = true;
            }
            Err(_) => {
                let nothing = payload.is_empty() || *payload == command::PROBE;
                assert!(!retained || nothing || intake.ignored() == before + 1);
                assert!(outcome != Some("accepted"));
            }
        }
    }
    accepted
}

/// A message holds a text only where texts are published, and only if a verified person said it, or anybody
/// where voices are not verified. This holds for any order of the events.
fn published(parts: &[(u8, &[u8])], publish_text: bool, text_needs_verified: bool) {
    let broker = sure(BrokerUrl::parse("mqtt://h"), "an address");
    let mqtt = super::section::Mqtt { publish_text, ..Default::default() };
    let voice = Voice { enabled: text_needs_verified, ..Voice::default() };
    let settings = MqttSettings { mqtt, voice, ..MqttSettings::new(broker, "k") };
    let topics = sure(Topics::new("jarvis", "k"), "topics");
    let mut content = Content::new(&settings, topics, watch::Sender::default());
    let mut outbox = Outbox::new();
    let id = UserId::new();
    let user = User { id, name: "anna".into(), consent_unix_ms: None, created_unix_ms: 0 };
    let person = Event::accepted(FramePos(0), &user).1;
    let turns = [None, Some(TurnId::generate()), Some(TurnId::generate())];
    for (n, (kind, words)) in parts.iter().enumerate() {
        let word = String::from_utf8_lossy(words).into_owned();
        // Nothing else holds this.
        let text = format!("{word} said-{n}-");
        let whose = match kind & 3 {
            0 => Attribution::ANONYMOUS,
            1 => Attribution::NOBODY,
            _ => person,
        };
        let what = match kind >> 4 {
            0 | 1 => What::Wake { word, score: 0.5 },
            2 => What::SpeechEnd { speech_s: 1.0, truncated: false },
            3 | 4 => What::Verified {
                user: word,
                confidence: f32::NAN,
                score: 1.0,
                net_speech_s: 2.0,
                other_s: None,
            },
            5 => What::Accepted { user: word, by: "pin" },
            6 => What::Rejected { reason: Reason::Rejected, confidence: None, early: false },
            7 => What::Partial { text },
            8 | 9 => What::transcript(whose, text, word),
            10 | 11 => What::reply(whose, text),
            12 | 13 => What::Stored { whose, conversation_id: word, message_ids: Vec::new() },
            14 => What::Error { stage: word.clone(), message: word },
            _ => What::SpeechStart,
        };
        let partial = matches!(what, What::Partial { .. });
        let moment = Moment { turn: turns[usize::from(kind >> 2 & 3).min(2)], pos: FramePos(n as u64) };
        content.event(&Event::at(moment, what), &mut outbox);
        let theirs = whose == person || (whose == Attribution::ANONYMOUS && !text_needs_verified);
        let allowed = publish_text && !partial && theirs;
        while let Some(message) = outbox.next(Instant::now(), usize::MAX, usize::MAX) {
            assert!(allowed || !message.payload.contains(&format!("said-{n}-")), "{}", message.payload);
            sure(serde_json::from_str::<serde_json::Value>(&message.payload), &message.payload);
        }
    }
}

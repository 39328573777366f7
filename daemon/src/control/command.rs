//! The commands: one row of [`COMMANDS`] each.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use zeroize::Zeroizing;

use super::entity::Entity;
use super::outcome::Outcome;
use super::refused::Refused;
use super::request::{Authority, Level};
use crate::speaker::Style;
use crate::speaker::pin::Pin;
use crate::speaker::section::Voice;

/// A command to the device. Printing one shows no PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Switch(Switch),
    Task(Task),
}

/// A state: it is set at once, at any time, and the last value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    Mute(bool),
    /// Open the listening window as if the wake word had been said.
    Listen,
    /// End the running enrolment, and those that wait.
    CancelEnrolment,
}

/// Work that takes its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Take the next speaker for `user`.
    Pin { user: String, pin: Pin },
    /// Enrol the voice of this person, before the microphone.
    Enrol { user: String, wanted: EnrolmentRequest },
}

/// The request of an enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnrolmentRequest {
    /// Only further samples, added to the enrolled voice.
    pub adds: bool,
    /// The further samples that are asked for, each once.
    pub further: Vec<Style>,
    /// Keep the sound of its samples, encrypted.
    pub keep_recordings: bool,
}

/// One command. Texts are Markdown.
#[derive(Debug)]
pub struct CommandSpec {
    /// Its name in answers, and the key of its entity.
    pub name: &'static str,
    /// Last part of its topic.
    pub topic: &'static str,
    pub doc: &'static str,
    pub payload: Payload,
    /// The least authority that may give it.
    pub needs: Level,
    /// The key of the configuration that switches it on; `None`: always on.
    pub setting: Option<Setting>,
    /// Which answers it gives when it is understood.
    pub answers: &'static str,
    /// The entity of Home Assistant for it.
    pub entity: Option<Entity>,
}

#[derive(Debug)]
pub struct Payload {
    pub form: &'static str,
    pub max_bytes: usize,
    /// `None`: not understood.
    pub parse: fn(&[u8]) -> Option<Command>,
}

#[derive(Debug)]
pub struct Setting {
    pub key: &'static str,
    pub is_on: fn(&Voice) -> bool,
}

/// Longest payload that is one word.
const WORD: usize = 16;
/// Longest payload of JSON.
const JSON: usize = 512;

/// Every command. Names and topics are an interface: they are never renamed.
pub static COMMANDS: [CommandSpec; 4] = [
    CommandSpec {
        name: "mute",
        topic: "mute/set",
        doc: "mutes or unmutes the device",
        payload: Payload {
            form: "`ON` or `OFF`",
            max_bytes: WORD,
            parse: |payload| match word(payload)? {
                "ON" => Some(Command::Switch(Switch::Mute(true))),
                "OFF" => Some(Command::Switch(Switch::Mute(false))),
                _ => None,
            },
        },
        needs: Level::Household,
        setting: None,
        answers: "`done`; `refused` for `OFF` while the switch at the device mutes it",
        entity: Some(Entity {
            icon: Some("mdi:microphone-off"),
            state: Some("mute"),
            ..Entity::new("switch", "Muted")
        }),
    },
    CommandSpec {
        name: "listen",
        topic: "listen",
        doc: "opens a listening window of 5 s as if the wake word had been said; while the device speaks, \
              when it has spoken",
        payload: Payload {
            form: "`PRESS`",
            max_bytes: WORD,
            parse: |payload| (word(payload)? == "PRESS").then_some(Command::Switch(Switch::Listen)),
        },
        needs: Level::Household,
        setting: None,
        answers: "`done`; `refused` while the device is muted or the microphone delivers no sound",
        entity: Some(Entity { icon: Some("mdi:ear-hearing"), ..Entity::new("button", "Listen") }),
    },
    CommandSpec {
        name: "pin",
        topic: "pin",
        doc: "lets a person in whose voice fails, see below",
        payload: Payload { form: "JSON with `user` and `pin`", max_bytes: JSON, parse: pin },
        needs: Level::Household,
        setting: Some(Setting {
            key: "voice.pin_valid_s",
            is_on: |voice| voice.enabled && voice.pin_valid_s > 0,
        }),
        answers: "`accepted`, then `done` or `refused`",
        entity: None,
    },
    CommandSpec {
        name: "enrolment",
        topic: "enrolment/set",
        doc: "enrols a voice before the microphone, see below; `CANCEL` ends that",
        payload: Payload {
            form: "JSON with `start` or `add` and a name, perhaps `further` and `keep_recordings`, or \
                   `CANCEL`",
            max_bytes: JSON,
            parse: enrolment,
        },
        needs: Level::Household,
        setting: Some(Setting { key: "voice.enrol_by_mqtt", is_on: |voice| voice.enrol_by_mqtt }),
        answers: "`accepted`, then `done` when it has begun, or `refused`; `done` for `CANCEL`",
        entity: None,
    },
];

impl CommandSpec {
    pub fn is_on(&self, voice: &Voice) -> bool {
        self.setting.as_ref().is_none_or(|setting| (setting.is_on)(voice))
    }

    /// The command in `payload`.
    ///
    /// # Errors
    /// The reason why it is not carried out.
    pub fn read(&self, payload: &[u8], from: Authority, voice: &Voice) -> Result<Command, Outcome> {
        let Payload { form, max_bytes, parse } = self.payload;
        if from.level() < self.needs {
            return Err(Outcome::Refused(Refused::NotAllowed));
        }
        if let Some(Setting { key, .. }) = self.setting.as_ref().filter(|_| !self.is_on(voice)) {
            return Err(Outcome::SwitchedOff { key });
        }
        if payload.len() > max_bytes {
            return Err(Outcome::TooLong { max_bytes });
        }
        parse(payload).ok_or(Outcome::NotUnderstood { form })
    }
}

fn word(payload: &[u8]) -> Option<&str> {
    std::str::from_utf8(payload).ok().map(str::trim)
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinPayload {
    user: String,
    pin: String,
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
}

fn pin(payload: &[u8]) -> Option<Command> {
    let PinPayload { user, pin, .. } = json(payload)?;
    let pin = Pin::typed(&Zeroizing::new(pin)).ok()?;
    Some(Command::Task(Task::Pin { user, pin }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentPayload {
    /// The person to enrol.
    start: Option<String>,
    /// The enrolled person to add further samples to, in place of `start`.
    add: Option<String>,
    /// The styles asked for; none with `start`, all with `add`.
    further: Option<Vec<Style>>,
    #[serde(default)]
    keep_recordings: bool,
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
}

fn enrolment(payload: &[u8]) -> Option<Command> {
    if payload.trim_ascii() == b"CANCEL" {
        return Some(Command::Switch(Switch::CancelEnrolment));
    }
    let EnrolmentPayload { start, add, further, keep_recordings, .. } = json(payload)?;
    let (user, adds) = match (start, add) {
        (Some(user), None) => (user, false),
        (None, Some(user)) => (user, true),
        _ => return None,
    };
    let asked = further.unwrap_or_else(|| if adds { Style::ALL.to_vec() } else { Vec::new() });
    // Each once, in the order that was asked for.
    let mut further = Vec::new();
    for style in asked {
        if !further.contains(&style) {
            further.push(style);
        }
    }
    Some(Command::Task(Task::Enrol { user, wanted: EnrolmentRequest { adds, further, keep_recordings } }))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;

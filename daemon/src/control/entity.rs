//! The entities that Home Assistant shows: those of the commands, and one row of [`VALUES`] for each value.
//!
//! Keys are an interface: a renamed one is a new entity with an empty history. A key never changes its
//! platform: Home Assistant cannot take one back and add another in one message.

use super::command::COMMANDS;
use crate::speaker::section::Voice;

/// The appearance of an entity. Topics are the last part of a topic of the device.
#[derive(Debug)]
pub struct Entity {
    pub platform: &'static str,
    pub name: &'static str,
    pub icon: Option<&'static str>,
    pub class: Option<&'static str>,
    pub category: Option<&'static str>,
    /// Topic of its value.
    pub state: Option<&'static str>,
    /// The template that reads the value from the published payload.
    pub template: Option<&'static str>,
    /// Topic of JSON with its attributes.
    pub attributes: Option<&'static str>,
    /// More keys for Home Assistant: payloads, a range, a unit.
    pub more: &'static [(&'static str, Field)],
}

#[derive(Debug)]
pub enum Field {
    Text(&'static str),
    Number(i64),
    /// The words of the states of the device.
    States,
}

impl Entity {
    pub const fn new(platform: &'static str, name: &'static str) -> Self {
        Self {
            platform,
            name,
            icon: None,
            class: None,
            category: None,
            state: None,
            template: None,
            attributes: None,
            more: &[],
        }
    }

    /// An entity for the person who looks after the device.
    const fn diagnostic(platform: &'static str, name: &'static str, state: &'static str) -> Self {
        Self { category: Some("diagnostic"), state: Some(state), ..Self::new(platform, name) }
    }

    const fn time(name: &'static str, state: &'static str, template: &'static str) -> Self {
        Self { class: Some("timestamp"), template: Some(template), ..Self::diagnostic("sensor", name, state) }
    }
}

/// Which entities of backups there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backups {
    None,
    Here,
    /// And copies elsewhere.
    Copied,
}

/// The settings that the entities depend on.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Whether commands are taken.
    pub commands: bool,
    pub voice: &'a Voice,
    pub backups: Backups,
}

/// The entity of a value.
#[derive(Debug)]
pub struct ValueSpec {
    pub key: &'static str,
    /// The value that it shows; Markdown.
    pub doc: &'static str,
    pub is_shown: fn(&Offer<'_>) -> bool,
    pub entity: Entity,
}

const ALWAYS: fn(&Offer<'_>) -> bool = |_| true;
const WITH_BACKUPS: fn(&Offer<'_>) -> bool = |offer| offer.backups != Backups::None;
const PROBLEM: &str = "{{ 'ON' if value_json.problem else 'OFF' }}";

/// Every value with an entity.
pub static VALUES: [ValueSpec; 10] = [
    ValueSpec {
        key: "state",
        doc: "the state, with the parts of the health as attributes",
        is_shown: ALWAYS,
        entity: Entity {
            icon: Some("mdi:account-voice"),
            class: Some("enum"),
            state: Some("state"),
            attributes: Some("health"),
            more: &[("options", Field::States)],
            ..Entity::new("sensor", "State")
        },
    },
    ValueSpec {
        key: "problem",
        doc: "on while a required part does not work as it should, also during a turn and while muted",
        is_shown: ALWAYS,
        entity: Entity {
            class: Some("problem"),
            template: Some(PROBLEM),
            ..Entity::diagnostic("binary_sensor", "Problem", "health")
        },
    },
    ValueSpec {
        key: "paused_until",
        doc: "after too many failed attempts: until when only a voice that is surely known is answered",
        is_shown: ALWAYS,
        entity: Entity {
            icon: Some("mdi:account-clock"),
            ..Entity::time("Paused until", "health", "{{ value_json.paused_until }}")
        },
    },
    ValueSpec {
        key: "muted",
        doc: "muted or not; only with `mqtt.accept_commands = false`",
        is_shown: |offer| !offer.commands,
        entity: Entity {
            icon: Some("mdi:microphone-off"),
            state: Some("mute"),
            ..Entity::new("binary_sensor", "Muted")
        },
    },
    ValueSpec {
        key: "backup",
        doc: "when it was taken",
        is_shown: WITH_BACKUPS,
        entity: Entity::time("Newest backup", "backup", "{{ value_json.newest }}"),
    },
    ValueSpec {
        key: "backup_proven",
        doc: "when it was taken",
        is_shown: WITH_BACKUPS,
        entity: Entity::time("Newest proven backup", "backup", "{{ value_json.newest_proven }}"),
    },
    ValueSpec {
        key: "backup_proof",
        doc: "when the newest proven one was looked at last",
        is_shown: WITH_BACKUPS,
        entity: Entity::time("Last proof of a backup", "backup", "{{ value_json.last_proof }}"),
    },
    ValueSpec {
        key: "backup_copied",
        doc: "when it was taken; only with `backup.remote`",
        is_shown: |offer| offer.backups == Backups::Copied,
        entity: Entity::time("Newest backup elsewhere", "backup", "{{ value_json.newest_copied }}"),
    },
    ValueSpec {
        key: "backup_size",
        doc: "bytes",
        is_shown: WITH_BACKUPS,
        entity: Entity {
            class: Some("data_size"),
            template: Some("{{ value_json.bytes }}"),
            more: &[("unit_of_measurement", Field::Text("B")), ("state_class", Field::Text("measurement"))],
            ..Entity::diagnostic("sensor", "Size of the newest backup", "backup")
        },
    },
    ValueSpec {
        key: "backup_problem",
        doc: "a backup failed, is missing or is old; the sentence is an attribute",
        is_shown: WITH_BACKUPS,
        entity: Entity {
            class: Some("problem"),
            template: Some(PROBLEM),
            attributes: Some("backup"),
            ..Entity::diagnostic("binary_sensor", "Backup problem", "backup")
        },
    },
];

/// An entity to announce.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    pub key: &'static str,
    pub entity: &'static Entity,
    /// Topic of its command.
    pub command: Option<&'static str>,
}

/// The entities that `offer` has.
pub fn shown<'a>(offer: &'a Offer<'a>) -> impl Iterator<Item = Shown> {
    let values = VALUES.iter().filter(move |value| (value.is_shown)(offer));
    let values = values.map(|value| Shown { key: value.key, entity: &value.entity, command: None });
    let commands = COMMANDS.iter().filter(move |command| offer.commands && command.is_on(offer.voice));
    let commands = commands.filter_map(|command| {
        let entity = command.entity.as_ref()?;
        Some(Shown { key: command.name, entity, command: Some(command.topic) })
    });
    values.chain(commands)
}

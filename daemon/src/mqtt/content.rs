//! The form in which events and states are published. [`Event::for_audience`] decides which events the
//! household may see, and whether with their text.

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::announced::Announced;
use super::discovery;
use super::outbox::Outbox;
use super::{MqttSettings, Topics};
use crate::backup::watch::Report;
use crate::control::entity::Backups;
use crate::events::{Audience, Event, TextRule, TurnId, What};
use crate::health::Status;

/// Turns events and states into messages.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) topics: Topics,
    text: TextRule,
    retain_last_turn: bool,
    info: String,
    settings: MqttSettings,
    /// Where the device is announced.
    announcement: Option<String>,
    /// Announcements so far, kept over restarts.
    announced: watch::Sender<Announced>,
    backups: Backups,
    /// How the last enrolment stands, as JSON.
    enrolment: Option<String>,
    turn: LastTurn,
}

impl Content {
    pub(super) fn new(settings: &MqttSettings, topics: Topics, announced: watch::Sender<Announced>) -> Self {
        let info = json!({
            "id": settings.device_id,
            "name": settings.device_name,
            "version": env!("CARGO_PKG_VERSION"),
            "commands": settings.mqtt.accept_commands,
        });
        Self {
            topics,
            announcement: settings.discovery_prefix().map(|prefix| discovery::topic(settings, prefix)),
            announced,
            backups: Backups::None,
            settings: settings.clone(),
            text: TextRule { publish: settings.mqtt.publish_text, verified_only: settings.voice.enabled },
            retain_last_turn: settings.mqtt.retain_last_turn,
            info: info.to_string(),
            enrolment: None,
            turn: LastTurn::default(),
        }
    }

    pub(super) fn online(&self, outbox: &mut Outbox) {
        outbox.keep(&self.topics.availability, "online");
        outbox.keep(&self.topics.info, &self.info);
        self.announce(outbox);
        self.keep_enrolment(outbox);
    }

    /// Announces the device as it is now, and takes back old announcements: single entities, or the whole
    /// device if it was announced elsewhere or must not be announced.
    fn announce(&self, outbox: &mut Outbox) {
        if let Some(topic) = &self.announcement {
            let entities = discovery::entities(&self.settings, &self.topics, self.backups);
            let platform = |entity: &Value| entity["platform"].as_str().unwrap_or_default().to_owned();
            let now: Vec<_> = entities.iter().map(|(key, entity)| (key.clone(), platform(entity))).collect();
            self.announced.send_if_modified(|announced| {
                let earlier = announced.0.entry(topic.clone()).or_default();
                let before = earlier.len();
                earlier.extend(now);
                earlier.len() > before
            });
            let announced = self.announced.borrow();
            let earlier = announced.0.get(topic).cloned().unwrap_or_default();
            outbox.keep(topic, &discovery::payload(&self.settings, &self.topics, entities, &earlier));
        }
        for topic in self.announced.borrow().0.keys().filter(|topic| !self.is_announcement(topic)) {
            outbox.keep(topic, "");
        }
    }

    /// Home Assistant may have forgotten the device.
    pub(super) fn announce_again(&self, outbox: &mut Outbox) {
        if let Some(topic) = &self.announcement {
            outbox.keep_again(topic);
        }
    }

    pub(super) fn is_announcement(&self, topic: &str) -> bool {
        self.announcement.as_deref() == Some(topic)
    }

    /// Whether an announcement of an earlier start was taken back on this topic and the broker has confirmed
    /// it.
    pub(super) fn is_taken_back(&self, topic: &str, outbox: &mut Outbox) -> bool {
        let taken_back = !self.is_announcement(topic)
            && self.announced.send_if_modified(|announced| announced.0.remove(topic).is_some());
        if taken_back {
            outbox.forget(topic);
        }
        taken_back
    }

    /// Publishes the state of the enrolment, where there may be one; the value of an earlier start is
    /// removed.
    fn keep_enrolment(&self, outbox: &mut Outbox) {
        if self.settings.voice.enrol_by_mqtt {
            outbox.keep(&self.topics.enrolment, self.enrolment.as_deref().unwrap_or("{\"state\":\"none\"}"));
        }
    }

    pub(super) fn offline(&self, outbox: &mut Outbox) {
        outbox.keep(&self.topics.availability, "offline");
    }

    pub(super) fn status(&self, status: &Status, outbox: &mut Outbox) {
        outbox.keep(&self.topics.state, status.state.as_str());
        outbox.keep(&self.topics.mute, if status.muted { "ON" } else { "OFF" });
        match crate::plain::json(status) {
            Ok(json) => outbox.keep(&self.topics.health, &json),
            Err(error) => log::debug!("cannot write the health as JSON: {error}"),
        }
    }

    pub(super) fn backups(&mut self, report: &Report, outbox: &mut Outbox) {
        self.backups = if self.settings.copies_backups { Backups::Copied } else { Backups::Here };
        self.announce(outbox);
        match crate::plain::json(report) {
            Ok(json) => outbox.keep(&self.topics.backup, &json),
            Err(error) => log::debug!("cannot write the state of the backups as JSON: {error}"),
        }
    }

    /// Nothing is backed up any more: the state of the backups must not stay at the broker.
    pub(super) fn no_backups(&mut self, outbox: &mut Outbox) {
        if !matches!(self.backups, Backups::None) {
            self.backups = Backups::None;
            outbox.keep(&self.topics.backup, "");
            self.announce(outbox);
        }
    }

    pub(super) fn event(&mut self, event: &Event, outbox: &mut Outbox) {
        let Some(event) = event.for_audience(Audience::Household, self.text) else { return };
        if let What::Enrolment(progress) = &event.what {
            self.enrolment = crate::plain::json(progress).ok();
            self.keep_enrolment(outbox);
        }
        let body = match crate::plain::json(&*event).and_then(|json| serde_json::from_str(&json)) {
            Ok(Value::Object(body)) => body,
            // NaN becomes null and keys are fixed, so this is only a change of the type.
            other => return log::debug!("cannot write an event as JSON: {other:?}"),
        };
        if let Some(turn) = self.turn.take_note(&event, &body) {
            outbox.push(&self.topics.event, body, false);
            outbox.push(&self.topics.last_turn, turn, self.retain_last_turn);
        } else {
            outbox.push(&self.topics.event, body, false);
        }
    }
}

/// Gathers the events of one turn into one object, published when the turn ends.
#[derive(Debug, Default)]
struct LastTurn {
    id: Option<TurnId>,
    body: Map<String, Value>,
    took_ms: Map<String, Value>,
    replied: bool,
    stored: bool,
}

impl LastTurn {
    /// Adds an event, as it is published; returns the turn when this event ends it.
    fn take_note(&mut self, noted: &Event, event: &Map<String, Value>) -> Option<Map<String, Value>> {
        let copy = |turn: &mut Self, from: &str, to: &str| {
            if let Some(value) = event.get(from) {
                turn.body.insert(to.to_owned(), value.clone());
            }
        };
        noted.turn?;
        if noted.turn != self.id {
            *self = Self { id: noted.turn, ..Self::default() };
        }
        if let (Some(Value::String(name)), Some(took)) = (event.get("event"), event.get("took_ms")) {
            self.took_ms.insert(name.clone(), took.clone());
        }
        match &noted.what {
            What::Wake { .. } => copy(self, "word", "wake_word"),
            What::SpeechEnd { .. } => copy(self, "speech_s", "speech_s"),
            What::Verified { .. } => {
                for key in ["user", "confidence", "score", "net_speech_s", "other_s"] {
                    copy(self, key, key);
                }
            }
            What::Accepted { .. } => {
                copy(self, "user", "user");
                copy(self, "by", "by");
            }
            What::Transcript { .. } => {
                copy(self, "text", "transcript");
                copy(self, "engine", "engine");
            }
            What::Reply { .. } => {
                copy(self, "text", "reply");
                self.replied = true;
                return self.finish_if_answered();
            }
            What::Stored { .. } => {
                copy(self, "conversation_id", "conversation_id");
                self.stored = true;
                return self.finish_if_answered();
            }
            What::Rejected { .. } => {
                copy(self, "reason", "reason");
                copy(self, "confidence", "confidence");
                return Some(self.finish("rejected", event));
            }
            What::Error { .. } if !self.body.is_empty() => {
                copy(self, "stage", "stage");
                copy(self, "message", "message");
                return Some(self.finish("failed", event));
            }
            _ => {}
        }
        None
    }

    /// Spoken and stored may come in either order.
    fn finish_if_answered(&mut self) -> Option<Map<String, Value>> {
        (self.replied && self.stored).then(|| self.finish("answered", &Map::new()))
    }

    fn finish(&mut self, outcome: &str, event: &Map<String, Value>) -> Map<String, Value> {
        let id = self.id;
        let mut turn = std::mem::replace(self, Self { id, ..Self::default() });
        if let Some(id) = id {
            turn.body.insert("turn".to_owned(), id.to_string().into());
        }
        turn.body.insert("outcome".to_owned(), outcome.into());
        if let Some(at) = event.get("at_ms") {
            turn.body.insert("at_ms".to_owned(), at.clone());
        }
        turn.body.insert("took_ms".to_owned(), turn.took_ms.into());
        turn.body
    }
}

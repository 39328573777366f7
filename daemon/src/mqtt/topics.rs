//! The topics of one device. They are an interface: documented in `docs/home-assistant.md` and never renamed.

use super::{MqttError, MqttSettings};
use crate::control::{COMMANDS, CommandSpec};

/// Full topic names, all below `<base>/<device id>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// `online` or `offline` (the last will); retained.
    pub availability: String,
    /// One word, as in [`crate::health::State`]; retained.
    pub state: String,
    /// `ON` or `OFF`: whether the device is muted; retained.
    pub mute: String,
    /// JSON: the state and the condition of every part; retained.
    pub health: String,
    /// JSON: the newest backup and its proof; retained, and only where there are or should be backups.
    pub backup: String,
    /// JSON: name, id and version; retained.
    pub info: String,
    /// JSON, one pipeline event a message.
    pub event: String,
    /// JSON: the turn that just ended.
    pub last_turn: String,
    /// JSON: how an enrolment stands; retained.
    pub enrolment: String,
    /// JSON: the outcome of a command.
    pub answer: String,
    /// `jarvisd doctor` publishes here to see that it may; never retained.
    pub doctor: String,
    /// `<base>/<device id>/`.
    below: String,
}

impl Topics {
    /// The topic of the device that ends with `last`.
    pub(super) fn of(&self, last: &str) -> String {
        format!("{}{last}", self.below)
    }

    /// The topics of the commands that `settings` allow.
    pub(super) fn of_commands(&self, settings: &MqttSettings) -> Vec<String> {
        let on = COMMANDS.iter().filter(|command| settings.takes(command));
        on.map(|command| self.of(command.topic)).collect()
    }

    /// The command that `topic` belongs to.
    pub(super) fn command(&self, topic: &[u8]) -> Option<&'static CommandSpec> {
        let last = topic.strip_prefix(self.below.as_bytes())?;
        COMMANDS.iter().find(|command| command.topic.as_bytes() == last)
    }

    /// The topics on which the device publishes, apart from its announcement.
    pub(super) fn of_values(&self, settings: &MqttSettings) -> Vec<&str> {
        let mut topics: Vec<&str> = vec![
            &self.availability,
            &self.state,
            &self.mute,
            &self.health,
            &self.backup,
            &self.info,
            &self.event,
            &self.last_turn,
        ];
        topics.extend(settings.mqtt.accept_commands.then_some(self.answer.as_str()));
        topics.extend(settings.voice.enrol_by_mqtt.then_some(self.enrolment.as_str()));
        topics
    }
}

/// Longest base topic or device id, in bytes.
const MAX_PART: usize = 64;

impl Topics {
    pub fn new(base: &str, device_id: &str) -> Result<Self, MqttError> {
        check("base_topic", base, true)?;
        check("the device id", device_id, false)?;
        let below = format!("{base}/{device_id}/");
        let topic = |name: &str| format!("{below}{name}");
        Ok(Self {
            availability: topic("availability"),
            state: topic("state"),
            mute: topic("mute"),
            health: topic("health"),
            backup: topic("backup"),
            info: topic("info"),
            event: topic("event"),
            last_turn: topic("last_turn"),
            enrolment: topic("enrolment"),
            answer: topic("answer"),
            doctor: topic("doctor"),
            below,
        })
    }
}

/// The broker would refuse topics with wildcards or control characters, or worse, take them.
fn check(what: &'static str, part: &str, slash: bool) -> Result<(), MqttError> {
    let bad = part.is_empty()
        || part.len() > MAX_PART
        || part.starts_with('$')
        || part.chars().any(|c| matches!(c, '+' | '#') || c.is_control())
        || (!slash && part.contains('/'))
        || part.split('/').any(str::is_empty);
    if bad { Err(MqttError::Topic { what, value: part.to_owned(), slash }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_stay_as_they_are_documented() {
        let topics = Topics::new("jarvis", "kitchen").unwrap();
        assert_eq!(topics.availability, "jarvis/kitchen/availability");
        for (name, topic) in [
            ("mute", "jarvis/kitchen/mute/set"),
            ("listen", "jarvis/kitchen/listen"),
            ("pin", "jarvis/kitchen/pin"),
            ("enrolment", "jarvis/kitchen/enrolment/set"),
        ] {
            assert_eq!(topics.command(topic.as_bytes()).unwrap().name, name);
            assert_eq!(topics.of(topics.command(topic.as_bytes()).unwrap().topic), topic);
        }
        assert_eq!(Topics::new("home/voice", "k").unwrap().state, "home/voice/k/state");
    }

    #[test]
    fn a_name_that_would_reach_other_topics_is_refused() {
        for id in ["", "+", "a#", "a/b", "$SYS", "a\nb", &"x".repeat(65)] {
            assert!(Topics::new("jarvis", id).is_err(), "{id:?}");
        }
        for base in ["", "/", "a//b", "a/", "$SYS", "+"] {
            assert!(Topics::new(base, "id").is_err(), "{base:?}");
        }
    }
}

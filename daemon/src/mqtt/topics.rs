//! The topics of one device. They are an interface: documented in `docs/home-assistant.md` and never renamed.

use super::{MqttError, MqttSettings};

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
    /// `ON` or `OFF` mutes and unmutes.
    pub mute_set: String,
    /// `PRESS` opens the listening window.
    pub listen: String,
    /// JSON with `user` and `pin`: lets a person in whose voice fails.
    pub pin: String,
    /// JSON: how an enrolment stands; retained.
    pub enrolment: String,
    /// JSON with `start` (or `add`) and a name begins an enrolment, `CANCEL` ends it.
    pub enrolment_set: String,
    /// What `jarvisd doctor` publishes to see that it may; never retained.
    pub doctor: String,
}

impl Topics {
    /// The topics on which `settings` let the device be told something.
    pub(super) fn of_commands(&self, settings: &MqttSettings) -> Vec<&str> {
        if !settings.mqtt.accept_commands {
            return Vec::new();
        }
        let mut topics = vec![self.mute_set.as_str(), &self.listen];
        topics.extend(settings.accept_pins.then_some(self.pin.as_str()));
        topics.extend(settings.accept_enrolment.then_some(self.enrolment_set.as_str()));
        topics
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
        topics.extend(settings.accept_enrolment.then_some(self.enrolment.as_str()));
        topics
    }
}

/// Longest base topic or device id, in bytes.
const MAX_PART: usize = 64;

impl Topics {
    pub fn new(base: &str, device_id: &str) -> Result<Self, MqttError> {
        check("base_topic", base, true)?;
        check("the device id", device_id, false)?;
        let topic = |name: &str| format!("{base}/{device_id}/{name}");
        Ok(Self {
            availability: topic("availability"),
            state: topic("state"),
            mute: topic("mute"),
            health: topic("health"),
            backup: topic("backup"),
            info: topic("info"),
            event: topic("event"),
            last_turn: topic("last_turn"),
            mute_set: topic("mute/set"),
            listen: topic("listen"),
            pin: topic("pin"),
            enrolment: topic("enrolment"),
            enrolment_set: topic("enrolment/set"),
            doctor: topic("doctor"),
        })
    }
}

/// Topics with wildcards or control characters would be refused by the broker, or worse, not be.
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
        assert_eq!(topics.mute_set, "jarvis/kitchen/mute/set");
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

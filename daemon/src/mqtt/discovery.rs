//! Home Assistant shows the device with its entities without set-up: one retained message that
//! describes all of them. Format: <https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload>
//! (Home Assistant 2024.12 and later).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{MqttSettings, Topics};
use crate::control::entity::{self, Backups, Field, Shown};
use crate::health::State;

/// The topic on which `settings` announce the device below `prefix`.
pub(super) fn topic(settings: &MqttSettings, prefix: &str) -> String {
    format!("{prefix}/device/{}/config", object_id(settings))
}

/// The topic on which Home Assistant says that it has started.
pub(super) fn status_topic(prefix: &str) -> String {
    format!("{prefix}/status")
}

/// The entities: key → description for Home Assistant.
pub(super) fn entities(settings: &MqttSettings, topics: &Topics, backups: Backups) -> Map<String, Value> {
    let id = object_id(settings);
    let offer = settings.offer(backups);
    entity::shown(&offer)
        .map(|shown| (shown.key.to_owned(), Value::Object(rendered(&shown, &id, topics))))
        .collect()
}

fn rendered(shown: &Shown, id: &str, topics: &Topics) -> Map<String, Value> {
    let Shown { key, entity, command } = shown;
    let topic = |last: Option<&str>| last.map(|last| topics.of(last));
    let word = |word: Option<&str>| word.map(str::to_owned);
    let fields = [
        ("platform", word(Some(entity.platform))),
        ("unique_id", Some(format!("{id}_{key}"))),
        ("name", word(Some(entity.name))),
        ("icon", word(entity.icon)),
        ("device_class", word(entity.class)),
        ("entity_category", word(entity.category)),
        ("state_topic", topic(entity.state)),
        ("value_template", word(entity.template)),
        ("json_attributes_topic", topic(entity.attributes)),
        ("command_topic", topic(*command)),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, Value::from(value?))));
    let more = entity.more.iter().map(|(name, field)| {
        let value = match field {
            Field::Text(text) => Value::from(*text),
            Field::Number(number) => Value::from(*number),
            Field::States => Value::from(&State::ALL.map(State::as_str)[..]),
        };
        (*name, value)
    });
    fields.chain(more).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The message. `earlier` are the entities that Home Assistant was told of before, with their platforms. The
/// removed ones are in the message with the platform alone, which deletes them.
pub(super) fn payload(
    settings: &MqttSettings,
    topics: &Topics,
    mut entities: Map<String, Value>,
    earlier: &BTreeMap<String, String>,
) -> String {
    for (key, platform) in earlier {
        entities.entry(key).or_insert_with(|| json!({ "platform": platform }));
    }
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "device": {
            "identifiers": [object_id(settings)], "name": settings.device_name, "manufacturer": "Jarvis",
            "model": "jarvisd", "sw_version": version,
        },
        "origin": { "name": "jarvisd", "sw_version": version },
        "availability_topic": topics.availability,
        "qos": 1,
        "components": entities,
    })
    .to_string()
}

/// `jarvis_kitchen`. Home Assistant takes letters, digits, `_` and `-`. A name with others gets a number that
/// distinguishes it from those that then look like it.
fn object_id(settings: &MqttSettings) -> String {
    let name = format!("{}_{}", settings.mqtt.base_topic, settings.device_id);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.chars().all(plain) {
        return name;
    }
    let hash = Sha256::digest(name.as_bytes());
    let shown: String = name.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    format!("{shown}-{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::BrokerUrl;

    fn announced(change: impl FnOnce(&mut MqttSettings), backups: Backups) -> (String, Value) {
        let mut settings = MqttSettings::new(BrokerUrl::parse("mqtt://broker").unwrap(), "kitchen");
        change(&mut settings);
        let topics = Topics::new(&settings.mqtt.base_topic, &settings.device_id).unwrap();
        let earlier = BTreeMap::from([("backup_copied".to_owned(), "sensor".to_owned())]);
        let message = payload(&settings, &topics, entities(&settings, &topics, backups), &earlier);
        (topic(&settings, "homeassistant"), serde_json::from_str(&message).unwrap())
    }

    fn platforms(message: &Value) -> Vec<(&str, &str)> {
        let entities = message["components"].as_object().unwrap();
        entities.iter().map(|(key, entity)| (key.as_str(), entity["platform"].as_str().unwrap())).collect()
    }

    #[test]
    fn the_entities_stay_as_they_are_documented() {
        let (topic, message) = announced(|_| {}, Backups::Copied);
        assert_eq!(topic, "homeassistant/device/jarvis_kitchen/config");
        let expected = [
            ("backup", "sensor"),
            ("backup_copied", "sensor"),
            ("backup_problem", "binary_sensor"),
            ("backup_proof", "sensor"),
            ("backup_proven", "sensor"),
            ("backup_size", "sensor"),
            ("listen", "button"),
            ("mute", "switch"),
            ("paused_until", "sensor"),
            ("problem", "binary_sensor"),
            ("state", "sensor"),
        ];
        assert_eq!(platforms(&message), expected);
        for (key, entity) in message["components"].as_object().unwrap() {
            assert_eq!(entity["unique_id"], format!("jarvis_kitchen_{key}"));
            assert!(entity["state_topic"].is_string() || entity["command_topic"].is_string(), "{entity}");
        }
        assert_eq!(message["availability_topic"], "jarvis/kitchen/availability");
        assert!(message["origin"]["name"].is_string(), "Home Assistant asks for it");
    }

    #[test]
    fn what_the_device_does_not_do_is_not_announced() {
        let (_, message) = announced(|settings| settings.mqtt.accept_commands = false, Backups::None);
        assert_eq!(
            platforms(&message),
            [
                ("backup_copied", "sensor"),
                ("muted", "binary_sensor"),
                ("paused_until", "sensor"),
                ("problem", "binary_sensor"),
                ("state", "sensor")
            ]
        );
        assert_eq!(
            message["components"]["backup_copied"],
            json!({ "platform": "sensor" }),
            "it is taken back"
        );
    }

    #[test]
    fn any_name_of_a_device_gives_a_topic_that_is_taken_and_that_no_other_has() {
        let names = ["kitchen", "wohn raum", "wohn-raum", "wohn.raum", "küche", "kuche", "厨房", "\u{1f373}"];
        let topics: BTreeSet<String> = names
            .iter()
            .map(|name| announced(|settings| settings.device_id = (*name).to_owned(), Backups::None).0)
            .collect();
        assert_eq!(topics.len(), names.len());
        for topic in topics {
            let id = topic.split('/').nth(2).unwrap();
            assert!(id.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)), "{topic}");
        }
        let (topic, _) =
            announced(|settings| settings.mqtt.base_topic = "home/voice".to_owned(), Backups::None);
        assert!(topic.starts_with("homeassistant/device/home-voice_kitchen-"), "{topic}");
    }

    /// The bytes that brokers and Home Assistant have seen. `JARVIS_BLESS=1` writes them anew, which is a
    /// change of the interface.
    #[test]
    fn the_announcement_stays_as_it_was_byte_for_byte() {
        type Case = (&'static str, fn(&mut MqttSettings), Backups);
        let cases: [Case; 6] = [
            ("default", |_| {}, Backups::None),
            ("with backups", |_| {}, Backups::Here),
            ("with copies", |_| {}, Backups::Copied),
            ("without commands", |settings| settings.mqtt.accept_commands = false, Backups::Here),
            ("without both", |settings| settings.mqtt.accept_commands = false, Backups::None),
            (
                "other names",
                |settings| {
                    settings.mqtt.base_topic = "home/voice".to_owned();
                    settings.device_id = "küche".to_owned();
                    settings.device_name = "Jarvis \"küche\"".to_owned();
                },
                Backups::Copied,
            ),
        ];
        let lines = cases.map(|(name, change, backups)| {
            let mut settings = MqttSettings::new(BrokerUrl::parse("mqtt://broker").unwrap(), "kitchen");
            change(&mut settings);
            let topics = Topics::new(&settings.mqtt.base_topic, &settings.device_id).unwrap();
            let earlier = BTreeMap::from([("backup_copied".to_owned(), "sensor".to_owned())]);
            let message = payload(&settings, &topics, entities(&settings, &topics, backups), &earlier);
            // Not the number of the version.
            let message = message.replace(env!("CARGO_PKG_VERSION"), "VERSION");
            format!("{name}\n{} {message}\n", topic(&settings, "homeassistant"))
        });
        let lines = lines.concat();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mqtt/tests/announcements");
        if std::env::var_os("JARVIS_BLESS").is_some() {
            std::fs::write(&path, lines).unwrap();
            return;
        }
        assert_eq!(lines, std::fs::read_to_string(&path).unwrap());
    }
}

//! Section `[mqtt]` of the configuration.

use crate::config::{BrokerUrl, FilePath, Masked, section};

section! {
    /// State and events for a home automation system.
    Mqtt = "mqtt" {
        /// Address of the broker, as in `"mqtt://broker.local:1883"`, or `mqtts://` for TLS. Without it
        /// nothing is published.
        url: Option<BrokerUrl> = None, Rule::any();
        /// User name at the broker. It is not shown: for some brokers it is a token.
        username: Option<Masked> = None, Rule::any();
        /// File whose first line is the password. Without it the systemd credential `mqtt-password` is used,
        /// where there is one.
        password_file: Option<FilePath> = None, Rule::any();
        /// Certificate authority of the broker, PEM; needs `mqtts://`.
        ca_file: Option<FilePath> = None, Rule::any().default_is("the authorities of the system");
        /// Publish the words said and answered, of verified speakers only; switched off, only the fact that
        /// something was said.
        publish_text: bool = true, Rule::any();
        /// Let the broker keep the last turn for later subscribers.
        retain_last_turn: bool = false, Rule::any();
        /// Take commands (mute, listen) over MQTT.
        accept_commands: bool = true, Rule::any();
        /// Announce the device to Home Assistant, which then shows its entities without set-up.
        discovery: bool = true, Rule::any();
        /// Where Home Assistant looks for devices.
        discovery_prefix: String = "homeassistant".to_owned(), Rule::when("a topic of at most 64 bytes \
            without \"#\", \"+\", \"$\" or an empty level", topic_is_plain);
        /// First part of every topic.
        base_topic: String = "jarvis".to_owned(), Rule::when("a topic of at most 64 bytes \
            without \"#\", \"+\", \"$\" or an empty level", topic_is_plain);
    }
}

#[expect(clippy::ptr_arg, reason = "the rule of a String key checks a &String")]
fn topic_is_plain(topic: &String) -> bool {
    topic.len() <= 64 && topic.split('/').all(|level| !level.is_empty() && !level.contains(['#', '+', '$']))
}

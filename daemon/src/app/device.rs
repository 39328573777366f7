//! Section `[device]` of the configuration.

use crate::config::section;

section! {
    /// The names of this device.
    Device = "device" {
        /// Identifier of this device in MQTT topics and in stored rows. Keep it once the device is in use:
        /// another identifier is another device.
        id: String = host_id(), Rule::when("1 to 64 lower-case letters, digits, \"-\" and \"_\"", id_is_plain)
            .default_is("the host name, in lower case");
        /// Name that people read.
        name: Option<String> = None, Rule::if_set(Rule::when("at most 64 \
            characters", |s: &String| s.chars().count() <= 64))
            .default_is("`Jarvis` and the id");
    }
}

impl Device {
    /// The name shown to people: the configured one, or one that tells the devices of a house apart.
    pub fn name(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None if self.id == "jarvis" => "Jarvis".to_owned(),
            None => format!("Jarvis {}", self.id),
        }
    }
}

/// The host name as an identifier, `jarvis` where it yields none.
fn host_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let host = host.split('.').next().unwrap_or_default();
    let id: String = host.chars().filter(|c| is_id_char(*c)).take(64).collect();
    if id.is_empty() { "jarvis".to_owned() } else { id }
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')
}

#[expect(clippy::ptr_arg, reason = "the rule of a String key checks a &String")]
fn id_is_plain(id: &String) -> bool {
    (1..=64).contains(&id.len()) && id.chars().all(is_id_char)
}

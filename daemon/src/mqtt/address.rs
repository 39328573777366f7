//! Where the broker is: `mqtt://host[:port]` or `mqtts://host[:port]`.

use std::fmt;

use super::MqttError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Name or address, without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl Broker {
    /// Reads an address. Errors never repeat it, because a password might stand in it.
    pub fn parse(url: &str) -> Result<Self, MqttError> {
        let (scheme, rest) =
            url.split_once("://").ok_or(MqttError::Address("it has no mqtt:// or mqtts://"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" => true,
            _ => return Err(MqttError::Address("it does not begin with mqtt:// or mqtts://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(MqttError::Address(
                "user name and password belong into the keys username and password_file",
            ));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(MqttError::Address("it goes on after host and port"));
        }
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, after) = bracketed.split_once(']').ok_or(MqttError::Address("a ] is missing"))?;
            match (after, after.strip_prefix(':')) {
                ("", _) => (host, None),
                (_, Some(port)) => (host, Some(port)),
                (_, None) => return Err(MqttError::Address("it goes on after the ]")),
            }
        } else {
            match rest.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(MqttError::Address("an IPv6 address stands in [brackets]"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(MqttError::Address("it has no host"));
        }
        let port = match port {
            None if tls => 8883,
            None => 1883,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(MqttError::Address("its port is not a number from 1 to 65535")),
                Ok(port) => port,
            },
        };
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_port_of_its_scheme_unless_it_names_one() {
        let parsed = |url| Broker::parse(url).map(|b| (b.host, b.port, b.tls)).unwrap();
        assert_eq!(parsed("mqtt://broker.lan"), ("broker.lan".into(), 1883, false));
        assert_eq!(parsed("mqtts://broker.lan/"), ("broker.lan".into(), 8883, true));
        assert_eq!(parsed("MQTT://10.0.0.2:18830"), ("10.0.0.2".into(), 18830, false));
        assert_eq!(parsed("mqtts://[fe80::1]"), ("fe80::1".into(), 8883, true));
        assert_eq!(parsed("mqtt://[::1]:99"), ("::1".into(), 99, false));
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for url in [
            "",
            "broker",
            "http://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://b:0",
            "mqtt://b:99999",
            "mqtt://b:x",
            "mqtt://u:hunter2@b",
            "mqtt://b/topic",
            "mqtt://::1",
            "mqtt://[::1",
            "mqtt://[::1]x",
            "mqtt://a b",
        ] {
            let error = Broker::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_address_is_shown_as_it_is_written() {
        for url in ["mqtt://b:1883", "mqtts://[::1]:8883"] {
            assert_eq!(Broker::parse(url).unwrap().to_string(), url);
        }
    }
}

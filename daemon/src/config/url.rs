//! Addresses of the broker and of Postgres. A password inside one is kept, and never shown.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::fault::quote;
use super::value::{Raw, Value, toml_text};

/// A text that must not reach a log, a page or a terminal.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever has to send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `scheme://[user[:password]@]host[:port][/rest]`, the part of RFC 3986 that both addresses use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    scheme: String,
    username: Option<String>,
    password: Option<Secret>,
    host: String,
    port: Option<u16>,
    /// From the first `/` or `?` on.
    rest: String,
}

impl Parts {
    /// `example` is shown when `raw` is no such address; `raw` itself is not repeated, it may hold a password.
    fn read(raw: &Raw, schemes: &[&str], example: &str) -> Result<Self, String> {
        let Raw::Text(text) = raw else { return Err(format!("needs an address such as \"{example}\"")) };
        let wrong = |what: &str| format!("{what}; it needs an address such as \"{example}\"");
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong("the address holds spaces or control characters"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("the address has no scheme"))?;
        if !schemes.contains(&scheme) {
            let known = schemes.join("://, ");
            return Err(format!("the scheme \"{}://\" is not known; it may be {known}://", quote(scheme)));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            None | Some(("", "")) => (None, None),
            Some((name, "")) => (Some(name), None),
            Some((name, password)) => (Some(name), Some(password)),
        };
        let decode =
            |text: &str| percent_decode(text).ok_or_else(|| wrong("the address has a broken % escape"));
        // An IPv6 address stands in brackets, so its colons do not count.
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (place, None),
        };
        let host =
            check_host(host).ok_or_else(|| wrong("the host is no name and no address (IPv6 in brackets)"))?;
        let port = match port {
            None => None,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => Some(port),
                _ => return Err(wrong("the port is not a number from 1 to 65535")),
            },
        };
        Ok(Self {
            scheme: scheme.to_owned(),
            username: username.map(decode).transpose()?,
            password: password.map(decode).transpose()?.map(Secret::new),
            host: host.to_owned(),
            port,
            rest: rest.to_owned(),
        })
    }

    fn masked(&self) -> String {
        let user = match (&self.username, &self.password) {
            (None, None) => String::new(),
            (name, None) => format!("{}@", name.as_deref().unwrap_or_default()),
            (name, Some(_)) => format!("{}:***@", name.as_deref().unwrap_or_default()),
        };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        // Postgres takes a password among the parameters as well.
        let rest: Vec<String> = self
            .rest
            .split('&')
            .map(|piece| match piece.split_once('=') {
                Some((name, _)) if name.contains("password") => format!("{name}=***"),
                _ => piece.to_owned(),
            })
            .collect();
        format!("{}://{user}{host}{port}{}", self.scheme, rest.join("&"))
    }
}

/// A host as it is asked for: a name, an IPv4 address, an IPv6 address out of its brackets, the escaped folder of a socket,
/// or nothing. `None` for what can be none of them.
fn check_host(host: &str) -> Option<&str> {
    if let Some(inside) = host.strip_prefix('[') {
        let inside = inside.strip_suffix(']')?;
        let address = inside.split_once('%').map_or(inside, |(address, _zone)| address);
        return address.parse::<Ipv6Addr>().is_ok().then_some(inside);
    }
    if host.is_empty() || host.starts_with("%2F") || host.starts_with("%2f") {
        return Some(host);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return host.parse::<Ipv4Addr>().is_ok().then_some(host);
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(host)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Address of an MQTT broker: `mqtt://host[:1883]` or `mqtts://host[:8883]`, without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    pub tls: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    text: String,
}

impl Value for BrokerUrl {
    const TYPE: &'static str = "address";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const EXAMPLE: &str = "mqtt://broker.local:1883";
        let parts = Parts::read(raw, &["mqtt", "mqtts"], EXAMPLE)?;
        if parts.host.is_empty() || parts.host.contains('/') || parts.host.starts_with('%') {
            return Err(format!("the address has no host; it needs an address such as \"{EXAMPLE}\""));
        }
        if !matches!(parts.rest.as_str(), "" | "/") {
            return Err(format!("the address ends after the port; \"{}\" is too much", quote(&parts.rest)));
        }
        if parts.username.is_some() || parts.password.is_some() {
            return Err(
                "holds a user: set mqtt.username, and mqtt.password_file to a file that holds the password"
                    .to_owned(),
            );
        }
        let tls = parts.scheme == "mqtts";
        let text = parts.masked();
        let port = parts.port.unwrap_or(if tls { 8883 } else { 1883 });
        Ok(Self { tls, host: parts.host, port, text })
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.text))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Address of a Postgres database, kept whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    pub url: Secret,
    shown: String,
    /// The server is neither on this machine nor behind a Unix socket.
    pub crosses_network: bool,
    /// The address itself says how TLS is used.
    pub names_ssl_mode: bool,
}

/// What the part after `?` may hold. Anything else would be ignored, or worse, logged by the driver with its value.
const POSTGRES_PARAMETERS: [&str; 11] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
];
const SSL_MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

impl Value for PostgresUrl {
    const TYPE: &'static str = "address";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let example = "postgres://jarvis@database.local/jarvis";
        let parts = Parts::read(raw, &["postgres", "postgresql"], example)?;
        let Raw::Text(text) = raw else { return Err(format!("needs an address such as \"{example}\"")) };
        // A parameter may name the host or the folder of the socket instead.
        if parts.host.is_empty() && !parts.rest.contains("host=") && !parts.rest.contains("hostaddr=") {
            return Err(format!("the address has no host; it needs an address such as \"{example}\""));
        }
        if parts.rest.contains('#') {
            return Err("the address holds \"#\", which ends it; write %23 in its place".to_owned());
        }
        let query = parts.rest.split_once('?').map_or("", |(_, query)| query);
        let mut hosts = vec![parts.host.clone()];
        let mut names_ssl_mode = false;
        for (name, value) in query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        {
            if !POSTGRES_PARAMETERS.contains(&name) {
                let known = POSTGRES_PARAMETERS.join(", ");
                return Err(format!("the parameter \"{}\" is not known; it may be {known}", quote(name)));
            }
            if name == "sslmode" {
                names_ssl_mode = true;
                if !SSL_MODES.contains(&value) {
                    return Err(format!("sslmode may be {}", SSL_MODES.join(", ")));
                }
            }
            if matches!(name, "host" | "hostaddr") {
                hosts = vec![percent_decode(value).unwrap_or_default()];
            }
        }
        let here = |host: &String| {
            host.is_empty()
                || host.starts_with('/')
                || host.starts_with("%2F")
                || host.starts_with("%2f")
                || matches!(host.as_str(), "localhost" | "::1")
                || host.starts_with("127.")
        };
        let crosses_network = !hosts.iter().all(here);
        Ok(Self { shown: parts.masked(), url: Secret::new(text.as_str()), crosses_network, names_ssl_mode })
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.shown))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(text: &str) -> Result<BrokerUrl, String> {
        BrokerUrl::read(&Raw::Text(text.to_owned()), Path::new("/"))
    }

    #[test]
    fn a_broker_address_is_taken_apart() {
        let url = broker("mqtts://[fe80::1]").unwrap();
        assert!(url.tls);
        assert_eq!((url.host.as_str(), url.port), ("fe80::1", 8883));
        assert_eq!(url.to_string(), "mqtts://[fe80::1]");
        assert_eq!(broker("mqtt://host/").unwrap().port, 1883);
        assert_eq!(broker("mqtt://host:1/").unwrap().port, 1);
    }

    #[test]
    fn a_broker_address_holds_no_secrets() {
        let sentence = broker("mqtt://me:hunter2@host").unwrap_err();
        assert!(sentence.contains("mqtt.password_file") && !sentence.contains("hunter2"), "{sentence}");
        assert!(broker("mqtt://me@host").is_err());
    }

    #[test]
    fn a_password_is_never_shown() {
        let raw = Raw::Text("postgres://u:hunter2@h/db?sslmode=require&password=hunter2".to_owned());
        let url = PostgresUrl::read(&raw, Path::new("/")).unwrap();
        assert_eq!(url.to_string(), "postgres://u:***@h/db?sslmode=require&password=***");
        assert!(!format!("{url:?}").contains("hunter2"));
    }

    #[test]
    fn a_database_is_at_a_host_or_at_a_socket() {
        let read = |text: &str| PostgresUrl::read(&Raw::Text(text.to_owned()), Path::new("/"));
        for text in [
            "postgres://h/db",
            "postgresql://u@[::1]:5432/db",
            "postgres:///db?host=/run/postgresql",
            "postgres://%2Frun%2Fpostgresql/db",
        ] {
            assert!(read(text).is_ok(), "{text}: {:?}", read(text));
        }
        for text in [
            "postgres://",
            "postgres:///db",
            "postgres://u:hunter2@/db",
            "postgres://h:0/db",
            "postgres://h/db#1",
        ] {
            let sentence = read(text).unwrap_err();
            assert!(!sentence.contains("hunter2"), "{sentence}");
        }
    }

    #[test]
    fn a_wrong_address_is_refused_without_repeating_its_password() {
        for text in
            ["http://u:hunter2@h", "u:hunter2@h", "mqtt://u:hunter2@h:0", "mqtt://u:hunter2@h:x", "mqtt://"]
        {
            let sentence = broker(text).unwrap_err();
            assert!(!sentence.contains("hunter2"), "{sentence}");
            assert!(sentence.contains("mqtt://"), "{sentence}");
        }
        let long = format!("mqtt://{}", "a".repeat(64));
        for host in [
            "mqtt://:1883",
            "mqtt://[::1",
            "mqtt://::1",
            "mqtt://[broker]",
            "mqtt://h:1:2",
            "mqtt://1.2.3",
            "mqtt://300.1.1.1",
            "mqtt://a..b",
            "mqtt://-a",
            "mqtt://ä",
            "mqtt://a,b",
            "mqtt://%2Frun",
            &long,
        ] {
            assert!(broker(host).unwrap_err().contains("host"), "{host}");
        }
        for host in
            ["mqtt://my_broker.local.", "mqtt://[fe80::1%eth0]:1", "mqtt://10.0.0.2", "mqtt://4you.lan"]
        {
            assert!(broker(host).is_ok(), "{host}");
        }
        assert!(broker("mqtt://h/topic").unwrap_err().contains("/topic"));
        assert!(broker("mqtt://a%zz@h").unwrap_err().contains("% escape"));
    }
}

//! Addresses of the broker and of Postgres. A password inside one is kept, and never shown.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

use percent_encoding::percent_decode_str;
use url::{Host, ParseError, Url};
use zeroize::Zeroizing;

use super::fault::quote;
use super::suggest::closest;
use super::value::{Raw, Value, toml_text};

/// `scheme://[user[:password]@][host[:port]][/path][?name=value&…]`, taken apart once by the crate `url`. Two
/// forms unknown to `url` are added here: the scope of an IPv6 address (`[fe80::1%25eth0]`), and a user
/// without a host, libpq's form of a Unix socket. Printing one shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// With `localhost` where no host is named.
    url: Url,
    /// A name, an address without brackets (with `%scope`), the folder of a socket; empty where none is
    /// named.
    host: String,
    scope: Option<String>,
}

impl Address {
    /// `example` is shown when `raw` is no such address; `raw` itself is not repeated, it may hold a
    /// password.
    fn read(raw: &Raw, schemes: &[&str], example: &str) -> Result<Self, String> {
        let Raw::Text(text) = raw else { return Err(format!("needs an address such as \"{example}\"")) };
        let wrong = |what: &str| format!("{what}; it needs an address such as \"{example}\"");
        let no_host = || wrong("the host is no name and no address (IPv6 in brackets)");
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong("the address holds spaces or control characters"));
        }
        if crate::plain::has_control(&decoded(text)) {
            return Err(wrong("the address holds a control character behind a \"%\""));
        }
        let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| word(scheme))
            .ok_or_else(|| wrong("the address has no scheme"))?;
        if !schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            let known = schemes.join("://, ");
            return Err(format!("the scheme \"{}://\" is not known; it may be {known}://", quote(scheme)));
        }
        let (authority, behind) =
            rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len())).unwrap_or((rest, ""));
        // The end of a password that holds a "/": its rest would be taken for the name of a database, and
        // shown.
        if behind.contains('@') {
            return Err(
                "the address holds an \"@\" behind the host; in a user or password write %2F for \"/\", \
                        %3F for \"?\" and %23 for \"#\", and anywhere else %40 for \"@\""
                    .to_owned(),
            );
        }
        if behind.contains('#') {
            return Err("the address holds \"#\", which ends it; write %23 in its place".to_owned());
        }
        let (user, place) = authority.rsplit_once('@').map_or(("", authority), |(user, place)| (user, place));
        let (place, scope) = match place.split_once('%').filter(|_| place.starts_with('[')) {
            None => (place.to_owned(), None),
            Some((address, behind)) => {
                let (scope, port) = behind.split_once(']').ok_or_else(no_host)?;
                let scope = scope.strip_prefix("25").unwrap_or(scope);
                if scope.is_empty() || !word(scope) {
                    return Err(no_host());
                }
                (format!("{address}]{port}"), Some(scope.to_owned()))
            }
        };
        // libpq takes a "+" literally, and `url` takes it for a space.
        let behind = behind.replace('+', "%2B");
        let parts = [user, place.as_str(), behind.as_str()];
        if !parts.iter().all(|part| decodes(part)) {
            return Err(wrong("the address has a broken % escape"));
        }
        let standard = if place.is_empty() { "localhost" } else { &place };
        let at = if user.is_empty() { "" } else { "@" };
        let url = Url::parse(&format!("{scheme}://{user}{at}{standard}{behind}"));
        let url = match url {
            Err(ParseError::InvalidPort) => None,
            Err(_) => return Err(no_host()),
            Ok(url) => Some(url).filter(|url| url.port() != Some(0) && !place.ends_with(':')),
        };
        let url = url.ok_or_else(|| wrong("the port behind the host is not a number from 1 to 65535"))?;
        let host = match url.host() {
            _ if place.is_empty() => String::new(),
            Some(Host::Ipv6(address)) => {
                scope.as_ref().map_or(address.to_string(), |scope| format!("{address}%{scope}"))
            }
            Some(Host::Domain(name)) => named(name).ok_or_else(no_host)?,
            _ => return Err(no_host()),
        };
        Ok(Self { url, host, scope })
    }

    fn password(&self) -> Option<Zeroizing<String>> {
        self.url.password().map(decoded).map(Zeroizing::new)
    }

    /// The last of these parameters.
    fn parameter(&self, name: &str) -> Option<String> {
        let last = self.url.query_pairs().filter(|(key, _)| key == name).last();
        last.map(|(_, value)| value.into_owned())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.url.username();
        // A name with an escape may be a password that was written in its place.
        let user = if user.contains('%') { "***" } else { user };
        let password = if self.url.password().is_some() { ":***" } else { "" };
        let at = if user.is_empty() && password.is_empty() { "" } else { "@" };
        let host = match (&self.scope, self.url.host_str().unwrap_or_default()) {
            _ if self.host.is_empty() => String::new(),
            (None, host) => host.to_owned(),
            (Some(scope), host) => format!("{}%25{scope}]", host.trim_end_matches(']')),
        };
        let port = self.url.port().map_or(String::new(), |port| format!(":{port}"));
        write!(f, "{}://{user}{password}{at}{host}{port}{}", self.url.scheme(), self.url.path())?;
        // Postgres takes a password among the parameters as well.
        let shown = self.url.query().map(|query| {
            let masked = query.split('&').map(|pair| match pair.split_once('=') {
                Some((name, _)) if decoded(name).contains("password") => format!("{name}=***"),
                _ => pair.to_owned(),
            });
            masked.collect::<Vec<_>>().join("&")
        });
        shown.map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether every % begins an escape and the decoded bytes are UTF-8.
fn decodes(text: &str) -> bool {
    let escape = |after: &str| after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    text.split('%').skip(1).all(escape) && percent_decode_str(text).decode_utf8().is_ok()
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A host that is no IPv6 address: a name, an IPv4 address, or the folder of a socket. `None` for any other
/// text.
fn named(host: &str) -> Option<String> {
    let host = decoded(host);
    let name = host.strip_suffix('.').unwrap_or(&host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let valid = if host.starts_with('/') {
        true
    } else if name.chars().all(|c| c.is_ascii_digit() || c == '.') {
        host.parse::<Ipv4Addr>().is_ok()
    } else {
        name.len() <= 253 && name.split('.').all(label)
    };
    valid.then_some(host)
}

/// Address of an MQTT broker: `mqtt://host[:1883]` or `mqtts://host[:8883]`, without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    pub tls: bool,
    /// A name or an address; IPv6 without brackets, and without its scope.
    pub host: String,
    /// The network interface of a link-local address.
    pub scope: Option<String>,
    pub port: u16,
    shown: String,
}

impl BrokerUrl {
    /// # Errors
    /// A sentence that does not repeat the address.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(&Raw::Text(text.to_owned()), Path::new("/"))
    }
}

impl Value for BrokerUrl {
    fn type_words() -> String {
        "address".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const EXAMPLE: &str = "mqtt://broker.local:1883";
        let Address { url, host, scope } = Address::read(raw, &["mqtt", "mqtts"], EXAMPLE)?;
        if host.is_empty() || host.starts_with('/') {
            return Err(format!("the address has no host; it needs an address such as \"{EXAMPLE}\""));
        }
        let rest = url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        if !matches!(rest.as_str(), "" | "/") {
            // Not repeated: it may be a password that was written in the wrong place.
            return Err("the address ends after the port; take out what stands behind it".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "holds a user: set mqtt.username, and mqtt.password_file to a file that holds the password"
                    .to_owned(),
            );
        }
        let tls = url.scheme() == "mqtts";
        let port = url.port().unwrap_or(if tls { 8883 } else { 1883 });
        let shown = Address { url, host: host.clone(), scope: scope.clone() }.to_string();
        let host = host.split_once('%').map_or(host.clone(), |(address, _)| address.to_owned());
        Ok(Self { tls, host, scope, port, shown })
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.shown))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Address of a Postgres database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    address: Address,
    /// The server is neither on this machine nor behind a Unix socket.
    pub crosses_network: bool,
    /// The address itself says how TLS is used.
    pub names_ssl_mode: bool,
    /// The server's address is link-local and names an interface.
    pub is_scoped: bool,
}

/// The parameters allowed after `?`. Any other would be ignored, or worse, logged by the driver with its
/// value.
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

impl PostgresUrl {
    /// # Errors
    /// A sentence that does not repeat the address.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(&Raw::Text(text.to_owned()), Path::new("/"))
    }

    /// For the driver, which hands an IPv6 address to the resolver as it finds it: without brackets among the
    /// parameters.
    pub fn for_driver(&self) -> Url {
        let mut url = self.address.url.clone();
        let server = self.server();
        if server.contains(':') {
            url.query_pairs_mut().append_pair("host", &server);
        }
        url
    }

    /// The host to connect to, in the form that the resolver takes, or the folder of the socket.
    fn server(&self) -> String {
        let last =
            self.address.url.query_pairs().filter(|(key, _)| key == "host" || key == "hostaddr").last();
        last.map_or(self.address.host.clone(), |(_, host)| host.trim_matches(['[', ']']).to_owned())
    }

    pub fn password(&self) -> Option<Zeroizing<String>> {
        self.parameter("password").map(Zeroizing::new).or_else(|| self.address.password())
    }

    /// The last of the parameters of this name.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.address.parameter(name)
    }

    /// Another database of the same server.
    pub fn at(&self, database: &str) -> Self {
        let mut there = self.clone();
        let url = &mut there.address.url;
        let kept: Vec<&str> =
            url.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("dbname=")).collect();
        let kept = Some(kept.join("&")).filter(|query| !query.is_empty());
        url.set_query(kept.as_deref());
        url.set_path(database);
        there
    }
}

impl Value for PostgresUrl {
    fn type_words() -> String {
        "address".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const EXAMPLE: &str = "postgres://jarvis@database.local/jarvis";
        let address = Address::read(raw, &["postgres", "postgresql"], EXAMPLE)?;
        for (name, value) in address.url.query_pairs() {
            if !POSTGRES_PARAMETERS.contains(&&*name) {
                // Its name is not repeated: it may be a part of a password.
                let known = POSTGRES_PARAMETERS.join(", ");
                let meant = closest(name.split('=').next().unwrap_or_default(), POSTGRES_PARAMETERS);
                let meant = meant.map_or(String::new(), |meant| format!("; did you mean {meant}?"));
                return Err(format!("a parameter behind the \"?\" is not known, it may be {known}{meant}"));
            }
            if name == "sslmode" && !SSL_MODES.contains(&&*value) {
                return Err(format!("sslmode may be {}", SSL_MODES.join(", ")));
            }
            if name == "port" && !matches!(value.parse::<u16>(), Ok(1..)) {
                return Err("the parameter \"port\" is not a number from 1 to 65535".to_owned());
            }
        }
        // The name of a database is shown, so a text that looks like something else is not taken for one.
        let database = decoded(address.url.path().strip_prefix('/').unwrap_or_default());
        if database.contains(['&', '=', ':', '/', '@', '?', '#']) {
            return Err(
                "the name of the database holds one of & = : / @ ? #; parameters begin with \"?\", and a \
                        password belongs into store.postgres_password_file"
                    .to_owned(),
            );
        }
        let ssl_mode = address.parameter("sslmode");
        let read =
            Self { address, crosses_network: false, names_ssl_mode: ssl_mode.is_some(), is_scoped: false };
        let server = read.server();
        // A parameter may name the host or the folder of the socket instead.
        if server.is_empty() {
            return Err(format!("the address has no host; it needs an address such as \"{EXAMPLE}\""));
        }
        let here = server.starts_with('/')
            || matches!(server.as_str(), "localhost" | "::1")
            || server.starts_with("127.");
        let is_scoped = server.contains('%');
        if is_scoped && ssl_mode.is_some_and(|mode| mode != "disable" && mode != "prefer") {
            return Err("TLS cannot be demanded of an address with an interface; write the name of the host"
                .to_owned());
        }
        Ok(Self { crosses_network: !here, is_scoped, ..read })
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.to_string()))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
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
        assert!(broker("mqtt://h/topic").unwrap_err().contains("after the port"));
        assert!(broker("mqtt://a%zz@h").unwrap_err().contains("% escape"));
    }
}

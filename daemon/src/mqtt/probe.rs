//! One sign-in at the broker as the daemon makes it, for `jarvisd doctor`: the broker's permissions, or the
//! service that answers in place of a broker. It blocks, and ends by its deadline.
//!
//! It leaves nothing behind and reaches nobody: a message of QoS 2 that is never released asks whether the
//! device may publish on a topic. A topic that nobody reads (`…/doctor`) first shows whether the broker
//! delivers such a message at once; if so, only that topic is asked about. Some brokers accept every
//! subscription and deliver nothing, so reception is proven: a message that is no command, and no state of
//! Home Assistant, must come back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter, Login, Packet, PubAckReason,
    PubRecReason, PubRel, Publish, RetainForwardRule, Subscribe, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error as Wrong, QoS};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::command::PROBE;
use super::limits::Limits;
use super::session::{password, refusal_sentence};
use super::{MqttSettings, Topics, discovery, tls};
use crate::config::{BrokerUrl, Masked};
use crate::control::entity::Backups;
use crate::error::chain;

/// Limit for everything together, apart from the resolver.
const DEADLINE: Duration = Duration::from_secs(12);
/// Limit for the broker to accept the connection.
const GREETING: Duration = Duration::from_secs(5);
/// Limit for each guess at the service that answers in place of a broker.
const GUESS: Duration = Duration::from_secs(2);
/// Longest time in which a broker delivers a message although it is not released.
const EARLY: Duration = Duration::from_millis(400);
const LARGEST_PACKET: u32 = 65_536;
/// First byte of the answer to CONNECT.
const CONNACK: u8 = 0x20;

/// The permissions and limits that a broker gives the device.
#[derive(Debug, Default)]
pub struct Probe {
    /// Topics on which it may not publish.
    pub mute_on: Vec<String>,
    /// Topics of which it hears nothing.
    pub deaf_to: Vec<String>,
    /// Topics of commands that may not be received: the device may not publish there, or the broker does not
    /// say so.
    pub unproven: Vec<String>,
    /// The same for the topic on which Home Assistant says that it is there.
    pub unproven_status: Option<String>,
    /// The limits of the broker, a sentence each.
    pub limits: Vec<String>,
}

/// Signs in with `settings` and asks for everything that the daemon needs.
///
/// # Errors
/// A sentence with the reason why there is no connection, and the remedy.
pub fn probe(settings: &MqttSettings) -> Result<Probe, String> {
    let broker = &settings.broker;
    let topics = Topics::new(&settings.mqtt.base_topic, &settings.device_id).map_err(|e| chain(&e))?;
    let password = password(settings).map_err(|e| chain(&e))?;
    let until = Instant::now() + DEADLINE;
    let mut wire = Wire::open(settings, until)?;
    let login = settings.mqtt.username.clone();
    let login = login.map(|Masked(username)| Login {
        username,
        password: password.as_deref().cloned().unwrap_or_default(),
    });
    let client_id = format!("jarvis-{}-doctor", settings.device_id);
    let properties = match wire.ask(&connect(client_id, login), until.min(Instant::now() + GREETING)) {
        Ok(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Success => ack.properties,
        Ok(Packet::ConnAck(ack)) => return Err(refusal_sentence(ack.code, broker)),
        Err(e) if e.kind() == io::ErrorKind::TimedOut && wire.first == Some(CONNACK) => {
            return Err(format!(
                "the broker at {broker} is too slow: its first answer was not whole after {} s; see its log \
                 and the network",
                GREETING.as_secs()
            ));
        }
        Ok(_) | Err(_) => return Err(stranger(broker, wire.first)),
    };
    let limits = Limits::of(properties.as_ref());
    let most = properties.and_then(|properties| properties.max_qos);
    let qos = if most.is_none_or(|most| most > 1) { QoS::ExactlyOnce } else { limits.qos };
    let mut asked = Asked { wire, settings, topics: &topics, qos, until, seen: Seen::default() };
    asked.everything(limits).map_err(|lost| match lost.kind() {
        io::ErrorKind::TimedOut => {
            format!("the broker at {broker} takes the device in and then says nothing: it hangs; see its log")
        }
        _ => format!("the connection to the broker at {broker} broke ({lost})"),
    })
}

fn connect(client_id: String, login: Option<Login>) -> Packet {
    let connect = Connect { keep_alive: 30, client_id, clean_start: true, properties: None };
    Packet::Connect(connect, None, login)
}

/// The answers of the broker so far.
#[derive(Default)]
struct Seen {
    subscribed: Option<Vec<SubscribeReasonCode>>,
    /// Packet id → whether the message may be published.
    answered: BTreeMap<u16, bool>,
    echoes: BTreeSet<Vec<u8>>,
}

struct Asked<'a> {
    wire: Wire,
    settings: &'a MqttSettings,
    topics: &'a Topics,
    /// The best that the broker takes.
    qos: QoS,
    until: Instant,
    seen: Seen,
}

impl Asked<'_> {
    fn everything(&mut self, limits: Limits) -> io::Result<Probe> {
        let Self { settings, topics, .. } = *self;
        let mut found =
            Probe { limits: limits.sentences().into_iter().map(str::to_owned).collect(), ..Probe::default() };
        let commands = topics.of_commands(settings);
        let status = settings.discovery_prefix().map(discovery::status_topic);
        let heard: Vec<&str> = [topics.doctor.as_str()]
            .into_iter()
            .chain(commands.iter().map(String::as_str))
            .chain(status.as_deref())
            .collect();
        self.subscribe(&heard)?;
        let codes = self.seen.subscribed.take().unwrap_or_default();
        for (topic, code) in heard.iter().zip(codes) {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                found.deaf_to.push((*topic).to_owned());
            }
        }
        let mut next_id = 1;
        self.publish(&topics.doctor, b"", self.qos, next_id)?;
        // Without QoS there is no answer to wait for.
        if self.qos != QoS::AtMostOnce {
            self.expect(|seen| seen.answered.contains_key(&1))?;
        }
        let may = self.seen.answered.get(&1).copied();
        let echo = |seen: &Seen| seen.echoes.contains(topics.doctor.as_bytes());
        let unreleased = self.qos == QoS::ExactlyOnce;
        if unreleased {
            self.wait(echo, Instant::now() + EARLY)?;
        }
        let announcement = settings.discovery_prefix().map(|prefix| {
            let entities = discovery::entities(settings, topics, Backups::None);
            let payload = discovery::payload(settings, topics, entities, &BTreeMap::new());
            (discovery::topic(settings, prefix), payload)
        });
        if let Some((topic, payload)) = &announcement
            && payload.len() + topic.len() + 32 > limits.max_packet
        {
            found.limits.push(format!(
                "it takes packets of {} bytes at most (Mosquitto: max_packet_size), too few to announce \
                 the device to Home \
                 Assistant",
                limits.max_packet
            ));
        }
        let mut asked = vec![(1, topics.doctor.as_str())];
        if unreleased && !echo(&self.seen) {
            let announced = announcement.as_ref().map(|(topic, _)| topic.as_str());
            for topic in topics.of_values(settings).into_iter().chain(announced) {
                next_id += 1;
                self.publish(topic, b"", QoS::ExactlyOnce, next_id)?;
                asked.push((next_id, topic));
            }
            let last = next_id;
            self.expect(|seen| (2..=last).all(|id| seen.answered.contains_key(&id)))?;
        }
        asked.retain(|(id, _)| self.qos != QoS::AtMostOnce && self.seen.answered.get(id) != Some(&true));
        // An access list that names each topic need not have this one.
        let one_of_many = next_id > 1 && asked.len() == 1;
        found.mute_on = asked.iter().map(|(_, topic)| (*topic).to_owned()).collect();
        if one_of_many {
            found.mute_on.retain(|topic| *topic != topics.doctor);
        }
        // Now it may be delivered, and so may a non-command message on each topic of commands.
        if unreleased && may == Some(true) {
            self.wire.send(&Packet::PubRel(PubRel::new(1, None)))?;
        }
        let mut own = vec![(1, topics.doctor.as_str())];
        for topic in commands.iter().map(String::as_str).chain(status.as_deref()) {
            next_id += 1;
            self.publish(topic, PROBE, if unreleased { QoS::AtLeastOnce } else { self.qos }, next_id)?;
            own.push((next_id, topic));
        }
        let came = |seen: &Seen, topic: &str| seen.echoes.contains(topic.as_bytes());
        let settled = |seen: &Seen| {
            own.iter().all(|(id, topic)| came(seen, topic) || seen.answered.get(id) == Some(&false))
        };
        self.wait(settled, Instant::now() + 8 * EARLY)?;
        for (id, topic) in own {
            if came(&self.seen, topic) || found.deaf_to.iter().any(|known| known == topic) {
                continue;
            }
            // A topic that the device may not write to says nothing about whether it may read it.
            if self.seen.answered.get(&id) == Some(&true) {
                found.deaf_to.push(topic.to_owned());
            } else if status.as_deref() == Some(topic) {
                found.unproven_status = Some(topic.to_owned());
            } else if id != 1 {
                found.unproven.push(topic.to_owned());
            }
        }
        self.wire.send(&Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)))?;
        Ok(found)
    }

    fn subscribe(&mut self, topics: &[&str]) -> io::Result<()> {
        let filters = topics.iter().map(|topic| Filter {
            retain_forward_rule: RetainForwardRule::Never,
            ..Filter::new(*topic, QoS::AtLeastOnce)
        });
        let mut subscribe = Subscribe::new_many(filters, None);
        subscribe.pkid = 1;
        self.wire.send(&Packet::Subscribe(subscribe))?;
        self.expect(|seen| seen.subscribed.is_some())
    }

    fn publish(&mut self, topic: &str, payload: &'static [u8], qos: QoS, id: u16) -> io::Result<()> {
        let mut publish = Publish::new(topic, qos, payload, None);
        publish.pkid = if qos == QoS::AtMostOnce { 0 } else { id };
        self.wire.send(&Packet::Publish(publish))
    }

    /// Reads the required answers of the broker, until `done`.
    fn expect(&mut self, done: impl Fn(&Seen) -> bool) -> io::Result<()> {
        self.wait(&done, self.until)?;
        if done(&self.seen) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Reads from the broker until `done`, or until `at`, which is no error.
    fn wait(&mut self, done: impl Fn(&Seen) -> bool, at: Instant) -> io::Result<()> {
        while !done(&self.seen) {
            match self.wire.receive(at.min(self.until)) {
                Ok(packet) => self.seen.take_note(packet)?,
                Err(e) if e.kind() == io::ErrorKind::TimedOut => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Seen {
    fn take_note(&mut self, packet: Packet) -> io::Result<()> {
        match packet {
            Packet::SubAck(ack) => self.subscribed = Some(ack.return_codes),
            Packet::PubAck(ack) => {
                let may = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                self.answered.insert(ack.pkid, may);
            }
            Packet::PubRec(rec) => {
                let may = matches!(rec.reason, PubRecReason::Success | PubRecReason::NoMatchingSubscribers);
                self.answered.insert(rec.pkid, may);
            }
            Packet::Publish(publish) => {
                self.echoes.insert(publish.topic.to_vec());
            }
            Packet::Disconnect(why) => return Err(io::Error::other(format!("{:?}", why.reason_code))),
            _ => {}
        }
        Ok(())
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A connection that speaks MQTT 5, in the clear or over TLS.
struct Wire {
    stream: Box<dyn Stream>,
    /// The socket below, for its deadlines.
    socket: TcpStream,
    inbox: BytesMut,
    /// The first byte that ever came.
    first: Option<u8>,
}

impl Wire {
    fn open(settings: &MqttSettings, until: Instant) -> Result<Self, String> {
        let broker = &settings.broker;
        let away = |e: io::Error| format!("cannot reach the broker at {broker} ({e})");
        let socket = reach(broker, until).map_err(away)?;
        if !broker.tls {
            return Self::over(socket).map_err(away);
        }
        let config = tls::client_config(settings.mqtt.ca_file.as_ref()).map_err(|e| chain(&e))?;
        secured(broker, config, &socket).map_err(|error| {
            let certificate = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if matches!(certificate, Some(rustls::Error::InvalidCertificate(_))) {
                return format!("no trusted connection to the broker at {broker}: {}", tls::sentence(&error));
            }
            match guess(broker) {
                Some(Answers::Mqtt) => {
                    format!(
                        "a broker without TLS answers at {broker}: set mqtt.url to mqtt://, or to the \
                             port for TLS (8883)"
                    )
                }
                Some(other) => other.sentence(broker),
                None => format!("no trusted connection to the broker at {broker}: {}", tls::sentence(&error)),
            }
        })
    }

    fn over(socket: TcpStream) -> io::Result<Self> {
        let stream = Box::new(socket.try_clone()?);
        Ok(Self { stream, socket, inbox: BytesMut::new(), first: None })
    }

    fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).map_err(|e| io::Error::other(e.to_string()))?;
        self.stream.write_all(&bytes)?;
        self.stream.flush()
    }

    fn receive(&mut self, until: Instant) -> io::Result<Packet> {
        loop {
            match Packet::read(&mut self.inbox, Some(LARGEST_PACKET)) {
                Ok(packet) => return Ok(packet),
                Err(Wrong::InsufficientBytes(_)) => {}
                Err(e) => return Err(io::Error::other(e.to_string())),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4_096];
            let got = match self.stream.read(&mut bytes) {
                Ok(0) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"));
                }
                Ok(got) => bytes.get(..got).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.first = self.first.or(got.first().copied());
            self.inbox.extend_from_slice(got);
        }
    }

    fn ask(&mut self, packet: &Packet, until: Instant) -> io::Result<Packet> {
        self.send(packet)?;
        self.receive(until)
    }
}

fn reach(broker: &BrokerUrl, until: Instant) -> io::Result<TcpStream> {
    let host = broker.scope.as_ref().map_or(broker.host.clone(), |scope| format!("{}%{scope}", broker.host));
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host.as_str(), broker.port).to_socket_addrs()? {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left.min(DEADLINE / 3)) {
            Ok(socket) => {
                socket.set_write_timeout(Some(GUESS))?;
                socket.set_read_timeout(Some(DEADLINE / 3))?;
                return Ok(socket);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn secured(broker: &BrokerUrl, config: Arc<rustls::ClientConfig>, socket: &TcpStream) -> io::Result<Wire> {
    let name = ServerName::try_from(broker.host.clone()).map_err(io::Error::other)?;
    let mut client = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut below = socket.try_clone()?;
    while client.is_handshaking() {
        client.complete_io(&mut below).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it says nothing"),
            _ => e,
        })?;
    }
    let stream = Box::new(StreamOwned::new(client, below));
    Ok(Wire { stream, socket: socket.try_clone()?, inbox: BytesMut::new(), first: None })
}

/// The service found at a port instead of the expected broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Mqtt,
    Tls,
    Postgres,
    Web,
}

impl Answers {
    fn sentence(self, broker: &BrokerUrl) -> String {
        let what = match self {
            Self::Mqtt => return format!("a broker answers at {broker}, and not as MQTT 5 says"),
            Self::Tls => {
                return format!(
                    "{broker} expects TLS: set mqtt.url to mqtts://, or to the port without TLS (1883)"
                );
            }
            Self::Postgres => "a Postgres server",
            Self::Web => "a web server",
        };
        format!("{what} answers at {broker}, and no broker: correct the host or the port in mqtt.url")
    }
}

/// The reason why a service that answered a CONNECT, with this first byte if any, is no broker of ours.
fn stranger(broker: &BrokerUrl, first: Option<u8>) -> String {
    if first == Some(CONNACK) {
        return refusal_sentence(ConnectReturnCode::UnsupportedProtocolVersion, broker);
    }
    match guess(broker) {
        Some(other) if !(broker.tls && other == Answers::Tls) => other.sentence(broker),
        _ if first.is_none() => {
            format!("what answers at {broker} says nothing: it is no broker, or one that hangs; see its log")
        }
        _ => refusal_sentence(ConnectReturnCode::UnsupportedProtocolVersion, broker),
    }
}

/// Speaks to the port as other clients do. No secret is sent.
fn guess(broker: &BrokerUrl) -> Option<Answers> {
    let until = || Instant::now() + GUESS;
    let first_byte = |hello: &[u8]| {
        let mut socket = reach(broker, until()).ok()?;
        socket.set_read_timeout(Some(GUESS)).ok()?;
        socket.write_all(hello).ok()?;
        let mut first = [0; 1];
        socket.read_exact(&mut first).ok()?;
        Some(first[0])
    };
    let speaks_mqtt = || {
        let mut wire = Wire::over(reach(broker, until()).ok()?).ok()?;
        wire.ask(&connect("jarvis-doctor".to_owned(), None), until()).ok()
    };
    if matches!(speaks_mqtt(), Some(Packet::ConnAck(_))) {
        return Some(Answers::Mqtt);
    }
    // A ServerHello or an alert.
    if matches!(first_byte(CLIENT_HELLO), Some(0x15 | 0x16)) {
        return Some(Answers::Tls);
    }
    if matches!(first_byte(SSL_REQUEST), Some(b'S' | b'N')) {
        return Some(Answers::Postgres);
    }
    (first_byte(b"GET / HTTP/1.0\r\n\r\n") == Some(b'H')).then_some(Answers::Web)
}

/// First message that any client of Postgres may send.
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
/// The smallest message that a server of TLS 1.2 answers, if only with an alert.
const CLIENT_HELLO: &[u8] = &[
    0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3, // record, handshake, TLS 1.2
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
    29, 30, 31, 32, 0, 0, 2, 0xc0, 0x2f, 1, 0, // no session, one cipher suite, no compression
];

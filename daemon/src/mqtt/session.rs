//! One connection to the broker, from CONNECT to its end.

use std::pin::pin;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, Packet, PubAckReason,
    RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, Transport};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::limits::Limits;
use super::outbox::WINDOW;
use super::{COMPONENT, MqttError, MqttSettings, Resend, Work, discovery, tls};
use crate::config::BrokerUrl;
use crate::control::{COMMANDS, CommandSpec};
use crate::health::Condition;

const CONNECT_TIMEOUT_S: u64 = 10;
/// A dead device is reported by its last will after 1.5 times this.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Without any packet for this long the connection is dead, even if TCP holds it.
const SILENCE: Duration = Duration::from_secs(50);
/// Without a PubAck for this long the broker does not work, although it answers pings.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest packet the broker may send us; it keeps larger ones to itself.
const MAX_INCOMING: u32 = 4_096;
/// Room in the client's channel: the window, the offline message, the subscription, the disconnect.
const REQUESTS: usize = WINDOW + 8;
/// Limits for the waiting events when the device stops, then for the word `offline`, then for the goodbye.
const CLOSE_EVENTS: Duration = Duration::from_millis(700);
const CLOSE_OFFLINE: Duration = Duration::from_millis(700);
const CLOSE_GOODBYE: Duration = Duration::from_millis(300);
/// Longest password file.
const MAX_PASSWORD_BYTES: u64 = 4_096;

/// The reason why a connection ended unwanted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("cannot set up the connection")]
    Setup(#[source] MqttError),
    #[error("the connection failed")]
    Connection(#[source] Box<ConnectionError>),
    #[error("nothing arrived for {} s", SILENCE.as_secs())]
    Silent,
    #[error("no message was acknowledged for {} s", ACK_TIMEOUT.as_secs())]
    NotAcknowledged,
}

impl Broken {
    /// Lowers `limits` if the broker takes no last will such as ours; the next connection does without.
    pub(super) fn lowers(&self, limits: &mut Limits) -> bool {
        match self {
            Self::Connection(error) => match **error {
                ConnectionError::ConnectionRefused(code) => limits.lower(code),
                _ => false,
            },
            _ => false,
        }
    }

    /// The fault and its remedy, for the owner.
    pub(super) fn sentence(&self, broker: &BrokerUrl) -> String {
        let what = match self {
            Self::Setup(error) => crate::error::chain(error),
            Self::Silent => format!("the broker at {broker} went silent"),
            Self::NotAcknowledged => {
                format!("the broker at {broker} takes messages without acknowledging them")
            }
            Self::Connection(error) => connection_sentence(error, broker),
        };
        format!("{what}; trying again, everything else goes on")
    }
}

fn connection_sentence(error: &ConnectionError, broker: &BrokerUrl) -> String {
    use ConnectionError as E;
    let not_mqtt = || not_mqtt_5(broker);
    match error {
        E::ConnectionRefused(code) => refusal_sentence(*code, broker),
        E::Tls(error) => {
            let why = match error {
                rumqttc::v5::TlsError::Io(error) => tls::sentence(error),
                other => other.to_string(),
            };
            format!("no trusted connection to the broker at {broker}: {why}")
        }
        E::Io(error) => format!("cannot reach the broker at {broker} ({error})"),
        E::Timeout(_) => format!("the broker at {broker} does not answer"),
        E::NotConnAck(_) => not_mqtt(),
        E::MqttState(state) => match state {
            StateError::ServerDisconnect { reason_code: DisconnectReasonCode::SessionTakenOver, .. } => {
                format!(
                    "another client of the broker at {broker} uses the id of this device; give each device \
                     its own [device] id"
                )
            }
            StateError::ServerDisconnect {
                reason_code: DisconnectReasonCode::ServerShuttingDown, ..
            } => {
                format!("the broker at {broker} shut down")
            }
            StateError::ServerDisconnect { reason_code, .. } => {
                format!("the broker at {broker} ended the connection ({reason_code:?})")
            }
            StateError::Deserialization(rumqttc::v5::mqttbytes::Error::Io(error)) | StateError::Io(error) => {
                format!("the connection to the broker at {broker} broke ({error})")
            }
            StateError::Deserialization(_) | StateError::WrongPacket => not_mqtt(),
            // Mosquitto gives the reason in a DISCONNECT without properties, which rumqttc 0.25 does not
            // read.
            StateError::ConnectionAborted => format!(
                "the broker at {broker} closed the connection; if this goes on, another client uses the id \
                 of this device, or the broker's log says why"
            ),
            StateError::AwaitPingResp => format!("the broker at {broker} went silent"),
            other => format!("the connection to the broker at {broker} broke ({other})"),
        },
        other => format!("the connection to the broker at {broker} broke ({other})"),
    }
}

fn not_mqtt_5(broker: &BrokerUrl) -> String {
    format!("what answers at {broker} does not speak MQTT 5 (Mosquitto does since version 1.6)")
}

/// Why the broker did not take the device in.
pub(super) fn refusal_sentence(code: ConnectReturnCode, broker: &BrokerUrl) -> String {
    match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
            format!(
                "the broker at {broker} refused the user name or the password; see username and password_file"
            )
        }
        ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => {
            not_mqtt_5(broker)
        }
        ConnectReturnCode::ServerBusy
        | ConnectReturnCode::ServerUnavailable
        | ConnectReturnCode::ServiceUnavailable => format!("the broker at {broker} is too busy to take us"),
        other => format!("the broker at {broker} refused the connection ({other:?})"),
    }
}

/// The password: the first line of the file, which is read anew for every connection.
pub(super) fn password(settings: &MqttSettings) -> Result<Option<Zeroizing<String>>, MqttError> {
    use std::io::Read;

    const WHAT: &str = "password file of the broker (mqtt.password_file)";
    if settings.mqtt.username.is_none() && settings.mqtt.password_file.is_some() {
        return Err(MqttError::PasswordWithoutUser);
    }
    let Some(path) = &settings.mqtt.password_file else { return Ok(None) };
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_PASSWORD_BYTES).read_to_string(&mut text))
        .map_err(|source| MqttError::File { what: WHAT, path: path.clone(), source })?;
    match crate::plain::password(&text) {
        Ok(password) => Ok(Some(Zeroizing::new(password.to_owned()))),
        Err(why) => Err(MqttError::Password { what: WHAT, path: path.clone(), why }),
    }
}

/// Reads the password and the certificates, on a disk that may be slow: not for a worker of the runtime.
fn options(settings: &MqttSettings, availability: &str, limits: Limits) -> Result<MqttOptions, MqttError> {
    let broker = &settings.broker;
    let mut options = MqttOptions::new(format!("jarvis-{}", settings.device_id), &broker.host, broker.port);
    if broker.tls {
        let config = tls::client_config(settings.mqtt.ca_file.as_ref())?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    if let Some(username) = &settings.mqtt.username {
        let password = password(settings)?.unwrap_or_default();
        options.set_credentials(&username.0, password.as_str());
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    if let Some(interface) = &broker.scope {
        network.set_bind_device(interface);
    }
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(true)
        .set_connection_timeout(CONNECT_TIMEOUT_S)
        .set_connect_properties(ConnectProperties {
            max_packet_size: Some(MAX_INCOMING),
            ..ConnectProperties::new()
        })
        .set_network_options(network)
        // More than the window, so that a packet id is never reused while it waits.
        .set_outgoing_inflight_upper_limit(100)
        .set_last_will(LastWill::new(availability, "offline", limits.qos, limits.retain, None));
    Ok(options)
}

/// The progress of a wanted end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// Events and values that wait are sent.
    Events(Instant),
    /// The word `offline` is on its way.
    Offline(Instant),
    Goodbye(Instant),
}

impl Closing {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::No => None,
            Self::Events(at) | Self::Offline(at) | Self::Goodbye(at) => Some(at),
        }
    }
}

struct Session {
    client: AsyncClient,
    connected: bool,
    closing: Closing,
    last_packet: Instant,
    /// The broker's refusal, as a sentence.
    refused: Option<String>,
}

/// Connects and works until the connection breaks (`Err`) or `stop` ended it properly (`Ok`).
pub(super) async fn run_once(work: &mut Work, stop: &CancellationToken) -> Result<(), Broken> {
    let (settings, limits) = (work.settings.clone(), work.limits);
    let will = work.content.topics.availability.clone();
    let mut reading = tokio::task::spawn_blocking(move || options(&settings, &will, limits));
    let options = loop {
        tokio::select! {
            biased;
            // A hanging disk must not delay the end, nor the senders that have something to publish.
            () = stop.cancelled() => return Ok(()),
            read = &mut reading => break read,
            () = work.next_input() => {}
        }
    };
    let options = options.map_err(MqttError::Interrupted).flatten().map_err(Broken::Setup)?;
    let (client, mut event_loop) = AsyncClient::new(options, REQUESTS);
    let mut session = Session {
        client,
        connected: false,
        closing: Closing::No,
        last_packet: Instant::now(),
        refused: None,
    };
    loop {
        if session.closing != Closing::No && session.close_further(work) {
            return Ok(());
        }
        let event = match session.next(work, &mut event_loop, stop).await? {
            Step::Event(event) => *event,
            Step::Stopped => return Ok(()),
        };
        match event {
            // The broker may hang up first, as soon as it has our goodbye.
            Err(_) if matches!(session.closing, Closing::Goodbye(_)) => return Ok(()),
            Err(error) => return Err(Broken::Connection(Box::new(error))),
            Ok(Event::Outgoing(outgoing)) => match outgoing {
                Outgoing::Publish(packet_id) => {
                    work.outbox.numbered(packet_id);
                    // With QoS 0 nobody acknowledges anything.
                    if work.limits.qos == QoS::AtMostOnce {
                        session.taken(packet_id, None, work);
                    }
                }
                Outgoing::Disconnect => return Ok(()),
                _ => {}
            },
            Ok(Event::Incoming(packet)) => {
                session.last_packet = Instant::now();
                session.packet(packet, work);
            }
        }
        work.commands.summarise();
        session.fill(work);
    }
}

enum Step {
    Event(Box<Result<Event, ConnectionError>>),
    /// Stopped before there was a connection.
    Stopped,
}

impl Session {
    /// Polls the event loop; takes inputs in while it waits. The poll is not cancelled while the connection
    /// shall live on: it may hold a half-written packet.
    async fn next(
        &mut self,
        work: &mut Work,
        event_loop: &mut EventLoop,
        stop: &CancellationToken,
    ) -> Result<Step, Broken> {
        let mut poll = pin!(event_loop.poll());
        loop {
            let (until, verdict) = self.patience(work);
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.closing == Closing::No => {
                    if !self.connected {
                        return Ok(Step::Stopped);
                    }
                    take_waiting(work);
                    self.closing = Closing::Events(Instant::now() + CLOSE_EVENTS);
                    self.fill(work);
                    if self.close_further(work) {
                        return Ok(Step::Stopped);
                    }
                }
                event = &mut poll => return Ok(Step::Event(Box::new(event))),
                () = tokio::time::sleep_until(until) => match self.closing {
                    Closing::No => return Err(verdict),
                    // Giving up on the goodbye drops the connection, and then the last will says it for us.
                    Closing::Goodbye(_) => return Ok(Step::Stopped),
                    _ => if self.close_further(work) { return Ok(Step::Stopped) },
                },
                () = due(work.resend), if self.closing == Closing::No => {
                    work.send_again();
                    self.fill(work);
                }
                () = work.next_input(), if self.closing == Closing::No => self.fill(work),
            }
        }
    }

    /// The time until which to wait, and the fault if nothing happens until then.
    fn patience(&self, work: &Work) -> (Instant, Broken) {
        if let Some(at) = self.closing.deadline() {
            return (at, Broken::Silent);
        }
        let silent = self.last_packet + SILENCE;
        match work.outbox.oldest().map(|at| at + ACK_TIMEOUT) {
            Some(at) if at < silent => (at, Broken::NotAcknowledged),
            _ => (silent, Broken::Silent),
        }
    }

    /// Moves from one step of closing to the next when it is done or its time is up. `true` = leave now.
    fn close_further(&mut self, work: &mut Work) -> bool {
        let now = Instant::now();
        match self.closing {
            Closing::Events(until) if work.outbox.is_idle() || now >= until => {
                work.content.offline(&mut work.outbox);
                self.closing = Closing::Offline(now + CLOSE_OFFLINE);
                self.fill(work);
                false
            }
            Closing::Offline(_) if work.outbox.outstanding() == 0 => {
                self.closing = Closing::Goodbye(now + CLOSE_GOODBYE);
                self.client.try_disconnect().is_err()
            }
            // Not acknowledged: leave without a goodbye, then the last will says it.
            Closing::Offline(until) => now >= until,
            Closing::Goodbye(until) => now >= until,
            Closing::No | Closing::Events(_) => false,
        }
    }

    fn fill(&mut self, work: &mut Work) {
        if !self.connected || matches!(self.closing, Closing::Goodbye(_)) {
            return;
        }
        // The last value of all must not wait behind events that are not acknowledged.
        let window = if matches!(self.closing, Closing::Offline(_)) { WINDOW + 2 } else { WINDOW };
        let now = Instant::now();
        let Limits { qos, retain, max_packet } = work.limits;
        while let Some(message) = work.outbox.next(now, window, max_packet) {
            let retain = retain && message.retain;
            let sent = self.client.try_publish(message.topic, qos, retain, message.payload);
            if let Err(error) = sent {
                // The channel has more room than the window; a submitted message comes back with the next
                // connection.
                return log::debug!("cannot hand a message to the MQTT client: {error}");
            }
        }
    }

    fn packet(&mut self, packet: Packet, work: &mut Work) {
        let topics = &work.content.topics;
        match packet {
            Packet::ConnAck(ack) => {
                self.connected = true;
                work.limits = Limits::of(ack.properties.as_ref());
                let status = work.settings.discovery_prefix().map(discovery::status_topic);
                let (on, off): (Vec<_>, Vec<_>) =
                    COMMANDS.iter().partition(|command| work.settings.takes(command));
                // Commands that are switched off are subscribed as well, to be answered. They come last:
                // nothing is missing where the broker denies them.
                let off = off.into_iter().filter(|_| work.settings.mqtt.accept_commands);
                let command = |command: &CommandSpec| Filter {
                    // This distinguishes a retained command from a new one.
                    preserve_retain: true,
                    ..never_retained(topics.of(command.topic))
                };
                let mut filters = vec![Filter::new(&topics.availability, QoS::AtLeastOnce)];
                filters.extend(on.into_iter().map(command));
                filters.extend(status.map(never_retained));
                filters.extend(off.map(command));
                if let Err(error) = self.client.try_subscribe_many(filters) {
                    log::debug!("cannot hand the subscription to the MQTT client: {error}");
                }
                work.content.online(&mut work.outbox);
                if !work.limits.retain {
                    work.values_again_soon();
                }
                log::info!("connected to the broker at {}", work.settings.broker);
            }
            Packet::PubAck(ack) => {
                let passed =
                    matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                self.taken(ack.pkid, (!passed).then_some(ack.reason), work);
            }
            Packet::SubAck(ack) => {
                let denied = |code: &SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
                let commands = topics.of_commands(&work.settings).len();
                let of_status = work.settings.discovery_prefix().and(ack.return_codes.get(1 + commands));
                if ack.return_codes.iter().skip(1).take(commands).any(denied) {
                    self.refuse(format!(
                        "the broker at {} does not let the device subscribe to its commands, so it cannot be \
                         muted over MQTT; see its access list",
                        work.settings.broker
                    ));
                } else if of_status.is_some_and(denied) {
                    self.refuse(format!(
                        "the broker at {} does not let the device subscribe to the status of Home \
                         Assistant, so a device \
                         that was deleted there stays away; see its access list",
                        work.settings.broker
                    ));
                }
            }
            Packet::Publish(publish) => {
                if publish.topic == topics.availability.as_bytes() {
                    // A last will of an earlier connection came late and would leave us offline for ever.
                    if !publish.retain && &publish.payload[..] == b"offline" && self.closing == Closing::No {
                        work.outbox.keep_again(&topics.availability);
                    }
                } else if let Some(prefix) = work.settings.discovery_prefix()
                    && publish.topic == discovery::status_topic(prefix).as_bytes()
                {
                    if !publish.retain && &publish.payload[..] == b"online" {
                        work.announce_again_soon();
                    }
                } else {
                    let answer =
                        work.commands.message(topics, &publish.topic, &publish.payload, publish.retain);
                    work.answer(answer);
                }
            }
            _ => {}
        }
    }

    /// The broker has taken a message, or refused it; with QoS 0 it was sent.
    fn taken(&mut self, packet_id: u16, refused: Option<PubAckReason>, work: &mut Work) {
        let Some(topic) = work.outbox.acked(packet_id) else { return };
        match refused {
            None => {
                work.content.is_taken_back(&topic, &mut work.outbox);
            }
            Some(reason) => {
                let or =
                    if work.content.is_announcement(&topic) { ", or switch mqtt.discovery off" } else { "" };
                self.refuse(format!(
                    "the broker at {} does not let the device publish on {topic} ({reason:?}); see its \
                     access list{or}",
                    work.settings.broker
                ));
            }
        }
        // The word online has passed, or will not: either way the connection is as good as it gets.
        work.health.set(COMPONENT, self.condition(work));
    }

    fn condition(&self, work: &Work) -> Condition {
        let mut sentences: Vec<String> = self.refused.iter().cloned().collect();
        let mut limits: Vec<String> = work.limits.sentences().into_iter().map(str::to_owned).collect();
        if let Some((topic, bytes)) = work.outbox.too_large().iter().next() {
            let (more, most) = (work.outbox.too_large().len() - 1, work.limits.max_packet);
            let others = if more > 0 { format!(" and {more} more") } else { String::new() };
            limits.push(format!(
                "it takes packets of {most} bytes at most (Mosquitto: max_packet_size), and {topic} of \
                 {bytes} bytes{others} \
                 is not published"
            ));
        }
        if !limits.is_empty() {
            sentences.push(format!(
                "the broker at {} is limited: {}",
                work.settings.broker,
                limits.join("; ")
            ));
        }
        if sentences.is_empty() { Condition::Ok } else { Condition::degraded(sentences.join("; ")) }
    }

    fn refuse(&mut self, sentence: String) {
        if self.refused.is_none() {
            self.refused = Some(sentence);
        }
    }
}

/// A subscription to messages published from now on.
fn never_retained(topic: String) -> Filter {
    Filter { retain_forward_rule: RetainForwardRule::Never, ..Filter::new(topic, QoS::AtLeastOnce) }
}

async fn due(resend: Option<(Instant, Resend)>) {
    match resend {
        Some((at, _)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Takes in all events that the pipeline emitted before the stop.
fn take_waiting(work: &mut Work) {
    while let Some(events) = &mut work.events {
        match events.try_recv() {
            Ok(event) => work.content.event(&event, &mut work.outbox),
            Err(TryRecvError::Lagged(missed)) => work.outbox.missed(missed),
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    work.keep_status();
}

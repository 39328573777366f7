//! The broker: the device's messages and the commands that it takes, over MQTT 5.
//!
//! ```text
//!  events ──┐                    ┌ latest value of each retained topic ┐
//!  status ──┼─▶ content (what ──▶│                                     ├─▶ session ──▶ broker
//!           │   may be said)     └ bounded queue of events, in flight ─┘      │
//!           └── dispatcher ◀── commands ◀─────────────────────────────────────┘
//! ```
//!
//! Invariants:
//!
//! * Nothing in the daemon waits for the broker. Events come from a broadcast channel that overwrites its
//!   oldest entry, states from a watch channel; commands are given to a dispatcher that never waits.
//! * A message is delivered when its PubAck arrives, not when `publish` returns. Events that are not
//!   acknowledged are sent again on the next connection (so at least once, in order); retained topics are
//!   always sent anew.
//! * Every connection gets its own client and event loop with a clean start: rumqttc keeps messages of the
//!   last session and drops them when the broker says `session_present = false`; this never matters.
//! * The entities announced to Home Assistant are remembered over restarts ([`Announced`]), so that they can
//!   be taken back.
//! * Text of speech that was not verified never leaves `content`.
//!
//! MQTT 5 rather than 3.1.1, because the broker then says that an access list refused a publish or a
//! subscription (before, it acknowledged and dropped), keeps messages larger than our maximum to itself
//! instead of making us drop the connection, and does not send retained commands. Mosquitto has spoken it
//! since 1.6 (2019).

mod announced;
mod command;
mod content;
mod discovery;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod limits;
mod outbox;
mod probe;
pub mod section;
mod session;
mod tls;
mod topics;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use announced::{ANNOUNCED, Announced};
pub use probe::{Probe, probe};
pub use topics::Topics;

use crate::backup::watch::Report;
use crate::config::{BrokerUrl, FilePath};
use crate::control::CommandSpec;
use crate::control::entity::{Backups, Offer};
use crate::error::chain;
use crate::events::Event;
use crate::health::{Condition, Health, Status};
use crate::pipeline::dispatch::Dispatcher;
use crate::speaker::section::Voice;
use content::Content;
use limits::Limits;
use outbox::Outbox;

/// Name of the broker in [`Health`].
pub const COMPONENT: &str = "mqtt";

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Delay between the start of Home Assistant and the next announcement.
const BIRTH_FROM: Duration = Duration::from_millis(500);
const BIRTH_TO: Duration = Duration::from_secs(4);
/// A connection that held this long starts the back-off anew.
const STABLE: Duration = Duration::from_secs(20);

/// The broker, and the device settings that concern it.
#[derive(Debug, Clone, PartialEq)]
pub struct MqttSettings {
    pub broker: BrokerUrl,
    pub mqtt: section::Mqtt,
    /// Second part of every topic; unique among the devices of one broker.
    pub device_id: String,
    /// The device's name for people.
    pub device_name: String,
    /// The voice settings: they switch commands on and tell whether voices are verified.
    pub voice: Voice,
    /// Whether backups are copied elsewhere.
    pub copies_backups: bool,
}

impl MqttSettings {
    /// A device with the default settings, at a broker.
    pub fn new(broker: BrokerUrl, device_id: impl Into<String>) -> Self {
        let device_id = device_id.into();
        Self {
            broker,
            mqtt: section::Mqtt::default(),
            device_name: device_id.clone(),
            device_id,
            voice: Voice::default(),
            copies_backups: false,
        }
    }

    /// First part of the topic on which the device is announced to Home Assistant; `None`: it is not
    /// announced.
    pub(crate) fn discovery_prefix(&self) -> Option<&str> {
        self.mqtt.discovery.then_some(self.mqtt.discovery_prefix.as_str())
    }

    /// Whether the device takes this command over MQTT.
    fn takes(&self, command: &CommandSpec) -> bool {
        self.mqtt.accept_commands && command.is_on(&self.voice)
    }

    fn offer(&self, backups: Backups) -> Offer<'_> {
        Offer { commands: self.mqtt.accept_commands, voice: &self.voice, backups }
    }
}

/// A setting that cannot work with any broker.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    #[error("{what} {value:?} cannot be part of a topic: it must not be empty or longer than 64 bytes, and \
             have no + # or control characters{}", if *.slash { "" } else { " and no /" })]
    Topic { what: &'static str, value: String, slash: bool },
    #[error("a password for the broker is of no use without a user name")]
    PasswordWithoutUser,
    #[error("cannot read the {what} {path}")]
    File { what: &'static str, path: FilePath, source: std::io::Error },
    #[error("the {what} {path} {why}")]
    Password { what: &'static str, path: FilePath, why: &'static str },
    #[error("no certificate of an authority is usable in {from}; set a file in PEM format as ca_file")]
    NoAuthority { from: String },
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("reading the certificates was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// Everything that [`run`] reads from and writes to.
#[derive(Debug)]
pub struct Feeds {
    pub events: broadcast::Receiver<Arc<Event>>,
    pub status: watch::Receiver<Status>,
    pub health: Health,
    pub backups: watch::Receiver<Option<Report>>,
    /// Announcements of earlier starts. New ones are added here, and the receiver stores them.
    pub announced: watch::Sender<Announced>,
    pub dispatcher: Dispatcher,
}

/// Checks everything that can be checked without the broker: topics and files.
pub fn check(settings: &MqttSettings) -> Result<(), MqttError> {
    Topics::new(&settings.mqtt.base_topic, &settings.device_id)?;
    session::password(settings)?;
    if settings.broker.tls {
        tls::client_config(settings.mqtt.ca_file.as_ref())?;
    }
    Ok(())
}

/// Keeps the broker informed until `stop`, through any number of connections.
///
/// Returns an error only for settings that can never work; a broker that is away, refuses, or talks nonsense
/// shows in [`Health`] and is retried for ever.
pub async fn run(settings: MqttSettings, feeds: Feeds, stop: CancellationToken) -> Result<(), MqttError> {
    let topics = Topics::new(&settings.mqtt.base_topic, &settings.device_id)?;
    let mut work = Work {
        content: Content::new(&settings, topics, feeds.announced),
        outbox: Outbox::new(),
        commands: command::Intake::new(feeds.dispatcher, settings.voice.clone()),
        events: Some(feeds.events),
        status: feeds.status,
        health: feeds.health,
        backups: Some(feeds.backups),
        settings,
        limits: Limits::default(),
        resend: None,
    };
    work.keep_status();
    work.keep_backups();
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let Err(ended) = session::run_once(&mut work, &stop).await else {
            work.report_losses();
            return Ok(());
        };
        work.outbox.connection_lost();
        work.resend = None;
        if ended.lowers(&mut work.limits) {
            continue;
        }
        if started.elapsed() > STABLE {
            pause = FIRST_PAUSE;
        }
        log::debug!("connection to {} ended: {}", work.settings.broker, chain(&ended));
        work.health.set(COMPONENT, Condition::away(ended.sentence(&work.settings.broker)));
        // Events meanwhile go into the bounded queue.
        let until = Instant::now() + jittered(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(until) => break,
                () = work.next_input() => {}
            }
        }
        if stop.is_cancelled() {
            work.report_losses();
            return Ok(());
        }
    }
}

/// The state that outlives each connection.
struct Work {
    settings: MqttSettings,
    /// As the broker said on the last connection.
    limits: Limits,
    /// The values to send again, and when.
    resend: Option<(Instant, Resend)>,
    content: Content,
    outbox: Outbox,
    commands: command::Intake,
    /// `None` once the pipeline is gone.
    events: Option<broadcast::Receiver<Arc<Event>>>,
    status: watch::Receiver<Status>,
    health: Health,
    /// `None` once nobody looks at them any more.
    backups: Option<watch::Receiver<Option<Report>>>,
}

/// A reason to send unchanged values again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resend {
    /// Home Assistant has started: it forgets devices that were deleted there while their announcement was
    /// retained.
    Announcement,
    /// Every retained topic, once Home Assistant has read the announcement: the broker retains nothing.
    Values,
}

/// Time for Home Assistant to subscribe to the announced topics.
const SUBSCRIBED_AFTER: Duration = Duration::from_secs(3);

impl Work {
    fn values_again_soon(&mut self) {
        self.resend = Some((Instant::now() + SUBSCRIBED_AFTER, Resend::Values));
    }

    /// Home Assistant has started. All devices of a house hear of it at once, so each waits for a random
    /// time.
    fn announce_again_soon(&mut self) {
        self.resend = Some((Instant::now() + at_random(BIRTH_FROM, BIRTH_TO), Resend::Announcement));
    }

    fn send_again(&mut self) {
        match self.resend.take() {
            Some((_, Resend::Announcement)) => {
                self.content.announce_again(&mut self.outbox);
                if !self.limits.retain {
                    self.values_again_soon();
                }
            }
            Some((_, Resend::Values)) => self.outbox.keep_all_again(),
            None => {}
        }
    }

    /// Waits for the next event, status or answer and puts it into the outbox. Cancel safe.
    async fn next_input(&mut self) {
        let events = async {
            match &mut self.events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        let backups = async {
            match &mut self.backups {
                Some(backups) => backups.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events => match event {
                Ok(event) => self.content.event(&event, &mut self.outbox),
                Err(broadcast::error::RecvError::Lagged(missed)) => self.outbox.missed(missed),
                Err(broadcast::error::RecvError::Closed) => self.events = None,
            },
            changed = self.status.changed() => match changed {
                Ok(()) => self.keep_status(),
                // The registry lives as long as the daemon; a test may drop it.
                Err(_) => std::future::pending().await,
            },
            changed = backups => match changed {
                Ok(()) => self.keep_backups(),
                Err(_) => self.backups = None,
            },
            answer = self.commands.next_answer() => self.answer(answer),
        }
    }

    fn answer(&mut self, answer: Option<Map<String, Value>>) {
        if let Some(answer) = answer {
            self.outbox.push(&self.content.topics.answer, answer, false);
        }
    }

    fn keep_backups(&mut self) {
        let Some(backups) = &mut self.backups else { return };
        match &*backups.borrow_and_update() {
            Some(report) => self.content.backups(report, &mut self.outbox),
            None => self.content.no_backups(&mut self.outbox),
        }
    }

    fn keep_status(&mut self) {
        let status = self.status.borrow_and_update();
        self.content.status(&status, &mut self.outbox);
    }

    fn report_losses(&mut self) {
        self.commands.end();
        let (dropped, ignored) = (self.outbox.dropped(), self.commands.ignored());
        if dropped > 0 || ignored > 0 {
            log::info!(
                "MQTT: {dropped} events were not delivered and {ignored} messages to the device were ignored \
                 since start"
            );
        }
    }
}

/// `pause` ± 25 %, so that the devices of a house do not all reconnect to a restarted broker at once.
fn jittered(pause: Duration) -> Duration {
    at_random(pause.mul_f64(0.75), pause.mul_f64(1.25))
}

fn at_random(from: Duration, to: Duration) -> Duration {
    let mut random = [0_u8; 1];
    // Without randomness it is merely not spread.
    let _ = getrandom::fill(&mut random);
    from + to.saturating_sub(from).mul_f64(f64::from(random[0]) / 255.0)
}

//! What the device can be told over MQTT. Anything else that arrives is ignored and counted, never answered.

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use zeroize::Zeroizing;

use super::Topics;
use crate::pipeline::command::Command;
use crate::pipeline::enrolling::Wanted;
use crate::pipeline::switches::Switches;
use crate::speaker::Style;
use crate::speaker::pin::Pin;

/// What a message asks for.
#[derive(Debug)]
enum Told {
    Muted(bool),
    /// Open the listening window as if the wake word had been said.
    Listen,
    CancelEnrolment,
    Command(Command),
}

/// What `jarvisd doctor` sends to see that commands arrive; it means nothing.
pub(super) const PROBE: &[u8] = b"DOCTOR";
/// Longest payload that is looked at.
const MAX_PAYLOAD: usize = 16;
const MAX_JSON: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinPayload {
    user: String,
    pin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolPayload {
    /// Whom to enrol, or
    start: Option<String>,
    /// whose voice to add further samples to.
    add: Option<String>,
    /// Those that are asked for; none with `start`, all with `add`.
    further: Option<Vec<Style>>,
    #[serde(default)]
    keep_recordings: bool,
}

impl EnrolPayload {
    fn command(self, cancels: u64) -> Option<Command> {
        let Self { start, add, further, keep_recordings } = self;
        let (user, adds) = match (start, add) {
            (Some(user), None) => (user, false),
            (None, Some(user)) => (user, true),
            _ => return None,
        };
        let asked = further.unwrap_or_else(|| if adds { Style::ALL.to_vec() } else { Vec::new() });
        // Each once, in the order that was asked for.
        let mut further = Vec::new();
        for style in asked {
            if !further.contains(&style) {
                further.push(style);
            }
        }
        Some(Command::Enrol { user, wanted: Wanted { adds, further, keep_recordings }, cancels })
    }
}

/// Reads messages and hands commands out without ever waiting.
#[derive(Debug)]
pub(super) struct Intake {
    switches: Switches,
    commands: mpsc::Sender<Command>,
    ignored: u64,
    journal: Journal,
}

/// One line for each accepted command, but for a flood: then one line with the number of the others.
#[derive(Debug)]
struct Journal {
    since: Instant,
    lines: u32,
    more: u64,
}

/// How long a flood is counted before it is told.
const JOURNAL_WINDOW: Duration = Duration::from_secs(60);
/// Lines in that time.
const JOURNAL_LINES: u32 = 10;

impl Journal {
    fn told(&mut self, now: Instant, what: &str) {
        self.summarise(now);
        if self.lines < JOURNAL_LINES {
            self.lines += 1;
            log::info!("told over MQTT: {what}");
        } else {
            self.more += 1;
        }
    }

    fn summarise(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= JOURNAL_WINDOW {
            self.end();
            *self = Self { since: now, lines: 0, more: 0 };
        }
    }

    fn end(&mut self) {
        let more = std::mem::take(&mut self.more);
        if more > 0 {
            log::warn!("told over MQTT {more} more times within {} s", JOURNAL_WINDOW.as_secs());
        }
    }
}

impl Intake {
    pub(super) fn new(switches: Switches, commands: mpsc::Sender<Command>) -> Self {
        let journal = Journal { since: Instant::now(), lines: 0, more: 0 };
        Self { switches, commands, ignored: 0, journal }
    }

    /// Messages that were no command, or came faster than commands are carried out.
    pub(super) fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Tells what a flood came to, when it is over.
    pub(super) fn summarise(&mut self) {
        self.journal.summarise(Instant::now());
    }

    /// Tells the rest before the device stops.
    pub(super) fn end(&mut self) {
        self.journal.end();
    }

    /// `retained` messages are old: a kept `PRESS` would open the microphone at every reconnect.
    pub(super) fn message(&mut self, topics: &Topics, topic: &[u8], payload: &[u8], retained: bool) {
        let told = if retained { None } else { parse(topics, topic, payload, self.switches.cancels()) };
        let told = told.and_then(|told| {
            let what = format!("{told:?}");
            self.carry_out(told).then_some(what)
        });
        if let Some(what) = told {
            self.journal.told(Instant::now(), &what);
        } else if payload != PROBE {
            self.ignored = self.ignored.saturating_add(1);
            // The count grows without limit, the journal must not.
            if self.ignored.is_power_of_two() {
                log::warn!(
                    "ignored a message on {} of {} bytes{}; {} ignored since start",
                    String::from_utf8_lossy(topic.get(..topic.len().min(100)).unwrap_or_default()),
                    payload.len(),
                    if retained { ", retained (publish commands without the retain flag)" } else { "" },
                    self.ignored
                );
            }
        }
    }
}

impl Intake {
    /// Whether it is in force, or will be in its turn.
    fn carry_out(&self, told: Told) -> bool {
        match told {
            Told::Muted(muted) => self.switches.set_muted(muted),
            Told::Listen => self.switches.listen(),
            Told::CancelEnrolment => self.switches.cancel_enrolment(),
            Told::Command(command) => return self.commands.try_send(command).is_ok(),
        }
        true
    }
}

fn parse(topics: &Topics, topic: &[u8], payload: &[u8], cancels: u64) -> Option<Told> {
    if topic == topics.pin.as_bytes() && payload.len() <= MAX_JSON {
        let given: PinPayload = serde_json::from_slice(payload).ok()?;
        let pin = Pin::typed(&Zeroizing::new(given.pin)).ok()?;
        return Some(Told::Command(Command::Pin { user: given.user, pin }));
    }
    if topic == topics.enrolment_set.as_bytes() && payload.len() <= MAX_JSON {
        if payload.trim_ascii() == b"CANCEL" {
            return Some(Told::CancelEnrolment);
        }
        let wanted: EnrolPayload = serde_json::from_slice(payload).ok()?;
        return wanted.command(cancels).map(Told::Command);
    }
    if payload.len() > MAX_PAYLOAD {
        return None;
    }
    let word = std::str::from_utf8(payload).ok()?.trim();
    if topic == topics.mute_set.as_bytes() {
        match word {
            "ON" => Some(Told::Muted(true)),
            "OFF" => Some(Told::Muted(false)),
            _ => None,
        }
    } else if topic == topics.listen.as_bytes() && word == "PRESS" {
        Some(Told::Listen)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pipeline::hearing::HearingControl;

    fn intake() -> (Intake, mpsc::Receiver<Command>, Topics) {
        let (sender, receiver) = mpsc::channel(2);
        let switches = Switches::new(Arc::default());
        (Intake::new(switches, sender), receiver, Topics::new("jarvis", "k").unwrap())
    }

    #[test]
    fn a_mute_is_in_force_at_once_and_the_last_of_many_wins() {
        let control = Arc::new(HearingControl::default());
        let (sender, mut commands) = mpsc::channel(1);
        let mut intake = Intake::new(Switches::new(control.clone()), sender);
        let topics = Topics::new("jarvis", "k").unwrap();
        for n in 0..1_001 {
            let word: &[u8] = if n % 2 == 0 { b"ON" } else { b"OFF\n" };
            intake.message(&topics, b"jarvis/k/mute/set", word, false);
            assert_eq!(control.is_muted(), n % 2 == 0);
        }
        intake.message(&topics, b"jarvis/k/listen", b"PRESS", false);
        assert_eq!(intake.ignored(), 0);
        assert!(commands.try_recv().is_err(), "none of it waits in a queue");
    }

    #[test]
    fn a_pin_is_understood_and_never_printed() {
        let (mut intake, mut commands, topics) = intake();
        intake.message(&topics, b"jarvis/k/pin", br#"{"user":"Anna","pin":"274913"}"#, false);
        let command = commands.try_recv().unwrap();
        assert_eq!(format!("{command:?}"), "Pin { user: \"Anna\", pin: *** }");
        assert_eq!(command, Command::Pin { user: "Anna".into(), pin: Pin::typed("274913").unwrap() });
        let long = format!(r#"{{"user":"{}","pin":"274913"}}"#, "a".repeat(1_000));
        let cases: [(&[u8], bool); 8] = [
            (br#"{"user":"Anna","pin":"274913"}"#, true),
            (br#"{"user":"Anna","pin":274913}"#, false),
            (br#"{"user":"Anna","pin":"27491"}"#, false),
            (br#"{"user":"Anna","pin":"274913","more":1}"#, false),
            (br#"{"pin":"274913"}"#, false),
            (b"274913", false),
            (b"\xff", false),
            (long.as_bytes(), false),
        ];
        for (payload, retained) in cases {
            intake.message(&topics, b"jarvis/k/pin", payload, retained);
        }
        assert!(commands.try_recv().is_err());
        assert_eq!(intake.ignored(), 8);
    }

    #[test]
    fn an_enrolment_is_begun_and_cancelled() {
        let (mut intake, mut commands, topics) = intake();
        let on = b"jarvis/k/enrolment/set";
        let (all, none) = (Style::ALL.to_vec(), Vec::new());
        for (asked, user, adds, further, keep_recordings) in [
            (&br#"{"start":"Anna"}"#[..], "Anna", false, none, false),
            (br#"{"start":"Ben","keep_recordings":true}"#, "Ben", false, Vec::new(), true),
            (
                br#"{"start":"Ben","further":["loud","far","loud"]}"#,
                "Ben",
                false,
                vec![Style::Loud, Style::Far],
                false,
            ),
            (br#"{"add":"Ben"}"#, "Ben", true, all, false),
            (
                br#"{"add":"Ben","further":["second_microphone"]}"#,
                "Ben",
                true,
                vec![Style::SecondMicrophone],
                false,
            ),
        ] {
            intake.message(&topics, on, asked, false);
            let wanted = Wanted { adds, further, keep_recordings };
            let begun = Command::Enrol { user: user.into(), wanted, cancels: 0 };
            assert_eq!(commands.try_recv(), Ok(begun));
        }
        intake.message(&topics, on, b"CANCEL\n", false);
        assert_eq!((commands.try_recv().is_err(), intake.switches.cancels()), (true, 1));
        intake.message(&topics, on, br#"{"start":"Ben"}"#, false);
        assert!(matches!(commands.try_recv(), Ok(Command::Enrol { cancels: 1, .. })));
        for payload in [
            &b"Anna"[..],
            b"{}",
            br#"{"start":1}"#,
            br#"{"start":"Anna","replace":true}"#,
            br#"{"start":"Anna","add":"Anna"}"#,
            br#"{"further":["far"]}"#,
            br#"{"add":"Anna","further":["whispered"]}"#,
        ] {
            intake.message(&topics, on, payload, false);
        }
        intake.message(&topics, on, br#"{"start":"Anna"}"#, true);
        assert!(commands.try_recv().is_err());
        assert_eq!(intake.ignored(), 8);
    }

    #[test]
    fn anything_else_is_ignored_and_counted() {
        let (mut intake, mut commands, topics) = intake();
        let long = vec![b'O'; 100_000];
        let cases: [(&[u8], &[u8], bool); 8] = [
            (b"jarvis/k/mute/set", b"", false),
            (b"jarvis/k/mute/set", b"on", false),
            (b"jarvis/k/mute/set", b"\xff\xfe", false),
            (b"jarvis/k/mute/set", &long, false),
            (b"jarvis/k/mute", b"ON", false),
            (b"\xff", b"ON", false),
            (b"jarvis/k/listen", b"PRESS", true),
            (b"jarvis/k/listen", b"ON", false),
        ];
        for (topic, payload, retained) in cases {
            intake.message(&topics, topic, payload, retained);
        }
        assert!(commands.try_recv().is_err());
        assert_eq!(intake.ignored(), 8);
    }

    #[test]
    fn commands_that_nobody_takes_are_dropped() {
        let (mut intake, _commands, topics) = intake();
        for _ in 0..5 {
            intake.message(&topics, b"jarvis/k/pin", br#"{"user":"Anna","pin":"274913"}"#, false);
        }
        assert_eq!(intake.ignored(), 3);
    }
}

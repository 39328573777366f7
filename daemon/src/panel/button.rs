//! The button that opens a listening window, and the switch that mutes.
//!
//! ```text
//!  button:  up ──press──▶ down: listen ──hold_ms──▶ held: mute or unmute ──release──▶ up
//!  switch:  on ──▶ muted, and nobody unmutes ──off──▶ as the household set it
//! ```

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::TRY_AGAIN;
use super::input::Input;
use super::section::Button;
use crate::control::{Authority, Command, Outcome, Switch};
use crate::health::{Condition, Health};
use crate::pipeline::dispatch::{Dispatcher, Given};
use crate::pipeline::switches::Switches;

/// Names of the two in [`Health`].
pub const BUTTON: &str = "button";
pub const MUTE_SWITCH: &str = "mute_switch";

/// Presses that follow each other more quickly are one: nobody presses faster, and a broken contact does.
const LEAST_GAP: Duration = Duration::from_millis(50);

/// The meaning of a press.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Listen,
    /// Mute or unmute, whichever it is not.
    ToggleMute,
}

/// The state of the button.
#[derive(Debug)]
struct Talk {
    /// `None`: holding it does nothing.
    hold: Option<Duration>,
    /// Since when it is down, until it counts as held.
    down_since: Option<Instant>,
    last_press: Option<Instant>,
}

impl Talk {
    fn new(hold_ms: u32) -> Self {
        let hold = (hold_ms > 0).then(|| Duration::from_millis(hold_ms.into()));
        Self { hold, down_since: None, last_press: None }
    }

    fn change(&mut self, is_down: bool, now: Instant) -> Option<Act> {
        if !is_down {
            self.down_since = None;
            return None;
        }
        let bounces = self.last_press.is_some_and(|last| now.duration_since(last) < LEAST_GAP);
        self.last_press = Some(now);
        self.down_since = Some(now);
        (!bounces).then_some(Act::Listen)
    }

    /// When it will have been held long enough.
    fn due(&self) -> Option<Instant> {
        Some(self.down_since? + self.hold?)
    }

    fn held(&mut self) -> Act {
        self.down_since = None;
        Act::ToggleMute
    }
}

/// The button: its commands go the way of those of every face.
#[derive(Debug)]
pub struct TalkButton {
    pub device: PathBuf,
    pub section: Button,
    pub dispatcher: Dispatcher,
    pub switches: Switches,
    pub health: Health,
}

impl TalkButton {
    /// Runs until `stop`; a device that is away is tried again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                error = self.run_once() => self.health.set(BUTTON, Condition::away(format!(
                    "the button {} is away ({error}) and is being tried again; everything else works",
                    self.device.display()
                ))),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(TRY_AGAIN) => {}
            }
        }
    }

    async fn run_once(&self) -> io::Error {
        let mut input = match Input::open(&self.device, self.section.talk_code) {
            Ok(input) => input,
            Err(error) => return error,
        };
        self.health.set(BUTTON, Condition::Ok);
        let mut talk = Talk::new(self.section.hold_ms);
        loop {
            let held = async {
                match talk.due() {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let act = tokio::select! {
                biased;
                change = input.next() => match change {
                    Ok(is_down) => talk.change(is_down, Instant::now()),
                    Err(error) => return error,
                },
                () = held => Some(talk.held()),
            };
            if let Some(act) = act {
                self.carry_out(act);
            }
        }
    }

    fn carry_out(&self, act: Act) {
        let switch = match act {
            Act::Listen => Switch::Listen,
            Act::ToggleMute => Switch::Mute(!self.switches.is_muted()),
        };
        // A broken contact must not fill the journal.
        match self.dispatcher.give(Command::Switch(switch), Authority::Panel) {
            Given::Now(Outcome::Done) => log::debug!("the button set {switch:?}"),
            Given::Now(outcome) => {
                log::debug!(
                    "the button could not set {switch:?}: {}",
                    outcome.sentence(Authority::Panel.face())
                );
            }
            Given::Later(_) => {}
        }
    }
}

/// The switch. As long as it is on, or has not told yet, the device is muted; unplugged, it counts as it
/// stood.
#[derive(Debug)]
pub struct MuteSwitch {
    pub device: PathBuf,
    pub code: Option<u32>,
    pub switches: Switches,
    pub health: Health,
}

impl MuteSwitch {
    /// Reads the switch once, before the device hears its first sound.
    pub fn read_first(&self) -> Option<Input> {
        match Input::open(&self.device, self.code) {
            Ok(input) => {
                self.adopt(input.is_on());
                Some(input)
            }
            Err(error) => {
                self.is_away(&error, true);
                None
            }
        }
    }

    /// Follows the switch until `stop`, from the `first` look on; a device that is away is tried again.
    pub async fn run(self, first: Option<Input>, stop: CancellationToken) -> Result<(), Infallible> {
        let mut open = first;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                error = self.follow(open.take()) => self.is_away(&error, self.switches.is_switched_off()),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(TRY_AGAIN) => {}
            }
        }
    }

    async fn follow(&self, open: Option<Input>) -> io::Error {
        let opened = open.map_or_else(|| Input::open(&self.device, self.code), Ok);
        let mut input = match opened {
            Ok(input) => input,
            Err(error) => return error,
        };
        self.adopt(input.is_on());
        loop {
            match input.next().await {
                Ok(is_on) => self.adopt(Some(is_on)),
                Err(error) => return error,
            }
        }
    }

    /// Sets the device as the switch stands.
    fn adopt(&self, is_on: Option<bool>) {
        self.switches.set_switch(is_on.unwrap_or(true));
        self.health.set(MUTE_SWITCH, match is_on {
            Some(_) => Condition::Ok,
            None => Condition::degraded(format!(
                "{} does not tell how the mute switch stands, so the device is muted; move the switch once",
                self.device.display()
            )),
        });
    }

    /// It stays as it stood; at the start nobody knows how that was.
    fn is_away(&self, error: &io::Error, muted: bool) {
        self.switches.set_switch(muted);
        let device = self.device.display();
        let so = if muted {
            "so the device stays muted; plug it in, or take button.mute_device out of the configuration"
        } else {
            "so it mutes nothing; plug it in"
        };
        let sentence = format!("the mute switch {device} is away ({error}) and is being tried again, {so}");
        self.health.set(MUTE_SWITCH, Condition::away(sentence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_press_listens_at_once_and_a_hold_mutes_as_well() {
        let start = Instant::now();
        let mut talk = Talk::new(1_500);
        assert_eq!(talk.change(true, start), Some(Act::Listen));
        assert_eq!(talk.due(), Some(at(start, 1_500)));
        assert_eq!(talk.change(false, at(start, 200)), None);
        assert_eq!(talk.due(), None, "it was let go before");
        talk.change(true, at(start, 1_000));
        assert_eq!((talk.held(), talk.due()), (Act::ToggleMute, None), "once a press");
    }

    #[test]
    fn a_contact_that_bounces_is_one_press_and_a_hold_counts_from_the_last_bounce() {
        let start = Instant::now();
        let mut talk = Talk::new(300);
        let acts: Vec<_> = (0..20).filter_map(|n| talk.change(n % 2 == 0, at(start, n * 10))).collect();
        assert_eq!(acts, [Act::Listen]);
        let mut talk = Talk::new(0);
        assert_eq!(talk.change(true, start), Some(Act::Listen));
        assert_eq!(talk.due(), None, "holding it is switched off");
    }
}

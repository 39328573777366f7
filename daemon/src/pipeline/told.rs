//! What the household tells the device about who they are: a PIN, an enrolment.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::command::Command;
use super::deadline::Stage;
use super::door::{self, Door};
use super::enrol::{Face, Refused};
use super::enrolling::{Enrolling, Heard, WINDOW_MS, Wanted};
use super::hearing::Window;
use super::turns::Turns;
use crate::detect::Utterance;
use crate::error::chain;
use crate::events::{Event, What};
use crate::health::State;
use crate::speaker::pin::Pin;
use crate::speaker::{Progress, Step};

impl Turns {
    /// What [`Turns`] does between two utterances.
    pub(super) async fn carry_out(&self, command: Command, door: &mut Door, stop: &CancellationToken) {
        match command {
            Command::Pin { user, pin } => self.pin(&user, pin).await,
            // Cancelled before its turn came.
            Command::Enrol { cancels, .. } if cancels != self.switches.cancels() => {}
            Command::Enrol { user, wanted, .. } => {
                self.enrol(&user, wanted, door, stop).await;
            }
        }
    }

    /// Somebody gave a PIN. Its check counts as an attempt, and during the pause it is none.
    async fn pin(&self, name: &str, pin: Pin) {
        if !self.verify || self.pin_valid.is_zero() {
            return;
        }
        let pos = self.control.position();
        let entered = door::enter(&self.memory, name, pin, self.pin_valid);
        let entry = match self.pulse.within(Stage::Verify, entered).await {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => return self.trouble(pos, "voice", chain(&error)).await,
            None => return self.trouble(pos, "voice", Stage::Verify.overdue()).await,
        };
        let valid_s = entry.user.is_some().then_some(self.pin_valid.as_secs());
        let what = What::Pin { outcome: entry.outcome, user: entry.user.map(|user| user.name), valid_s };
        self.events.at(pos, what).await;
    }

    async fn enrol(&self, name: &str, wanted: Wanted, door: &mut Door, stop: &CancellationToken) {
        if let Some(going_on) = &door.enrolling {
            let reason = Refused::Busy.sentence(Face::Mqtt);
            return self.tell(going_on.progress(Step::Waiting, Some(reason))).await;
        }
        if self.control.is_muted() {
            return self.tell(Progress::failed(name, Refused::Muted.sentence(Face::Mqtt))).await;
        }
        let keep = wanted.keep_recordings;
        let begun = Enrolling::begin(&self.memory, &self.voices, name, wanted);
        match self.pulse.within(Stage::Memory, begun).await {
            Some(Ok(enrolling)) => {
                let progress = enrolling.progress(Step::Waiting, None);
                door.enrolling = Some(enrolling);
                if keep {
                    self.ask("What you say now is kept, encrypted, on this device.", stop).await;
                }
                self.next_phrase(progress, stop).await;
            }
            Some(Err(refused)) => {
                self.tell(Progress::failed(name, refused.sentence(Face::Mqtt))).await;
            }
            None => self.tell(Progress::failed(name, Stage::Memory.overdue())).await,
        }
    }

    pub(super) async fn cancel_enrolment(&self, door: &mut Door) {
        if let Some(enrolling) = door.enrolling.take() {
            self.tell(enrolling.progress(Step::Cancelled, None)).await;
            self.health.set_stage(State::Idle);
        }
    }

    /// An utterance during an enrolment.
    pub(super) async fn sample(&self, utterance: Utterance, door: &mut Door, stop: &CancellationToken) {
        let Some(enrolling) = &mut door.enrolling else { return };
        self.health.set_stage(State::Verifying);
        let (raw, speech) = (Arc::new(utterance.raw), Arc::new(utterance.speech));
        let sample = enrolling.sample(&self.memory, &self.voices, raw, speech);
        let sampled = self.pulse.within(Stage::Enrol, sample).await;
        let heard = sampled.unwrap_or_else(|| Heard {
            progress: enrolling.progress(Step::Failed, Some(Stage::Enrol.overdue())),
            over: true,
        });
        self.go_on(heard, door, stop).await;
    }

    /// Nothing was said during an enrolment.
    pub(super) async fn silence(&self, door: &mut Door, stop: &CancellationToken) {
        let Some(enrolling) = &mut door.enrolling else { return };
        let heard = enrolling.silence();
        self.go_on(heard, door, stop).await;
    }

    async fn go_on(&self, heard: Heard, door: &mut Door, stop: &CancellationToken) {
        if !heard.over {
            return self.next_phrase(heard.progress, stop).await;
        }
        door.enrolling = None;
        let sentence = match heard.progress.state {
            Step::Finished => {
                let last = heard.progress.reason.as_ref();
                let last = last
                    .map_or_else(String::new, |reason| format!("The last sentence is not kept: {reason}. "));
                format!("{last}Thank you. I know your voice now, {}.", heard.progress.user)
            }
            _ => "I could not enrol this voice.".to_owned(),
        };
        self.tell(heard.progress).await;
        self.say(None, &sentence, stop).await;
        self.health.set_stage(State::Idle);
    }

    /// Asks for the next phrase and waits for it.
    async fn next_phrase(&self, progress: Progress, stop: &CancellationToken) {
        let mut sentence = match (&progress.reason, progress.state) {
            (None, _) => String::new(),
            (Some(reason), Step::LeftOut) => format!("That is not needed: {reason}. "),
            (Some(reason), _) => format!("That was not good enough: {reason}. "),
        };
        if let Some(style) = progress.style {
            sentence.push_str(&format!("Now {}, or say nothing to leave it out. ", style.manner()));
        }
        if let Some(phrase) = &progress.say {
            sentence.push_str("Please say: ");
            sentence.push_str(phrase);
        }
        let cancels = self.switches.cancels();
        self.tell(progress).await;
        self.ask(&sentence, stop).await;
        if self.control.is_muted() || cancels != self.switches.cancels() {
            return;
        }
        self.control.open_window(Window::Asked, WINDOW_MS);
        self.health.set_stage(State::Listening);
    }

    /// Speaks for the enrolment; whoever cancels it cuts that short.
    async fn ask(&self, sentence: &str, stop: &CancellationToken) {
        if self.live.load().speech.enabled {
            self.speak(None, sentence, true, stop).await;
        }
    }

    async fn tell(&self, progress: Progress) {
        self.events.emit(Event::at(self.control.position(), What::Enrolment(progress))).await;
    }
}

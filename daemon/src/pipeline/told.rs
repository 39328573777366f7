//! What the household tells the device about who they are: a PIN, an enrolment.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::deadline::Stage;
use super::door::{self, Door};
use super::enrolling::{Enrolling, Heard, WINDOW_MS};
use super::hearing::Window;
use super::turns::Turns;
use crate::control::{Face, Outcome, Refused, Request, Task, Wanted};
use crate::detect::Utterance;
use crate::error::{Exit, Failure, chain};
use crate::events::{Event, PinOutcome, What};
use crate::health::State;
use crate::speaker::pin::Pin;
use crate::speaker::{Progress, Step};

impl Turns {
    /// What [`Turns`] does between two utterances.
    pub(super) async fn carry_out(&self, request: Request, door: &mut Door, stop: &CancellationToken) {
        let Request { task, from, cancels, answer } = request;
        // Whoever asked need not wait for the answer.
        let reply = |outcome| drop(answer.send(outcome));
        match task {
            Task::Pin { user, pin } => reply(self.pin(&user, pin).await),
            Task::Enrol { .. } if cancels != self.switches.cancels() => {
                reply(Outcome::Refused(Refused::Cancelled));
            }
            Task::Enrol { user, wanted } => match self.enrol(&user, wanted, from.face(), door).await {
                Ok((progress, keep)) => {
                    reply(Outcome::Done);
                    if keep {
                        self.ask("What you say now is kept, encrypted, on this device.", stop).await;
                    }
                    self.next_phrase(progress, stop).await;
                }
                Err(refused) => reply(Outcome::Refused(refused)),
            },
        }
    }

    /// Somebody gave a PIN. Its check counts as an attempt, and during the pause it is none. The answer tells
    /// no more than the event.
    async fn pin(&self, name: &str, pin: Pin) -> Outcome {
        if !self.verify || self.pin_valid.is_zero() {
            return Outcome::SwitchedOff { key: "voice.pin_valid_s" };
        }
        let pos = self.control.position();
        let entered = door::enter(&self.memory, name, pin, self.pin_valid);
        let entry = match self.pulse.within(Stage::Verify, entered).await {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                self.trouble(pos, "voice", chain(&error)).await;
                let failure = Failure::because(Exit::Failed, "the PIN cannot be checked", error);
                return Outcome::Refused(Refused::Device(failure));
            }
            None => {
                self.trouble(pos, "voice", Stage::Verify.overdue()).await;
                return Outcome::Refused(Refused::Overdue(Stage::Verify.overdue()));
            }
        };
        let outcome = match entry.outcome {
            PinOutcome::Accepted => Outcome::Done,
            PinOutcome::Refused => Outcome::Refused(Refused::WrongPin),
            PinOutcome::Paused => Outcome::Refused(Refused::Paused),
        };
        let valid_s = entry.user.is_some().then_some(self.pin_valid.as_secs());
        let what = What::Pin { outcome: entry.outcome, user: entry.user.map(|user| user.name), valid_s };
        self.events.at(pos, what).await;
        outcome
    }

    /// Begins an enrolment; how it stands then, and whether what is said is kept.
    async fn enrol(
        &self,
        name: &str,
        wanted: Wanted,
        face: Face,
        door: &mut Door,
    ) -> Result<(Progress, bool), Refused> {
        if let Some(going_on) = &door.enrolling {
            let reason = Refused::Busy.sentence(face);
            self.tell(going_on.progress(Step::Waiting, Some(reason))).await;
            return Err(Refused::Busy);
        }
        let keep = wanted.keep_recordings;
        let begun = async {
            if self.control.is_muted() {
                return Err(Refused::Muted);
            }
            let begun = Enrolling::begin(&self.memory, &self.voices, name, wanted);
            self.pulse
                .within(Stage::Memory, begun)
                .await
                .unwrap_or_else(|| Err(Refused::Overdue(Stage::Memory.overdue())))
        };
        match begun.await {
            Ok(enrolling) => {
                let progress = enrolling.progress(Step::Waiting, None);
                door.enrolling = Some(enrolling);
                Ok((progress, keep))
            }
            Err(refused) => {
                refused.log();
                self.tell(Progress::failed(name, refused.sentence(face))).await;
                Err(refused)
            }
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

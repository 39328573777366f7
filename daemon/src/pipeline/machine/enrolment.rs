//! Commands about identity: a PIN, an enrolment before the microphone.

use super::listening::Listening;
use super::{Act, Answer, Doing, Enrolment, Job, Then, TurnMachine};
use crate::control::{EnrolmentRequest, Face, Outcome, Refused, Request, Task};
use crate::detect::Utterance;
use crate::error::{Exit, Failure, chain};
use crate::events::{PinOutcome, What};
use crate::health::State;
use crate::identity::pins::PinsError;
use crate::memory::User;
use crate::pipeline::deadline::Stage;
use crate::pipeline::enrolling::WINDOW_MS;
use crate::pipeline::hearing::Window;
use crate::speaker::{Progress, Step};

impl TurnMachine {
    /// Carries out a request between two utterances, or in the middle of one, and answers its sender.
    pub(super) fn carry_out(&mut self, listening: Listening, request: Request) -> Doing {
        let Request { task, from, cancels, answer } = request;
        match task {
            Task::Pin { .. } if !self.policy.verify || self.policy.pin_valid_s == 0 => {
                self.acts.push(Act::Answer(answer, Outcome::SwitchedOff { key: "voice.pin_valid_s" }));
                Doing::Listening(listening)
            }
            Task::Pin { user, pin } => {
                self.start(Job::Pin { user, pin });
                Doing::Pin(listening, answer)
            }
            Task::Enrol { .. } if cancels != self.cancels => {
                self.refuse_request(answer, Refused::Cancelled);
                Doing::Listening(listening)
            }
            Task::Enrol { user, wanted } => self.enrol(listening, (user, wanted), from.face(), answer),
        }
    }

    fn refuse_request(&mut self, answer: Answer, refused: Refused) {
        self.acts.push(Act::Answer(answer, Outcome::Refused(refused)));
    }

    /// The check of a PIN is over. It counts as an attempt, except during the pause. The answer tells no more
    /// than the event.
    pub(super) fn entered(
        &mut self,
        listening: Listening,
        answer: Answer,
        entered: Result<(PinOutcome, Option<User>), PinsError>,
    ) -> Doing {
        let (outcome, user) = match entered {
            Ok(entered) => entered,
            Err(error) => {
                let message = chain(&error);
                let failure = Failure::because(Exit::Failed, "the PIN cannot be checked", error);
                return self.pin_failed(listening, answer, message, Refused::Device(failure));
            }
        };
        let valid_s = user.is_some().then_some(self.policy.pin_valid_s);
        let what = What::Pin { outcome, user: user.map(|user| user.name), valid_s };
        let outcome = match outcome {
            PinOutcome::Accepted => Outcome::Done,
            PinOutcome::Refused => Outcome::Refused(Refused::WrongPin),
            PinOutcome::Paused => Outcome::Refused(Refused::Paused),
        };
        self.acts.extend([Act::Tell(None, what), Act::Answer(answer, outcome), Act::Counted]);
        Doing::Listening(listening)
    }

    pub(super) fn not_entered(&mut self, listening: Listening, answer: Answer, why: String) -> Doing {
        self.pin_failed(listening, answer, why.clone(), Refused::Overdue(why))
    }

    fn pin_failed(&mut self, listening: Listening, answer: Answer, message: String, why: Refused) -> Doing {
        let stage = Stage::Verify.name();
        log::error!(stage = stage; "{stage}: {message}");
        let what = What::Error { stage: stage.to_owned(), message };
        self.acts.extend([Act::Tell(None, what), Act::Answer(answer, Outcome::Refused(why)), Act::Counted]);
        Doing::Listening(listening)
    }

    fn enrol(
        &mut self,
        listening: Listening,
        (user, wanted): (String, EnrolmentRequest),
        face: Face,
        answer: Answer,
    ) -> Doing {
        if self.enrolment.is_some() {
            self.acts.push(Act::Busy(face));
            self.refuse_request(answer, Refused::Busy);
            return Doing::Listening(listening);
        }
        if self.muted {
            self.tell(Progress::failed(&user, Refused::Muted.sentence(face)));
            self.refuse_request(answer, Refused::Muted);
            return Doing::Listening(listening);
        }
        self.drop_words();
        let keeps = wanted.keep_recordings;
        self.enrolment = Some(Enrolment { user: user.clone(), keeps, cancelled: false });
        self.start(Job::Enrol { user, wanted });
        Doing::Beginning(face, answer)
    }

    /// The enrolment has begun, or is refused.
    pub(super) fn begun(&mut self, face: Face, answer: Answer, begun: Result<Progress, Refused>) -> Doing {
        let progress = match begun {
            Ok(progress) => progress,
            Err(refused) => {
                refused.log();
                self.fail_enrolment(refused.sentence(face));
                self.refuse_request(answer, refused);
                return self.rest();
            }
        };
        self.acts.push(Act::Answer(answer, Outcome::Done));
        if !self.enrolment.as_ref().is_some_and(|enrolment| enrolment.keeps) {
            return self.ask_phrase(progress);
        }
        let sentence = "What you say now is kept, encrypted, on this device.";
        self.say(None, sentence, Then::AskPhrase(Box::new(progress)))
    }

    /// Asks for the next phrase.
    pub(super) fn ask_phrase(&mut self, progress: Progress) -> Doing {
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
        self.tell(progress);
        if self.is_cancelled() {
            return self.end_cancelled();
        }
        self.say(None, sentence, Then::AwaitPhrase)
    }

    /// Listens for the phrase that was asked for.
    pub(super) fn await_phrase(&mut self) -> Doing {
        if self.is_cancelled() {
            return self.end_cancelled();
        }
        self.acts.push(Act::OpenWindow(Window::Phrase, WINDOW_MS));
        self.acts.push(Act::Show(State::Listening));
        Doing::default()
    }

    /// An utterance during an enrolment.
    pub(super) fn sample(&mut self, utterance: Utterance) -> Doing {
        self.acts.push(Act::Show(State::Verifying));
        self.start(Job::Sample { raw: utterance.raw, speech: utterance.speech });
        Doing::Sampling
    }

    /// Nothing was said during an enrolment.
    pub(super) fn silence(&mut self) -> Doing {
        self.start(Job::Silence);
        Doing::Sampling
    }

    pub(super) fn sampled(&mut self, progress: Progress, over: bool) -> Doing {
        self.acts.push(Act::GiveBack);
        if !over {
            return self.ask_phrase(progress);
        }
        self.enrolment = None;
        self.acts.push(Act::EndEnrolment);
        let sentence = match progress.state {
            Step::Finished => {
                let last = progress.reason.as_ref();
                let last = last
                    .map_or_else(String::new, |reason| format!("The last sentence is not kept: {reason}. "));
                format!("{last}Thank you. I know your voice now, {}.", progress.user)
            }
            _ => NOT_ENROLLED.to_owned(),
        };
        self.tell(progress);
        self.say(None, sentence, Then::Rest)
    }

    pub(super) fn not_sampled(&mut self, why: String) -> Doing {
        self.fail_enrolment(why);
        self.say(None, NOT_ENROLLED, Then::Rest)
    }

    /// Ends the enrolment: at once, or as soon as its running job is over.
    pub(super) fn cancel_enrolment(&mut self) {
        let Some(enrolment) = &mut self.enrolment else { return };
        if matches!(self.doing, Doing::Listening(_) | Doing::Pin(..)) {
            self.acts.push(Act::Show(State::Idle));
            self.enrolment = None;
            self.acts.push(Act::CancelEnrolment);
        } else {
            enrolment.cancelled = true;
            self.cut();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.enrolment.as_ref().is_none_or(|enrolment| enrolment.cancelled)
    }

    fn end_cancelled(&mut self) -> Doing {
        self.enrolment = None;
        self.acts.push(Act::CancelEnrolment);
        self.rest()
    }

    fn fail_enrolment(&mut self, why: String) {
        self.acts.push(Act::EndEnrolment);
        if let Some(Enrolment { user, .. }) = self.enrolment.take() {
            self.tell(Progress::failed(&user, why));
        }
    }

    fn tell(&mut self, progress: Progress) {
        self.acts.push(Act::Tell(None, What::Enrolment(progress)));
    }
}

const NOT_ENROLLED: &str = "I could not enrol this voice.";

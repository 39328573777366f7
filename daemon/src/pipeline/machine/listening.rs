//! From the wake word to the end of a command: the knowledge gathered while it is said, the early verdict on
//! the speaker included.

use super::{Act, Doing, Job, TurnMachine};
use crate::detect::{Detection, Utterance};
use crate::events::{Event, Moment, Reason, TurnId, What};
use crate::health::State;
use crate::speaker::{Part, Verdict};
use crate::units::{FRAME_SAMPLES, FramePos};

/// Frames of speech behind an early verdict, 0.5 s, that may be somebody else's order.
const MORE_SPEECH: usize = 50;
/// From this probability on a frame is speech.
const SPEECH: f32 = 0.5;

/// The knowledge of a command that is being heard.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// A wake word was said, or the device was asked to listen, and no command has followed yet.
    woken: bool,
    /// The turn of the present utterance, from its first event on.
    turn: Option<TurnId>,
    /// The position up to which the command was handed to the recogniser.
    until: FramePos,
    /// The words so far, as last shown.
    partial: String,
    early: Early,
    /// The early verdict, where it is certain: of this utterance only the parts verified at its end are
    /// transcribed.
    pub(super) stranger: Option<Box<Part>>,
    /// Frames that the early verdict was taken on.
    early_at: usize,
    /// The recogniser could not take all of it.
    pub(super) torn: bool,
}

/// An early verdict on the speaker, during the speech.
#[derive(Debug, Default)]
enum Early {
    #[default]
    None,
    /// The count of failures and the given PIN are read first.
    Planned {
        raw: Vec<f32>,
        speech: Vec<f32>,
    },
    Begun,
}

impl Listening {
    /// A moment of the present turn, which begins with the first of them.
    pub(super) fn moment(&mut self, pos: FramePos) -> Moment {
        Moment { turn: Some(*self.turn.get_or_insert_with(TurnId::generate)), pos }
    }

    pub(super) fn has_early_verdict(&self) -> bool {
        !matches!(self.early, Early::None)
    }

    /// The early verdict, if it stands for all of `utterance`. The owner may speak after a
    /// stranger, so the verdict does not stand where more speech follows.
    pub(super) fn certain_of(&self, utterance: &Utterance) -> Option<&Part> {
        let stranger = self.stranger.as_deref()?;
        let more = utterance.speech.iter().skip(self.early_at).filter(|p| **p >= SPEECH).count();
        (more < MORE_SPEECH || stranger.verdict == Verdict::NotEnrolled).then_some(stranger)
    }
}

impl TurnMachine {
    /// Takes the next detection.
    pub(super) fn hear(&mut self, mut listening: Listening, detection: Detection) -> Doing {
        if self.muted {
            // The command was heard before the device was muted, and it waited.
            return self.drop_command();
        }
        match detection {
            Detection::Wake { word, score, pos } => {
                listening.woken = true;
                self.acts.push(Act::Show(State::Listening));
                self.emit(listening.moment(pos), What::Wake { word, score });
            }
            Detection::Asked { .. } => {
                listening.woken = true;
                self.acts.push(Act::Show(State::Listening));
            }
            Detection::SpeechStart { pos } => {
                self.give_up_all();
                self.acts.extend([Act::Show(State::Listening), Act::Refresh, Act::Forget]);
                // Of the turn that the wake word began.
                let Listening { woken, turn, .. } = listening;
                listening = Listening { woken, turn, until: pos, ..Listening::default() };
                self.emit(listening.moment(pos), What::SpeechStart);
            }
            Detection::Speech { raw } => {
                listening.until.0 += (raw.len() / FRAME_SAMPLES) as u64;
                if self.policy.transcribes && listening.stranger.is_none() && self.enrolment.is_none() {
                    self.feeding = true;
                    self.acts.push(Act::Feed(raw));
                }
            }
            Detection::SoFar { raw, speech } => {
                if self.policy.verify && self.enrolment.is_none() && !listening.has_early_verdict() {
                    listening.early = Early::Planned { raw, speech };
                    self.start(Job::Gate);
                }
            }
            Detection::SpeechEnd { utterance } => return self.await_early_verdict(listening, utterance),
            Detection::NoSpeech { .. } if self.enrolment.is_some() => return self.silence(),
            Detection::NoSpeech { pos } => {
                // A follow-up window that nobody used is no attempt.
                if listening.woken {
                    self.reject(listening.moment(pos), Reason::NoSpeech, None);
                }
                self.give_up_all();
                return self.rest();
            }
            Detection::Dropped { .. } => return self.drop_command(),
            Detection::Lost { .. } if self.enrolment.is_some() => {
                self.give_up_all();
                self.acts.push(Act::Forget);
                return self.silence();
            }
            Detection::Lost { pos } => {
                // A follow-up window that nobody used is no command.
                let torn = listening.woken || listening.until > FramePos(0);
                let moment = listening.moment(pos);
                let doing = self.drop_command();
                if torn {
                    let message = "the sound was interrupted in the middle of a command, which is dropped; \
                                   say it again";
                    self.trouble(moment, "microphone", message.to_owned());
                }
                return doing;
            }
        }
        Doing::Listening(listening)
    }

    /// The recogniser was given a piece. Words with a hole in them are not answered; the worker counts and
    /// reports lost pieces.
    pub(super) fn fed(&mut self, whole: bool, words: String) {
        self.feeding = false;
        let Doing::Listening(listening) = &mut self.doing else { return };
        listening.torn |= !whole;
        if !words.is_empty() && words != listening.partial {
            listening.partial.clone_from(&words);
            let moment = listening.moment(listening.until);
            self.acts.push(Act::Emit(Event::at(moment, What::Partial { text: words })));
        }
    }

    /// Begins the planned early verdict, unless the device pauses or somebody gave a PIN: an attempt during
    /// the pause must not tell the speaker anything.
    pub(super) fn begin_early_verdict(&mut self, mut listening: Listening) -> Listening {
        let Early::Planned { raw, speech } = std::mem::take(&mut listening.early) else { return listening };
        if self.pause_ms() == 0 && self.granted.is_none() {
            listening.early_at = speech.len();
            listening.early = Early::Begun;
            self.start(Job::EarlyVerdict { raw, speech });
        }
        listening
    }

    /// Takes note of an early verdict. An uncertain one decides nothing: the whole utterance does.
    pub(super) fn early_verdict(&mut self, listening: Listening, stranger: Option<Box<Part>>) -> Listening {
        if stranger.is_some() {
            self.acts.push(Act::Forget);
        }
        Listening { early: Early::None, stranger, ..listening }
    }

    pub(super) fn no_look(&mut self, listening: Listening, why: &str) -> Listening {
        log::warn!("no early verdict: {why}");
        Listening { early: Early::None, ..listening }
    }

    /// The command is over. The end waits for the early verdict, so that there is one verdict.
    pub(super) fn await_early_verdict(&mut self, listening: Listening, utterance: Utterance) -> Doing {
        if listening.has_early_verdict() {
            return Doing::Looking(listening, utterance);
        }
        if self.enrolment.is_some() {
            self.acts.push(Act::Forget);
            return self.sample(utterance);
        }
        self.attempt(listening, utterance)
    }
}

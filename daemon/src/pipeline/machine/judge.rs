//! From the end of a command to the people who are answered: the pause, the verdict, the PIN, and the
//! refusals.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::answer::{Speaker, Words};
use super::listening::Listening;
use super::{Act, Doing, Job, Then, TurnMachine};
use crate::detect::Utterance;
use crate::events::{Attribution, Event, Moment, Reason, What};
use crate::health::{Condition, State};
use crate::memory::User;
use crate::pipeline::deadline::Stage;
use crate::pipeline::pause;
use crate::pipeline::refusals::Heard;
use crate::speaker::{Part, SURELY_KNOWN, Verdict};

/// An utterance on its way to its answers.
#[derive(Debug)]
pub(super) struct Turn {
    heard: Heard,
    pub(super) raw: Arc<Vec<f32>>,
    speech: Arc<Vec<f32>>,
    pub(super) command_start: usize,
    /// The early verdict, if it stands for all of the utterance.
    certain: Option<Box<Part>>,
    /// The early verdict took the voice for a stranger's, so the recogniser has no sound of it.
    pub(super) early: bool,
    /// The recogniser could not take all of it.
    torn: bool,
    /// The device pauses after failures.
    paused: bool,
    /// Time at which the verdict and the words were asked for.
    pub(super) asked: Instant,
    /// How long the verdict took.
    took: Duration,
    pub(super) words: Words,
    /// Nobody is answered yet.
    first: bool,
    /// The persons who are answered after this one, in the order in which they spoke.
    pub(super) next: VecDeque<Part>,
    /// Speech that is not answered.
    pub(super) dropped: Vec<Part>,
    /// Whether the device listens afterwards for a command without a wake word.
    pub(super) follow_up: bool,
    /// The device was muted while an answer was made or spoken: nobody else is answered.
    pub(super) muted: bool,
}

impl Turn {
    pub(super) fn moment(&self) -> Moment {
        self.heard.moment()
    }
}

impl TurnMachine {
    /// The rest of the pause, in ms.
    pub(super) fn pause_ms(&self) -> i64 {
        self.gate.remaining_ms(self.now.unix_ms)
    }

    /// A command was said to its end.
    pub(super) fn attempt(&mut self, mut listening: Listening, utterance: Utterance) -> Doing {
        let moment = listening.moment(utterance.end);
        self.acts.push(Act::Show(State::Verifying));
        let speech_s = seconds(utterance.raw.len() - utterance.command_start.min(utterance.raw.len()));
        self.emit(moment, What::SpeechEnd { speech_s, truncated: utterance.truncated });
        let turn = Turn {
            heard: Heard::of(&utterance, moment.turn),
            certain: listening.certain_of(&utterance).cloned().map(Box::new),
            early: listening.stranger.is_some(),
            torn: listening.torn,
            raw: Arc::new(utterance.raw),
            speech: Arc::new(utterance.speech),
            command_start: utterance.command_start,
            paused: false,
            asked: self.now.at,
            took: Duration::ZERO,
            words: Words::None,
            first: true,
            next: VecDeque::new(),
            dropped: Vec::new(),
            follow_up: false,
            muted: false,
        };
        if !self.policy.verify {
            return self.compare(turn);
        }
        self.start(Job::Gate);
        Doing::Gate(turn)
    }

    /// The count of failures is known.
    pub(super) fn at_gate(&mut self, mut turn: Turn) -> Doing {
        turn.paused = self.pause_ms() > 0;
        if !turn.paused {
            return self.compare(turn);
        }
        if turn.early {
            return self.refuse_paused(turn);
        }
        self.start(Job::Chance);
        Doing::Chance(turn)
    }

    /// Continues once it is known whether this attempt during the pause is compared.
    pub(super) fn chance(&mut self, turn: Turn, allowed: bool) -> Doing {
        if allowed { self.compare(turn) } else { self.refuse_paused(turn) }
    }

    /// Asks for the speaker and for the words, side by side.
    fn compare(&mut self, mut turn: Turn) -> Doing {
        if let Some(stranger) = turn.certain.take() {
            return self.refuse(turn, &stranger, None);
        }
        if turn.torn && !turn.early && self.policy.transcribes {
            self.acts.push(Act::Forget);
            let message = "speech to text is too slow, so a part of the command was lost".to_owned();
            self.trouble(turn.moment(), Stage::Transcribe.name(), message);
            let sentence = "I did not get all of that. Please say it again.";
            return self.say(turn.moment().turn, sentence, Then::Close(turn));
        }
        turn.asked = self.now.at;
        self.start(if self.policy.verify {
            let just = self.refusals.just_heard(&turn.heard).map(Box::new);
            Job::Voices { raw: turn.raw.clone(), speech: turn.speech.clone(), just }
        } else {
            Job::Anonymous
        });
        if self.policy.transcribes && !turn.early {
            turn.words = Words::Coming;
            self.start(Job::Words);
        }
        Doing::Judging(turn)
    }

    /// The person who is answered without verification is known.
    pub(super) fn anonymous(&mut self, turn: Turn, found: Result<User, String>) -> Doing {
        match found {
            Ok(user) => {
                let speaker = Speaker { user, whose: Attribution::ANONYMOUS, confidence: None };
                self.transcribe(turn, speaker)
            }
            Err(why) => self.no_memory(turn, why, Then::Close),
        }
    }

    /// Acts on the verdict and tells it as soon as it is there, while the recogniser may still work. While
    /// the device pauses only a surely known voice counts.
    pub(super) fn judge(&mut self, mut turn: Turn, parts: Result<Vec<Part>, String>) -> Doing {
        let parts = match parts {
            Ok(parts) => parts,
            Err(why) => return self.cannot_judge(turn, why),
        };
        turn.took = self.now.at.duration_since(turn.asked);
        self.acts.push(Act::Health("voice", Condition::Ok));
        let least = if turn.paused { SURELY_KNOWN } else { 0.0 };
        let known =
            |part: &Part| matches!(part.verdict, Verdict::Verified { confidence, .. } if confidence >= least);
        let (known, dropped): (Vec<_>, Vec<_>) = parts.into_iter().partition(known);
        if !known.is_empty() {
            (turn.next, turn.dropped) = (known.into(), dropped);
            return self.next_person(turn);
        }
        if turn.paused {
            return self.refuse_paused(turn);
        }
        let Some(part) = dropped.first() else {
            self.drop_words();
            return self.finish(turn);
        };
        // Two people at once are two, even if one of them gave a PIN.
        let alone = !matches!(part.verdict, Verdict::MultipleSpeakers { .. });
        let Some(user) = self.granted.clone().filter(|_| alone) else {
            let took = Some(turn.took).filter(|_| !turn.early);
            return self.refuse(turn, part, took);
        };
        let figures = part.verdict.confidence().map(|confidence| json!({ "confidence": confidence }));
        self.audit("pin", Some(&user), figures);
        let (accepted, whose) = Event::accepted(turn.moment(), &user);
        self.acts.push(Act::Emit(accepted.took(turn.took)));
        self.transcribe(turn, Speaker { user, whose, confidence: None })
    }

    /// Asks the memory for the person of `part`.
    pub(super) fn find(&mut self, turn: Turn, part: Part) -> Doing {
        let Verdict::Verified { user_id, user_name, .. } = &part.verdict else {
            return self.next_person(turn);
        };
        self.start(Job::Person { id: user_id.clone(), name: user_name.clone() });
        Doing::Finding(turn, Box::new(part))
    }

    /// The person of `part` is known. They are told, and their words are waited for.
    pub(super) fn found(&mut self, mut turn: Turn, part: Box<Part>, found: Result<User, String>) -> Doing {
        let first = std::mem::take(&mut turn.first);
        let user = match found {
            Ok(user) => user,
            Err(why) => {
                self.audit("failed", None, None);
                return self.no_memory(turn, why, if first { Then::Close } else { Then::NextPerson });
            }
        };
        let Verdict::Verified { confidence, score, net_speech_s, other_s, .. } = &part.verdict else {
            return self.next_person(turn);
        };
        self.acts.push(Act::EndFailures);
        self.refusals.verified(&turn.heard, &part);
        let mut figures = json!({ "confidence": confidence, "score": score, "net_speech_s": net_speech_s });
        if let Some(other_s) = other_s {
            figures["other_s"] = (*other_s).into();
        }
        self.audit("verified", Some(&user), Some(figures));
        let confidence = Some(*confidence);
        let Some((verified, whose)) = Event::verified(turn.moment(), &part.verdict, &user) else {
            self.drop_words();
            return self.next_person(turn);
        };
        self.acts.push(Act::Emit(verified.took(turn.took)));
        let speaker = Speaker { user, whose, confidence };
        if first && !turn.early && part.own.is_none() {
            return self.transcribe(turn, speaker);
        }
        self.transcribe_own(turn, speaker, &part)
    }

    /// Nobody can be verified.
    fn cannot_judge(&mut self, turn: Turn, why: String) -> Doing {
        self.drop_words();
        let condition = Condition::failed(format!("nobody can be verified: {why}"));
        self.acts.push(Act::Health("voice", condition));
        self.audit("failed", None, None);
        self.trouble(turn.moment(), Stage::Verify.name(), why);
        let sentence = "I could not tell who is speaking. Please try again.";
        self.say(turn.moment().turn, sentence, Then::Close(turn))
    }

    /// The memory does not know the person to answer.
    fn no_memory(&mut self, turn: Turn, why: String, then: fn(Turn) -> Then) -> Doing {
        self.drop_words();
        self.trouble(turn.moment(), Stage::Memory.name(), why);
        let sentence = "I could not do that: my memory does not answer.";
        self.say(turn.moment().turn, sentence, then(turn))
    }

    /// Reports a verdict that lets nobody in. `took` is `None` where no part of it was transcribed.
    fn refuse(&mut self, turn: Turn, part: &Part, took: Option<Duration>) -> Doing {
        self.drop_words();
        let verdict = &part.verdict;
        let (reason, confidence, early) = (reason_of(verdict), verdict.confidence(), took.is_none());
        if verdict.is_failure() && self.refusals.refused(&turn.heard, part) {
            self.acts.push(Act::CountFailure);
        }
        let mut figures = serde_json::Map::new();
        if let Some(confidence) = confidence {
            figures.insert("confidence".into(), confidence.into());
        }
        if early {
            figures.insert("early".into(), true.into());
        }
        self.audit(verdict.name(), None, (!figures.is_empty()).then(|| figures.into()));
        self.emit_after(took, turn.moment(), What::Rejected { reason, confidence, early });
        self.finish(turn)
    }

    /// Refuses an attempt during the pause. It tells nothing about the voice, and is no further failure:
    /// otherwise a television would prolong the pause for ever.
    fn refuse_paused(&mut self, turn: Turn) -> Doing {
        self.drop_words();
        self.audit("paused", None, None);
        self.reject(turn.moment(), Reason::Paused, None);
        let remaining_ms = self.pause_ms();
        let told = self.told_of_pause.is_some_and(|at| self.now.at.duration_since(at) < pause::TELL_AGAIN);
        if told || remaining_ms == 0 {
            return self.finish(turn);
        }
        self.say(turn.moment().turn, pause::why(remaining_ms), Then::ToldOfPause(turn))
    }

    /// Nobody waits for the words any more.
    pub(super) fn drop_words(&mut self) {
        self.give_up_all();
        self.acts.push(Act::Forget);
    }
}

/// The reason why a verdict lets nobody in, as events name it.
pub(super) fn reason_of(verdict: &Verdict) -> Reason {
    match verdict {
        Verdict::Uncertain { .. } => Reason::Uncertain,
        // A verified voice is answered and never comes here; should it, it is not let in.
        Verdict::Rejected { .. } | Verdict::Verified { .. } => Reason::Rejected,
        Verdict::TooShort { .. } => Reason::TooShort,
        Verdict::Ambiguous { .. } => Reason::Ambiguous,
        Verdict::MultipleSpeakers { .. } => Reason::MultipleSpeakers,
        Verdict::NotEnrolled => Reason::NotEnrolled,
    }
}

#[expect(clippy::cast_precision_loss, reason = "an utterance has at most a million samples")]
fn seconds(samples: usize) -> f32 {
    samples as f32 / crate::units::SAMPLE_RATE_HZ as f32
}

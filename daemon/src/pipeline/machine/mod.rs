//! A turn as a state machine: detections, commands, results and deadlines go in, acts come out. It has no
//! sound, no database and no clock in it; [`super::turns`] performs the acts and gives back their results.
//!
//! ```text
//!  Listening ─SpeechEnd─▶ Looking ─▶ Gate ─┬──────────────────▶ Judging ─┬─ nobody verified: refused ────▶ Closing
//!    ▲  │  │          (early verdict)         ├ pause ─▶ Chance ──┘ │       └─ a person ─▶ Finding
//!    │  │  │                               └ surely a stranger ──┼──────────────────────────────────────▶ Closing
//!    │  │  └─ PIN ─▶ Pin ─▶ Listening                            └ words of all, side by side ┐
//!    │  └─ enrolment ─▶ Beginning ─▶ Speaking ─▶ Listening                                    ▼
//!    │                    Sampling ◀─ SpeechEnd ┘           Finding ─▶ Transcribing ─▶ Answering ─▶ Speaking
//!    │                                                         ▲                                      │
//!    │                                                         └─────────── the next person ──────────┤
//!    └── Closing (is the memory missing?) ◀──────────────────────────── somebody else spoke as well ◀─┘
//! ```
//!
//! Every state that says a sentence enters `Speaking`, which goes on with its `Then`. An answer that comes in
//! sentences is spoken while it is still being made, in `Answering`.
//!
//! Invariants:
//!
//! * Words of a voice that is not verified are dropped with the verdict: they reach neither the disk nor an
//!   event. Once an early verdict takes the voice for a stranger's, the recogniser gets only sound that is
//!   verified at the end.
//! * A reply is shown, published or spoken only after its turn is on the disk, and a sentence only after that
//!   sentence is: the spoken parts of an answer are [`Durable`].
//! * One turn at a time. Detections that come meanwhile reach the machine and wait in it, in their order.
//! * The machine waits only for jobs, and each has a deadline: a stage that does not end is given up, and the
//!   next command is heard. The result of a job that was given up is dropped.
//! * The mute, a cancelled enrolment and a stop end the present speech at once. The mute also ends a turn
//!   whose answer is not begun: nothing of it is told from then on. An answer that is being made is stored.

mod act;
mod answer;
mod enrolment;
mod judge;
mod listening;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use act::{Act, Done, Input, Job, Ticket};
pub use state::{Now, Policy};

use super::answer::Sentence;
use super::deadline::Stage;
use super::refusals::Refusals;
use crate::control::{Refused, Request};
use crate::detect::Detection;
use crate::events::{Event, Moment, Reason, TurnId, What};
use crate::health::State;
use crate::memory::{Durable, User};
use crate::speaker::FailureGate;
use listening::Listening;
use state::{Answer, Doing, Enrolment, Pending, Then};

/// Detections that wait for the end of a turn: more than the longest command that can be set, in pieces of
/// 100 ms.
const MOST_WAITING: usize = 1024;

/// See the head of this module.
#[derive(Debug)]
pub struct TurnMachine {
    /// May change between two steps.
    pub policy: Policy,
    now: Now,
    doing: Doing,
    enrolment: Option<Enrolment>,
    pending: Vec<Pending>,
    last_ticket: u64,
    /// Detections in their order.
    waiting: VecDeque<Detection>,
    request: Option<Request>,
    /// A piece was handed to the recogniser, which has not said yet whether it took it.
    feeding: bool,
    muted: bool,
    cancels: u64,
    stopping: bool,
    gate: FailureGate,
    granted: Option<User>,
    refusals: Refusals,
    told_of_pause: Option<Instant>,
    acts: Vec<Act>,
}

impl TurnMachine {
    pub fn new(policy: Policy, now: Now, muted: bool) -> Self {
        Self {
            policy,
            now,
            doing: Doing::default(),
            enrolment: None,
            pending: Vec::new(),
            last_ticket: 0,
            waiting: VecDeque::new(),
            request: None,
            feeding: false,
            muted,
            cancels: 0,
            stopping: false,
            gate: FailureGate::default(),
            granted: None,
            refusals: Refusals::default(),
            told_of_pause: None,
            acts: Vec::new(),
        }
    }

    /// Takes one input; the driver performs the returned acts in their order.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Act> {
        self.now = now;
        match input {
            Input::Heard(detection) => self.waiting.push_back(detection),
            Input::Request(request) => self.request = Some(request),
            Input::Fed { whole, words } => self.fed(whole, words),
            Input::Muted(muted) => self.mute(muted),
            Input::Cancelled(cancels) => {
                self.cancels = cancels;
                self.cancel_enrolment();
            }
            Input::Sentence(ticket, words) => self.sentence(ticket, words),
            Input::Done(ticket, done) => {
                if let Some(at) = self.pending.iter().position(|pending| pending.ticket == ticket) {
                    self.pending.remove(at);
                    let doing = std::mem::take(&mut self.doing);
                    self.doing = self.done(doing, done);
                }
            }
            Input::Deadline => self.give_up_overdue(),
            Input::Stop => {
                self.stopping = true;
                self.cut();
            }
        }
        self.go_on();
        std::mem::take(&mut self.acts)
    }

    /// The earliest deadline of the jobs that the machine waits for.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|pending| pending.due).min()
    }

    /// Whether there is room for another detection.
    pub fn takes_sound(&self) -> bool {
        self.waiting.len() < MOST_WAITING
    }

    /// Whether there is room for another request: one waits for its turn.
    pub fn takes_request(&self) -> bool {
        self.request.is_none()
    }

    /// Whether no turn, PIN or sample goes on.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.doing, Doing::Listening(_))
    }

    /// Whether all sound heard so far has been worked off.
    pub fn is_settled(&self) -> bool {
        self.is_at_rest() && self.pending.is_empty() && self.waiting.is_empty() && !self.feeding
    }

    /// Whether the device is stopping and no work remains to be finished.
    pub fn is_over(&self) -> bool {
        self.stopping && self.is_at_rest()
    }

    /// Works off the waiting inputs, until a job goes on again.
    fn go_on(&mut self) {
        while !self.stopping && !self.feeding {
            let Doing::Listening(listening) = &mut self.doing else { return };
            let listening = std::mem::take(listening);
            // A request waits for the end of an early verdict.
            let request = self.request.take_if(|_| !listening.has_early_verdict());
            self.doing = if let Some(request) = request {
                self.carry_out(listening, request)
            } else if let Some(detection) = self.waiting.pop_front() {
                self.hear(listening, detection)
            } else {
                self.doing = Doing::Listening(listening);
                return;
            };
        }
    }

    /// Goes on with the result of a job.
    fn done(&mut self, doing: Doing, done: Done) -> Doing {
        match (doing, done) {
            (Doing::Listening(listening), Done::Gate { gate, granted }) => {
                (self.gate, self.granted) = (gate, granted);
                let listening = self.begin_early_verdict(listening);
                Doing::Listening(listening)
            }
            (Doing::Looking(listening, utterance), Done::Gate { gate, granted }) => {
                (self.gate, self.granted) = (gate, granted);
                let listening = self.begin_early_verdict(listening);
                self.await_early_verdict(listening, utterance)
            }
            (Doing::Listening(listening), Done::EarlyVerdict(stranger)) => {
                Doing::Listening(self.early_verdict(listening, stranger))
            }
            (Doing::Looking(listening, utterance), Done::EarlyVerdict(stranger)) => {
                let listening = self.early_verdict(listening, stranger);
                self.await_early_verdict(listening, utterance)
            }
            (Doing::Gate(turn), Done::Gate { gate, granted }) => {
                (self.gate, self.granted) = (gate, granted);
                self.at_gate(turn)
            }
            (Doing::Chance(turn), Done::Chance(allowed)) => self.chance(turn, allowed),
            (Doing::Judging(turn), Done::Voices(parts)) => self.judge(turn, parts),
            (Doing::Judging(turn), Done::Person(found)) => self.anonymous(turn, found),
            (Doing::Finding(turn, part), Done::Person(found)) => self.found(turn, part, found),
            (Doing::Judging(mut turn), Done::Words(words)) => {
                self.keep_words(&mut turn, Ok(words));
                Doing::Judging(turn)
            }
            (Doing::Finding(mut turn, part), Done::Words(words)) => {
                self.keep_words(&mut turn, Ok(words));
                Doing::Finding(turn, part)
            }
            (Doing::Transcribing(mut turn, speaker), Done::Words(words)) => {
                self.keep_words(&mut turn, Ok(words));
                self.transcribe(turn, speaker)
            }
            (Doing::Answering(turn, speaker), Done::Answered { result, took }) => {
                self.answered(turn, &speaker, result, took)
            }
            // All of the answer so far was spoken; the next sentence starts a new job.
            (Doing::Answering(turn, speaker), Done::Spoken(spoken)) => {
                if let Err(message) = spoken {
                    self.not_spoken(turn.moment().turn, message);
                }
                Doing::Answering(turn, speaker)
            }
            (Doing::Speaking(turn, then), Done::Spoken(spoken)) => {
                if let Err(message) = spoken {
                    self.not_spoken(turn, message);
                }
                self.then(then)
            }
            (Doing::Closing(moment), Done::Apart(missing)) => self.close(moment, missing),
            (Doing::Pin(listening, answer), Done::Pin(entered)) => self.entered(listening, answer, entered),
            (Doing::Beginning(face, answer), Done::Begun(begun)) => self.begun(face, answer, begun),
            (Doing::Sampling, Done::Sampled { progress, over }) => self.sampled(progress, over),
            // No job of this kind is waited for now.
            (doing, _) => doing,
        }
    }

    /// Gives up every job that is overdue.
    fn give_up_overdue(&mut self) {
        let now = self.now.at;
        while let Some(at) = self.pending.iter().position(|p| p.due.is_some_and(|due| due <= now)) {
            let Pending { ticket, stage, .. } = self.pending.remove(at);
            self.acts.push(Act::GiveUp(ticket));
            let doing = std::mem::take(&mut self.doing);
            self.doing = self.overdue(doing, stage);
        }
    }

    /// Goes on without the result of a job of `stage`.
    fn overdue(&mut self, doing: Doing, stage: Stage) -> Doing {
        let why = stage.overdue();
        match doing {
            Doing::Listening(listening) => Doing::Listening(self.no_look(listening, &why)),
            Doing::Looking(listening, utterance) => {
                let listening = self.no_look(listening, &why);
                self.await_early_verdict(listening, utterance)
            }
            Doing::Gate(turn) => {
                log::error!("the count of failed attempts: {why}");
                self.granted = None;
                self.at_gate(turn)
            }
            Doing::Chance(turn) => self.chance(turn, false),
            Doing::Judging(mut turn) if stage == Stage::Transcribe => {
                self.keep_words(&mut turn, Err(why));
                Doing::Judging(turn)
            }
            Doing::Finding(mut turn, part) if stage == Stage::Transcribe => {
                self.keep_words(&mut turn, Err(why));
                Doing::Finding(turn, part)
            }
            Doing::Judging(turn) if stage == Stage::Memory => self.anonymous(turn, Err(why)),
            Doing::Judging(turn) => self.judge(turn, Err(why)),
            Doing::Finding(turn, part) => self.found(turn, part, Err(why)),
            Doing::Transcribing(mut turn, speaker) => {
                self.keep_words(&mut turn, Err(why));
                self.transcribe(turn, speaker)
            }
            Doing::Answering(turn, speaker) if stage == Stage::Speak => {
                self.not_spoken(turn.moment().turn, why);
                Doing::Answering(turn, speaker)
            }
            Doing::Answering(turn, _) => self.unanswered(turn, why),
            Doing::Speaking(turn, then) => {
                self.not_spoken(turn, why);
                self.then(then)
            }
            Doing::Closing(moment) => self.close(moment, false),
            Doing::Pin(listening, answer) => self.not_entered(listening, answer, why),
            Doing::Beginning(face, answer) => self.begun(face, answer, Err(Refused::Overdue(why))),
            Doing::Sampling => self.not_sampled(why),
        }
    }

    fn mute(&mut self, muted: bool) {
        self.muted = muted;
        if !muted {
            return;
        }
        self.doing = match std::mem::take(&mut self.doing) {
            Doing::Listening(_) => self.drop_command(),
            Doing::Pin(_, answer) => Doing::Pin(Listening::default(), answer),
            Doing::Looking(mut listening, utterance) => {
                let moment = listening.moment(utterance.end);
                self.unheard(moment)
            }
            Doing::Gate(turn)
            | Doing::Chance(turn)
            | Doing::Judging(turn)
            | Doing::Finding(turn, _)
            | Doing::Transcribing(turn, _) => self.unheard(turn.moment()),
            Doing::Answering(mut turn, speaker) => {
                turn.muted = true;
                Doing::Answering(turn, speaker)
            }
            Doing::Speaking(turn, mut then) => {
                if let Then::Answered(turn) | Then::NextPerson(turn) = &mut then {
                    turn.muted = true;
                }
                Doing::Speaking(turn, then)
            }
            other => other,
        };
        if self.enrolment.is_some() {
            self.cancel_enrolment();
        } else {
            self.cut();
        }
    }

    /// Ends the present speech; its end comes as a result.
    fn cut(&mut self) {
        if self.is_speaking() {
            self.acts.push(Act::Cut);
        }
    }

    /// Whether nothing may be said aloud.
    fn is_silent(&self) -> bool {
        self.muted || self.stopping || !self.policy.speaks
    }

    /// Whether the device waits for the end of its own speech.
    fn is_speaking(&self) -> bool {
        self.pending.iter().any(|pending| pending.stage == Stage::Speak)
    }

    /// Says a sentence of the answer being made.
    fn sentence(&mut self, ticket: Ticket, words: Durable) {
        let Doing::Answering(turn, _) = &self.doing else { return };
        let awaited = self.pending.iter().any(|pending| pending.ticket == ticket);
        if awaited && !turn.muted && !self.is_silent() {
            self.begin_to_say(words.into());
        }
    }

    fn begin_to_say(&mut self, sentence: Sentence) {
        let due = self.due(Stage::Speak);
        match self.pending.iter_mut().find(|pending| pending.stage == Stage::Speak) {
            Some(speaking) => {
                speaking.due = due;
                self.acts.push(Act::Say(sentence));
            }
            None => {
                self.acts.push(Act::Show(State::Speaking));
                self.start(Job::Say(sentence));
            }
        }
    }

    /// Says a sentence, the last one for now, and goes on with `then`.
    fn say(&mut self, turn: Option<TurnId>, sentence: impl Into<Sentence>, then: Then) -> Doing {
        if !self.is_silent() {
            self.begin_to_say(sentence.into());
        }
        self.said(turn, then)
    }

    /// Goes on with `then` when everything was heard.
    fn said(&mut self, turn: Option<TurnId>, then: Then) -> Doing {
        if !self.is_speaking() {
            return self.then(then);
        }
        self.acts.push(Act::Said);
        Doing::Speaking(turn, then)
    }

    fn then(&mut self, then: Then) -> Doing {
        match then {
            Then::Answered(mut turn) => {
                turn.follow_up |= self.policy.follow_up_ms > 0 && !self.stopping && !self.muted;
                self.next_person(turn)
            }
            Then::NextPerson(turn) => self.next_person(turn),
            Then::Close(turn) => self.finish(turn),
            Then::ToldOfPause(turn) => {
                self.told_of_pause = Some(self.now.at);
                self.finish(turn)
            }
            Then::Rest => self.rest(),
            Then::AskPhrase(progress) => self.ask_phrase(*progress),
            Then::AwaitPhrase => self.await_phrase(),
        }
    }

    fn not_spoken(&mut self, turn: Option<TurnId>, message: String) {
        let what = What::Error { stage: Stage::Speak.name().to_owned(), message };
        self.acts.push(Act::Tell(turn, what));
    }

    fn start(&mut self, job: Job) {
        let stage = job.stage();
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let due = self.due(stage);
        self.pending.push(Pending { ticket, stage, due });
        self.acts.push(Act::Start(ticket, job));
    }

    /// When a job that begins now must be over.
    fn due(&self, stage: Stage) -> Option<Instant> {
        (!self.policy.patient).then(|| self.now.at + stage.most())
    }

    /// Waits for no job any more.
    fn give_up_all(&mut self) {
        self.acts.extend(self.pending.drain(..).map(|pending| Act::GiveUp(pending.ticket)));
    }

    fn emit(&mut self, moment: Moment, what: What) {
        self.acts.push(Act::Emit(Event::at(moment, what)));
    }

    fn emit_after(&mut self, took: Option<Duration>, moment: Moment, what: What) {
        let event = Event::at(moment, what);
        self.acts.push(Act::Emit(match took {
            Some(took) => event.took(took),
            None => event,
        }));
    }

    fn reject(&mut self, moment: Moment, reason: Reason, took: Option<Duration>) {
        self.emit_after(took, moment, What::Rejected { reason, confidence: None, early: false });
    }

    fn audit(&mut self, outcome: &'static str, user: Option<&User>, detail: Option<serde_json::Value>) {
        self.acts.push(Act::Audit { outcome, user: user.map(|user| user.id), detail });
    }

    fn trouble(&mut self, moment: Moment, stage: &str, message: String) {
        log::error!(stage = stage; "{stage}: {message}");
        self.emit(moment, What::Error { stage: stage.to_owned(), message });
    }

    /// Ends a turn that has no answer yet, since the device was muted.
    fn unheard(&mut self, moment: Moment) -> Doing {
        self.reject(moment, Reason::Muted, None);
        let doing = self.drop_command();
        self.acts.extend([Act::Counted, Act::GiveBack]);
        doing
    }

    /// Drops the present utterance.
    fn drop_command(&mut self) -> Doing {
        self.give_up_all();
        self.acts.push(Act::Forget);
        self.rest()
    }

    fn rest(&mut self) -> Doing {
        self.acts.push(Act::Show(State::Idle));
        Doing::default()
    }
}

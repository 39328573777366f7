//! The turn machine alone: no sound, no database, and no waiting, because time is passed in.

mod deadlines;
mod enrolment;
mod interrupts;
mod property;
mod sentences;
mod turn;

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Act, Done, Input, Job, Now, Policy, Ticket, TurnMachine};
use crate::control::{Authority, EnrolmentRequest, Refused, Request, Task};
use crate::detect::{Detection, Utterance};
use crate::dialogue::TurnOutcome;
use crate::events::{Event, PinOutcome};
use crate::health::Condition;
use crate::memory::{ConversationId, Durable, MessageId, User, UserId};
use crate::speaker::pin::Pin;
use crate::speaker::{FailureGate, Part, Progress, Step, Verdict};
use crate::stt::Transcript;
use crate::units::FramePos;

const POLICY: Policy = Policy {
    verify: true,
    transcribes: true,
    speaks: true,
    follow_up_ms: 8_000,
    pin_valid_s: 60,
    patient: false,
};

/// A machine and everything that it has asked for.
struct Rig {
    machine: TurnMachine,
    now: Now,
    /// Jobs that go on.
    jobs: Vec<(Ticket, Job)>,
    events: Vec<Event>,
    /// Requests that were given, and those that were answered.
    asked: usize,
    answered: usize,
    /// The recogniser takes all that it is fed.
    whole: bool,
}

impl Rig {
    fn new() -> Self {
        Self::with(POLICY)
    }

    fn with(policy: Policy) -> Self {
        let now = Now { at: Instant::now(), unix_ms: 1_790_000_000_000 };
        let machine = TurnMachine::new(policy, now, false);
        Self { machine, now, jobs: Vec::new(), events: Vec::new(), asked: 0, answered: 0, whole: true }
    }

    fn pass(&mut self, time: Duration) {
        self.now.at += time;
        self.now.unix_ms += i64::try_from(time.as_millis()).unwrap();
    }

    /// The acts on `input`, in words: see [`Rig::perform`].
    fn step(&mut self, input: Input) -> String {
        self.pass(Duration::from_millis(10));
        let acts = self.machine.step(self.now, input);
        self.perform(acts).join(" ")
    }

    /// Performs acts as the driver does. A state is in brackets, a new job has a question mark, a given-up
    /// one a minus, an event its name.
    fn perform(&mut self, acts: Vec<Act>) -> Vec<String> {
        let mut words = Vec::new();
        for act in acts {
            match act {
                Act::Start(ticket, job) => {
                    words.push(format!("?{}", name_of(&job)));
                    self.jobs.push((ticket, job));
                }
                Act::GiveUp(ticket) => {
                    let at = self.jobs.iter().position(|(running, _)| *running == ticket).unwrap();
                    words.push(format!("-{}", name_of(&self.jobs.remove(at).1)));
                }
                Act::Show(state) => words.push(format!("[{}]", state.as_str())),
                Act::Health(_, Condition::Ok) | Act::Counted | Act::Refresh | Act::GiveBack => {}
                Act::Health(part, _) => words.push(format!("{part}!")),
                Act::Emit(event) => {
                    words.push(kind_of(&event));
                    self.events.push(event);
                }
                Act::Tell(turn, what) => {
                    let mut event = Event::at(FramePos(0), what);
                    event.turn = turn;
                    words.push(kind_of(&event));
                    self.events.push(event);
                }
                Act::Audit { outcome, .. } => words.push(format!("audit:{outcome}")),
                Act::CountFailure => words.push("count".to_owned()),
                Act::EndFailures => words.push("uncount".to_owned()),
                Act::Feed(_) => {
                    words.push("feed".to_owned());
                    let fed = Input::Fed { whole: self.whole, words: String::new() };
                    let acts = self.machine.step(self.now, fed);
                    words.extend(self.perform(acts));
                }
                Act::Forget => words.push("forget".to_owned()),
                Act::OpenWindow(window, _) => words.push(format!("window:{window:?}")),
                Act::Say(_) => words.push("+say".to_owned()),
                Act::Said => {}
                Act::Cut => words.push("cut".to_owned()),
                Act::Busy(_) => words.push("busy".to_owned()),
                Act::Answer(_, outcome) => {
                    words.push(format!("={}", outcome.word()));
                    self.answered += 1;
                }
                Act::CancelEnrolment => words.push("cancel".to_owned()),
                Act::EndEnrolment => words.push("end".to_owned()),
            }
        }
        words
    }

    /// Ends the job of this name with `done`.
    fn done(&mut self, name: &str, done: Done) -> String {
        let found = self.jobs.iter().position(|(_, job)| name_of(job) == name);
        let at = found.unwrap_or_else(|| panic!("{name} is not among {:?}", self.running()));
        let (ticket, _) = self.jobs.remove(at);
        self.step(Input::Done(ticket, done))
    }

    /// Ends the job of this name as it mostly ends.
    fn well(&mut self, name: &str) -> String {
        let found = self.jobs.iter().find(|(_, job)| name_of(job) == name);
        let done = usual(&found.unwrap_or_else(|| panic!("{name} is not among {:?}", self.running())).1);
        self.done(name, done)
    }

    /// The answer that is being made hands over a sentence.
    fn sentence(&mut self) -> String {
        let answer = self.jobs.iter().find(|(_, job)| name_of(job) == "answer");
        let ticket = answer.unwrap_or_else(|| panic!("{:?}", self.running())).0;
        self.step(Input::Sentence(ticket, Durable::of_test("You are anna.")))
    }

    /// Ends every job in its usual way, until nothing goes on.
    fn settle(&mut self) -> String {
        let mut words = Vec::new();
        for _ in 0..50 {
            let Some((_, job)) = self.jobs.first() else { return words.join(" ") };
            let name = name_of(job);
            words.push(self.well(name));
        }
        panic!("it does not come to rest: {words:?}")
    }

    fn running(&self) -> Vec<&'static str> {
        self.jobs.iter().map(|(_, job)| name_of(job)).collect()
    }

    fn hears(&mut self, detection: Detection) -> String {
        self.step(Input::Heard(detection))
    }

    fn wake(&mut self) -> String {
        self.hears(Detection::Wake { word: "hey_jarvis".to_owned(), score: 0.9, pos: FramePos(100) })
    }

    /// A command up to before its end.
    fn begins(&mut self) -> String {
        let begun = self.hears(Detection::SpeechStart { pos: FramePos(110) });
        format!("{begun} {}", self.hears(Detection::Speech { raw: vec![0.1; 1_600] }))
    }

    fn so_far(&mut self) -> String {
        self.hears(Detection::SoFar { raw: vec![0.1; 32_000], speech: vec![0.9; 200] })
    }

    fn ends(&mut self) -> String {
        self.hears(Detection::SpeechEnd { utterance: utterance(200) })
    }

    /// Wake word and command, up to the verdict.
    fn says(&mut self) -> String {
        [self.wake(), self.begins(), self.ends(), self.well("gate")].join(" ")
    }

    /// The same, up to whatever else.
    fn until(&mut self, jobs: &[&str]) {
        self.says();
        for name in jobs {
            self.well(name);
        }
    }

    fn kinds(&self) -> Vec<String> {
        self.events.iter().map(kind_of).collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.kinds().iter().filter(|k| *k == kind).count()
    }

    /// Nothing goes on, nothing waits, and the next command is heard and answered.
    fn is_well_afterwards(&mut self) {
        assert!(self.machine.is_settled(), "{:?}", self.running());
        let before = self.count("stored");
        self.wake();
        self.begins();
        self.ends();
        self.settle();
        assert_eq!(self.count("stored"), before + 1, "{:?}", self.kinds());
    }
}

fn kind_of(event: &Event) -> String {
    serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned()
}

fn name_of(job: &Job) -> &'static str {
    match job {
        Job::Gate => "gate",
        Job::Chance => "chance",
        Job::EarlyVerdict { .. } => "early",
        Job::Voices { .. } => "voices",
        Job::Person { .. } => "person",
        Job::Anonymous => "anonymous",
        Job::Words => "words",
        Job::OwnWords(_) => "own",
        Job::Answer { .. } => "answer",
        Job::Say(_) => "say",
        Job::Apart => "apart",
        Job::Pin { .. } => "pin",
        Job::Enrol { .. } => "enrol",
        Job::Sample { .. } => "sample",
        Job::Silence => "silence",
    }
}

/// The result that a job mostly has.
fn usual(job: &Job) -> Done {
    match job {
        Job::Gate => Done::Gate { gate: FailureGate::default(), granted: None },
        Job::Chance => Done::Chance(true),
        Job::EarlyVerdict { .. } => Done::EarlyVerdict(None),
        Job::Voices { .. } => Done::Voices(Ok(vec![Part::verified_of(1, 2.0)])),
        Job::Person { name, .. } => Done::Person(Ok(user(name))),
        Job::Anonymous => Done::Person(Ok(user("anonymous"))),
        Job::Words | Job::OwnWords(_) => words("who am i"),
        Job::Answer { .. } => stored(),
        Job::Say(_) => Done::Spoken(Ok(())),
        Job::Apart => Done::Apart(false),
        Job::Pin { user: name, .. } => Done::Pin(Ok((PinOutcome::Accepted, Some(user(name))))),
        Job::Enrol { user, .. } => Done::Begun(Ok(progress(user, Step::Waiting))),
        Job::Sample { .. } | Job::Silence => {
            Done::Sampled { progress: progress("ben", Step::Finished), over: true }
        }
    }
}

fn user(name: &str) -> User {
    User { id: UserId::new(), name: name.to_owned(), consent_unix_ms: None, created_unix_ms: 0 }
}

fn words(text: &str) -> Done {
    Done::Words(Ok(Transcript { text: text.to_owned(), engine: "vosk", confidence: None }))
}

fn stored() -> Done {
    answered(Some(Durable::of_test("You are anna.")))
}

/// An answer that was handed over in sentences only.
fn streamed() -> Done {
    answered(None)
}

fn answered(unspoken: Option<Durable>) -> Done {
    let outcome = TurnOutcome {
        conversation_id: ConversationId::new(),
        user_message_id: MessageId::new(),
        assistant_message_id: MessageId::new(),
        seq: 1,
        reply: "You are anna.".to_owned(),
        effects: Vec::new(),
        unspoken,
    };
    Done::Answered { result: Ok(outcome), took: Duration::from_millis(5) }
}

fn progress(user: &str, state: Step) -> Progress {
    Progress { state, ..Progress::failed(user, String::new()) }
}

/// So many frames, with a wake phrase in front.
fn utterance(frames: usize) -> Utterance {
    Utterance {
        start: FramePos(50),
        end: FramePos(50 + frames as u64),
        raw: vec![0.1; frames * 160],
        speech: vec![0.9; frames],
        command_start: 8_000,
        truncated: false,
    }
}

fn rejected() -> Done {
    Done::Voices(Ok(vec![Part::rejected_of(3)]))
}

/// A part of the utterance, of its own.
fn part(mut part: Part, from: usize, to: usize) -> Part {
    part.own = Some(std::iter::once(from..to).collect());
    part
}

fn uncertain() -> Part {
    let mut part = Part::rejected_of(4);
    part.verdict =
        Verdict::Uncertain { user_name: "ben".to_owned(), confidence: 0.7, score: 3.0, net_speech_s: 1.0 };
    part
}

/// A device that pauses from now on.
fn pausing(rig: &Rig) -> Done {
    let gate = FailureGate { failures: 5, last_failure_unix_ms: rig.now.unix_ms, looks: 0 };
    Done::Gate { gate, granted: None }
}

fn granted(name: &str) -> Done {
    Done::Gate { gate: FailureGate::default(), granted: Some(user(name)) }
}

impl Rig {
    fn asks(&mut self, task: Task, cancels: u64) -> String {
        self.asked += 1;
        let answer = oneshot::channel().0;
        self.step(Input::Request(Request { task, from: Authority::Broker, cancels, answer }))
    }

    /// Somebody gives a PIN.
    fn pin(&mut self) -> String {
        self.asks(Task::Pin { user: "anna".to_owned(), pin: Pin::typed("274914").unwrap() }, 0)
    }

    /// Somebody asks for an enrolment, when so many were cancelled.
    fn enrol(&mut self, cancels: u64) -> String {
        self.asks(Task::Enrol { user: "ben".to_owned(), wanted: EnrolmentRequest::default() }, cancels)
    }
}

//! The turn task: it drives the turn machine.
//!
//! ```text
//!  frontend ─Heard─▶ ┌─────────┐ ─acts─▶ events, health, audit log, recogniser, answers to requests
//!  requests ───────▶ │ machine │ ─jobs─▶ voices, memory, stt, dialogue, answer ─┐
//!  mute, cancels ──▶ └─────────┘ ◀─────────────── results, deadlines ───────────┘
//! ```
//!
//! The machine decides, this task performs. It performs acts in their order, and waits for an act that the
//! disk has to keep (a row of the audit log, a failure). Jobs run beside it, one for each result that the
//! machine waits for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Sentence};
use super::deadline::{Pulse, Stage};
use super::enrolling::Enrolling;
use super::hearing::{Heard, HearingControl};
use super::jobs::{Jobs, Wires};
use super::live::LiveSettings;
use super::machine::{Act, Input, Job, Now, Policy, Ticket, TurnMachine};
use super::switches::Switches;
use crate::control::{Refused, Request};
use crate::dialogue::Dialogue;
use crate::error::chain;
use crate::events::bus::Events;
use crate::events::{Moment, TurnId, What};
use crate::health::Health;
use crate::identity::access::Access;
use crate::identity::pins;
use crate::identity::voices::Voices;
use crate::inference::allocator;
use crate::memory::pull::Freshness;
use crate::memory::{Durable, Memory, NewAudit};
use crate::speaker::{Progress, Step};
use crate::stt::worker::SttHandle;

/// Sentences of an answer that wait to be spoken: more than anybody listens to.
const SENTENCES: usize = 1_024;

/// Everything a turn needs.
pub struct Turns {
    pub memory: Memory,
    pub voices: Voices,
    /// Answer verified voices only; otherwise everyone, as [`crate::memory::ANONYMOUS`].
    pub verify: bool,
    /// How long a PIN counts; zero: PINs are not taken.
    pub pin_valid: Duration,
    /// `None`: speech to text is switched off or no engine is installed; voices are still told apart.
    pub stt: Option<SttHandle>,
    pub dialogue: Dialogue,
    /// `None`: answers are text only.
    pub answer: Option<Answer>,
    pub events: Events,
    pub health: Health,
    pub control: Arc<HearingControl>,
    pub switches: Switches,
    pub pulse: Arc<Pulse>,
    /// Told when the count of failed attempts may have changed.
    pub counted: Arc<Notify>,
    pub live: LiveSettings,
    /// `None`: no other device writes the rows that this one answers from.
    pub fresh: Option<Freshness>,
}

/// The state that jobs share while the task runs.
pub(super) struct Shared {
    pub(super) access: Access,
    /// The enrolment that goes on.
    pub(super) enrolling: Mutex<Option<Enrolling>>,
    pub(super) stop: CancellationToken,
}

impl Turns {
    /// Runs until the frontend is gone or `stop`; a turn that has begun is brought to its end first.
    ///
    /// # Errors
    /// Never: a fault in a turn is reported and the next turn is heard.
    pub async fn run(
        self,
        mut heard: mpsc::Receiver<Heard>,
        mut requests: mpsc::Receiver<Request>,
        stop: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        if let Err(error) = pins::prune(&self.memory).await {
            log::warn!("the PINs cannot be read: {}", chain(&error));
        }
        if let Err(error) = self.voices.recordings.prune(&self.memory).await {
            log::warn!("recordings of voices that are gone could not be deleted: {}", chain(&error));
        }
        let shared = Shared { access: Access::default(), enrolling: Mutex::default(), stop: stop.clone() };
        let muted = self.control.watch_muted();
        let machine = TurnMachine::new(self.policy(), self.now(), *muted.borrow());
        let (jobs, quiet) = (Jobs::default(), stop.child_token());
        let (more, sentences) = (None, None);
        let mut driver = Driver { turns: &self, shared: &shared, machine, jobs, quiet, more, sentences };
        driver.run(&mut heard, &mut requests, muted).await;
        // Sound queued for the recogniser is not worth decoding any more.
        self.forget_sound();
        self.pulse.rest();
        Ok(())
    }

    fn policy(&self) -> Policy {
        Policy {
            verify: self.verify,
            transcribes: self.stt.is_some(),
            speaks: self.answer.is_some() && self.live.speech.load().enabled,
            follow_up_ms: self.live.follow_up_ms(),
            pin_valid_s: self.pin_valid.as_secs(),
            patient: self.pulse.is_patient(),
        }
    }

    fn now(&self) -> Now {
        Now { at: Instant::now(), unix_ms: self.memory.clock().now_unix_ms() }
    }

    fn forget_sound(&self) {
        if let Some(stt) = &self.stt {
            stt.reset();
        }
    }

    /// Work that the disk has to keep, which the task waits for.
    async fn kept<T>(&self, what: &str, work: impl Future<Output = T>) -> Option<T> {
        if self.pulse.is_patient() {
            return Some(work.await);
        }
        self.pulse.expect(Stage::Memory.most());
        let done = timeout(Stage::Memory.most(), work).await.ok();
        if done.is_none() {
            log::error!("{what}: {}", Stage::Memory.overdue());
        }
        done
    }

    async fn tell(&self, turn: Option<TurnId>, what: What) {
        self.events.at(Moment { turn, pos: self.control.position() }, what).await;
    }

    async fn tell_progress(&self, progress: Option<Progress>) {
        if let Some(progress) = progress {
            self.tell(None, What::Enrolment(progress)).await;
        }
    }
}

/// The machine and its running requests.
struct Driver<'a> {
    turns: &'a Turns,
    shared: &'a Shared,
    machine: TurnMachine,
    jobs: Jobs<'a>,
    /// Ends the present speech.
    quiet: CancellationToken,
    /// Sends further sentences to the answer being spoken, until no more follow.
    more: Option<mpsc::Sender<Sentence>>,
    /// From the answer that is being made.
    sentences: Option<(Ticket, mpsc::Receiver<Durable>)>,
}

impl Driver<'_> {
    async fn run(
        &mut self,
        heard: &mut mpsc::Receiver<Heard>,
        requests: &mut mpsc::Receiver<Request>,
        mut muted: watch::Receiver<bool>,
    ) {
        let (turns, stop) = (self.turns, &self.shared.stop);
        let mut cancels = turns.switches.watch_cancels();
        // Cancels from before this began.
        cancels.mark_changed();
        let (mut stopping, mut asked, mut sounds) = (false, true, true);
        // For recordings: the thread reads on when everything before is worked off.
        let mut turns_over: Vec<SyncSender<()>> = Vec::new();
        loop {
            if self.machine.is_settled() {
                turns_over.clear();
                if !sounds {
                    return;
                }
            }
            if self.machine.is_over() {
                return;
            }
            let deadline = self.machine.next_deadline();
            self.show_pulse(deadline);
            let overdue = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now).into());
            let input = tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    Input::Stop
                }
                Ok(()) = muted.changed() => Input::Muted(*muted.borrow_and_update()),
                Ok(()) = cancels.changed() => Input::Cancelled(*cancels.borrow_and_update()),
                (ticket, words) = next_sentence(&mut self.sentences) => Input::Sentence(ticket, words),
                (ticket, done) = self.jobs.next() => {
                    self.hear_rest(ticket).await;
                    Input::Done(ticket, done)
                }
                () = overdue, if deadline.is_some() => Input::Deadline,
                request = requests.recv(), if asked && self.machine.takes_request() => match request {
                    Some(request) => Input::Request(request),
                    None => {
                        asked = false;
                        continue;
                    }
                },
                next = heard.recv(), if sounds && self.machine.takes_sound() => match next {
                    Some(Heard { detection, turn_over }) => {
                        turns_over.extend(turn_over);
                        let Some(detection) = detection else { continue };
                        Input::Heard(detection)
                    }
                    None => {
                        sounds = false;
                        continue;
                    }
                },
            };
            self.step(input).await;
        }
    }

    async fn step(&mut self, input: Input) {
        self.machine.policy = self.turns.policy();
        let acts = self.machine.step(self.turns.now(), input);
        self.perform(acts.into()).await;
    }

    /// Takes the sentences that the job handed over at its very end.
    async fn hear_rest(&mut self, job: Ticket) {
        let Some((_, mut sentences)) = self.sentences.take_if(|(of, _)| *of == job) else { return };
        while let Ok(words) = sentences.try_recv() {
            self.step(Input::Sentence(job, words)).await;
        }
    }

    /// The wires of a job that begins.
    fn wire(&mut self, ticket: Ticket, job: &Job) -> Wires {
        let mut wires = Wires::default();
        match job {
            Job::Say(_) => {
                self.quiet = self.shared.stop.child_token();
                let (sender, more) = mpsc::channel(SENTENCES);
                (self.more, wires.more) = (Some(sender), Some(more));
                wires.quiet = self.quiet.clone();
            }
            Job::Answer { .. } => {
                let (aloud, sentences) = mpsc::channel(1);
                (self.sentences, wires.aloud) = (Some((ticket, sentences)), Some(aloud));
            }
            _ => {}
        }
        wires
    }

    /// Tells the watchdog the deadline of the running work.
    fn show_pulse(&self, deadline: Option<Instant>) {
        match deadline {
            Some(due) => self.turns.pulse.expect(due.saturating_duration_since(Instant::now())),
            None => self.turns.pulse.rest(),
        }
    }

    async fn perform(&mut self, mut acts: VecDeque<Act>) {
        let Self { turns, shared, .. } = *self;
        let memory = &turns.memory;
        while let Some(act) = acts.pop_front() {
            turns.pulse.expect(Stage::Memory.most());
            match act {
                Act::Start(ticket, job) => {
                    let wires = self.wire(ticket, &job);
                    self.jobs.start(ticket, turns.work(job, shared, wires));
                }
                Act::GiveUp(ticket) => self.jobs.give_up(ticket),
                Act::Say(sentence) => {
                    // Closed where the loudspeaker failed, which the end of the job reports.
                    if let Some(Err(TrySendError::Full(_))) =
                        self.more.as_ref().map(|more| more.try_send(sentence))
                    {
                        log::warn!(
                            "a sentence of an answer stays text: {SENTENCES} others wait to be spoken"
                        );
                    }
                }
                Act::Said => self.more = None,
                Act::Cut => self.quiet.cancel(),
                Act::Show(state) => turns.health.set_stage(state),
                Act::Health(part, condition) => turns.health.set(part, condition),
                Act::Emit(event) => turns.events.emit(event).await,
                Act::Tell(turn, what) => turns.tell(turn, what).await,
                Act::Audit { outcome, user, detail } => {
                    let entry = NewAudit { user, action: "verify", outcome, detail };
                    let missing = "an attempt is missing from the audit log";
                    if let Some(Err(error)) = turns.kept(missing, memory.append_audit(&entry)).await {
                        log::error!("{missing}: {}", chain(&error));
                    }
                }
                Act::CountFailure => {
                    turns.kept("the count of failed attempts", shared.access.failed(memory)).await;
                }
                Act::EndFailures => {
                    turns.kept("the count of failed attempts", shared.access.succeeded(memory)).await;
                }
                Act::Counted => turns.counted.notify_one(),
                Act::Feed(raw) => {
                    let fed = turns.stt.as_ref().map(|stt| (stt.accept(raw), stt.partial()));
                    let (whole, words) = fed.unwrap_or_default();
                    acts.extend(self.machine.step(turns.now(), Input::Fed { whole, words }));
                }
                Act::Forget => turns.forget_sound(),
                Act::Refresh => {
                    if let Some(fresh) = &turns.fresh {
                        fresh.start();
                    }
                }
                Act::OpenWindow(window, ms) => turns.control.open_window(window, ms),
                Act::Busy(face) => {
                    let why = Some(Refused::Busy.sentence(face));
                    let enrolling = shared.enrolling.lock().await;
                    let progress = enrolling.as_ref().map(|enrolling| enrolling.progress(Step::Waiting, why));
                    turns.tell_progress(progress).await;
                }
                // The caller need not wait for the answer.
                Act::Answer(answer, outcome) => drop(answer.send(outcome)),
                Act::CancelEnrolment => {
                    let enrolling = shared.enrolling.lock().await.take();
                    let progress = enrolling.map(|enrolling| enrolling.progress(Step::Cancelled, None));
                    turns.tell_progress(progress).await;
                }
                Act::EndEnrolment => *shared.enrolling.lock().await = None,
                Act::GiveBack => {
                    let _ = tokio::task::spawn_blocking(allocator::give_back).await;
                }
            }
        }
    }
}

/// The next sentence of the answer being made; waits for ever where there is none.
async fn next_sentence(of: &mut Option<(Ticket, mpsc::Receiver<Durable>)>) -> (Ticket, Durable) {
    if let Some((ticket, sentences)) = of {
        if let Some(words) = sentences.recv().await {
            return (*ticket, words);
        }
        *of = None;
    }
    std::future::pending().await
}

//! The turn task: from an utterance to a stored and spoken answer.
//!
//! ```text
//!  idle ─wake─▶ listening ─end of speech─▶ verifying ─┬─ not verified: audit, said so ──────────────▶ idle
//!                   └ first look: surely a stranger,  └─ verified ─▶ thinking ─ stored ─▶ speaking ─▶ (follow_up) ─▶ idle
//! ```
//!
//! Invariants:
//!
//! * Words of a voice that is not verified are dropped with the verdict: they reach neither the disk nor an
//!   event. From a first look that takes the voice for a stranger's on the recogniser gets no sound but what
//!   the end finds to be verified.
//! * A reply is shown, published or spoken only after its turn is on the disk.
//! * One turn at a time. What is heard meanwhile waits in the bounded channel and after that in the ring.
//! * Every stage has a deadline ([`super::deadline`]). A stage that fails ends with a sentence and an event,
//!   and the next command is heard.
//! * The mute is no command: it is in force at once, whatever goes on here ([`super::switches`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::deadline::{Pulse, Stage};
use super::door::Door;
use super::hearing::{Heard, HearingControl, Window};
use super::live::{Live, LiveSettings};
use super::look::Hearing;
use super::pins;
use super::refusals;
use super::switches::Switches;
use super::understanding::{Before, Speaker};
use super::voices::Voices;
use crate::control::Request;
use crate::detect::{Detection, Utterance};
use crate::dialogue::{Dialogue, DialogueError, NOBODY_IS_KNOWN, Select};
use crate::error::chain;
use crate::events::bus::Events;
use crate::events::{Attribution, Event, Moment, Reason, TurnId, What};
use crate::health::State;
use crate::health::{Condition, Health};
use crate::inference::allocator;
use crate::memory::pull::Freshness;
use crate::memory::{ANONYMOUS, Memory, MemoryError, NewAudit, TurnMeta, User};
use crate::stt::Transcript;
use crate::stt::worker::SttHandle;
use crate::units::{FRAME_SAMPLES, FramePos};

/// Everything a turn needs.
pub struct Turns {
    pub memory: Memory,
    pub voices: Voices,
    /// Answer verified voices only; otherwise everyone, as [`ANONYMOUS`].
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
    /// `None`: no other device writes what this one answers from.
    pub fresh: Option<Freshness>,
}

impl Turns {
    /// Runs until the frontend is gone or `stop`; a turn that has begun is brought to its end first.
    ///
    /// # Errors
    /// Never: what goes wrong in a turn is reported and the next one is heard.
    pub async fn run(
        self,
        mut heard: mpsc::Receiver<Heard>,
        mut requests: mpsc::Receiver<Request>,
        stop: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let mut door = Door::default();
        if let Err(error) = pins::prune(&self.memory).await {
            log::warn!("the PINs cannot be read: {}", chain(&error));
        }
        if let Err(error) = self.voices.recordings.prune(&self.memory).await {
            log::warn!("recordings of voices that are gone could not be deleted: {}", chain(&error));
        }
        let mut hearing = Hearing::default();
        let mut asked = true;
        let (mut muted, mut cancels) = (self.control.watch_muted(), self.switches.watch_cancels());
        loop {
            self.pulse.rest();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = muted.changed() => {
                    self.pulse.begin();
                    if *muted.borrow_and_update() {
                        self.drop_command(&mut hearing);
                    }
                }
                Ok(()) = cancels.changed() => {
                    self.pulse.begin();
                    cancels.mark_unchanged();
                    self.cancel_enrolment(&mut door).await;
                }
                request = requests.recv(), if asked => match request {
                    Some(request) => {
                        self.pulse.begin();
                        self.carry_out(request, &mut door, &stop).await;
                        self.counted.notify_one();
                    }
                    None => asked = false,
                },
                next = heard.recv() => {
                    let Some(heard) = next else { break };
                    let Some(detection) = heard.detection else { continue };
                    self.pulse.begin();
                    // A recording waits: the same file then gives the same events on any machine.
                    let wait = heard.turn_over.is_some();
                    self.hear(detection, wait, &mut hearing, &mut door, &stop).await;
                }
            }
            if self.control.is_muted() {
                self.cancel_enrolment(&mut door).await;
            }
        }
        // What is queued for the recogniser is not worth decoding any more.
        self.forget_sound();
        self.pulse.rest();
        Ok(())
    }

    fn rest(&self) {
        self.health.set_stage(State::Idle);
    }

    /// Drops what the recogniser holds of a command that will not be answered.
    pub(super) fn forget_sound(&self) {
        if let Some(stt) = &self.stt {
            stt.reset();
        }
    }

    async fn hear(
        &self,
        detection: Detection,
        wait: bool,
        hearing: &mut Hearing,
        door: &mut Door,
        stop: &CancellationToken,
    ) {
        if self.control.is_muted() {
            // Heard before the device was muted, and still in the queue.
            return self.drop_command(hearing);
        }
        match detection {
            Detection::Wake { word, score, pos } => {
                hearing.woken = true;
                self.health.set_stage(State::Listening);
                self.events.at(hearing.moment(pos), What::Wake { word, score }).await;
            }
            Detection::Asked { .. } => {
                hearing.woken = true;
                self.health.set_stage(State::Listening);
            }
            Detection::SpeechStart { pos } => {
                self.health.set_stage(State::Listening);
                if let Some(fresh) = &self.fresh {
                    fresh.start();
                }
                hearing.begin(pos);
                self.forget_sound();
                self.events.at(hearing.moment(pos), What::SpeechStart).await;
            }
            Detection::Speech { raw, .. } => {
                hearing.until.0 += (raw.len() / FRAME_SAMPLES) as u64;
                self.see(hearing, false).await;
                let (Some(stt), None, None) = (&self.stt, &hearing.stranger, &door.enrolling) else { return };
                // A full queue is counted and reported by the worker; words with a hole in them are not
                // answered.
                hearing.torn |= !stt.accept(raw);
                let words = stt.partial();
                if !words.is_empty() && words != hearing.partial {
                    hearing.partial.clone_from(&words);
                    let until = hearing.moment(hearing.until);
                    self.events.at(until, What::Partial { text: words }).await;
                }
            }
            Detection::SoFar { raw, speech } => {
                self.refresh(door).await;
                self.look(raw, speech, hearing, door).await;
                self.see(hearing, wait).await;
            }
            Detection::SpeechEnd { utterance } => {
                // Begun while they spoke, so mostly over by now; the end waits for it, so that there is one
                // verdict.
                self.see(hearing, true).await;
                let known = std::mem::take(hearing);
                if door.enrolling.is_some() {
                    self.forget_sound();
                    self.sample(utterance, door, stop).await;
                } else {
                    self.utterance(utterance, known, door, stop).await;
                    self.counted.notify_one();
                }
                // What the models needed for this turn is not needed before the next one.
                let _ = tokio::task::spawn_blocking(allocator::give_back).await;
            }
            Detection::NoSpeech { .. } if door.enrolling.is_some() => {
                *hearing = Hearing::default();
                self.silence(door, stop).await;
            }
            Detection::NoSpeech { pos } => {
                let mut unused = std::mem::take(hearing);
                // A follow-up window that nobody used is no attempt.
                if unused.woken {
                    self.reject(unused.moment(pos), Reason::NoSpeech, None, None).await;
                }
                self.rest();
            }
            Detection::Dropped { .. } => self.drop_command(hearing),
            Detection::Lost { .. } if door.enrolling.is_some() => {
                self.drop_command(hearing);
                self.silence(door, stop).await;
            }
            Detection::Lost { pos } => {
                // A follow-up window that nobody used is no command.
                let torn = hearing.woken || hearing.until > FramePos(0);
                let moment = hearing.moment(pos);
                self.drop_command(hearing);
                if !torn {
                    return;
                }
                let message =
                    "the sound was interrupted in the middle of a command, which is dropped; say it again";
                self.trouble(moment, "microphone", message.to_owned()).await;
            }
        }
    }

    fn drop_command(&self, hearing: &mut Hearing) {
        *hearing = Hearing::default();
        self.forget_sound();
        self.rest();
    }

    /// `hearing`: what is known of it already.
    async fn utterance(
        &self,
        utterance: Utterance,
        mut hearing: Hearing,
        door: &mut Door,
        stop: &CancellationToken,
    ) {
        let moment = hearing.moment(utterance.end);
        let early = hearing.stranger.is_some();
        let live = self.live.load_full();
        self.health.set_stage(State::Verifying);
        let speech_s = seconds(utterance.raw.len() - utterance.command_start.min(utterance.raw.len()));
        self.events.at(moment, What::SpeechEnd { speech_s, truncated: utterance.truncated }).await;

        self.refresh(door).await;
        let paused = self.verify && door.gate.remaining_ms(self.memory.clock().now_unix_ms()) > 0;
        if paused && (early || !self.may_look(door).await) {
            self.refuse_paused(moment, door, stop).await;
        } else if let Some(stranger) = hearing.certain_of(&utterance) {
            self.refuse(&refusals::Heard::of(&utterance, moment.turn), stranger, None, door).await;
        } else if hearing.torn && !early && self.stt.is_some() {
            self.forget_sound();
            let message = "speech to text is too slow, so a part of the command was lost".to_owned();
            self.fail(moment, "stt", message, "I did not get all of that. Please say it again.", stop).await;
        } else if self
            .understand(utterance, &live, Before { early, paused, turn: moment.turn }, door, stop)
            .await
        {
            self.control.open_window(Window::FollowUp, live.follow_up_ms());
            self.health.set_stage(State::FollowUp);
            return;
        }
        if self.verify {
            self.tell_missing(moment, &live, stop).await;
        }
        self.rest();
    }

    /// With the memory the voices are missing, so nobody can be verified: whoever spoke hears why.
    async fn tell_missing(&self, moment: Moment, live: &Live, stop: &CancellationToken) {
        if !matches!(self.pulse.within(Stage::Memory, self.memory.apart()).await, Some(Ok(Some(_)))) {
            return;
        }
        self.events.at(moment, What::reply(Attribution::NOBODY, NOBODY_IS_KNOWN)).await;
        if live.speech.enabled {
            self.speak(moment.turn, NOBODY_IS_KNOWN, false, stop).await;
        }
    }

    /// Reads what was counted and granted, where it matters.
    async fn refresh(&self, door: &mut Door) {
        if self.verify && self.pulse.within(Stage::Memory, door.refresh(&self.memory)).await.is_none() {
            log::error!("the count of failed attempts: {}", Stage::Memory.overdue());
        }
    }

    /// Whether this attempt during the pause is compared all the same.
    async fn may_look(&self, door: &mut Door) -> bool {
        self.pulse.within(Stage::Memory, door.look(&self.memory)).await.unwrap_or(false)
    }

    /// Answers and stores; whether a follow-up window is to be opened.
    pub(super) async fn turn(
        &self,
        moment: Moment,
        speaker: Speaker,
        transcript: Transcript,
        live: &Live,
        stop: &CancellationToken,
    ) -> bool {
        self.health.set_stage(State::Thinking);
        if let Some(fresh) = &self.fresh {
            // Has a shorter deadline of its own; without what others wrote the answer is made of what is
            // here.
            let _ = self.pulse.within(Stage::Memory, fresh.settle()).await;
        }
        let (started, whose) = (Instant::now(), speaker.whose);
        let meta = TurnMeta {
            confidence: speaker.confidence,
            engine: Some(transcript.engine.to_owned()),
            ..TurnMeta::default()
        };
        let turn = self.dialogue.turn(&speaker.user, Select::Continue, &transcript.text, meta);
        let Some(answered) = self.pulse.within(Stage::Answer, turn).await else {
            let sentence =
                "That took too long. I do not know whether it is remembered, so please ask me again.";
            self.fail(moment, Stage::Answer.name(), Stage::Answer.overdue(), sentence, stop).await;
            return false;
        };
        let outcome = match answered {
            Ok(outcome) => {
                self.health.set("store", Condition::Ok);
                outcome
            }
            Err(error) => {
                self.not_stored(moment, whose, error, live, stop).await;
                return false;
            }
        };
        let took = started.elapsed();
        self.events.emit(Event::at(moment, What::reply(whose, &outcome.reply)).took(took)).await;
        let what = What::Stored {
            whose,
            conversation_id: outcome.conversation_id.to_string(),
            message_ids: vec![outcome.user_message_id.to_string(), outcome.assistant_message_id.to_string()],
        };
        self.events.emit(Event::at(moment, what).took(took)).await;
        if live.speech.enabled {
            self.speak(moment.turn, &outcome.reply, false, stop).await;
        }
        live.follow_up_ms() > 0 && !stop.is_cancelled() && !self.control.is_muted()
    }

    /// Detection is held while the device speaks: it would hear itself. Who mutes the device, or cancels the
    /// enrolment that it speaks for, ends that at once.
    pub(super) async fn speak(
        &self,
        turn: Option<TurnId>,
        text: &str,
        enrolling: bool,
        stop: &CancellationToken,
    ) {
        let Some(answer) = &self.answer else { return };
        let (mut muted, mut cancels) = (self.control.watch_muted(), self.switches.watch_cancels());
        if *muted.borrow_and_update() {
            return;
        }
        self.health.set_stage(State::Speaking);
        let quiet = stop.child_token();
        let silence = async {
            tokio::select! {
                _ = muted.wait_for(|muted| *muted) => {}
                _ = cancels.changed(), if enrolling => {}
            }
            quiet.cancel();
            std::future::pending::<()>().await;
        };
        let spoken = async {
            tokio::select! {
                biased;
                spoken = answer.speak(text, &self.control, &quiet) => spoken,
                () = silence => Ok(()),
            }
        };
        let failed = match self.pulse.within(Stage::Speak, spoken).await {
            Some(Ok(())) => return,
            Some(Err(why)) => why,
            None => Stage::Speak.overdue(),
        };
        let what = What::Error { stage: Stage::Speak.name().to_owned(), message: failed };
        self.events.at(Moment { turn, pos: self.control.position() }, what).await;
    }

    /// [`Turns::speak`], where answers are spoken.
    pub(super) async fn say(&self, turn: Option<TurnId>, sentence: &str, stop: &CancellationToken) {
        if self.live.load().speech.enabled {
            self.speak(turn, sentence, false, stop).await;
        }
    }

    /// A stage of a turn failed: an event says which and why, and the person hears `sentence`.
    pub(super) async fn fail(
        &self,
        moment: Moment,
        stage: &str,
        message: String,
        sentence: &str,
        stop: &CancellationToken,
    ) {
        self.trouble(moment, stage, message).await;
        self.say(moment.turn, sentence, stop).await;
    }

    /// The disk is full or damaged: answered all the same, and not as if it were stored.
    async fn not_stored(
        &self,
        moment: Moment,
        whose: Attribution,
        error: DialogueError,
        live: &Live,
        stop: &CancellationToken,
    ) {
        let why = chain(&error);
        let (DialogueError::Memory(source) | DialogueError::NotStored { source, .. }) = &error;
        if matches!(source, MemoryError::Store(_)) {
            let sentence =
                format!("what is said cannot be stored ({why}); free some space or check the disk");
            self.health.set("store", Condition::degraded(sentence));
        }
        let text = match error {
            DialogueError::NotStored { reply, acts: false, .. } => {
                format!("I cannot store anything at the moment, so this will be forgotten. {reply}")
            }
            _ => "I could not do that: nothing can be stored at the moment.".to_owned(),
        };
        self.events.at(moment, What::reply(whose, &text)).await;
        self.events.at(moment, What::Error { stage: "store".to_owned(), message: why }).await;
        if live.speech.enabled {
            self.speak(moment.turn, &text, false, stop).await;
        }
    }

    pub(super) async fn anonymous(&self, moment: Moment, stop: &CancellationToken) -> Option<User> {
        let find = async {
            match self.memory.user_by_name(ANONYMOUS).await {
                Err(MemoryError::NotFound { .. }) => self.memory.add_user(ANONYMOUS).await,
                other => other,
            }
        };
        self.known(moment, find, stop).await
    }

    /// The person that the memory finds; a failure is said.
    pub(super) async fn known(
        &self,
        moment: Moment,
        find: impl Future<Output = Result<User, MemoryError>>,
        stop: &CancellationToken,
    ) -> Option<User> {
        let why = match self.pulse.within(Stage::Memory, find).await {
            Some(Ok(user)) => return Some(user),
            Some(Err(error)) => chain(&error),
            None => Stage::Memory.overdue(),
        };
        self.fail(moment, Stage::Memory.name(), why, "I could not do that: my memory does not answer.", stop)
            .await;
        None
    }

    pub(super) async fn reject(
        &self,
        moment: Moment,
        reason: Reason,
        confidence: Option<f32>,
        took: Option<Duration>,
    ) {
        let event = Event::at(moment, What::Rejected { reason, confidence, early: false });
        self.events
            .emit(match took {
                Some(took) => event.took(took),
                None => event,
            })
            .await;
    }

    pub(super) async fn trouble(&self, moment: impl Into<Moment>, stage: &str, message: String) {
        log::error!(stage = stage; "{stage}: {message}");
        self.events.at(moment, What::Error { stage: stage.to_owned(), message }).await;
    }

    pub(super) async fn audit(
        &self,
        outcome: &'static str,
        user: Option<&User>,
        detail: Option<serde_json::Value>,
    ) {
        self.audit_as("verify", outcome, user, detail).await;
    }

    pub(super) async fn audit_as(
        &self,
        action: &'static str,
        outcome: &'static str,
        user: Option<&User>,
        detail: Option<serde_json::Value>,
    ) {
        let entry = NewAudit { user: user.map(|u| u.id), action, outcome, detail };
        let why = match self.pulse.within(Stage::Memory, self.memory.append_audit(&entry)).await {
            Some(Ok(_)) => return,
            Some(Err(error)) => chain(&error),
            None => Stage::Memory.overdue(),
        };
        log::error!("an attempt is missing from the audit log: {why}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "an utterance has at most a million samples")]
fn seconds(samples: usize) -> f32 {
    samples as f32 / crate::units::SAMPLE_RATE_HZ as f32
}

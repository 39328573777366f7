//! From an utterance to who speaks and what they say.
//!
//! ```text
//!  utterance ─┬─ whose parts ────┬─ nobody verified: audit, said so, words dropped
//!             └─ words of all ───┴─ verified ─┬─ all of it theirs ────▶ words of all
//!                                             └─ parts of it theirs ──▶ each part transcribed again, one turn after the other
//! ```
//!
//! The two run side by side, and the verdict waits for nobody: `verified` or `rejected` is told while the
//! recogniser may still be at work. Its words wait for the verdict. What is nobody's who is verified is
//! `dropped`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::deadline::Stage;
use super::door::Door;
use super::live::Live;
use super::refusals::Heard;
use super::turns::Turns;
use super::voices::VoicesError;
use crate::detect::Utterance;
use crate::error::chain;
use crate::events::{Attribution, Event, Moment, Reason, TurnId, What};
use crate::health::Condition;
use crate::memory::User;
use crate::speaker::{Part, SURELY_KNOWN, Verdict};
use crate::stt::{SttError, Transcript};
use crate::units::SAMPLE_RATE_HZ;

/// The least of a command, 0.3 s, that is left of it when somebody else is cut out.
const LEAST_OWN_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 3 / 10;

/// What the recogniser came to, `None` if it did not answer in time, and how long that took.
type Words = (Option<Result<Transcript, SttError>>, Duration);

/// Who is speaking, as far as the settings ask for it.
pub(super) struct Speaker {
    pub(super) user: User,
    /// Of what they say, and of the answer.
    pub(super) whose: Attribution,
    pub(super) confidence: Option<f32>,
}

/// The knowledge before the end of an utterance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    /// The first look took the voice for a stranger's, so the recogniser has nothing of it.
    pub(super) early: bool,
    /// The device pauses after failures.
    pub(super) paused: bool,
    pub(super) turn: Option<TurnId>,
}

/// Who is answered.
struct Judged {
    first: Speaker,
    /// Their own sound; `None`: everything that was heard.
    part: Option<Part>,
    /// Who else is answered after them, in the order in which they spoke.
    next: Vec<Part>,
    /// Speech that is not answered.
    dropped: Vec<Part>,
    took: Duration,
}

impl Turns {
    /// Who speaks and what is said, at the same time, and the answer to each who is known; whether a
    /// follow-up window is to be opened. The verdict is acted on and told as soon as it is there, whatever
    /// the recogniser still does.
    pub(super) async fn understand(
        &self,
        utterance: Utterance,
        live: &Live,
        before: Before,
        door: &mut Door,
        stop: &CancellationToken,
    ) -> bool {
        let early = before.early;
        let heard = Heard::of(&utterance, before.turn);
        let moment = heard.moment();
        let Utterance { raw, speech, command_start, .. } = utterance;
        let (raw, speech) = (Arc::new(raw), Arc::new(speech));
        let started = Instant::now();
        let judge = async {
            if !self.verify {
                let user = self.anonymous(moment, stop).await?;
                let first = Speaker { user, whose: Attribution::ANONYMOUS, confidence: None };
                let took = started.elapsed();
                return Some(Judged { first, part: None, next: Vec::new(), dropped: Vec::new(), took });
            }
            let just = door.just_heard(&heard);
            let own = &live.voice;
            let hear = self.voices.hear(raw.clone(), speech, just, own.threshold, &own.user_thresholds);
            let Some(parts) = self.pulse.within(Stage::Verify, hear).await else {
                self.nobody(moment, Stage::Verify.overdue(), stop).await;
                return None;
            };
            self.judge(&heard, (parts, started.elapsed()), before, door, stop).await
        };
        let transcribe = async {
            let stt = self.stt.as_ref().filter(|_| !early)?;
            let words = timeout(self.pulse.most(Stage::Transcribe), stt.finish()).await.ok();
            Some((words, started.elapsed()))
        };
        let mut words = None;
        let judged = {
            tokio::pin!(judge, transcribe);
            let judged = tokio::select! {
                biased;
                judged = &mut judge => judged,
                ready = &mut transcribe => {
                    words = Some(ready);
                    judge.await
                }
            };
            let whole =
                |judged: &Judged| !early && judged.part.as_ref().is_none_or(|part| part.own.is_none());
            if words.is_none() && judged.as_ref().is_some_and(whole) {
                words = self.pulse.within(Stage::Transcribe, transcribe).await;
            }
            judged
        };
        let Some(Judged { first, part, next, dropped, took }) = judged else {
            // Nobody waits for the words any more.
            self.forget_sound();
            return false;
        };
        let words = match part {
            Some(part) if early || part.own.is_some() => {
                self.own_words(moment, &part, &raw, command_start).await
            }
            _ => words.flatten(),
        };
        let mut follow_up = self.reply_to(moment, first, words, live, stop).await;
        for part in next {
            let Some(speaker) = self.admit(&heard, &part, took, door, stop).await else { continue };
            let words = self.own_words(moment, &part, &raw, command_start).await;
            follow_up |= self.reply_to(moment, speaker, words, live, stop).await;
        }
        self.tell_dropped(moment, &dropped, stop).await;
        follow_up
    }

    /// The turn of one person.
    async fn reply_to(
        &self,
        moment: Moment,
        speaker: Speaker,
        words: Option<Words>,
        live: &Live,
        stop: &CancellationToken,
    ) -> bool {
        let Some(words) = words else { return false };
        match self.transcript(moment, speaker.whose, words, stop).await {
            Some(transcript) if !self.control.is_muted() => {
                self.turn(moment, speaker, transcript, live, stop).await
            }
            _ => false,
        }
    }

    /// Tells what was said; `None` where nothing was, or it is not known.
    async fn transcript(
        &self,
        moment: Moment,
        whose: Attribution,
        (words, took): Words,
        stop: &CancellationToken,
    ) -> Option<Transcript> {
        let sentence = "I could not understand that. Please say it again.";
        match words {
            Some(Ok(transcript)) if transcript.text.trim().is_empty() => {
                self.health.set("stt", Condition::Ok);
                self.reject(moment, Reason::NoWords, None, Some(took)).await;
                None
            }
            Some(Ok(transcript)) => {
                self.health.set("stt", Condition::Ok);
                let what = What::transcript(whose, &transcript.text, transcript.engine);
                self.events.emit(Event::at(moment, what).took(took)).await;
                Some(transcript)
            }
            Some(Err(error)) => {
                self.fail(moment, Stage::Transcribe.name(), chain(&error), sentence, stop).await;
                None
            }
            None => {
                self.forget_sound();
                let why = Stage::Transcribe.overdue();
                let health =
                    format!("what is said is not understood: {why}; if this goes on, restart the service");
                self.health.set("stt", Condition::degraded(health));
                self.fail(moment, Stage::Transcribe.name(), why, sentence, stop).await;
                None
            }
        }
    }

    /// The words of what is the person's own: those of somebody else are dropped.
    async fn own_words(&self, moment: Moment, part: &Part, raw: &[f32], from: usize) -> Option<Words> {
        let stt = self.stt.as_ref()?;
        let own = part.sound(raw, from);
        if own.len() < LEAST_OWN_SAMPLES {
            self.reject(moment, Reason::MultipleSpeakers, None, None).await;
            return None;
        }
        let started = Instant::now();
        stt.reset();
        stt.accept(own);
        let words = self.pulse.within(Stage::Transcribe, stt.finish()).await;
        Some((words, started.elapsed()))
    }

    /// Nobody can be verified.
    async fn nobody(&self, moment: Moment, why: String, stop: &CancellationToken) {
        self.health.set("voice", Condition::failed(format!("nobody can be verified: {why}")));
        self.audit("failed", None, None).await;
        let sentence = "I could not tell who is speaking. Please try again.";
        self.fail(moment, Stage::Verify.name(), why, sentence, stop).await;
    }

    /// Reports who is verified, the first of them only; `None` if nobody is. While the device pauses only a
    /// voice that is surely known counts.
    async fn judge(
        &self,
        heard: &Heard,
        (parts, took): (Result<Vec<Part>, VoicesError>, Duration),
        Before { early, paused, .. }: Before,
        door: &mut Door,
        stop: &CancellationToken,
    ) -> Option<Judged> {
        let moment = heard.moment();
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                self.nobody(moment, chain(&error), stop).await;
                return None;
            }
        };
        self.health.set("voice", Condition::Ok);
        let least = if paused { SURELY_KNOWN } else { 0.0 };
        let known =
            |part: &Part| matches!(part.verdict, Verdict::Verified { confidence, .. } if confidence >= least);
        let (known, dropped): (Vec<_>, Vec<_>) = parts.into_iter().partition(known);
        let mut known = known.into_iter();
        if let Some(part) = known.next() {
            let first = self.admit(heard, &part, took, door, stop).await?;
            return Some(Judged { first, part: Some(part), next: known.collect(), dropped, took });
        }
        if paused {
            self.refuse_paused(moment, door, stop).await;
            return None;
        }
        // Two at once are two, whoever of them gave a PIN.
        let part = dropped.first()?;
        let granted = door.granted().filter(|_| !matches!(part.verdict, Verdict::MultipleSpeakers { .. }));
        let Some(user) = granted.cloned() else {
            self.refuse(heard, part, Some(took).filter(|_| !early), door).await;
            return None;
        };
        self.audit("pin", Some(&user), part.verdict.confidence().map(|c| json!({ "confidence": c }))).await;
        let (accepted, whose) = Event::accepted(moment, &user);
        self.events.emit(accepted.took(took)).await;
        let first = Speaker { user, whose, confidence: None };
        Some(Judged { first, part: None, next: Vec::new(), dropped: Vec::new(), took })
    }

    /// Reports somebody who is verified.
    async fn admit(
        &self,
        heard: &Heard,
        part: &Part,
        took: Duration,
        door: &mut Door,
        stop: &CancellationToken,
    ) -> Option<Speaker> {
        let Verdict::Verified { user_id, user_name, confidence, score, net_speech_s, other_s } =
            &part.verdict
        else {
            return None;
        };
        let (confidence, score, net_speech_s) = (*confidence, *score, *net_speech_s);
        let find = async {
            match user_id.parse() {
                Ok(id) => self.memory.user(id).await,
                Err(_) => self.memory.user_by_name(user_name).await,
            }
        };
        let Some(user) = self.known(heard.moment(), find, stop).await else {
            self.audit("failed", None, None).await;
            return None;
        };
        let ended = self.pulse.within(Stage::Memory, door.succeeded(&self.memory)).await;
        if ended.is_none() {
            log::error!("the count of failed attempts: {}", Stage::Memory.overdue());
        }
        door.remember(heard, part);
        let mut figures = json!({ "confidence": confidence, "score": score, "net_speech_s": net_speech_s });
        if let Some(other_s) = other_s {
            figures["other_s"] = (*other_s).into();
        }
        self.audit("verified", Some(&user), Some(figures)).await;
        let (verified, whose) = Event::verified(heard.moment(), &part.verdict, &user)?;
        self.events.emit(verified.took(took)).await;
        Some(Speaker { user, whose, confidence: Some(confidence) })
    }

    /// Tells what was not answered beside somebody who was. It is no failure. Who is likely enrolled hears
    /// it.
    async fn tell_dropped(&self, moment: Moment, dropped: &[Part], stop: &CancellationToken) {
        for part in dropped {
            let (reason, confidence) = (reason_of(&part.verdict), part.verdict.confidence());
            let speech_s = part.verdict.net_speech_s();
            let figures =
                json!({ "verdict": part.verdict.name(), "speech_s": speech_s, "confidence": confidence });
            self.audit("dropped", None, Some(figures)).await;
            self.events.at(moment, What::Dropped { reason, speech_s, confidence }).await;
        }
        let likely =
            |part: &Part| matches!(part.verdict, Verdict::Uncertain { .. } | Verdict::Ambiguous { .. });
        if dropped.iter().any(likely) && !self.control.is_muted() {
            self.say(
                moment.turn,
                "Somebody else spoke as well, and I am not sure who. Please say that again.",
                stop,
            )
            .await;
        }
    }

    /// Reports a verdict that lets nobody in. `took` is `None` where nothing of it was transcribed.
    pub(super) async fn refuse(&self, heard: &Heard, part: &Part, took: Option<Duration>, door: &mut Door) {
        let verdict = &part.verdict;
        let (reason, confidence, early) = (reason_of(verdict), verdict.confidence(), took.is_none());
        if verdict.is_failure() {
            let counted = self.pulse.within(Stage::Memory, door.refused(&self.memory, heard, part)).await;
            if counted.is_none() {
                log::error!("the count of failed attempts: {}", Stage::Memory.overdue());
            }
        }
        let mut detail = serde_json::Map::new();
        if let Some(confidence) = confidence {
            detail.insert("confidence".into(), confidence.into());
        }
        if early {
            detail.insert("early".into(), true.into());
        }
        self.audit(verdict.name(), None, (!detail.is_empty()).then(|| detail.into())).await;
        let event = Event::at(heard.moment(), What::Rejected { reason, confidence, early });
        self.events
            .emit(match took {
                Some(took) => event.took(took),
                None => event,
            })
            .await;
    }
}

/// Why a verdict lets nobody in, as events say it.
fn reason_of(verdict: &Verdict) -> Reason {
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

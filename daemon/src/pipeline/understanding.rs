//! From an utterance to who speaks and what they say.
//!
//! ```text
//!  utterance ─┬─ verify ────────┬─ not verified: audit, said so, words dropped
//!             └─ words of all ──┴─ verified ─┬─ alone ──────────────▶ words of all
//!                                            └─ somebody else too ──▶ words of their own part, transcribed again
//! ```
//!
//! The two run side by side, and the verdict waits for nobody: `verified` or `rejected` is told while the recogniser may
//! still be at work. Its words wait for the verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::deadline::Stage;
use super::door::Door;
use super::live::Live;
use super::turns::Turns;
use super::voices::VoicesError;
use crate::detect::Utterance;
use crate::error::chain;
use crate::events::{Event, Reason, What};
use crate::health::Condition;
use crate::memory::User;
use crate::speaker::{Aside, SURELY_KNOWN, Verdict};
use crate::stt::{SttError, Transcript};
use crate::units::{FramePos, SAMPLE_RATE_HZ};

/// The least of a command, 0.3 s, that is left of it when somebody else is cut out.
const LEAST_OWN_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 3 / 10;

/// What the recogniser came to, `None` if it did not answer in time, and how long that took.
type Words = (Option<Result<Transcript, SttError>>, Duration);

/// Who is speaking, as far as the settings ask for it.
pub(super) struct Speaker {
    pub(super) user: User,
    pub(super) confidence: Option<f32>,
    /// Somebody else was heard too: what is the user's own.
    aside: Option<Aside>,
}

impl Turns {
    /// Who speaks and what is said, at the same time; `None` unless both are known. The verdict is acted on and told as soon as
    /// it is there, whatever the recogniser still does.
    pub(super) async fn understand(
        &self,
        utterance: Utterance,
        live: &Live,
        paused: bool,
        door: &mut Door,
        stop: &CancellationToken,
    ) -> Option<(Speaker, Transcript)> {
        let Utterance { raw, speech, end: pos, command_start, .. } = utterance;
        let (raw, speech) = (Arc::new(raw), Arc::new(speech));
        let started = Instant::now();
        let judge = async {
            if !self.verify {
                let user = self.anonymous(pos, stop).await?;
                return Some(Speaker { user, confidence: None, aside: None });
            }
            let verify =
                self.voices.verify(raw.clone(), speech, live.voice.threshold, &live.voice.user_thresholds);
            let Some(verdict) = self.pulse.within(Stage::Verify, verify).await else {
                self.nobody(pos, Stage::Verify.overdue(), stop).await;
                return None;
            };
            self.judge(pos, (verdict, started.elapsed()), paused, door, stop).await
        };
        let transcribe = async {
            let stt = self.stt.as_ref()?;
            let words = timeout(self.pulse.most(Stage::Transcribe), stt.finish()).await.ok();
            Some((words, started.elapsed()))
        };
        tokio::pin!(judge, transcribe);
        let mut words = None;
        let judged = tokio::select! {
            biased;
            judged = &mut judge => judged,
            early = &mut transcribe => {
                words = Some(early);
                judge.await
            }
        };
        let Some(speaker) = judged else {
            // Nobody waits for the words any more.
            self.forget_sound();
            return None;
        };
        let words = match (&speaker.aside, words) {
            (Some(aside), _) => self.own_words(pos, aside, &raw, command_start).await?,
            (None, Some(words)) => words?,
            (None, None) => self.pulse.within(Stage::Transcribe, transcribe).await.flatten()?,
        };
        self.transcript(pos, words, stop).await.map(|transcript| (speaker, transcript))
    }

    /// Tells what was said; `None` where nothing was, or it is not known.
    async fn transcript(
        &self,
        pos: FramePos,
        (words, took): Words,
        stop: &CancellationToken,
    ) -> Option<Transcript> {
        let sentence = "I could not understand that. Please say it again.";
        match words {
            Some(Ok(transcript)) if transcript.text.trim().is_empty() => {
                self.health.set("stt", Condition::Ok);
                self.reject(pos, Reason::NoWords, None, Some(took)).await;
                None
            }
            Some(Ok(transcript)) => {
                self.health.set("stt", Condition::Ok);
                let what =
                    What::Transcript { text: transcript.text.clone(), engine: transcript.engine.to_owned() };
                self.events.emit(Event::at(pos, what).took(took)).await;
                Some(transcript)
            }
            Some(Err(error)) => {
                self.fail(pos, Stage::Transcribe.name(), chain(&error), sentence, stop).await;
                None
            }
            None => {
                self.forget_sound();
                let why = Stage::Transcribe.overdue();
                let health =
                    format!("what is said is not understood: {why}; if this goes on, restart the service");
                self.health.set("stt", Condition::degraded(health));
                self.fail(pos, Stage::Transcribe.name(), why, sentence, stop).await;
                None
            }
        }
    }

    /// The words again, of what is the person's own: those of somebody else are dropped.
    async fn own_words(&self, pos: FramePos, aside: &Aside, raw: &[f32], from: usize) -> Option<Words> {
        let stt = self.stt.as_ref()?;
        let own = aside.own_sound(raw, from);
        if own.len() < LEAST_OWN_SAMPLES {
            self.reject(pos, Reason::MultipleSpeakers, None, None).await;
            return None;
        }
        let started = Instant::now();
        stt.reset();
        stt.accept(own);
        let words = self.pulse.within(Stage::Transcribe, stt.finish()).await;
        Some((words, started.elapsed()))
    }

    /// Nobody can be verified.
    async fn nobody(&self, pos: FramePos, why: String, stop: &CancellationToken) {
        self.health.set("voice", Condition::failed(format!("nobody can be verified: {why}")));
        self.audit("failed", None, None).await;
        let sentence = "I could not tell who is speaking. Please try again.";
        self.fail(pos, Stage::Verify.name(), why, sentence, stop).await;
    }

    /// Reports a verdict; `Some` only for a verified speaker. While the device pauses only a voice that is surely known is.
    async fn judge(
        &self,
        pos: FramePos,
        (verdict, took): (Result<Verdict, VoicesError>, Duration),
        paused: bool,
        door: &mut Door,
        stop: &CancellationToken,
    ) -> Option<Speaker> {
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) => {
                self.nobody(pos, chain(&error), stop).await;
                return None;
            }
        };
        self.health.set("voice", Condition::Ok);
        let sure = matches!(verdict, Verdict::Verified { confidence, .. } if confidence >= SURELY_KNOWN);
        if paused && !sure {
            self.refuse_paused(pos, door, stop).await;
            return None;
        }
        let other_s = verdict.other_s();
        let Verdict::Verified { user_id, user_name, confidence, score, net_speech_s, aside } = verdict else {
            // Two at once are two, whoever of them gave a PIN.
            let granted = door.granted().filter(|_| !matches!(verdict, Verdict::MultipleSpeakers { .. }));
            let Some(user) = granted.cloned() else {
                self.refuse(pos, &verdict, Some(took), door).await;
                return None;
            };
            self.audit("pin", Some(&user), verdict.confidence().map(|c| json!({ "confidence": c }))).await;
            let what = What::Accepted { user: user.name.clone(), by: "pin" };
            self.events.emit(Event::at(pos, what).took(took)).await;
            return Some(Speaker { user, confidence: None, aside: None });
        };
        let find = async {
            match user_id.parse() {
                Ok(id) => self.memory.user(id).await,
                Err(_) => self.memory.user_by_name(&user_name).await,
            }
        };
        let Some(user) = self.known(pos, find, stop).await else {
            self.audit("failed", None, None).await;
            return None;
        };
        let ended = self.pulse.within(Stage::Memory, door.succeeded(&self.memory)).await;
        if ended.is_none() {
            log::error!("the count of failed attempts: {}", Stage::Memory.overdue());
        }
        let mut figures = json!({ "confidence": confidence, "score": score, "net_speech_s": net_speech_s });
        if let Some(other_s) = other_s {
            figures["other_s"] = other_s.into();
        }
        self.audit("verified", Some(&user), Some(figures)).await;
        let what = What::Verified { user: user.name.clone(), confidence, score, net_speech_s, other_s };
        self.events.emit(Event::at(pos, what).took(took)).await;
        Some(Speaker { user, confidence: Some(confidence), aside })
    }

    /// Reports a verdict that lets nobody in. `took` is `None` where it was certain while they spoke.
    pub(super) async fn refuse(
        &self,
        pos: FramePos,
        verdict: &Verdict,
        took: Option<Duration>,
        door: &mut Door,
    ) {
        let (reason, confidence, early) = (reason_of(verdict), verdict.confidence(), took.is_none());
        if verdict.is_failure() {
            let counted = self.pulse.within(Stage::Memory, door.failed(&self.memory)).await;
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
        let event = Event::at(pos, What::Rejected { reason, confidence, early });
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

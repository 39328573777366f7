//! From an utterance to who speaks and what they say.
//!
//! ```text
//!  utterance ─┬─ verify ────────┬─ not verified: audit, said so, words dropped
//!             └─ words of all ──┴─ verified ─┬─ alone ──────────────▶ words of all
//!                                            └─ somebody else too ──▶ words of their own part, transcribed again
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::door::Door;
use super::turns::Turns;
use super::voices::VoicesError;
use crate::daemon::live::Live;
use crate::detect::Utterance;
use crate::error::chain;
use crate::events::{Event, Reason, What};
use crate::health::Condition;
use crate::memory::User;
use crate::speaker::{Aside, Verdict};
use crate::stt::{SttError, Transcript};
use crate::units::{FramePos, SAMPLE_RATE_HZ};

/// The least of a command, 0.3 s, that is left of it when somebody else is cut out.
const LEAST_OWN_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 3 / 10;

/// Who is speaking, as far as the settings ask for it.
pub(super) struct Speaker {
    pub(super) user: User,
    pub(super) confidence: Option<f32>,
    /// Somebody else was heard too: what is the user's own.
    aside: Option<Aside>,
}

impl Turns {
    /// Who speaks and what is said, at the same time; `None` unless both are known.
    pub(super) async fn understand(
        &self,
        utterance: Utterance,
        live: &Live,
        door: &mut Door,
    ) -> Option<(Speaker, Transcript)> {
        let Utterance { raw, speech, end: pos, command_start, .. } = utterance;
        let (raw, speech) = (Arc::new(raw), Arc::new(speech));
        let started = Instant::now();
        let verify = async {
            if !self.verify {
                return None;
            }
            let verdict =
                self.voices.verify(raw.clone(), speech, live.threshold, &live.user_thresholds).await;
            Some((verdict, started.elapsed()))
        };
        let transcribe = async {
            let stt = self.stt.as_ref()?;
            let transcript = stt.finish().await;
            Some((transcript, started.elapsed()))
        };
        let (verdict, words) = tokio::join!(verify, transcribe);

        let speaker = match verdict {
            Some((verdict, took)) => self.judge(pos, verdict, took, door).await?,
            None => Speaker { user: self.anonymous(pos).await?, confidence: None, aside: None },
        };
        let (transcript, took) = match &speaker.aside {
            Some(aside) => self.own_words(pos, aside, &raw, command_start).await?,
            None => words?,
        };
        match transcript {
            Ok(transcript) if transcript.text.trim().is_empty() => {
                self.reject(pos, Reason::NoWords, None, Some(took)).await;
                None
            }
            Ok(transcript) => {
                let what =
                    What::Transcript { text: transcript.text.clone(), engine: transcript.engine.to_owned() };
                self.events.emit(Event::at(pos, what).took(took)).await;
                Some((speaker, transcript))
            }
            Err(error) => {
                self.trouble(pos, "stt", chain(&error)).await;
                None
            }
        }
    }

    /// The words again, of what is the person's own: those of somebody else are dropped.
    async fn own_words(
        &self,
        pos: FramePos,
        aside: &Aside,
        raw: &[f32],
        from: usize,
    ) -> Option<(Result<Transcript, SttError>, Duration)> {
        let stt = self.stt.as_ref()?;
        let own = aside.own_sound(raw, from);
        if own.len() < LEAST_OWN_SAMPLES {
            self.reject(pos, Reason::MultipleSpeakers, None, None).await;
            return None;
        }
        let started = Instant::now();
        stt.reset();
        stt.accept(own);
        let transcript = stt.finish().await;
        Some((transcript, started.elapsed()))
    }

    /// Reports a verdict; `Some` only for a verified speaker.
    async fn judge(
        &self,
        pos: FramePos,
        verdict: Result<Verdict, VoicesError>,
        took: Duration,
        door: &mut Door,
    ) -> Option<Speaker> {
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) => {
                let why = chain(&error);
                self.health.set("voice", Condition::failed(format!("nobody can be verified: {why}")));
                self.audit("failed", None, None).await;
                self.trouble(pos, "voice", why).await;
                return None;
            }
        };
        self.health.set("voice", Condition::Ok);
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
        let known = match user_id.parse() {
            Ok(id) => self.memory.user(id).await,
            Err(_) => self.memory.user_by_name(&user_name).await,
        };
        let user = match known {
            Ok(user) => user,
            Err(error) => {
                self.audit("failed", None, None).await;
                self.trouble(pos, "store", chain(&error)).await;
                return None;
            }
        };
        door.succeeded(&self.memory).await;
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
            door.failed(&self.memory).await;
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

//! Events of the device while it works: the lines of `jarvisd listen` and the payloads of the MQTT event
//! topic.
//!
//! ```text
//!  turns, watches ─▶ bus ─┬─▶ lines of the local terminal
//!                         └─▶ for_audience(Household) ─▶ MQTT
//! ```
//!
//! Invariants: every event of one utterance carries the same [`TurnId`]; an event with text carries the
//! [`Attribution`] of that text, and [`Event::for_audience`] alone decides who may see it.

mod audience;
pub mod bus;

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

pub use audience::{Attribution, Audience, TextRule};

use crate::memory::User;
use crate::speaker::{Progress, Verdict};
use crate::units::FramePos;

/// The id of one utterance's events, from its wake word to its stored answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct TurnId(Uuid);

impl TurnId {
    /// Unique, also among devices.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of an event: its turn, if any, and its position on the audio clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub turn: Option<TurnId>,
    pub pos: FramePos,
}

impl From<FramePos> for Moment {
    fn from(pos: FramePos) -> Self {
        Self { turn: None, pos }
    }
}

/// One event of the pipeline. `at_ms` is on the audio clock of the source; `took_ms` is real time spent on
/// the step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// The utterance that it is a part of; `None` for events outside of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    pub at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The pipeline reads sound; `source` is the device or file.
    Ready {
        source: String,
    },
    Wake {
        word: String,
        score: f32,
    },
    SpeechStart,
    /// The words so far, of a speaker not yet verified: shown on the local terminal only, never published or
    /// stored.
    Partial {
        text: String,
    },
    SpeechEnd {
        speech_s: f32,
        truncated: bool,
    },
    Verified {
        user: String,
        confidence: f32,
        score: f32,
        net_speech_s: f32,
        /// Speech of somebody else in the same utterance: it was cut out and is not in the transcript.
        #[serde(skip_serializing_if = "Option::is_none")]
        other_s: Option<f32>,
    },
    /// Somebody who is not answered spoke beside one who is: nothing of theirs was transcribed, and it is no
    /// failure.
    Dropped {
        reason: Reason,
        speech_s: f32,
        #[serde(skip_serializing_if = "Option::is_none")]
        confidence: Option<f32>,
    },
    Rejected {
        reason: Reason,
        #[serde(skip_serializing_if = "Option::is_none")]
        confidence: Option<f32>,
        /// Taken for a stranger during the utterance: nothing of it was transcribed.
        #[serde(skip_serializing_if = "is_false")]
        early: bool,
    },
    /// Somebody is taken for `user` although their voice was not verified.
    Accepted {
        user: String,
        /// `pin`.
        by: &'static str,
    },
    /// An enrolment before the microphone has come this far.
    Enrolment(Progress),
    /// A PIN was given.
    Pin {
        outcome: PinOutcome,
        /// The person whose PIN it is; only if it was right.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// How long it counts.
        #[serde(skip_serializing_if = "Option::is_none")]
        valid_s: Option<u64>,
    },
    Transcript {
        #[serde(skip)]
        whose: Attribution,
        /// `None`: left out for the audience.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        engine: String,
    },
    Reply {
        #[serde(skip)]
        whose: Attribution,
        /// `None`: left out for the audience.
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    Stored {
        #[serde(skip)]
        whose: Attribution,
        conversation_id: String,
        message_ids: Vec<String>,
    },
    Error {
        stage: String,
        message: String,
    },
    /// A required part of the device does not work as it should, or all do again.
    Problem {
        problem: bool,
        /// The worst of them, and its sentence.
        #[serde(skip_serializing_if = "Option::is_none")]
        part: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// Too many attempts failed in a row: until then only a surely known voice is answered.
    Pause {
        /// RFC 3339, UTC.
        until: String,
        pause_s: u64,
        failures: u32,
    },
    /// The source ended (recordings only).
    End,
}

/// The outcome of a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PinOutcome {
    Accepted,
    Refused,
    /// Too many failures in a row: it was not looked at.
    Paused,
}

impl PinOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Paused => "paused",
        }
    }
}

/// Why an utterance is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody enrolled matches.
    Rejected,
    /// Someone enrolled is likely, but not likely enough.
    Uncertain,
    TooShort,
    Ambiguous,
    MultipleSpeakers,
    NotEnrolled,
    /// The wake word was said, and nothing after it.
    NoSpeech,
    /// Speech in which the recogniser found no words.
    NoWords,
    /// Too many failures in a row; the device pauses.
    Paused,
    /// The device was muted before the answer was made.
    Muted,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl What {
    pub fn transcript(whose: Attribution, text: impl Into<String>, engine: impl Into<String>) -> Self {
        Self::Transcript { whose, text: Some(text.into()), engine: engine.into() }
    }

    pub fn reply(whose: Attribution, text: impl Into<String>) -> Self {
        Self::Reply { whose, text: Some(text.into()) }
    }
}

impl Event {
    pub fn at(moment: impl Into<Moment>, what: What) -> Self {
        let Moment { turn, pos } = moment.into();
        Self { turn, at_ms: pos.at_ms(), took_ms: None, what }
    }

    /// The event that a voice is verified as `user`'s, and the attribution of that person's words in this
    /// turn. `None` unless the verdict says so.
    pub fn verified(
        moment: impl Into<Moment>,
        verdict: &Verdict,
        user: &User,
    ) -> Option<(Self, Attribution)> {
        let Verdict::Verified { user_id, user_name, confidence, score, net_speech_s, other_s } = verdict
        else {
            return None;
        };
        let same = user_id.parse().map_or(user.name == *user_name, |id| user.id == id);
        let what = What::Verified {
            user: user.name.clone(),
            confidence: *confidence,
            score: *score,
            net_speech_s: *net_speech_s,
            other_s: *other_s,
        };
        same.then(|| (Self::at(moment, what), Attribution::of(user.id)))
    }

    /// The event that the speaker is taken for `user`, whose PIN was given, and the attribution of the words
    /// in this turn.
    pub fn accepted(moment: impl Into<Moment>, user: &User) -> (Self, Attribution) {
        let what = What::Accepted { user: user.name.clone(), by: "pin" };
        (Self::at(moment, what), Attribution::of(user.id))
    }

    pub fn took(mut self, elapsed: std::time::Duration) -> Self {
        self.took_ms = Some((elapsed.as_secs_f64() * 10_000.0).round() / 10.0);
        self
    }
}

//! Decides which audience may see which event; nothing else does.
//!
//! ```text
//!                        terminal   household            person             owner
//!  partial words         shown      –                    –                  –
//!  text of a person      shown      by the text rule     their own alone    without the text
//!  text of an anonymous  shown      voices not verified  –                  without the text
//!  text of nobody        shown      –                    –                  –
//!  everything else       shown      shown                shown              shown
//! ```
//!
//! The [`Attribution`] of a text says whose it is. Only the event of a verified voice or an accepted PIN
//! gives a person's attribution. So no order of events has to be trusted.

use std::borrow::Cow;

use super::{Event, What};
use crate::memory::UserId;

/// An audience of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The local terminal of the person who runs the device.
    Terminal,
    /// Everybody in the house: the broker.
    Household,
    /// One person, who is signed in.
    Person(UserId),
    /// The person who looks after the device: sees its condition, and nothing that people said.
    Owner,
}

/// The person whose words an event carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribution(Whose);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// A person whose voice was verified, or whose PIN was given.
    Person(UserId),
    /// Any speaker, where voices are not verified.
    Anonymous,
    /// Nobody's: the device answers a voice that it does not know.
    Nobody,
}

impl Attribution {
    /// Any speaker, because voice verification is switched off.
    pub const ANONYMOUS: Self = Self(Whose::Anonymous);
    /// Nobody was verified: a sentence of the device itself.
    pub const NOBODY: Self = Self(Whose::Nobody);

    /// Only for [`Event::verified`] and [`Event::accepted`].
    pub(super) fn of(user: UserId) -> Self {
        Self(Whose::Person(user))
    }
}

/// The settings for text outside the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRule {
    /// Text is shown; otherwise only the fact that something was said.
    pub publish: bool,
    /// Voices are verified, so an anonymous text is a fault.
    pub verified_only: bool,
}

impl TextRule {
    pub const ALL: Self = Self { publish: true, verified_only: false };
}

/// How much of an event is shown.
enum Shown {
    Whole,
    WithoutText,
    Nothing,
}

impl Event {
    /// The event as `audience` may see it; `None`: not at all.
    pub fn for_audience(&self, audience: Audience, rule: TextRule) -> Option<Cow<'_, Self>> {
        match self.shown_to(audience, rule) {
            Shown::Whole => Some(Cow::Borrowed(self)),
            Shown::WithoutText => Some(Cow::Owned(self.clone().without_text())),
            Shown::Nothing => None,
        }
    }

    /// Whether any audience but the local terminal may see it.
    pub(super) fn leaves_the_terminal(&self) -> bool {
        !matches!(self.what, What::Partial { .. })
    }

    fn shown_to(&self, audience: Audience, rule: TextRule) -> Shown {
        if audience == Audience::Terminal {
            return Shown::Whole;
        }
        let whose = match &self.what {
            What::Partial { .. } => return Shown::Nothing,
            What::Transcript { whose, .. } | What::Reply { whose, .. } | What::Stored { whose, .. } => {
                whose.0
            }
            _ => return Shown::Whole,
        };
        let text = if rule.publish { Shown::Whole } else { Shown::WithoutText };
        match (whose, audience) {
            (Whose::Nobody, _) => Shown::Nothing,
            (Whose::Anonymous, _) if rule.verified_only => Shown::Nothing,
            (Whose::Anonymous, Audience::Person(_)) => Shown::Nothing,
            (Whose::Person(user), Audience::Person(reader)) if user != reader => Shown::Nothing,
            (_, Audience::Owner) => Shown::WithoutText,
            _ => text,
        }
    }

    fn without_text(mut self) -> Self {
        if let What::Transcript { text, .. } | What::Reply { text, .. } = &mut self.what {
            *text = None;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::{Moment, Reason, TurnId};
    use crate::memory::User;
    use crate::speaker::Verdict;
    use crate::units::FramePos;

    fn person(name: &str) -> User {
        User { id: UserId::new(), name: name.to_owned(), consent_unix_ms: None, created_unix_ms: 0 }
    }

    fn verified(user: &User) -> Verdict {
        Verdict::Verified {
            user_id: user.id.to_string(),
            user_name: user.name.clone(),
            confidence: 0.97,
            score: 3.1,
            net_speech_s: 2.5,
            other_s: None,
        }
    }

    #[test]
    fn only_a_verdict_that_verifies_this_person_gives_their_attribution() {
        let (anna, ben) = (person("anna"), person("ben"));
        let at = FramePos(1);
        assert!(Event::verified(at, &verified(&anna), &anna).is_some());
        assert!(Event::verified(at, &verified(&anna), &ben).is_none());
        for verdict in [
            Verdict::NotEnrolled,
            Verdict::Rejected { confidence: 0.99, score: 3.0, net_speech_s: 2.0 },
            Verdict::Ambiguous { confidence: 0.99, net_speech_s: 2.0 },
            Verdict::MultipleSpeakers { confidence: 0.99, net_speech_s: 2.0, other_s: 1.0 },
        ] {
            assert!(Event::verified(at, &verdict, &anna).is_none(), "{verdict:?}");
        }
    }

    /// Speakers in the events of the property below.
    const SPEAKERS: [&str; 4] = ["anna", "ben", "anonymous", "nobody"];

    proptest! {
        #[test]
        fn no_text_of_an_unverified_voice_and_nobody_elses_text_reaches_any_face(
            said in prop::collection::vec((0..10_u8, 0..SPEAKERS.len(), 0..3_usize), 1..60),
            publish: bool,
            verified_only: bool,
        ) {
            let (anna, ben) = (person("anna"), person("ben"));
            let attributions = [
                Event::verified(FramePos(0), &verified(&anna), &anna).unwrap().1,
                Event::accepted(FramePos(0), &ben).1,
                Attribution::ANONYMOUS,
                Attribution::NOBODY,
            ];
            let turns = [None, Some(TurnId::generate()), Some(TurnId::generate())];
            let rule = TextRule { publish, verified_only };
            for (n, (kind, speaker, turn)) in said.into_iter().enumerate() {
                let (whose, text) = (attributions[speaker], format!("said-{n}"));
                let what = match kind {
                    0 => What::Wake { word: "hey".into(), score: 0.5 },
                    1 => What::SpeechEnd { speech_s: 1.0, truncated: false },
                    2 => What::Rejected { reason: Reason::Rejected, confidence: None, early: false },
                    3 => Event::verified(FramePos(0), &verified(&anna), &anna).unwrap().0.what,
                    4 => Event::accepted(FramePos(0), &ben).0.what,
                    5 => What::Partial { text: text.clone() },
                    6 | 7 => What::transcript(whose, &text, "vosk"),
                    8 => What::reply(whose, &text),
                    _ => What::Stored { whose, conversation_id: text.clone(), message_ids: Vec::new() },
                };
                let event = Event::at(Moment { turn: turns[turn], pos: FramePos(n as u64) }, what);
                let shows = |audience| {
                    let shown = event.for_audience(audience, rule);
                    shown.is_some_and(|shown| serde_json::to_string(&*shown).unwrap().contains(&text))
                };
                let (is_partial, is_stored) = (kind == 5, kind > 8);
                let carries = kind > 4;
                prop_assert_eq!(shows(Audience::Terminal), carries);
                let told = carries && !is_partial && (publish || is_stored);
                let of_somebody = speaker < 2 || (speaker == 2 && !verified_only);
                prop_assert_eq!(shows(Audience::Household), told && of_somebody);
                prop_assert_eq!(shows(Audience::Person(anna.id)), told && speaker == 0);
                prop_assert_eq!(shows(Audience::Person(ben.id)), told && speaker == 1);
                prop_assert!(!shows(Audience::Person(UserId::new())));
                prop_assert_eq!(shows(Audience::Owner), is_stored && of_somebody);
            }
        }
    }
}

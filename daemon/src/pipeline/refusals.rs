//! Decides which refusals are attempts of their own, and remembers the voice verified just before.
//!
//! ```text
//!  refused ─▶ no wake phrase, within 5 s of the end of the one before, the same voice ─▶ the same attempt, for a minute
//!          └▶ else ─▶ an attempt: counted
//! ```
//!
//! A sentence on television that pauses cut into five is one attempt; five people, or five wake phrases, are
//! five. Voices are held in memory only, one of each kind, and no longer than these times.

use crate::detect::Utterance;
use crate::events::{Moment, TurnId};
use crate::speaker::{JustHeard, Part};
use crate::units::{FRAMES_PER_S, FramePos};

/// Speech that begins within this time of the end of refused speech may go on with it.
const GOES_ON_WITHIN: u64 = 5 * FRAMES_PER_S;
/// From then on the same voice is counted again.
const ONE_ATTEMPT: u64 = 60 * FRAMES_PER_S;
/// How long somebody counts as just heard.
const JUST_HEARD: u64 = 60 * FRAMES_PER_S;

/// An utterance, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    pub start: FramePos,
    pub end: FramePos,
    pub turn: Option<TurnId>,
    /// With a wake phrase in front.
    pub woken: bool,
}

impl Heard {
    pub fn of(utterance: &Utterance, turn: Option<TurnId>) -> Self {
        Self { start: utterance.start, end: utterance.end, turn, woken: utterance.command_start > 0 }
    }

    /// Its end, where its events belong.
    pub fn moment(&self) -> Moment {
        Moment { turn: self.turn, pos: self.end }
    }
}

/// Both are forgotten with the process.
#[derive(Debug, Default)]
pub struct Refusals {
    /// The attempt refused last: its begin, its last sound, and the voice.
    refused: Option<(FramePos, FramePos, Part)>,
    verified: Option<(FramePos, JustHeard)>,
}

impl Refusals {
    /// Takes note of a refusal; returns whether it is an attempt of its own.
    pub fn refused(&mut self, heard: &Heard, part: &Part) -> bool {
        if let Some((first, last, before)) = &mut self.refused
            && !heard.woken
            && heard.start.since(*last) <= GOES_ON_WITHIN
            && heard.end.since(*first) <= ONE_ATTEMPT
            && part.same_voice(before)
        {
            *last = heard.end;
            return false;
        }
        self.refused = Some((heard.start, heard.end, part.clone()));
        true
    }

    /// Takes note of a verified speaker. Earlier refusals are over.
    pub fn verified(&mut self, heard: &Heard, part: &Part) {
        self.refused = None;
        // A voice known only by comparison with the last one does not make the next one known.
        if let Some(voice) = part.just_heard() {
            self.verified = Some((heard.end, voice));
        }
    }

    /// The person verified just before `heard`.
    pub fn just_heard(&self, heard: &Heard) -> Option<JustHeard> {
        let recent = self.verified.as_ref().filter(|(end, _)| heard.start.since(*end) <= JUST_HEARD);
        recent.map(|(_, voice)| voice.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::Part;

    fn heard(start_s: u64, end_s: u64, woken: bool) -> Heard {
        let at = |s: u64| FramePos(s * FRAMES_PER_S);
        Heard { start: at(start_s), end: at(end_s), turn: None, woken }
    }

    #[test]
    fn one_sentence_cut_into_five_is_one_attempt_and_five_wake_phrases_are_five() {
        let television = Part::rejected_of(1);
        let mut refusals = Refusals::default();
        let cut = (0..5).map(|n| heard(4 * n, 4 * n + 3, false));
        assert_eq!(cut.filter(|heard| refusals.refused(heard, &television)).count(), 1);
        let woken = (5..10).map(|n| heard(4 * n, 4 * n + 3, true));
        assert_eq!(woken.filter(|heard| refusals.refused(heard, &television)).count(), 5);
    }

    #[test]
    fn another_voice_a_long_pause_and_a_minute_are_attempts_of_their_own() {
        let (one, other) = (Part::rejected_of(1), Part::rejected_of(2));
        let mut refusals = Refusals::default();
        assert!(refusals.refused(&heard(0, 3, false), &one));
        assert!(!refusals.refused(&heard(4, 6, false), &one));
        assert!(refusals.refused(&heard(7, 9, false), &other), "another voice");
        assert!(refusals.refused(&heard(20, 22, false), &other), "a long pause");
        let on: Vec<bool> =
            (6..40).map(|n| refusals.refused(&heard(4 * n, 4 * n + 3, false), &other)).collect();
        let counted = on.iter().filter(|counted| **counted).count();
        assert!((2..=3).contains(&counted), "goes on for two minutes: {on:?}");
    }

    #[test]
    fn a_verified_voice_is_just_heard_for_a_minute_and_ends_what_was_refused() {
        let mut refusals = Refusals::default();
        assert!(refusals.refused(&heard(0, 3, false), &Part::rejected_of(1)));
        refusals.verified(&heard(4, 6, true), &Part::verified_of(2, 2.0));
        assert!(refusals.refused(&heard(7, 9, false), &Part::rejected_of(1)), "the owner spoke between");
        assert!(refusals.just_heard(&heard(10, 11, false)).is_some());
        assert!(refusals.just_heard(&heard(80, 81, false)).is_none());
        let mut refusals = Refusals::default();
        refusals.verified(&heard(4, 5, true), &Part::verified_of(2, 0.7));
        assert!(refusals.just_heard(&heard(6, 7, false)).is_none(), "too little to compare with");
    }
}

//! Assigns each stretch of an utterance to a speaker, once the voices in it are known.
//!
//! ```text
//!  units         ▇▇▇▇▇▇▇▇▇▇▇▇ ▂▂▂ ▃▃▃▃ ░░░░░░░░░░░░   surely theirs, not sure, surely somebody else's
//!  nearer voice  ▇▇▇▇▇▇▇▇▇▇▇▇ ▇▇▇ ▇▇▇▇ ░░░░░░░░░░░░   what is not sure goes with the nearer voice
//!  boundary      ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇░░░░░░░░   where windows change sides, or in the pause there
//! ```
//!
//! A unit is cut before anybody is known in it. So it may be too short for an embedding of its own, or hold
//! both voices. A comparison of its distances to two voices tells more than any bar for one voice. All voices
//! here are pooled out of the pass over the whole, and are behind the channel compensation. The figures are
//! in `docs/lab/second-voice.md`.

use std::ops::Range;

use super::embedding::Embedding;
use super::segment::{Unit, pause};
use super::speech::NetSpeech;
use super::whose::{Heard, likeness, mean_of};

/// Margins from which a unit is surely a person's, and surely no known person's.
pub(super) const SURELY_THEIRS: f32 = 1.0;
const SURELY_OTHER: f32 = -1.0;
/// A voice must be nearer to a person's than to the others' by this, in cosine.
const LEAD: f32 = 0.03;
/// Likeness to a template from which a unit is a person's where nobody else is known, and a short one behind
/// a stranger.
const LIKE: f32 = 0.38;
/// Fewer frames of a unit tell nothing.
const LEAST_FRAMES: usize = 20;
/// Length and distance of the windows that find a boundary, in frames.
const WINDOW: usize = 40;
const HOP: usize = 5;
/// A pause this near to a boundary, in frames, is the boundary. Also the weight of each of its frames, up to
/// so many, beside the difference of the cosines of a window.
const PAUSE_WITHIN: usize = 20;
const PAUSE_WEIGHS: f32 = 0.02;
const LONG_PAUSE: usize = 40;

/// An utterance in units, with the first guess at the speaker of each.
pub(super) struct Guess<'a> {
    pub(super) heard: &'a [Heard],
    pub(super) whose: &'a [Option<usize>],
    pub(super) margins: &'a [f32],
    /// The enrolled voices.
    pub(super) templates: &'a [Embedding],
}

/// The pooled voice of some frames; `None` for frames that the network did not see.
pub(super) type Pooled<'a> = dyn Fn(&Range<usize>) -> Option<Embedding> + 'a;

/// The stretches of one voice each, in their order, with their speakers; two neighbours never have the same.
pub(super) fn resegment(
    guess: &Guess<'_>,
    net: &NetSpeech,
    pooled: &Pooled<'_>,
) -> Vec<(Unit, Option<usize>)> {
    let voices = Voices::of(guess, pooled);
    let stretches = guess.stretches(&voices, pooled);
    let short = guess.short();
    let mut bounds = vec![0];
    for (k, pair) in stretches.windows(2).enumerate() {
        let [left, right] = pair else { continue };
        let middle = |frames: &Range<usize>| frames.start.midpoint(frames.end);
        let from = if k == 0 { left.0.start } else { middle(&left.0) };
        let to = if k + 2 == stretches.len() { right.0.end } else { middle(&right.0) };
        let both = voices.mean(left, pooled).zip(voices.mean(right, pooled));
        let found = both.and_then(|both| boundary(net, &(from..to), &both, pooled));
        bounds.push(found.map_or(left.0.end, |found| behind_short(found, left, &short)));
    }
    bounds.push(net.frames.len());
    let frames = bounds.iter().zip(bounds.iter().skip(1)).map(|(start, end)| *start..*end);
    stretches.iter().zip(frames).map(|((_, whose), frames)| (Unit::of(net, frames), *whose)).collect()
}

/// The boundary that windows found between two stretches. Short units of nobody known in front of a person
/// stay nobody's: each was told to be no person's as a whole, and the pause before such a word is no better a
/// place for a change than the one behind it.
fn behind_short(found: usize, left: &Stretch, short: &[Range<usize>]) -> usize {
    let mut first = left.0.end;
    while let Some(unit) = short.iter().find(|unit| left.1.is_none() && unit.end == first) {
        first = unit.start;
    }
    if (first..left.0.end).contains(&found) { left.0.end } else { found }
}

impl Guess<'_> {
    /// The units that are too short for a voice of their own.
    fn short(&self) -> Vec<Range<usize>> {
        let short = self.heard.iter().filter(|h| h.voice.is_none() && !h.unit.frames.is_empty());
        short.map(|h| h.unit.frames.clone()).collect()
    }

    /// Whether the last sure unit before unit `k` is of somebody who is not known.
    fn behind_others(&self, k: usize) -> bool {
        (0..k).rev().find_map(|k| self.sure(k)) == Some(None)
    }

    /// The speaker of unit `k`, where that is sure.
    fn sure(&self, k: usize) -> Option<Option<usize>> {
        let (h, whose, margin) = (self.heard.get(k)?, self.whose.get(k)?, self.margins.get(k)?);
        h.voice.as_ref()?;
        (*margin >= SURELY_THEIRS || *margin <= SURELY_OTHER).then_some(*whose)
    }

    /// Joins units of one voice. An undecided unit goes with the one before it, the first with the one behind
    /// it.
    fn stretches(&self, voices: &Voices<'_>, pooled: &Pooled<'_>) -> Vec<Stretch> {
        let told = |(k, h): (usize, &Heard)| match self.sure(k) {
            // A short word behind a stranger is theirs unless it is surely a person's.
            None if h.voice.is_none() && self.behind_others(k) => {
                let voice = pooled(&h.unit.frames);
                Some(voice.and_then(|voice| voices.nearest_and_like(&voice, h.unit.frames.len())))
            }
            None if h.unit.frames.len() < LEAST_FRAMES => None,
            None => {
                let guess = self.whose.get(k).copied().flatten();
                pooled(&h.unit.frames).map(|voice| voices.nearest(&voice, h.unit.frames.len(), guess))
            }
            sure => sure,
        };
        let told: Vec<Option<Option<usize>>> = self.heard.iter().enumerate().map(told).collect();
        let mut last = told.iter().flatten().next().copied().flatten();
        let mut stretches: Vec<Stretch> = Vec::new();
        for (h, told) in self.heard.iter().zip(&told) {
            last = told.unwrap_or(last);
            match stretches.last_mut() {
                Some((frames, whose)) if *whose == last => frames.end = h.unit.frames.end,
                _ => stretches.push((h.unit.frames.clone(), last)),
            }
        }
        stretches
    }
}

type Stretch = (Range<usize>, Option<usize>);

/// How everybody sounds in this utterance.
struct Voices<'a> {
    templates: &'a [Embedding],
    /// Of each enrolled person who surely speaks.
    people: Vec<Option<Embedding>>,
    /// The sure voices of everybody else.
    others: Option<Embedding>,
}

impl<'a> Voices<'a> {
    fn of(guess: &Guess<'a>, pooled: &Pooled<'_>) -> Self {
        let mean = |whose: Option<usize>| {
            let sure = guess.heard.iter().enumerate().filter(|(k, _)| guess.sure(*k) == Some(whose));
            let voices: Vec<_> = sure.filter_map(|(_, h)| Some((pooled(&h.unit.frames)?, h.net_s))).collect();
            mean_of(voices.iter().map(|(voice, net_s)| (voice, *net_s)))
        };
        let people = (0..guess.templates.len()).map(|person| mean(Some(person))).collect();
        Self { templates: guess.templates, people, others: mean(None) }
    }

    /// The speaker of this voice: the nearest person, if it is nearer to them than to the others, or, where
    /// nobody else is known, like their template. A person who does not surely speak must be the guess as
    /// well, because of two strangers one is always the nearer to them.
    fn nearest(&self, voice: &Embedding, frames: usize, guess: Option<usize>) -> Option<usize> {
        let people = self.people.iter().zip(self.templates).enumerate();
        let may_be = people.filter_map(|(person, (known, template))| {
            let stands = known.as_ref().or((guess == Some(person)).then_some(template))?;
            Some((person, stands.cosine(voice), template.cosine(voice)))
        });
        let (person, cosine, to_template) = may_be.max_by(|a, b| a.1.total_cmp(&b.1))?;
        let theirs = match &self.others {
            Some(others) => cosine - others.cosine(voice) > LEAD,
            None => likeness(to_template, frames) >= LIKE,
        };
        theirs.then_some(person)
    }

    /// [`Voices::nearest`], if the voice is also like that person's template.
    fn nearest_and_like(&self, voice: &Embedding, frames: usize) -> Option<usize> {
        let like = |person: &usize| {
            self.templates
                .get(*person)
                .is_some_and(|template| likeness(template.cosine(voice), frames) >= LIKE)
        };
        self.nearest(voice, frames, None).filter(like)
    }

    /// The voice of the speaker of this stretch; without a sure speaker, the voice of the stretch itself.
    fn mean(&self, (frames, whose): &Stretch, pooled: &Pooled<'_>) -> Option<Embedding> {
        let known = match whose {
            Some(person) => self.people.get(*person).and_then(Option::as_ref),
            None => self.others.as_ref(),
        };
        known.cloned().or_else(|| pooled(frames))
    }
}

/// The frame of `range` at which the second of two voices takes over, if windows tell one. The frames before
/// it are most like the one, and those behind it like the other. People change in pauses, so a pause counts
/// too.
fn boundary(
    net: &NetSpeech,
    range: &Range<usize>,
    (one, other): &(Embedding, Embedding),
    pooled: &Pooled<'_>,
) -> Option<usize> {
    let (mut sum, mut most, mut found) = (0.0, 0.0, None);
    for start in (range.start..range.end.saturating_sub(WINDOW)).step_by(HOP) {
        let Some(voice) = pooled(&(start..start + WINDOW)) else { continue };
        sum += voice.cosine(one) - voice.cosine(other);
        let at = start + (WINDOW + HOP) / 2;
        let near = at.saturating_sub(PAUSE_WITHIN).max(range.start + 1)..(at + PAUSE_WITHIN).min(range.end);
        let (longest, beside) = near.map(|k| (pause(net, k), k)).max().unwrap_or((0, at));
        let score = sum + PAUSE_WEIGHS * longest.min(LONG_PAUSE) as f32;
        if score > most {
            (most, found) = (score, Some(if longest > 0 { beside } else { at }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::speaker::embedding::DIMENSIONS;
    use crate::units::FRAME_SAMPLES;

    /// Net speech of these frames of the sound.
    fn net(frames: impl IntoIterator<Item = usize>) -> NetSpeech {
        let frames: Vec<usize> = frames.into_iter().collect();
        let samples = vec![0.1; frames.len() * FRAME_SAMPLES];
        NetSpeech { samples, frames, ..NetSpeech::of(&[], &[]) }
    }

    fn voice(shares: &[(usize, f32)]) -> Embedding {
        let mut values = [0.0; DIMENSIONS];
        shares.iter().for_each(|(k, share)| values[*k] += share);
        Embedding::normalised(&values).unwrap()
    }

    /// The pooled voice, where `speaks` names the speaker of each frame.
    fn pool(speaks: &[usize], frames: &Range<usize>) -> Option<Embedding> {
        let inside = speaks.get(frames.start..frames.end.min(speaks.len())).filter(|s| !s.is_empty())?;
        Some(voice(&inside.iter().map(|who| (*who, 1.0)).collect::<Vec<_>>()))
    }

    /// Units of these frames, with their guessed speakers and margins; below half a second without a voice.
    fn stretches(
        net: &NetSpeech,
        units: &[(usize, f32)],
        templates: &[Embedding],
        pooled: &Pooled<'_>,
    ) -> Vec<(Range<usize>, Option<usize>)> {
        let mut from = 0;
        let heard = |(frames, _): &(usize, f32)| {
            let unit = Unit::of(net, from..from + frames);
            from += frames;
            let net_s = unit.net_s();
            Heard { unit, voice: (*frames >= 50).then(|| voice(&[(0, 1.0)])), net_s, scores: Vec::new() }
        };
        let heard: Vec<Heard> = units.iter().map(heard).collect();
        let margins: Vec<f32> = units.iter().map(|(_, margin)| *margin).collect();
        let whose: Vec<_> = margins.iter().map(|margin| (*margin >= 0.0).then_some(0)).collect();
        let guess = Guess { heard: &heard, whose: &whose, margins: &margins, templates };
        let found = resegment(&guess, net, pooled).into_iter();
        found.map(|(unit, whose)| (unit.frames, whose)).collect()
    }

    fn speaks(runs: &[(usize, usize)]) -> Vec<usize> {
        runs.iter().flat_map(|(who, frames)| std::iter::repeat_n(*who, *frames)).collect()
    }

    const HERS: Option<usize> = Some(0);

    #[test]
    fn a_unit_that_holds_both_voices_is_cut_where_they_change_or_in_the_pause_beside_it() {
        let who = speaks(&[(0, 150), (1, 150)]);
        let ann = [voice(&[(0, 1.0)])];
        // The first guess is half a second late.
        let units = [(200, 2.0), (100, -4.0)];
        let found = stretches(&net(0..300), &units, &ann, &|frames| pool(&who, frames));
        let [(first, HERS), (_, None)] = &found[..] else { panic!("{found:?}") };
        assert!(first.end.abs_diff(150) <= HOP, "{found:?}");
        let paused = net((0..140).chain(170..330));
        let found = stretches(&paused, &units, &ann, &|frames| pool(&who, frames));
        assert_eq!(found[0], (0..140, HERS), "{found:?}");
    }

    #[test]
    fn what_is_not_sure_goes_with_the_voice_that_it_is_nearer_to() {
        let ann = [voice(&[(0, 1.0)])];
        let who = speaks(&[(0, 180), (1, 120)]);
        // Too short to be embedded, and her own half second that was taken for somebody else's.
        let units = [(100, 2.0), (30, f32::NEG_INFINITY), (50, -0.5), (120, -4.0)];
        let found = stretches(&net(0..300), &units, &ann, &|frames| pool(&who, frames));
        let [(first, HERS), (_, None)] = &found[..] else { panic!("{found:?}") };
        assert!(first.end.abs_diff(180) <= HOP, "{found:?}");
    }

    #[test]
    fn with_nobody_else_known_the_template_decides() {
        let ann = [voice(&[(0, 1.0)])];
        let units = [(200, 2.0), (60, 0.2)];
        // The end is a little like her, and no more.
        for (share, whose) in [(0.3, None), (0.6, HERS)] {
            let strange = |frames: &Range<usize>| {
                let other = (1.0f32 - share * share).sqrt();
                Some(if frames.start < 190 { voice(&[(0, 1.0)]) } else { voice(&[(0, share), (1, other)]) })
            };
            let found = stretches(&net(0..260), &units, &ann, &strange);
            assert_eq!(found.last().unwrap().1, whose, "{share}: {found:?}");
        }
    }

    #[test]
    fn nobody_who_does_not_surely_speak_gets_what_is_not_sure() {
        let ann = [voice(&[(0, 1.0)])];
        // A little like her, and not at all like the stranger behind it.
        let strange = |frames: &Range<usize>| {
            Some(if frames.start < 60 { voice(&[(0, 0.3), (2, 0.9)]) } else { voice(&[(1, 1.0)]) })
        };
        let found = stretches(&net(0..200), &[(60, -0.6), (140, -4.0)], &ann, &strange);
        assert_eq!(found, [(0..200, None)]);
    }

    #[test]
    fn a_short_word_between_a_stranger_and_a_person_is_the_strangers_unless_it_is_like_the_person() {
        let ann = [voice(&[(0, 1.0)])];
        // The word lies between two pauses, the longer one before it.
        let net = net((0..150).chain(190..220).chain(240..390));
        let units = [(150, -4.0), (30, f32::NEG_INFINITY), (150, 2.0)];
        for (share, change) in [(0.0, 180), (0.2, 180), (0.6, 150)] {
            let word = [(0, share), (2, (1.0f32 - share * share).sqrt())];
            let says = |frame: usize| match frame {
                ..150 => vec![(1, 1.0)],
                150..180 => word.to_vec(),
                _ => vec![(0, 1.0)],
            };
            let found = stretches(&net, &units, &ann, &|frames| {
                Some(voice(&frames.clone().flat_map(says).collect::<Vec<_>>()))
            });
            assert_eq!(found, [(0..change, None), (change..330, HERS)], "{share}");
        }
    }

    #[test]
    fn frames_that_were_not_looked_at_go_with_their_neighbours() {
        let ann = [voice(&[(0, 1.0)])];
        let units = [(100, 2.0), (60, 0.2), (100, -4.0)];
        let found = stretches(&net(0..260), &units, &ann, &|_| None);
        assert_eq!(found, [(0..160, HERS), (160..260, None)]);
    }

    proptest! {
        #[test]
        fn whatever_was_guessed_the_stretches_cover_the_speech_and_neighbours_differ(
            units in prop::collection::vec((1usize..150, -5.0f32..5.0), 1..10),
            runs in prop::collection::vec((0usize..3, 1usize..200), 1..10),
            gaps in prop::collection::vec(0usize..30, 1500),
        ) {
            let frames: usize = units.iter().map(|(frames, _)| frames).sum();
            let mut at = 0;
            let speech = net((0..frames).map(|k| { at += 1 + gaps[k] / 29 * 20; at }));
            let who = speaks(&runs);
            let ann = [voice(&[(0, 1.0)])];
            let found = stretches(&speech, &units, &ann, &|frames| pool(&who, frames));
            prop_assert_eq!(found.first().map(|(frames, _)| frames.start), Some(0));
            prop_assert_eq!(found.last().map(|(last, _)| last.end), Some(frames));
            for pair in found.windows(2) {
                prop_assert!(pair[0].0.end == pair[1].0.start && pair[0].1 != pair[1].1, "{:?}", found);
            }
            prop_assert!(found.iter().all(|(frames, _)| frames.start < frames.end), "{:?}", found);
        }
    }
}

//! Whose each unit of an utterance is.
//!
//! A unit is a person's if its voice is like their template and like the rest of what is theirs in this
//! utterance, which was heard through the same channel and in the same mood. Of half a second both together
//! tell it where neither does alone.

use super::calibration::sigmoid;
use super::embedding::{DIMENSIONS, Embedding};
use super::hear::Part;
use super::segment::Unit;
use super::speech::NetSpeech;
use super::verification::Verdict;
use crate::units::FRAME_SAMPLES;

/// A unit of an utterance and its voice.
pub(super) struct Heard {
    pub(super) unit: Unit,
    /// Behind the channel compensation; `None`: too short.
    pub(super) voice: Option<Embedding>,
    pub(super) net_s: f32,
    /// For each enrolled person.
    pub(super) scores: Vec<UnitScore>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct UnitScore {
    pub(super) log_odds: f64,
    /// Behind the compensation.
    pub(super) cosine: f32,
}

/// Log odds from which a unit tells how somebody sounds in this utterance.
const SURELY_THEIRS: f64 = 1.0;
/// Less than this that is left is a breath, not somebody: 0.3 s.
pub(super) const LEAST_LEFT_S: f32 = 0.3;

/// How much a unit is one person's rather than somebody else's: above 0 it is. Cosines to the template and to
/// the rest of what is theirs; fitted as `docs/lab/second-voice.md` tells.
fn theirs(template: f32, rest: Option<f32>, net_s: f32) -> f32 {
    let length = net_s.min(2.0).ln();
    match rest {
        Some(rest) => 8.1 * template + 6.0 * rest - 1.9 * length - 4.56,
        None => 11.24 * template - 2.1 * length - 3.69,
    }
}

/// Whose each unit is, as an index of the enrolled, and by how much.
pub(super) fn assign(heard: &[Heard], people: usize) -> (Vec<Option<usize>>, Vec<f32>) {
    let best = |h: &Heard| {
        h.scores.iter().enumerate().max_by(|a, b| a.1.log_odds.total_cmp(&b.1.log_odds)).map(|(k, _)| k)
    };
    let mut whose = vec![None; heard.len()];
    let mut margins = vec![f32::NEG_INFINITY; heard.len()];
    for person in 0..people {
        let surely = |k: usize| {
            heard.get(k).is_some_and(|h| {
                let odds = h.scores.get(person).map_or(f64::NEG_INFINITY, |s| s.log_odds);
                odds >= SURELY_THEIRS && best(h) == Some(person)
            })
        };
        let seeds: Vec<usize> = (0..heard.len()).filter(|k| surely(*k)).collect();
        for (k, h) in heard.iter().enumerate() {
            let (Some(voice), Some(score)) = (&h.voice, h.scores.get(person)) else { continue };
            let rest =
                mean_voice(seeds.iter().filter(|seed| **seed != k).filter_map(|seed| heard.get(*seed)));
            let margin = theirs(score.cosine, rest.map(|rest| rest.cosine(voice)), h.net_s);
            let (Some(who), Some(most)) = (whose.get_mut(k), margins.get_mut(k)) else { continue };
            if margin > *most {
                *most = margin;
                *who = (margin >= 0.0).then_some(person);
            }
        }
    }
    // A unit that is too short to tell is theirs between units that are theirs.
    for k in (0..heard.len()).filter(|k| heard.get(*k).is_some_and(|h| h.voice.is_none())) {
        let before = k.checked_sub(1).and_then(|before| whose.get(before).copied());
        let after = whose.get(k + 1).copied();
        let same = if before.is_some() && before == after { before.flatten() } else { None };
        if let Some(who) = whose.get_mut(k) {
            *who = same;
        }
    }
    (whose, margins)
}

/// How somebody sounds in these units, the longer ones more.
fn mean_voice<'a>(heard: impl Iterator<Item = &'a Heard>) -> Option<Embedding> {
    let mut sum = vec![0f32; DIMENSIONS];
    for h in heard {
        for (sum, value) in sum.iter_mut().zip(h.voice.iter().flat_map(|voice| voice.values())) {
            *sum += value * h.net_s;
        }
    }
    Embedding::normalised(&sum)
}

/// The units that are nobody's, a part for each stretch of them.
pub(super) fn left(heard: &[Heard], whose: &[Option<usize>], net: &NetSpeech) -> Vec<Part> {
    let both: Vec<_> = heard.iter().zip(whose).collect();
    let stretches = both.chunk_by(|a, b| a.1.is_none() == b.1.is_none());
    stretches
        .filter(|stretch| stretch.iter().all(|(_, who)| who.is_none()))
        .filter_map(|stretch| {
            let speech_s: f32 = stretch.iter().map(|(h, _)| h.net_s).sum();
            let (first, last) = (stretch.first()?.0, stretch.last()?.0);
            let start = net.frames.get(first.unit.frames.start)? * FRAME_SAMPLES;
            let end = net.frames.get(last.unit.frames.end.checked_sub(1)?)? * FRAME_SAMPLES;
            let longest = stretch.iter().map(|(h, _)| h).max_by(|a, b| a.net_s.total_cmp(&b.net_s))?;
            let odds = longest.scores.iter().map(|s| s.log_odds).fold(f64::NEG_INFINITY, f64::max);
            let verdict = if longest.voice.is_none() {
                Verdict::TooShort { net_speech_s: speech_s }
            } else {
                // A lone number without its person: it is not said whom it was most like.
                Verdict::Rejected { confidence: sigmoid(odds).min(0.5), score: 0.0, net_speech_s: speech_s }
            };
            let part = Part { verdict, own: Some(std::iter::once(start..end).collect()), voice: None };
            (speech_s >= LEAST_LEFT_S).then_some(part)
        })
        .collect()
}

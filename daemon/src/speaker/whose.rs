//! Assigns the units of an utterance to speakers.
//!
//! A unit is a person's if its voice is like their template and like the rest of their part in this
//! utterance, which has the same channel and the same mood. For half a second both together tell it where
//! neither does alone.

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
    /// The voice behind the channel compensation; `None`: too short.
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

/// Log odds from which a unit shows the sound of a person in this utterance.
const SURELY_THEIRS: f64 = 1.0;
/// A shorter rest is a breath, not a person: 0.3 s.
pub(super) const LEAST_LEFT_S: f32 = 0.3;

/// The likeness of some frames to a template, by the cosine of their pooled voice behind the compensation:
/// less speech has a lower one.
pub(super) fn likeness(cosine: f32, frames: usize) -> f32 {
    cosine - 0.09 * (frames.clamp(1, 200) as f32 / 100.0).ln()
}

/// The margin by which a unit is one person's rather than somebody else's: above 0 it is. Takes the cosines
/// to the template and to the rest of their part; fitted as `docs/lab/second-voice.md` tells.
pub(super) fn theirs(template: f32, rest: Option<f32>, net_s: f32) -> f32 {
    let length = net_s.min(2.0).ln();
    match rest {
        Some(rest) => 8.1 * template + 6.0 * rest - 1.9 * length - 4.56,
        None => 11.24 * template - 2.1 * length - 3.69,
    }
}

/// The speaker of each unit, as an index of the enrolled, and the margin.
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
    (whose, margins)
}

/// The mean voice of these units, the longer ones with more weight.
fn mean_voice<'a>(heard: impl Iterator<Item = &'a Heard>) -> Option<Embedding> {
    mean_of(heard.filter_map(|h| Some((h.voice.as_ref()?, h.net_s))))
}

/// The direction of the sum of voices, each with its weight.
pub(super) fn mean_of<'a>(voices: impl Iterator<Item = (&'a Embedding, f32)>) -> Option<Embedding> {
    let mut sum = vec![0f32; DIMENSIONS];
    for (voice, weight) in voices {
        for (sum, value) in sum.iter_mut().zip(voice.values()) {
            *sum += value * weight;
        }
    }
    Embedding::normalised(&sum)
}

/// The parts of the stretches that are nobody's.
pub(super) fn left(heard: &[Heard], stretches: &[(Unit, Option<usize>)], net: &NetSpeech) -> Vec<Part> {
    let nobodys = stretches.iter().filter(|(_, whose)| whose.is_none());
    nobodys
        .filter_map(|(stretch, _)| {
            let net_speech_s = stretch.net_s();
            let start = net.frames.get(stretch.frames.start)? * FRAME_SAMPLES;
            let end = net.frames.get(stretch.frames.end.checked_sub(1)?)? * FRAME_SAMPLES;
            let inside =
                |h: &&Heard| stretch.frames.contains(&h.unit.frames.start.midpoint(h.unit.frames.end));
            let units = heard.iter().filter(inside).filter(|h| h.voice.is_some());
            let verdict = match units.max_by(|a, b| a.net_s.total_cmp(&b.net_s)) {
                None => Verdict::TooShort { net_speech_s },
                Some(longest) => {
                    let odds = longest.scores.iter().map(|s| s.log_odds).fold(f64::NEG_INFINITY, f64::max);
                    // A lone number without its person: the most similar person is not named.
                    Verdict::Rejected { confidence: sigmoid(odds).min(0.5), score: 0.0, net_speech_s }
                }
            };
            let part = Part { verdict, own: Some(std::iter::once(start..end).collect()), voice: None };
            (net_speech_s >= LEAST_LEFT_S).then_some(part)
        })
        .collect()
}

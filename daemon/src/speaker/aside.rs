//! Somebody else who goes on alone: before, behind or between what the verified person says.
//!
//! ```text
//!  net speech ─▶ CAM++, once ─▶ its last channels, pooled over each second ─▶ score of each second against the template
//!
//!  score  8 ┤‾‾‾‾‾‾╲                 all of one person: no second is below [`OTHER_BELOW`], whatever the noise
//!         4 ┤ - - - -╳- - - - - -    half way between the highest and the lowest: where the other one begins
//!         1 ┤         ╲________      a second below this: somebody else
//!           └─────────┬───────────▶
//!               own   │  other
//! ```
//!
//! The bar and how often it errs are in `docs/lab/speaker-verdicts.md` (`scripts/lab/calibrate.sh AUDIO_DIR
//! --second yes`).

use std::ops::Range;

use super::embedding::Piece;
use super::speech::NetSpeech;
use crate::units::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// Length and distance of the pieces that are looked at, in 10 ms frames.
pub const PIECE: usize = 100;
pub const HOP: usize = 25;
/// Where the pieces of so many frames lie.
pub fn pieces(frames: usize) -> Vec<Range<usize>> {
    let starts = frames.checked_sub(PIECE).into_iter().flat_map(|last| (0..=last).step_by(HOP));
    starts.map(|start| start..start + PIECE).collect()
}

/// Normalised score of a second below which it is somebody else's.
pub const OTHER_BELOW: f32 = 1.0;
/// A pause this near to the boundary, in frames, is the boundary: people change in pauses.
const PAUSE_WITHIN: usize = 40;

/// Least cosine of two pieces of one stretch of speech that do not overlap; infinite where there are no such.
pub fn least_likeness(pieces: &[Piece]) -> f32 {
    let pairs = pieces.iter().flat_map(|a| pieces.iter().map(move |b| (a, b)));
    let apart = pairs.filter(|(a, b)| a.0.end <= b.0.start);
    apart.map(|(a, b)| a.1.cosine(&b.1)).fold(f32::INFINITY, f32::min)
}

/// A piece of net speech, in frames of it, and how it scores against the template.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub frames: Range<usize>,
    pub score: f32,
}

/// That somebody else was heard beside the verified person.
#[derive(Debug, Clone, PartialEq)]
pub struct Aside {
    /// Speech of the other, in seconds.
    pub other_s: f32,
    /// What is the person's own, in samples of the utterance, rising. Never empty.
    pub own: Vec<Range<usize>>,
}

impl Aside {
    /// Tells the person's own part of an utterance of `samples` samples from that of somebody else. `None` if
    /// all of it is theirs.
    pub fn of(pieces: &[Scored], net: &NetSpeech, samples: usize) -> Option<Self> {
        let others = others(pieces, net.frames.len(), OTHER_BELOW);
        let frames: usize = others.iter().map(Range::len).sum();
        if frames == 0 {
            return None;
        }
        let mut own = Vec::new();
        let mut from = 0;
        for other in others {
            let start = if other.start == 0 { 0 } else { boundary(net, other.start) * FRAME_SAMPLES };
            let end = if other.end >= net.frames.len() {
                samples
            } else {
                boundary(net, other.end) * FRAME_SAMPLES
            };
            if start.min(samples) > from {
                own.push(from..start.min(samples));
            }
            from = from.max(start).max(end);
        }
        if from < samples {
            own.push(from..samples);
        }
        let other_s = (frames * FRAME_SAMPLES) as f32 / SAMPLE_RATE_HZ as f32;
        (!own.is_empty()).then_some(Self { other_s, own })
    }

    /// The person's own sound of an utterance, from sample `from` on.
    pub fn own_sound(&self, samples: &[f32], from: usize) -> Vec<f32> {
        let parts = self.own.iter().filter_map(|own| samples.get(own.start.max(from)..own.end));
        parts.collect::<Vec<_>>().concat()
    }
}

/// Where the scores of `pieces` pass half way between the highest and the lowest: in samples of the
/// utterance.
pub(super) fn crossings(pieces: &[Scored], net: &NetSpeech) -> Vec<usize> {
    let frames = net.frames.len();
    let inner = others(pieces, frames, f32::INFINITY).into_iter().flat_map(|other| [other.start, other.end]);
    let inner = inner.filter(|at| (1..frames).contains(at));
    inner.map(|at| boundary(net, at) * FRAME_SAMPLES).collect()
}

/// Which frames of `frames` are somebody else's, where a piece is below `bar`.
fn others(pieces: &[Scored], frames: usize, bar: f32) -> Vec<Range<usize>> {
    let mut points: Vec<(usize, f32)> =
        pieces.iter().map(|p| (p.frames.start.midpoint(p.frames.end), p.score)).collect();
    points.sort_by_key(|(at, _)| *at);
    // Long speech is embedded in windows that overlap; where they do, the mean counts.
    points = points
        .chunk_by(|a, b| a.0 == b.0)
        .filter_map(|same| {
            let sum: f32 = same.iter().map(|(_, score)| score).sum();
            same.first().map(|(at, _)| (*at, sum / same.len() as f32))
        })
        .collect();
    let scores = || points.iter().map(|(_, score)| *score);
    let (low, high) = (scores().fold(f32::INFINITY, f32::min), scores().fold(f32::NEG_INFINITY, f32::max));
    if !low.is_finite() || low >= bar {
        return Vec::new();
    }
    let half = f32::midpoint(low, high);
    let mut found = Vec::new();
    for run in points.chunk_by(|a, b| (a.1 < half) == (b.1 < half)) {
        if !run.iter().any(|(_, score)| *score < bar) {
            continue;
        }
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let before = points.iter().rfind(|(at, _)| *at < first.0);
        let after = points.iter().find(|(at, _)| *at > last.0);
        let start = before.map_or(0, |before| crossing(before, first, half));
        let end = after.map_or(frames, |after| crossing(last, after, half));
        found.push(start..end.min(frames));
    }
    found
}

/// Where the straight line between two points has the value `half`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two numbers of frames")]
fn crossing(one: &(usize, f32), other: &(usize, f32), half: f32) -> usize {
    let share = ((half - one.1) / (other.1 - one.1)).clamp(0.0, 1.0);
    one.0 + ((other.0 - one.0) as f32 * share).round() as usize
}

/// The frame of the sound at which frame `at` of the net speech begins, or the middle of the longest pause
/// near it.
fn boundary(net: &NetSpeech, at: usize) -> usize {
    let near = at.saturating_sub(PAUSE_WITHIN).max(1)..(at + PAUSE_WITHIN).min(net.frames.len());
    let pause = |k: usize| Some((*net.frames.get(k.checked_sub(1)?)?, *net.frames.get(k)?));
    let longest = near.filter_map(pause).max_by_key(|(last, next)| next - last);
    match longest {
        Some((last, next)) if next - last > 1 => last.midpoint(next),
        _ => net.frames.get(at).copied().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Net speech out of frames that were kept.
    fn net(frames: Vec<usize>) -> NetSpeech {
        let samples = vec![0.1; frames.len() * FRAME_SAMPLES];
        NetSpeech { frames, ..NetSpeech::of(&samples, &[]) }
    }

    fn scored(scores: &[f32]) -> Vec<Scored> {
        let piece = |(k, score): (usize, &f32)| Scored { frames: k * HOP..k * HOP + PIECE, score: *score };
        scores.iter().enumerate().map(piece).collect()
    }

    #[test]
    fn the_pieces_are_a_second_each_and_lie_inside() {
        assert!(pieces(99).is_empty());
        assert_eq!(pieces(148), [0..100, 25..125]);
        assert_eq!(pieces(150), [0..100, 25..125, 50..150]);
    }

    #[test]
    fn all_of_one_person_is_theirs() {
        let speech = net((0..300).collect());
        assert_eq!(Aside::of(&scored(&[8.0, 3.0, 1.0, 6.0]), &speech, 48_000), None);
        assert_eq!(Aside::of(&[], &speech, 48_000), None);
    }

    #[test]
    fn somebody_behind_is_cut_off_in_the_pause_between() {
        // 2 s of one, a pause of 1 s, 1.5 s of another.
        let speech = net((50..250).chain(350..500).collect());
        let falling = scored(&[8.0, 8.0, 8.0, 8.0, 8.0, 6.0, 4.0, 2.0, 0.0, 0.0, 0.0]);
        let aside = Aside::of(&falling, &speech, 520 * FRAME_SAMPLES).unwrap();
        assert_eq!(aside.own, std::slice::from_ref(&(0..299 * FRAME_SAMPLES)));
        assert!((1.3..1.7).contains(&aside.other_s), "{aside:?}");
        let sound = vec![0.5; 520 * FRAME_SAMPLES];
        assert_eq!(aside.own_sound(&sound, 100 * FRAME_SAMPLES).len(), 199 * FRAME_SAMPLES);
        assert!(aside.own_sound(&sound, 400 * FRAME_SAMPLES).is_empty());
    }

    #[test]
    fn somebody_before_and_between_is_cut_out() {
        let speech = net((0..400).collect());
        let before = scored(&[-1.0, -1.0, -1.0, -1.0, 1.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        let aside = Aside::of(&before, &speech, 64_000).unwrap();
        assert!(aside.own.len() == 1 && aside.own[0].end == 64_000, "{aside:?}");
        assert!((150..180).contains(&(aside.own[0].start / FRAME_SAMPLES)), "{aside:?}");
        let between = scored(&[8.0, 8.0, 8.0, 2.0, 0.0, 0.0, 2.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        let aside = Aside::of(&between, &speech, 64_000).unwrap();
        assert!(aside.own.len() == 2 && aside.own[0].start == 0 && aside.own[1].end == 64_000, "{aside:?}");
    }

    proptest! {
        #[test]
        fn whatever_the_scores_are_the_parts_rise_and_lie_inside(
            scores in prop::collection::vec(prop_oneof![-5.0f32..12.0, Just(f32::NAN), Just(f32::INFINITY)], 0..20),
            kept in prop::collection::btree_set(0usize..700, 0..600),
            samples in 0usize..120_000,
        ) {
            let Some(aside) = Aside::of(&scored(&scores), &net(kept.into_iter().collect()), samples) else { return Ok(()) };
            prop_assert!(!aside.own.is_empty());
            for pair in aside.own.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start);
            }
            prop_assert!(aside.own.iter().all(|own| own.start < own.end && own.end <= samples));
        }
    }
}

//! Finds the changes of voice within one utterance by the scores of its seconds.
//!
//! ```text
//!  net speech ─▶ CAM++, once ─▶ its last channels, pooled over each second ─▶ score of each second against the template
//!
//!  score  8 ┤‾‾‾‾‾‾╲
//!         4 ┤ - - - -╳- - - - - -    half way between the highest and the lowest: where the voice changes
//!         0 ┤         ╲________
//!           └─────────┬───────────▶
//!               own   │  other
//! ```
//!
//! `docs/lab/speaker-verdicts.md` lists what this finds and misses (`scripts/lab/calibrate.sh AUDIO_DIR
//! --second yes`).

use std::ops::Range;

use super::embedding::Piece;
use super::speech::NetSpeech;
use crate::units::FRAME_SAMPLES;

/// Length and distance of the examined pieces, in 10 ms frames.
pub const PIECE: usize = 100;
pub const HOP: usize = 25;
/// Where the pieces of so many frames lie.
pub fn pieces(frames: usize) -> Vec<Range<usize>> {
    let starts = frames.checked_sub(PIECE).into_iter().flat_map(|last| (0..=last).step_by(HOP));
    starts.map(|start| start..start + PIECE).collect()
}

/// A pause this near to the boundary, in frames, is the boundary: people change in pauses.
const PAUSE_WITHIN: usize = 40;

/// Least cosine of two pieces of one stretch of speech that do not overlap; infinite if there are none.
pub fn least_likeness(pieces: &[Piece]) -> f32 {
    let pairs = pieces.iter().flat_map(|a| pieces.iter().map(move |b| (a, b)));
    let apart = pairs.filter(|(a, b)| a.0.end <= b.0.start);
    apart.map(|(a, b)| a.1.cosine(&b.1)).fold(f32::INFINITY, f32::min)
}

/// A piece of net speech, in frames of it, and its score against the template.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub frames: Range<usize>,
    pub score: f32,
}

/// The samples of the utterance, rising, at which the scores of `pieces` pass half way between the highest
/// and the lowest.
pub(super) fn crossings(pieces: &[Scored], net: &NetSpeech) -> Vec<usize> {
    let mut points: Vec<(usize, f32)> =
        pieces.iter().map(|p| (p.frames.start.midpoint(p.frames.end), p.score)).collect();
    points.sort_by_key(|(at, _)| *at);
    // Long speech is embedded in overlapping windows; where they overlap, the mean counts.
    points = points
        .chunk_by(|a, b| a.0 == b.0)
        .filter_map(|same| {
            let sum: f32 = same.iter().map(|(_, score)| score).sum();
            same.first().map(|(at, _)| (*at, sum / same.len() as f32))
        })
        .collect();
    let scores = || points.iter().map(|(_, score)| *score);
    let (low, high) = (scores().fold(f32::INFINITY, f32::min), scores().fold(f32::NEG_INFINITY, f32::max));
    let half = f32::midpoint(low, high);
    let changes = points.iter().zip(points.iter().skip(1)).filter(|(a, b)| (a.1 < half) != (b.1 < half));
    let inner = changes.map(|(a, b)| crossing(a, b, half)).filter(|at| (1..net.frames.len()).contains(at));
    inner.map(|at| boundary(net, at) * FRAME_SAMPLES).collect()
}

/// The frame at which the straight line between two points has the value `half`.
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
    fn the_change_is_in_the_pause_between_two_voices() {
        // 2 s of one, a pause of 1 s, 1.5 s of another.
        let speech = net((50..250).chain(350..500).collect());
        let falling = scored(&[8.0, 8.0, 8.0, 8.0, 8.0, 6.0, 4.0, 2.0, 0.0, 0.0, 0.0]);
        assert_eq!(crossings(&falling, &speech), [299 * FRAME_SAMPLES]);
    }

    #[test]
    fn somebody_before_and_between_is_found_at_both_ends() {
        let speech = net((0..400).collect());
        let before = scored(&[-1.0, -1.0, -1.0, -1.0, 1.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        let changes = crossings(&before, &speech);
        assert!(changes.len() == 1 && (150..180).contains(&(changes[0] / FRAME_SAMPLES)), "{changes:?}");
        let between = scored(&[8.0, 8.0, 8.0, 2.0, 0.0, 0.0, 2.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        assert_eq!(crossings(&between, &speech).len(), 2);
        assert!(crossings(&[], &speech).is_empty());
        assert!(crossings(&scored(&[5.0, 5.0, 5.0]), &speech).is_empty());
    }

    proptest! {
        #[test]
        fn whatever_the_scores_are_the_changes_rise_and_lie_inside(
            scores in prop::collection::vec(
                prop_oneof![-5.0f32..12.0, Just(f32::NAN), Just(f32::INFINITY)],
                0..20,
            ),
            kept in prop::collection::btree_set(0usize..700, 0..600),
        ) {
            let changes = crossings(&scored(&scores), &net(kept.into_iter().collect()));
            prop_assert!(changes.is_sorted());
            prop_assert!(changes.iter().all(|at| *at < 700 * FRAME_SAMPLES));
        }
    }
}

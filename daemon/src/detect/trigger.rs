//! Decides when scores count as one spoken wake word, and where the word ended.
//!
//! Scores come every 20 ms, from grids in turn. A word gives scores at its threshold for 0.1 to 0.6 s, on
//! some grids more than on others; a chance match gives a single one. So two within [`WINDOW`] are required.
//! The first faint response tells the end of the word: its distance to the true end varies less (5–95 %: 0.11
//! s) than that of any later mark.

use crate::units::FramePos;

/// Two scores at the threshold within this time wake the device: 160 ms.
const WINDOW: u64 = 16;
/// A score that is more than the background's.
const FAINT: f32 = 0.01;
/// A pause in the faint scores that separates two responses: 80 ms.
const FAINT_GAP: u64 = 8;
/// The word ended this long before the first faint score: 50 ms. Measured so that the cut falls 0.1 s early
/// to 0.08 s late; a trace of the word's last sound harms less than the loss of the command's first.
const WORD_END_BEFORE: u64 = 5;
/// The verdict comes at most this long after the word's end: 0.6 s.
const LATEST: u64 = 60;
/// After a wake word, the same word is not heard for this long: 1 s.
const REFRACTORY: u64 = 100;

/// A wake word was heard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hit {
    /// Best score so far.
    pub score: f32,
    /// One past the last frame of the word, as well as can be told.
    pub end: FramePos,
}

/// Two-step debounce of one wake word's scores.
#[derive(Debug)]
pub(super) struct Trigger {
    word: String,
    threshold: f32,
    /// The last score at the threshold.
    first: Option<(FramePos, f32)>,
    /// First and last score of the running response that is more than the background's.
    faint: Option<(FramePos, FramePos)>,
    blocked_until: FramePos,
}

impl Trigger {
    pub(super) fn new(word: String, threshold: f32) -> Self {
        Self { word, threshold, first: None, faint: None, blocked_until: FramePos(0) }
    }

    pub(super) fn word(&self) -> &str {
        &self.word
    }

    /// Scores will not continue from those seen. The same word may still be on the air, so it stays blocked.
    pub(super) fn reset(&mut self) {
        self.first = None;
        self.faint = None;
    }

    /// The audio clock starts again.
    pub(super) fn restart(&mut self) {
        self.reset();
        self.blocked_until = FramePos(0);
    }

    /// Takes the score of the sound that ends at `pos`.
    pub(super) fn step(&mut self, pos: FramePos, score: f32) -> Option<Hit> {
        if score >= FAINT {
            self.faint = match self.faint {
                Some((from, last)) if pos.since(last) <= FAINT_GAP => Some((from, pos)),
                _ => Some((pos, pos)),
            };
        }
        if score < self.threshold || pos < self.blocked_until {
            return None;
        }
        let before = self.first.replace((pos, score));
        let (_, earlier) = before.filter(|(at, _)| pos.since(*at) <= WINDOW)?;
        self.first = None;
        self.blocked_until = FramePos(pos.0 + REFRACTORY);
        let from = self.faint.map_or(pos, |(from, _)| from);
        let end = from.0.saturating_sub(WORD_END_BEFORE).max(pos.0.saturating_sub(LATEST));
        Some(Hit { score: score.max(earlier), end: FramePos(end) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(scores: &[(u64, f32)]) -> Vec<(u64, Hit)> {
        let mut trigger = Trigger::new("word".into(), 0.5);
        scores.iter().filter_map(|(at, s)| trigger.step(FramePos(*at), *s).map(|hit| (*at, hit))).collect()
    }

    #[test]
    fn one_score_at_the_threshold_does_not_wake() {
        assert!(run(&[(100, 0.0), (102, 0.99), (104, 0.1), (106, 0.0)]).is_empty());
        assert!(run(&[(100, 0.9), (130, 0.9)]).is_empty(), "too far apart");
    }

    #[test]
    fn two_scores_on_different_grids_wake_once_and_end_the_word_before_the_first_response() {
        let hits = run(&[
            (100, 0.02),
            (102, 0.7),
            (104, 0.1),
            (106, 0.8),
            (108, 0.99),
            (110, 0.99),
            (150, 0.9),
            (152, 0.9),
        ]);
        assert_eq!(hits, [(106, Hit { score: 0.8, end: FramePos(95) })]);
    }

    #[test]
    fn the_word_is_heard_again_after_the_refractory_time() {
        let hits = run(&[(100, 0.9), (102, 0.9), (150, 0.9), (152, 0.9), (300, 0.9), (302, 0.9)]);
        assert_eq!(hits.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [102, 302]);
    }

    #[test]
    fn a_response_that_hums_for_long_does_not_move_the_end_of_the_word_far_back() {
        let mut scores: Vec<(u64, f32)> = (0..200).map(|n| (n * 2, 0.05)).collect();
        scores.extend([(402, 0.9), (404, 0.9)]);
        assert_eq!(run(&scores)[0].1.end, FramePos(404 - LATEST));
    }
}

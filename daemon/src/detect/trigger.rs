//! When a run of scores counts as one spoken wake word, and where the word ended.

use crate::units::FramePos;

/// A score this high wakes at once; a lower one must be followed by a second.
const CERTAIN: f32 = 0.9;
/// After a wake word, none is heard for this long: 1 s.
const REFRACTORY: u64 = 100;
/// The word ended this long before the first score that counts; measured.
const WORD_END_BEFORE: u64 = 4;

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
    above: Option<(FramePos, f32)>,
    blocked_until: FramePos,
}

impl Trigger {
    pub(super) fn new(word: String, threshold: f32, _phases: usize) -> Self {
        Self { word, threshold, above: None, blocked_until: FramePos(0) }
    }

    pub(super) fn word(&self) -> &str {
        &self.word
    }

    /// Scores will not continue from those seen.
    pub(super) fn reset(&mut self) {
        self.above = None;
        self.blocked_until = FramePos(0);
    }

    /// Takes the score of the sound that ends at `pos`.
    pub(super) fn step(&mut self, pos: FramePos, score: f32) -> Option<Hit> {
        if score < self.threshold {
            self.above = None;
            return None;
        }
        if pos < self.blocked_until {
            return None;
        }
        let second = self.above.is_some();
        let (first, best) = self.above.unwrap_or((pos, score));
        let best = best.max(score);
        self.above = Some((first, best));
        if second || score >= CERTAIN.max(self.threshold) {
            self.above = None;
            self.blocked_until = FramePos(pos.0 + REFRACTORY);
            let end = FramePos(first.0.saturating_sub(WORD_END_BEFORE));
            return Some(Hit { score: best, end });
        }
        None
    }
}

//! The recent past: the sound and the speech probability of each frame, by position.

use crate::units::{FRAME_SAMPLES, FramePos};

use super::Frame;

/// A contiguous stretch of frames that ends now. The owner says when its older frames are forgotten.
#[derive(Debug, Default)]
pub(super) struct Sound {
    start: FramePos,
    raw: Vec<f32>,
    /// Probabilities of the frames decided so far; fewer than frames.
    speech: Vec<f32>,
}

/// Frames that may be kept beyond the needed ones before memory is moved.
const SLACK: u64 = 400;

impl Sound {
    /// Forgets everything; the next frame will be at `pos`.
    pub(super) fn restart(&mut self, pos: FramePos) {
        self.raw.clear();
        self.speech.clear();
        self.start = pos;
    }

    pub(super) fn push(&mut self, frame: &Frame) {
        self.raw.extend_from_slice(&frame.raw);
    }

    /// Appends `frames` of silence in the place of lost sound.
    pub(super) fn push_silence(&mut self, frames: u64) {
        let samples = to_index(frames).saturating_mul(FRAME_SAMPLES);
        self.raw.resize(self.raw.len() + samples, 0.0);
    }

    /// Decides the oldest undecided frame and gives its position.
    pub(super) fn decide(&mut self, probability: f32) -> FramePos {
        let pos = self.decided();
        self.speech.push(probability);
        pos
    }

    /// Replaces the probability of a frame that was decided without listening to it.
    pub(super) fn revise(&mut self, pos: FramePos, probability: f32) {
        if let Some(at) = pos.0.checked_sub(self.start.0)
            && let Some(slot) = self.speech.get_mut(to_index(at))
        {
            *slot = probability;
        }
    }

    pub(super) fn start(&self) -> FramePos {
        self.start
    }

    /// One past the last frame.
    pub(super) fn end(&self) -> FramePos {
        FramePos(self.start.0 + (self.raw.len() / FRAME_SAMPLES) as u64)
    }

    /// One past the last decided frame.
    pub(super) fn decided(&self) -> FramePos {
        FramePos(self.start.0 + self.speech.len() as u64)
    }

    /// Frames that are not decided.
    pub(super) fn open(&self) -> u64 {
        self.end().since(self.decided())
    }

    pub(super) fn probability(&self, pos: FramePos) -> f32 {
        let at = pos.0.checked_sub(self.start.0).map(to_index);
        at.and_then(|at| self.speech.get(at)).copied().unwrap_or(0.0)
    }

    /// Samples of the frames from `from` up to but not including `to`, as far as they are kept.
    pub(super) fn samples(&self, from: FramePos, to: FramePos) -> &[f32] {
        let range = self.index(from) * FRAME_SAMPLES..self.index(to) * FRAME_SAMPLES;
        self.raw.get(range).unwrap_or_default()
    }

    /// Speech probabilities of the same frames.
    pub(super) fn speech(&self, from: FramePos, to: FramePos) -> &[f32] {
        self.speech.get(self.index(from)..self.index(to).min(self.speech.len())).unwrap_or_default()
    }

    pub(super) fn frame(&self, pos: FramePos) -> Option<&[f32; FRAME_SAMPLES]> {
        let at = to_index(pos.0.checked_sub(self.start.0)?).checked_mul(FRAME_SAMPLES)?;
        self.raw.get(at..)?.first_chunk()
    }

    /// Forgets frames before `pos`, now or later.
    pub(super) fn forget_before(&mut self, pos: FramePos) {
        let frames = pos.min(self.decided()).since(self.start);
        if frames > SLACK {
            let at = to_index(frames);
            self.raw.drain(..at * FRAME_SAMPLES);
            self.speech.drain(..at);
            self.start = FramePos(self.start.0 + frames);
        }
    }

    fn index(&self, pos: FramePos) -> usize {
        to_index(pos.since(self.start)).min(self.raw.len() / FRAME_SAMPLES)
    }
}

fn to_index(frames: u64) -> usize {
    usize::try_from(frames).unwrap_or(usize::MAX)
}

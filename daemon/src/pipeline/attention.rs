//! Selects the sound to listen to: by stretches of the audio clock, not of the wall clock.
//!
//! The front end may be late by the length of the ring. Sound from during an answer may be looked at after
//! the answer has ended. Words right behind the answer may be looked at while the device still counts as
//! speaking. So a caller that silences the detector names two positions, and the detector compares the
//! position of each frame.
//!
//! Invariants: positions are asked for in rising order (one source); a muted device listens to nothing, also
//! not to sound from before it was muted; sound heard while it was muted stays unheard after it is unmuted.

use std::collections::VecDeque;
use std::ops::Range;

use crate::units::FramePos;

/// Why speech needs no wake word for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The device has answered.
    FollowUp,
    /// Somebody asked for it, at a distance.
    Asked,
    /// A phrase of an enrolment is waited for.
    Phrase,
}

/// Stretches that the front end has not reached yet. It is at most a ring late and answers take seconds, so
/// there are one or two; beyond this many the last ones are joined.
const MOST: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Attention {
    muted: bool,
    /// Muted since the last frame: the utterance of that time is over, however short the mute was.
    was_muted: bool,
    /// The device speaks from here on.
    speaking: Option<FramePos>,
    /// Ended stretches, in the order of their ends.
    over: VecDeque<Range<FramePos>>,
    /// A requested listening window: its start, and its length in ms.
    window: Option<(FramePos, Window, u32)>,
    /// No sound has come for a while.
    interrupted: bool,
}

/// The treatment of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heed {
    /// Not to be listened to.
    Silenced,
    Listen,
    /// Listen, and open a window of this many ms first.
    OpenWindow(Window, u32),
}

impl Attention {
    pub(super) fn is_muted(&self) -> bool {
        self.muted
    }

    pub(super) fn mute(&mut self) {
        self.muted = true;
        self.was_muted = true;
        self.window = None;
    }

    /// `now` is where the sound stands.
    pub(super) fn unmute(&mut self, now: FramePos) {
        if std::mem::take(&mut self.muted) {
            self.close(FramePos(0)..now);
        }
    }

    /// The device begins to speak.
    pub(super) fn hold(&mut self, now: FramePos) {
        self.speaking.get_or_insert(now);
    }

    /// Ends the silencing: the device's own speech has died away at `end`.
    pub(super) fn release(&mut self, end: FramePos) {
        if let Some(from) = self.speaking.take() {
            self.close(from..end);
        }
    }

    /// No sound comes any more. A requested window lapses: its requester no longer expects it when the sound
    /// is back. An enrolment still waits for its phrase.
    pub(super) fn interrupt(&mut self) {
        self.interrupted = true;
        self.window.take_if(|(_, window, _)| *window != Window::Phrase);
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Asks for a window of `ms` from `now` on, or from the end of the device's own speech if it speaks then.
    /// A muted device opens none.
    pub(super) fn open_window(&mut self, now: FramePos, window: Window, ms: u32) {
        if ms > 0 && !self.muted {
            self.window = Some((now, window, ms));
        }
    }

    /// The treatment of the frame at `pos`; stretches before it are forgotten.
    pub(super) fn heed(&mut self, pos: FramePos) -> Heed {
        self.interrupted = false;
        self.over.retain(|stretch| pos < stretch.end);
        let spoken = self.speaking.is_some_and(|from| from <= pos);
        if std::mem::replace(&mut self.was_muted, self.muted)
            || spoken
            || self.over.iter().any(|stretch| stretch.contains(&pos))
        {
            return Heed::Silenced;
        }
        match self.window {
            Some((from, window, ms)) if from <= pos => {
                self.window = None;
                Heed::OpenWindow(window, ms)
            }
            _ => Heed::Listen,
        }
    }

    fn close(&mut self, stretch: Range<FramePos>) {
        let full = self.over.len() >= MOST;
        match self.over.back_mut() {
            Some(last) if full => last.end = last.end.max(stretch.end),
            _ => self.over.push_back(stretch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_lapses_with_the_sound_unless_an_enrolment_waits() {
        for (window, opens) in [(Window::Asked, false), (Window::FollowUp, false), (Window::Phrase, true)] {
            let mut attention = Attention::default();
            attention.open_window(FramePos(10), window, 5_000);
            attention.interrupt();
            assert!(attention.is_interrupted());
            let heed = attention.heed(FramePos(3_000));
            assert_eq!(heed == Heed::OpenWindow(window, 5_000), opens, "{window:?}");
            assert!(!attention.is_interrupted(), "the sound is back");
        }
    }

    fn heard(attention: &mut Attention, frames: Range<u64>) -> Vec<u64> {
        frames.filter(|pos| attention.heed(FramePos(*pos)) != Heed::Silenced).collect()
    }

    #[test]
    fn a_late_front_end_leaves_out_what_the_device_said_and_nothing_else() {
        let mut attention = Attention::default();
        attention.hold(FramePos(100));
        attention.release(FramePos(105));
        // All of it is examined long after the device has fallen silent.
        assert_eq!(heard(&mut attention, 97..108), [97, 98, 99, 105, 106, 107]);
    }

    #[test]
    fn while_the_device_speaks_sound_from_before_is_still_heard() {
        let mut attention = Attention::default();
        attention.hold(FramePos(100));
        assert_eq!(heard(&mut attention, 98..120), [98, 99]);
        // The end may lie ahead: the room goes on sounding for a while.
        attention.release(FramePos(122));
        assert_eq!(heard(&mut attention, 120..124), [122, 123]);
    }

    #[test]
    fn several_answers_before_the_front_end_has_seen_one_are_told_apart() {
        let mut attention = Attention::default();
        for from in [10, 20, 30] {
            attention.hold(FramePos(from));
            attention.release(FramePos(from + 5));
        }
        assert_eq!(heard(&mut attention, 8..40).len(), 32 - 15);
        for from in 0..1_000 {
            attention.hold(FramePos(100 + 2 * from));
            attention.release(FramePos(101 + 2 * from));
        }
        assert!(attention.over.len() <= MOST);
        let spoken = (0..1_000).map(|n| 100 + 2 * n);
        assert!(spoken.into_iter().all(|pos| attention.heed(FramePos(pos)) == Heed::Silenced));
    }

    #[test]
    fn sound_from_while_the_device_was_muted_stays_unheard() {
        let mut attention = Attention::default();
        attention.mute();
        assert!(heard(&mut attention, 50..60).is_empty(), "also what came before");
        attention.unmute(FramePos(70));
        assert_eq!(heard(&mut attention, 60..73), [70, 71, 72]);
        // However short the mute: the utterance before it goes unheard for one frame, which drops it.
        attention.mute();
        attention.unmute(FramePos(73));
        assert_eq!(heard(&mut attention, 73..76), [74, 75]);
        // An unmute without a mute silences nothing.
        attention.unmute(FramePos(90));
        assert_eq!(heard(&mut attention, 76..79), [76, 77, 78]);
    }

    #[test]
    fn a_window_waits_for_its_place_and_for_the_end_of_the_answer() {
        let mut attention = Attention::default();
        attention.hold(FramePos(10));
        attention.open_window(FramePos(12), Window::FollowUp, 5_000);
        attention.release(FramePos(20));
        assert_eq!(attention.heed(FramePos(9)), Heed::Listen, "before the answer");
        assert_eq!(attention.heed(FramePos(19)), Heed::Silenced);
        assert_eq!(attention.heed(FramePos(20)), Heed::OpenWindow(Window::FollowUp, 5_000));
        assert_eq!(attention.heed(FramePos(21)), Heed::Listen, "once");
    }

    #[test]
    fn a_muted_device_opens_no_window_and_keeps_none_for_later() {
        let mut attention = Attention::default();
        attention.open_window(FramePos(0), Window::Asked, 5_000);
        attention.mute();
        attention.open_window(FramePos(1), Window::Asked, 5_000);
        attention.unmute(FramePos(2));
        assert_eq!(attention.heed(FramePos(2)), Heed::Silenced, "the first frame ends what was open");
        assert_eq!(attention.heed(FramePos(3)), Heed::Listen);
        attention.open_window(FramePos(4), Window::FollowUp, 0);
        assert_eq!(attention.heed(FramePos(4)), Heed::Listen, "a window of no length is none");
    }
}

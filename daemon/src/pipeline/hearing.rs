//! The body of thread `frontend`: takes periods out of the ring, makes frames of them, and sends the
//! detections to the turn task.
//!
//! The thread may wait (the ring then fills, and the capture side drops and counts); it never waits for a
//! turn of a live source, so the next wake word is heard while an answer is being made. For a recording read
//! faster than real time it waits after each utterance until the turn is over: the same file gives the same
//! turns on any machine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use super::attention::Window;
use super::attention::{Attention, Heed};
use crate::audio::{CaptureStats, Period};
use crate::detect::{Detection, Detector};
use crate::dsp::{Frame, FrontEnd};
use crate::units::{FramePos, frames_in_ms};

/// How long the thread sleeps at most when the ring is empty; the capture thread unparks it earlier.
const PARK: Duration = Duration::from_millis(50);

/// Empty looks at the ring in a row after which the sound has been interrupted for a second. Looks are
/// counted instead of time: while the whole program stands still nothing is known about the sound.
const INTERRUPTED_LOOKS: u32 = 20;

/// Control of the running detector, for other tasks.
#[derive(Debug, Default)]
pub struct HearingControl {
    /// Source of the sound's position; see [`CaptureStats::position`].
    stats: Arc<CaptureStats>,
    attention: Mutex<Attention>,
    /// For tasks that wait for a change; `attention` holds the truth.
    muted: watch::Sender<bool>,
    /// Frames through the detector since start: the proof of life of this thread.
    frames: AtomicU64,
}

/// The device speaks while this lives: the detector ignores the sound heard now.
#[derive(Debug)]
pub struct Hold<'a> {
    control: &'a HearingControl,
    tail_ms: u32,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let now = self.control.stats.position();
        let end = FramePos(now.0 + frames_in_ms(self.tail_ms) as u64);
        self.control.attention().release(end);
    }
}

impl HearingControl {
    /// `stats` are those of the capture thread whose sound is examined.
    pub fn new(stats: Arc<CaptureStats>) -> Self {
        Self { stats, ..Self::default() }
    }

    /// Nothing is detected from here to `tail_ms` after the end of the hold, even in sound examined later.
    pub fn hold(&self, tail_ms: u32) -> Hold<'_> {
        self.attention().hold(self.stats.position());
        Hold { control: self, tail_ms }
    }

    /// Where the sound stands.
    pub fn position(&self) -> FramePos {
        self.stats.position()
    }

    /// Nothing is detected while muted, until the household unmutes; sound from meanwhile stays unheard then.
    pub fn set_muted(&self, muted: bool) {
        let now = self.stats.position();
        let mut attention = self.attention();
        if muted {
            attention.mute();
        } else {
            attention.unmute(now);
        }
        self.muted.send_if_modified(|was| std::mem::replace(was, muted) != muted);
    }

    /// For tasks that must act when the device is muted.
    pub fn watch_muted(&self) -> watch::Receiver<bool> {
        self.muted.subscribe()
    }

    pub fn is_muted(&self) -> bool {
        self.attention().is_muted()
    }

    /// Whether the source delivers nothing.
    pub fn is_interrupted(&self) -> bool {
        self.attention().is_interrupted()
    }

    /// Opens a window of `ms` in which speech needs no wake word, as soon as the device is silent.
    pub fn open_window(&self, window: Window, ms: u32) {
        let now = self.stats.position();
        self.attention().open_window(now, window, ms);
    }

    /// Frames examined since start.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    fn attention(&self) -> MutexGuard<'_, Attention> {
        // One short call without an early exit makes every change of it.
        self.attention.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A detection on its way to the turn task.
#[derive(Debug)]
pub struct Heard {
    /// `None`: only the question whether everything before is done.
    pub detection: Option<Detection>,
    /// Present for a recording: dropping it lets the thread read on.
    pub turn_over: Option<SyncSender<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum HearingError {
    #[error("the front end failed on a period")]
    FrontEnd(#[source] crate::dsp::DspError),
    #[error("the detector failed on a frame")]
    Detector(#[source] crate::inference::ModelError),
}

/// Everything the thread owns.
pub struct Hearing<'a> {
    pub ring: rtrb::Consumer<Period>,
    pub front: FrontEnd,
    pub detector: &'a mut Detector,
    pub control: &'a HearingControl,
    pub out: mpsc::Sender<Heard>,
    /// The source is a recording read as fast as it can be: wait for each turn.
    pub lockstep: bool,
}

impl Hearing<'_> {
    /// Runs until the source has ended (the ring is abandoned and empty), the turn task is gone, or `stop`.
    ///
    /// # Errors
    /// When a model or a resampler fails. No input causes that in a sound build, only a bug or a broken
    /// machine.
    pub fn run(mut self, stop: &CancellationToken) -> Result<(), HearingError> {
        let mut frames: Vec<Frame> = Vec::with_capacity(8);
        let mut empty_looks = 0;
        loop {
            if stop.is_cancelled() {
                return Ok(());
            }
            // Read before the pop: periods pushed before the producer went away are then seen by the pop.
            let abandoned = self.ring.is_abandoned();
            match self.ring.pop() {
                Ok(period) => {
                    empty_looks = 0;
                    self.front
                        .push(&period, &mut |frame| frames.push(frame.clone()))
                        .map_err(HearingError::FrontEnd)?;
                }
                Err(_) if abandoned => {
                    self.front
                        .flush(&mut |frame| frames.push(frame.clone()))
                        .map_err(HearingError::FrontEnd)?;
                    if self.detect(&mut frames)? {
                        let mut found = Vec::new();
                        self.detector.finish(&mut found).map_err(HearingError::Detector)?;
                        self.tell(found);
                        self.wait_for_turns(None);
                    }
                    return Ok(());
                }
                Err(_) => {
                    thread::park_timeout(PARK);
                    empty_looks += 1;
                    // A recording comes as fast as it is read.
                    if empty_looks == INTERRUPTED_LOOKS && !self.lockstep {
                        let mut found = Vec::new();
                        self.control.attention().interrupt();
                        self.detector.interrupt(&mut found);
                        if !self.tell(found) {
                            return Ok(());
                        }
                    }
                }
            }
            if !self.detect(&mut frames)? {
                return Ok(());
            }
        }
    }

    /// Runs the detector on `frames`; `false` once the turn task no longer listens.
    fn detect(&mut self, frames: &mut Vec<Frame>) -> Result<bool, HearingError> {
        let mut found = Vec::new();
        for frame in frames.drain(..) {
            let heed = self.control.attention().heed(frame.pos);
            let silenced = heed == Heed::Silenced;
            if silenced && self.detector.is_attending() {
                found.push(Detection::Dropped { pos: frame.pos });
            }
            self.detector.set_held(silenced);
            self.detector.push(&frame, &mut found).map_err(HearingError::Detector)?;
            // After the frame: the window is measured from the newest sound of the detector. After an answer
            // that sound is from before the answer until this frame is in.
            if let Heed::OpenWindow(window, ms) = heed {
                self.detector.open_follow_up(ms);
                if window != Window::FollowUp {
                    found.push(Detection::Asked { pos: frame.pos });
                }
            }
            self.control.frames.fetch_add(1, Ordering::Relaxed);
            if !found.is_empty() && !self.tell(std::mem::take(&mut found)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends the detections; `false` once the turn task no longer listens.
    fn tell(&self, found: Vec<Detection>) -> bool {
        for detection in found {
            let told = if self.lockstep
                && matches!(detection, Detection::SpeechEnd { .. } | Detection::SoFar { .. })
            {
                self.wait_for_turns(Some(detection))
            } else {
                self.out.blocking_send(Heard { detection: Some(detection), turn_over: None }).is_ok()
            };
            if !told {
                return false;
            }
        }
        true
    }

    /// Hands over `detection` and waits until it and everything before it has been worked off.
    fn wait_for_turns(&self, detection: Option<Detection>) -> bool {
        let (turn_over, wait) = sync_channel(1);
        if self.out.blocking_send(Heard { detection, turn_over: Some(turn_over) }).is_err() {
            return false;
        }
        // The other side drops its end when the turn is over: an error here is the expected answer.
        let _ = wait.recv();
        true
    }
}

#[cfg(test)]
#[path = "hearing_tests.rs"]
mod tests;

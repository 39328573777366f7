//! The body of thread `frontend`: takes periods out of the ring, makes frames of them, and tells the turn task what
//! the detector found.
//!
//! The thread may wait (the ring then fills, and the capture side drops and counts); it never waits for a turn of a
//! live source, so the next wake word is heard while an answer is being made. For a recording read faster than real
//! time it waits after each utterance until the turn is over: the same file gives the same turns on any machine.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::audio::Period;
use crate::detect::{Detection, Detector};
use crate::dsp::{Frame, FrontEnd};

/// How long the thread sleeps at most when the ring is empty; the capture thread unparks it earlier.
const PARK: Duration = Duration::from_millis(50);

/// What others may ask of the detector while it runs.
#[derive(Debug, Default)]
pub struct HearingControl {
    held: AtomicBool,
    muted: AtomicBool,
    /// Requested listening window in ms; 0 = none.
    open_window_ms: AtomicU32,
    /// Frames through the detector since start: the proof of life of this thread.
    frames: AtomicU64,
}

impl HearingControl {
    /// While held (the device speaks) nothing is detected.
    pub fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }

    /// While muted nothing is detected until the household unmutes.
    pub fn set_muted(&self, muted: bool) {
        self.muted.store(muted, Ordering::Release);
    }

    pub fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Acquire)
    }

    /// Opens a window of `ms` in which speech needs no wake word.
    pub fn open_window(&self, ms: u32) {
        self.open_window_ms.store(ms, Ordering::Release);
    }

    /// Frames examined since start.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }
}

/// A detection on its way to the turn task.
#[derive(Debug)]
pub struct Heard {
    /// `None`: nothing but the question whether everything before is done.
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
    /// When a model or a resampler fails, which no sound does to a sound build: a bug or a broken machine.
    pub fn run(mut self, stop: &CancellationToken) -> Result<(), HearingError> {
        let mut frames: Vec<Frame> = Vec::with_capacity(8);
        loop {
            if stop.is_cancelled() {
                return Ok(());
            }
            // Read before the pop: what was pushed before the producer went away is then seen by the pop.
            let abandoned = self.ring.is_abandoned();
            match self.ring.pop() {
                Ok(period) => self
                    .front
                    .push(&period, &mut |frame| frames.push(frame.clone()))
                    .map_err(HearingError::FrontEnd)?,
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
                Err(_) => thread::park_timeout(PARK),
            }
            if !self.detect(&mut frames)? {
                return Ok(());
            }
        }
    }

    /// Whether the turn task still listens.
    fn detect(&mut self, frames: &mut Vec<Frame>) -> Result<bool, HearingError> {
        let mut found = Vec::new();
        for frame in frames.drain(..) {
            let silenced =
                self.control.held.load(Ordering::Acquire) || self.control.muted.load(Ordering::Acquire);
            if silenced && self.detector.is_attending() {
                found.push(Detection::Dropped { pos: frame.pos });
            }
            self.detector.set_held(silenced);
            let window_ms = self.control.open_window_ms.swap(0, Ordering::AcqRel);
            if window_ms > 0 && !silenced {
                self.detector.open_follow_up(window_ms);
            }
            self.detector.push(&frame, &mut found).map_err(HearingError::Detector)?;
            self.control.frames.fetch_add(1, Ordering::Relaxed);
            if !found.is_empty() && !self.tell(std::mem::take(&mut found)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the turn task still listens.
    fn tell(&self, found: Vec<Detection>) -> bool {
        for detection in found {
            let told = if self.lockstep && matches!(detection, Detection::SpeechEnd { .. }) {
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

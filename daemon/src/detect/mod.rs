//! From frames to utterances: gate, voice activity, wake word, endpointing.
//!
//! ```text
//!  Frame ──▶ gate 1: RNNoise's probability, hangover ──closed──▶ nothing runs; frames count as silence
//!              │ open
//!              └──▶ Vad (Silero, 32 ms) ── probability per frame ──▶ Endpointer ──▶ SpeechStart, Speech…, SpeechEnd
//!                     │                                                 ▲
//!                  gate 2: Silero's probability, hangover               │ Wake
//!                     │ open                                            │
//!                     └──▶ WakeChain (80 ms grids) ── scores ──▶ Trigger
//! ```
//!
//! RNNoise takes many noises for speech and costs nothing here, because it has already run; Silero takes few,
//! and costs a tenth of the wake chain. A gate that opens lets its network hear the last half second too, so
//! that no onset is lost. Both networks hear the raw sound: on denoised sound they do worse.
//!
//! Invariants: one thread, no waiting, bounded memory; a closed gate runs no network; positions never go back
//! within one source. The wake phrase's own verdict comes first: `Wake`, then later detections.

mod endpoint;
#[cfg(test)]
mod endpoint_tests;
pub mod listener;
pub mod section;
mod sound;
#[cfg(test)]
mod tests;
mod trigger;
pub mod vad;
pub mod wake;
#[cfg(test)]
mod wake_tests;

use crate::dsp::Frame;
use crate::inference::{ModelError, ModelStore, Role};
use crate::units::{FramePos, frames_in_ms};

use endpoint::{Endpointer, Limits};
use section::{Endpoint, Wake};
use sound::Sound;
use trigger::Trigger;
use vad::Vad;
use wake::WakeChain;
pub use wake::WakeWord;

/// Silero probability from which a frame is speech. This one and those below are measured in
/// `docs/design/detection.md`.
const VAD_THRESHOLD: f32 = 0.5;
/// Speech shorter than this is a noise.
const MIN_SPEECH_MS: u32 = 160;
/// Speech, wake phrase included, after which the utterance so far is handed out once.
const EARLY_VERDICT_MS: u32 = 2_000;

/// A finding of the detector in the sound.
#[derive(Debug, Clone)]
pub enum Detection {
    Wake {
        word: String,
        score: f32,
        pos: FramePos,
    },
    /// Speech of a command began (after the wake word, in a follow-up window, or at any time without a wake
    /// word).
    SpeechStart {
        pos: FramePos,
    },
    /// The next piece of the open command, 16 kHz mono in [-1, 1], for a streaming recogniser.
    Speech {
        raw: Vec<f32>,
    },
    /// There is enough speech to identify the speaker while it goes on. Holds the utterance so far, wake
    /// phrase included; at most once in an utterance. `speech` is the probability per 10 ms frame of `raw`,
    /// which is as in [`Utterance`].
    SoFar {
        raw: Vec<f32>,
        speech: Vec<f32>,
    },
    SpeechEnd {
        utterance: Utterance,
    },
    /// The wake word was said (or a follow-up window opened) and nothing came after it.
    NoSpeech {
        pos: FramePos,
    },
    /// A listening window was opened at a distance. The holder of the detector emits this.
    Asked {
        pos: FramePos,
    },
    /// The open or awaited utterance is dropped because no sound came for longer than a command survives.
    Lost {
        pos: FramePos,
    },
    /// The open or awaited utterance is dropped because the device speaks or is muted. The holder of the
    /// detector emits this.
    Dropped {
        pos: FramePos,
    },
}

/// One command from its pre-roll to its end silence, with the wake phrase in front of it if there was one.
#[derive(Debug, Clone)]
pub struct Utterance {
    /// Position of the first frame of `raw`.
    pub start: FramePos,
    /// One past the last frame.
    pub end: FramePos,
    /// 16 kHz mono in [-1, 1], not denoised; a whole number of frames.
    pub raw: Vec<f32>,
    /// VAD speech probability per 10 ms frame of `raw`.
    pub speech: Vec<f32>,
    /// Sample index in `raw` at which the words after the wake phrase begin (0 without a wake
    /// phrase).
    pub command_start: usize,
    /// Cut off at the maximum length.
    pub truncated: bool,
}

/// Work done so far, for health and for budgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    pub frames: u64,
    /// Frames during which the gate was open.
    pub listened: u64,
    /// Runs of the VAD network.
    pub vad_runs: u64,
    /// Runs of the wake chain (mel, embedding and heads, once each).
    pub wake_runs: u64,
}

/// RNNoise probability that lets the VAD listen.
const GATE_OPENS_AT: f32 = 0.2;
/// The VAD goes on listening after that for this long: 1 s.
const GATE_HANGOVER: u64 = 100;
/// Silero probability that lets the wake chain listen.
const WAKE_GATE_OPENS_AT: f32 = 0.2;
/// The wake chain goes on listening after that for this long: 1 s. Scores peak up to half a second after the
/// word.
const WAKE_GATE_HANGOVER: u64 = 100;
/// Frames that a network hears from before its gate opened.
const LOOK_BACK: u64 = 50;
/// Lost sound up to this long is heard as silence; a longer hole ends an open utterance: 0.5 s.
const BRIDGED: u64 = 50;
/// A hole from this length on drops an open utterance: its words may be incomplete, or hours old. 1 s.
const TORN: u64 = 100;

/// Finds wake words and commands in a stream of frames.
#[derive(Debug)]
pub struct Detector {
    vad: Vad,
    wake: Option<(WakeChain, Vec<Trigger>)>,
    endpointer: Endpointer,
    sound: Sound,
    /// Gate 1 is open up to here.
    open_until: FramePos,
    /// Whether the VAD heard the frame before.
    open: bool,
    /// Gate 2 is open up to here.
    wake_open_until: FramePos,
    /// The wake chain has heard everything up to here; `None`: it must start afresh.
    wake_heard: Option<FramePos>,
    held: bool,
    started: bool,
    work: Work,
}

impl Detector {
    /// Loads the models that the wake words and the search for speech need. Without a wake word every stretch
    /// of speech is a command.
    ///
    /// # Errors
    /// [`ModelError`] for a model that is missing, damaged, or no wake word.
    pub fn new(store: &ModelStore, wake: &Wake, endpoint: &Endpoint) -> Result<Self, ModelError> {
        let frames = |ms: u32| frames_in_ms(ms) as u64;
        let words = wake.words();
        let limits = Limits {
            threshold: VAD_THRESHOLD,
            pre_roll: frames(endpoint.pre_roll_ms),
            end_silence: frames(endpoint.end_silence_ms).max(1),
            max_utterance: frames(endpoint.max_utterance_ms).max(frames(MIN_SPEECH_MS) + 50),
            no_speech_timeout: frames(endpoint.no_speech_timeout_ms),
            min_speech: frames(MIN_SPEECH_MS),
            early_verdict: frames(EARLY_VERDICT_MS),
            always: words.is_empty(),
        };
        let wake = if words.is_empty() {
            None
        } else {
            let triggers = words.iter().map(|w| Trigger::new(w.name(), w.threshold)).collect();
            Some((WakeChain::new(store, &words, wake::PHASES)?, triggers))
        };
        Ok(Self {
            vad: Vad::new(store)?,
            wake,
            endpointer: Endpointer::new(limits),
            sound: Sound::default(),
            open_until: FramePos(0),
            open: false,
            wake_open_until: FramePos(0),
            wake_heard: None,
            held: false,
            started: false,
            work: Work::default(),
        })
    }

    /// Takes the next frame and appends its detections to `out`.
    pub fn push(&mut self, frame: &Frame, out: &mut Vec<Detection>) -> Result<(), ModelError> {
        self.work.frames += 1;
        if self.held {
            return Ok(());
        }
        let frame = &sane(frame);
        self.continue_at(frame, out)?;
        self.sound.push(frame);
        let now = self.sound.end();
        if frame.speech_probability >= GATE_OPENS_AT {
            self.open_until = FramePos(now.0 + GATE_HANGOVER);
        }
        if now < self.open_until || self.endpointer.is_open() {
            self.work.listened += 1;
            self.listen(out)?;
        } else {
            self.rest(out)?;
        }
        self.sound.forget_before(self.endpointer.needed_from(self.sound.decided()));
        Ok(())
    }

    /// Nothing is detected while held (the device speaks, or is muted); an open utterance is dropped without
    /// a word.
    pub fn set_held(&mut self, held: bool) {
        if held != self.held {
            self.held = held;
            self.endpointer.reset();
            self.started = false;
        }
    }

    /// A command may come without a wake word during the `ms` after the last frame taken; `NoSpeech` says
    /// that none came.
    pub fn open_follow_up(&mut self, ms: u32) {
        if ms > 0 && !self.held {
            self.endpointer.follow_up(self.sound.end(), frames_in_ms(ms) as u64);
        }
    }

    /// No sound has come for longer than a command survives: drops the open or awaited utterance.
    pub fn interrupt(&mut self, out: &mut Vec<Detection>) {
        if self.is_attending() {
            self.endpointer.reset();
            out.push(Detection::Lost { pos: self.sound.end() });
        }
    }

    /// Whether a command is open or awaited.
    pub fn is_attending(&self) -> bool {
        self.endpointer.is_open() || self.endpointer.is_armed()
    }

    /// The source ended: ends the open utterance.
    pub fn finish(&mut self, out: &mut Vec<Detection>) -> Result<(), ModelError> {
        if !self.held && self.started {
            self.settle(out)?;
            self.endpointer.cut(self.sound.end(), false, &self.sound, out);
        }
        self.endpointer.reset();
        self.started = false;
        Ok(())
    }

    pub fn work(&self) -> Work {
        Work {
            vad_runs: self.vad.runs(),
            wake_runs: self.wake.as_ref().map_or(0, |(chain, _)| chain.runs()),
            ..self.work
        }
    }

    /// Joins the frame to those before it, or starts afresh if that is impossible.
    fn continue_at(&mut self, frame: &Frame, out: &mut Vec<Detection>) -> Result<(), ModelError> {
        let expected = self.sound.end();
        if self.started && frame.pos >= expected && frame.pos.since(expected) <= BRIDGED {
            let hole = frame.pos.since(expected);
            if hole > 0 {
                self.settle(out)?;
                self.sound.push_silence(hole);
                self.decide_all(0.0, out);
            }
            if hole > 0 || frame.discontinuity {
                self.settle(out)?;
                self.vad.reset();
                self.wake_heard = None;
            }
            return Ok(());
        }
        if self.started {
            self.settle(out)?;
            if frame.pos >= expected && frame.pos.since(expected) >= TORN {
                self.interrupt(out);
            }
            self.endpointer.cut(expected, true, &self.sound, out);
        }
        if frame.pos < expected {
            // Another source, or the same one from its start.
            self.endpointer.restart();
            for trigger in self.wake.iter_mut().flat_map(|(_, triggers)| triggers) {
                trigger.restart();
            }
        }
        self.sound.restart(frame.pos);
        self.vad.reset();
        self.wake_heard = None;
        self.open = false;
        self.open_until = FramePos(0);
        self.wake_open_until = FramePos(0);
        self.started = true;
        Ok(())
    }

    /// The gate is open: the networks hear the last frame.
    fn listen(&mut self, out: &mut Vec<Detection>) -> Result<(), ModelError> {
        let now = self.sound.end();
        let last = FramePos(now.0.saturating_sub(1));
        if !self.open {
            self.open = true;
            self.vad.reset();
            let mut pos = FramePos(last.0.saturating_sub(LOOK_BACK)).max(self.sound.start());
            let mut decided = pos;
            while pos < last {
                let Some(raw) = self.sound.frame(pos) else { break };
                if let Some(verdict) = self.vad.push(raw)? {
                    if verdict.probability >= WAKE_GATE_OPENS_AT {
                        self.wake_open_until = FramePos(now.0 + WAKE_GATE_HANGOVER);
                    }
                    for _ in 0..verdict.frames {
                        self.sound.revise(decided, verdict.probability);
                        decided = FramePos(decided.0 + 1);
                    }
                }
                pos = FramePos(pos.0 + 1);
            }
            // Sound that the network has heard and not judged was already counted as silence.
            self.vad.skip_open();
        }
        if let Some(raw) = self.sound.frame(last)
            && let Some(verdict) = self.vad.push(raw)?
        {
            if verdict.probability >= WAKE_GATE_OPENS_AT {
                self.wake_open_until = FramePos(now.0 + WAKE_GATE_HANGOVER);
            }
            self.decide(verdict.frames, verdict.probability, out);
        }
        self.listen_for_wake(out)
    }

    fn listen_for_wake(&mut self, out: &mut Vec<Detection>) -> Result<(), ModelError> {
        let now = self.sound.end();
        let Some((chain, triggers)) = &mut self.wake else { return Ok(()) };
        if now > self.wake_open_until || !self.endpointer.wants_wake(now) {
            self.wake_heard = None;
            return Ok(());
        }
        let mut pos = match self.wake_heard {
            Some(pos) => pos,
            None => {
                chain.reset();
                triggers.iter_mut().for_each(Trigger::reset);
                FramePos(now.0.saturating_sub(LOOK_BACK + 1)).max(self.sound.start())
            }
        };
        let mut heard = None;
        while pos < now {
            let Some(raw) = self.sound.frame(pos) else { break };
            pos = FramePos(pos.0 + 1);
            if let Some(scores) = chain.push(raw)? {
                for (trigger, score) in triggers.iter_mut().zip(scores) {
                    if let Some(hit) = trigger.step(pos, *score) {
                        heard = Some((trigger.word().to_owned(), hit));
                    }
                }
            }
        }
        self.wake_heard = Some(pos);
        if let Some((word, hit)) = heard {
            let at = out.len();
            let hisses = word.contains("jarvis");
            if self.endpointer.wake(hit.end, hisses, &self.sound, out) {
                out.insert(at, Detection::Wake { word, score: hit.score, pos: hit.end });
            }
        }
        Ok(())
    }

    /// The gate is closed: nothing runs, the frame is silence.
    fn rest(&mut self, out: &mut Vec<Detection>) -> Result<(), ModelError> {
        if self.open {
            self.open = false;
            self.settle(out)?;
            self.wake_heard = None;
        }
        self.decide_all(0.0, out);
        Ok(())
    }

    /// Decides every frame that the VAD has heard.
    fn settle(&mut self, out: &mut Vec<Detection>) -> Result<(), ModelError> {
        if self.sound.open() > 0 {
            let probability = self.vad.flush()?.map_or(0.0, |v| v.probability);
            self.decide_all(probability, out);
        }
        Ok(())
    }

    fn decide_all(&mut self, probability: f32, out: &mut Vec<Detection>) {
        let open = usize::try_from(self.sound.open()).unwrap_or(0);
        self.decide(open, probability, out);
    }

    fn decide(&mut self, frames: usize, probability: f32, out: &mut Vec<Detection>) {
        for _ in 0..frames {
            if self.sound.open() == 0 {
                break;
            }
            let pos = self.sound.decide(probability);
            self.endpointer.frame(pos, &self.sound, out);
        }
    }
}

/// The model of a role that has exactly one.
fn model_of(store: &ModelStore, role: Role) -> Result<String, ModelError> {
    store.entries().iter().find(|m| m.role == role).map(|m| m.name.clone()).ok_or_else(|| {
        ModelError::Unknown {
            name: role.to_string(),
            known: store.entries().iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        }
    })
}

/// A sample that a network can take: NaN and infinity become silence.
fn finite(sample: f32) -> f32 {
    if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 }
}

fn sane(frame: &Frame) -> Frame {
    Frame {
        raw: frame.raw.map(finite),
        speech_probability: finite(frame.speech_probability),
        ..frame.clone()
    }
}

//! Endpointing: finds the begin and end of a command. A state machine over decided frames, without sound or
//! models in it.
//!
//! ```text
//!              wake word                      min_speech of speech
//!   Waiting ───────────────▶ Armed ───────────────────────────────────▶ Open ── end_silence, or max_utterance ──▶ Waiting
//!    │  ▲                    │ │ ▲                                      │ │                                         (SpeechEnd)
//!    │  └─ no_speech_timeout ┘ │ └── wake word near the command's start ┘ │
//!    │         (NoSpeech)      └ wake word again: armed anew              └ sound lost for long: ends, truncated
//!    ├── open_follow_up ──▶ Armed, for as long as the window lasts
//!    └── no wake word configured: min_speech of speech ──▶ Open
//! ```
//!
//! Invariants: utterances do not overlap and come in order; a command is at most `max_utterance` long; every
//! piece of sound handed out lies in the utterance that ends it; frames are looked at once, in order, except
//! that arming looks again at those after the wake phrase, so that nothing of "hey jarvis what time is it" is
//! lost.

use crate::dsp::level::{self, HighPass};
use crate::units::{FRAME_SAMPLES, FramePos, SAMPLE_RATE_HZ};

use super::sound::Sound;
use super::{Detection, Utterance};

/// All in frames, except the threshold.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub threshold: f32,
    pub pre_roll: u64,
    pub end_silence: u64,
    pub max_utterance: u64,
    pub no_speech_timeout: u64,
    pub min_speech: u64,
    /// Frames of speech after which the utterance so far is handed out; 0: never.
    pub early_verdict: u64,
    /// Every stretch of speech is a command.
    pub always: bool,
}

/// Speech that has begun goes on down to this much below the threshold.
const HYSTERESIS: f32 = 0.15;
/// Silence that does not end a beginning of speech: the closure of a stop consonant, a hesitation.
const GAP: u64 = 20;
/// The wake phrase is at most this long and stands in front of the utterance: 1.5 s.
const WAKE_LEAD: u64 = 150;
/// Speech needed, beyond `min_speech`, when it follows the wake phrase without a gap: the phrase's own last
/// sound, or a late verdict on it, is not a command.
const WAKE_TAIL: u64 = 16;
/// A wake word that ends within this time of the command's start restarts it; a later one belongs to the
/// command: 2 s.
const RESTART_WITHIN: u64 = 200;
/// A piece of the command that is handed out holds this many frames at least: 100 ms.
const PIECE: u64 = 10;

/// A pause between wake phrase and command begins at most this long after the phrase's estimated end, which
/// is up to 0.18 s early: 200 ms.
const PAUSE_BEGINS_WITHIN: u64 = 20;
/// The pause lasts longer than the closure of a stop consonant: 150 ms.
const PAUSE: u64 = 15;
/// The pause is this much quieter than the phrase: -20 dB, as a ratio of energies.
const PAUSE_ENERGY: f64 = 0.01;

/// The start of the pause after a wake phrase that was estimated to end at `end`, if there is one.
fn pause_after(end: FramePos, sound: &Sound) -> Option<FramePos> {
    let first = FramePos(end.0.saturating_sub(60)).max(sound.start());
    // A DC offset or hum would fill every pause.
    let mut audible = HighPass::new(SAMPLE_RATE_HZ);
    let energies: Vec<f64> = (first.0..=end.0 + PAUSE_BEGINS_WITHIN + PAUSE)
        .map_while(|pos| sound.frame(FramePos(pos)))
        .map(|raw| level::power(&audible.filter(raw)))
        .collect();
    let energy = |pos: FramePos| energies.get(usize::try_from(pos.0.checked_sub(first.0)?).ok()?).copied();
    let loudest = (1..=60).filter_map(|back| energy(FramePos(end.0.checked_sub(back)?))).fold(0.0, f64::max);
    let quiet = |pos: FramePos| energy(pos).is_some_and(|e| e < loudest * PAUSE_ENERGY);
    (0..=PAUSE_BEGINS_WITHIN)
        .map(|after| FramePos(end.0 + after))
        .find(|from| (0..PAUSE).all(|n| quiet(FramePos(from.0 + n))))
}

/// The search for the hiss of a wake phrase's last "s" starts this long before its estimated end: 100 ms.
const HISS_BEFORE: u64 = 10;
/// The search goes up to this long after it: 90 ms. The estimate is up to 140 ms early.
const HISS_AFTER: u64 = 9;
/// Less than this is no "s": 30 ms.
const LEAST_HISS: u64 = 3;
/// The phrase's "s" keeps this much: 110 ms. Where a pause or a vowel follows it lasts up to 160 ms.
const OWN_HISS: u64 = 11;
/// A longer hiss is the phrase's "s" joined with that of the command's first word: 160 ms.
const SHARED_HISS: u64 = 16;
/// Of two joined hisses the first keeps this much: 90 ms.
const OWN_OF_SHARED: u64 = 9;
/// A frame hisses if neighbouring samples have a correlation this low. Vowels have 0.8 and more.
const HISS_CORRELATION: f32 = 0.4;
/// A hiss is no quieter than this against the phrase: -40 dB, as a ratio of energies.
const HISS_ENERGY: f32 = 1e-4;

/// The true end of a wake phrase that ends with an "s" and was estimated to end at `end`: the end of its
/// hiss. Without such a hiss, or where everything hisses (noise), the estimate.
pub(super) fn after_hiss(end: FramePos, sound: &Sound) -> FramePos {
    let frame = |pos: FramePos| sound.frame(pos);
    let energy = |raw: &[f32; FRAME_SAMPLES]| raw.iter().map(|x| x * x).sum::<f32>();
    let before = (1..=60).filter_map(|back| Some(energy(frame(FramePos(end.0.checked_sub(back)?))?)));
    let least = before.fold(0.0, f32::max) * HISS_ENERGY;
    let hisses = |pos: u64| frame(FramePos(pos)).is_some_and(|raw| energy(raw) > least && is_hiss(raw));
    let from = end.0.saturating_sub(HISS_BEFORE);
    let mut pos = from;
    // The first hiss in reach: nothing else in the phrase hisses, and the command may.
    while pos <= end.0 + HISS_AFTER {
        if !hisses(pos) {
            pos += 1;
            continue;
        }
        let most = SHARED_HISS + 1;
        let back = (0..=most).take_while(|back| *back <= pos && hisses(pos - back)).last().unwrap_or(0);
        let first = pos - back;
        let next = (first..first + most).find(|pos| !hisses(*pos)).unwrap_or(first + most);
        let length = next - first;
        if length < LEAST_HISS {
            pos = next.max(pos + 1);
            continue;
        }
        if length <= OWN_HISS {
            return FramePos(next);
        }
        if length > SHARED_HISS && next < end.0 {
            // Has gone on for long: that is no phrase.
            return end;
        }
        let own = if length > SHARED_HISS { OWN_OF_SHARED } else { OWN_HISS };
        return FramePos((first + own).max(end.0).min(next));
    }
    end
}

/// Whether the energy of a frame lies at high frequencies, as in an "s" and in no vowel.
fn is_hiss(raw: &[f32; FRAME_SAMPLES]) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "160")]
    let mean = raw.iter().sum::<f32>() / FRAME_SAMPLES as f32;
    let (mut energy, mut common, mut last) = (0.0, 0.0, None);
    for sample in raw {
        let sample = sample - mean;
        energy += sample * sample;
        common += sample * last.replace(sample).unwrap_or(0.0);
    }
    energy > 0.0 && common < energy * HISS_CORRELATION
}

#[derive(Debug, Clone)]
enum State {
    Waiting {
        run: Run,
    },
    Armed {
        earliest: FramePos,
        deadline: FramePos,
        lead: FramePos,
        wake: bool,
        run: Run,
    },
    /// `early_after`: frames of speech until the utterance so far is handed out. `None`: this is done, or not
    /// wanted.
    Open {
        start: FramePos,
        command: FramePos,
        last_speech: FramePos,
        sent: FramePos,
        early_after: Option<u64>,
    },
}

/// A beginning of speech that is not yet long enough.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    first: Option<FramePos>,
    speech: u64,
    silence: u64,
}

impl Run {
    fn step(&mut self, pos: FramePos, speech: bool) {
        if speech {
            self.first.get_or_insert(pos);
            self.speech += 1;
            self.silence = 0;
        } else {
            self.silence += 1;
            if self.silence > GAP {
                *self = Self::default();
            }
        }
    }
}

/// The begin of an utterance, of its command and of the speech in it.
#[derive(Debug, Clone, Copy)]
struct Begin {
    start: FramePos,
    command: FramePos,
    first: FramePos,
}

#[derive(Debug)]
pub(super) struct Endpointer {
    limits: Limits,
    state: State,
    /// End of the last utterance.
    free: FramePos,
}

impl Endpointer {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, state: State::Waiting { run: Run::default() }, free: FramePos(0) }
    }

    /// Goes back to waiting; an open command is dropped without a word.
    pub(super) fn reset(&mut self) {
        self.state = State::Waiting { run: Run::default() };
    }

    /// As [`Self::reset`], for a clock that may start again.
    pub(super) fn restart(&mut self) {
        self.reset();
        self.free = FramePos(0);
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    pub(super) fn is_armed(&self) -> bool {
        matches!(self.state, State::Armed { .. })
    }

    /// Whether a wake word heard up to `now` would change anything.
    pub(super) fn wants_wake(&self, now: FramePos) -> bool {
        match self.state {
            State::Open { command, .. } => now.since(command) <= RESTART_WITHIN + 100,
            State::Waiting { .. } | State::Armed { .. } => true,
        }
    }

    /// The first frame that may still be needed.
    pub(super) fn needed_from(&self, now: FramePos) -> FramePos {
        let recent = now.0.saturating_sub(WAKE_LEAD + self.limits.pre_roll + 100);
        match self.state {
            State::Waiting { .. } => FramePos(recent),
            State::Armed { lead, .. } => FramePos(recent.min(lead.0)),
            State::Open { start, .. } => FramePos(recent.min(start.0)),
        }
    }

    /// Opens a window in which a command needs no wake word; does nothing while a command is open.
    pub(super) fn follow_up(&mut self, now: FramePos, frames: u64) {
        if !self.is_open() {
            let deadline = FramePos(now.0 + frames);
            self.state =
                State::Armed { earliest: now, deadline, lead: now, wake: false, run: Run::default() };
        }
    }

    /// A wake phrase was heard that ended at `end`. `false` if it belongs to the open command. `hisses`: its
    /// last sound is an "s", which shows the end better.
    pub(super) fn wake(
        &mut self,
        end: FramePos,
        hisses: bool,
        sound: &Sound,
        out: &mut Vec<Detection>,
    ) -> bool {
        let end = if hisses { after_hiss(end, sound) } else { end };
        if let State::Open { command, .. } = self.state
            && end.since(command) > RESTART_WITHIN
        {
            return false;
        }
        let end = end.max(self.free);
        let lead = self.lead_of(end, sound);
        self.state = State::Armed {
            earliest: end,
            deadline: FramePos(end.0 + self.limits.no_speech_timeout),
            lead,
            wake: true,
            run: Run::default(),
        };
        let mut pos = end.max(sound.start());
        while pos < sound.decided() {
            self.frame(pos, sound, out);
            pos = FramePos(pos.0 + 1);
        }
        true
    }

    /// The begin of the speech that ended with the wake phrase at `end`, with the pre-roll.
    fn lead_of(&self, end: FramePos, sound: &Sound) -> FramePos {
        let limit = FramePos(end.0.saturating_sub(WAKE_LEAD)).max(sound.start()).max(self.free);
        let mut first = end;
        let mut pos = end;
        while pos > limit && first.since(pos) <= GAP {
            pos = FramePos(pos.0 - 1);
            if sound.probability(pos) >= self.limits.threshold - HYSTERESIS {
                first = pos;
            }
        }
        FramePos(first.0.saturating_sub(self.limits.pre_roll)).max(limit)
    }

    /// Looks at the decided frame at `pos`.
    pub(super) fn frame(&mut self, pos: FramePos, sound: &Sound, out: &mut Vec<Detection>) {
        let probability = sound.probability(pos);
        let speech = probability >= self.limits.threshold;
        match &mut self.state {
            State::Waiting { run } => {
                if self.limits.always {
                    run.step(pos, speech);
                    if let Some(first) = run.first
                        && run.speech >= self.limits.min_speech
                    {
                        let start = self.before(first, sound);
                        self.open(Begin { start, command: start, first }, pos, sound, out);
                    }
                }
            }
            State::Armed { earliest, deadline, lead, wake, run } => {
                if pos < *earliest {
                    return;
                }
                run.step(pos, speech);
                let (earliest, deadline, lead, wake, run) = (*earliest, *deadline, *lead, *wake, *run);
                let tail = if wake && run.first == Some(earliest) { WAKE_TAIL } else { 0 };
                if let Some(first) = run.first
                    && run.speech >= self.limits.min_speech + tail
                {
                    let mut command = self.before(first, sound);
                    if wake {
                        command = command.max(pause_after(earliest, sound).unwrap_or(earliest)).min(pos);
                    }
                    let start = if wake { lead.min(command) } else { command };
                    self.open(Begin { start, command, first }, pos, sound, out);
                } else if run.first.is_none() && pos >= deadline {
                    self.reset();
                    out.push(Detection::NoSpeech { pos });
                }
            }
            State::Open { start, command, last_speech, sent, early_after } => {
                if probability >= self.limits.threshold - HYSTERESIS {
                    *last_speech = pos;
                }
                let next = FramePos(pos.0 + 1);
                let silent = next.since(*last_speech) > self.limits.end_silence;
                let full = next.since(*command) >= self.limits.max_utterance;
                if silent || full {
                    self.close(next, !silent, sound, out);
                } else if next.since(*sent) >= PIECE {
                    out.push(Detection::Speech { raw: sound.samples(*sent, next).to_vec() });
                    *sent = next;
                    // Handed out together with a piece, so that both show the same sound.
                    if early_after.is_some_and(|after| {
                        let speech = sound.speech(*start, next);
                        speech.iter().filter(|p| **p >= self.limits.threshold).count() as u64 >= after
                    }) {
                        *early_after = None;
                        let raw = sound.samples(*start, next).to_vec();
                        let speech = sound.speech(*start, next).to_vec();
                        out.push(Detection::SoFar { raw, speech });
                    }
                }
            }
        }
    }

    /// Ends an open command at `end`: the source ended, or sound was lost for longer than a command survives.
    pub(super) fn cut(&mut self, end: FramePos, lost: bool, sound: &Sound, out: &mut Vec<Detection>) {
        match self.state {
            State::Open { .. } => self.close(end, lost, sound, out),
            State::Armed { .. } if !lost => {
                out.push(Detection::NoSpeech { pos: end });
                self.reset();
            }
            State::Armed { .. } | State::Waiting { .. } => {}
        }
    }

    /// The start of a command whose first speech is at `first`.
    fn before(&self, first: FramePos, sound: &Sound) -> FramePos {
        FramePos(first.0.saturating_sub(self.limits.pre_roll)).max(self.free).max(sound.start()).min(first)
    }

    fn open(&mut self, begin: Begin, now: FramePos, sound: &Sound, out: &mut Vec<Detection>) {
        let Begin { start, command, first } = begin;
        let next = FramePos(now.0 + 1);
        out.push(Detection::SpeechStart { pos: first });
        out.push(Detection::Speech { raw: sound.samples(command, next).to_vec() });
        let early_after = Some(self.limits.early_verdict).filter(|frames| *frames > 0);
        self.state = State::Open { start, command, last_speech: now, sent: next, early_after };
    }

    fn close(&mut self, end: FramePos, truncated: bool, sound: &Sound, out: &mut Vec<Detection>) {
        let State::Open { start, command, sent, .. } = self.state else { return };
        let raw = sound.samples(sent, end);
        if !raw.is_empty() {
            out.push(Detection::Speech { raw: raw.to_vec() });
        }
        let utterance = Utterance {
            start,
            end,
            raw: sound.samples(start, end).to_vec(),
            speech: sound.speech(start, end).to_vec(),
            command_start: usize::try_from(command.since(start)).unwrap_or(0) * FRAME_SAMPLES,
            truncated,
        };
        self.free = end;
        self.reset();
        out.push(Detection::SpeechEnd { utterance });
    }
}

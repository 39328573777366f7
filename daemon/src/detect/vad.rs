//! Voice activity: Silero in tract, a probability per 10 ms frame.
//!
//! The network takes 32 ms (512 samples) at a time, a frame is 10 ms, so a frame gets the probability of the
//! chunk that holds its middle: of 16 frames and 5 chunks, chunks decide 3, 3, 4, 3 and 3 frames.

use crate::inference::{Buffer, Input, InputFact, ModelError, ModelStore, Role, Session};
use crate::units::FRAME_SAMPLES;

const CHUNK: usize = 512;
/// Samples of the chunk before that the network sees again.
const CONTEXT: usize = 64;
const WINDOW: usize = CONTEXT + CHUNK;
const STATE: [usize; 3] = [2, 1, 128];

/// A streaming voice activity detector of 16 kHz mono sound in [-1, 1].
#[derive(Debug)]
pub struct Vad {
    session: Session,
    state: Buffer,
    silent: Buffer,
    /// The context, then the samples of the next chunk so far.
    window: [f32; WINDOW],
    filled: usize,
    /// Samples since the reset that lie before the next frame to decide.
    decided: u64,
    seen: u64,
}

/// The verdict on the oldest undecided frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decided {
    pub frames: usize,
    /// 0 to 1.
    pub probability: f32,
}

impl Vad {
    pub fn new(store: &ModelStore) -> Result<Self, ModelError> {
        let name = super::model_of(store, Role::Vad)?;
        let facts = [(0, InputFact::f32(&[1, WINDOW])), (1, InputFact::f32(&STATE))];
        let plan = store.load(&name, &facts)?;
        plan.expect_shapes(&[&[1, WINDOW], &STATE], &[&[1, 1], &STATE])?;
        let silent = Buffer::zeros(&STATE);
        Ok(Self {
            session: plan.session()?,
            state: silent.clone(),
            silent,
            window: [0.0; WINDOW],
            filled: CONTEXT,
            decided: 0,
            seen: 0,
        })
    }

    /// Forgets all sound.
    pub fn reset(&mut self) {
        self.state = self.silent.clone();
        self.window = [0.0; WINDOW];
        self.filled = CONTEXT;
        self.decided = 0;
        self.seen = 0;
    }

    /// How often the network ran.
    pub fn runs(&self) -> u64 {
        self.session.runs()
    }

    /// Takes the next frame. Every third or fourth call decides the oldest undecided frames, so that at most
    /// four are open.
    pub fn push(&mut self, frame: &[f32; FRAME_SAMPLES]) -> Result<Option<Decided>, ModelError> {
        let mut rest = frame.as_slice();
        let mut decided = None;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(WINDOW - self.filled));
            if let Some(room) = self.window.get_mut(self.filled..self.filled + now.len()) {
                room.copy_from_slice(now);
            }
            self.filled += now.len();
            self.seen += now.len() as u64;
            rest = later;
            if self.filled == WINDOW {
                decided = Some(self.run()?);
            }
        }
        Ok(decided)
    }

    /// Leaves the frames heard so far undecided for good; the next verdict is on the frames from here on.
    pub fn skip_open(&mut self) {
        self.decided = self.decided.max(self.seen);
    }

    /// Decides the open frames, as if silence followed.
    pub fn flush(&mut self) -> Result<Option<Decided>, ModelError> {
        if self.filled == CONTEXT {
            return Ok(None);
        }
        self.window.get_mut(self.filled..).unwrap_or_default().fill(0.0);
        let open = self.seen - self.decided;
        self.seen += (WINDOW - self.filled) as u64;
        let decided = self.run()?;
        let frames = usize::try_from(open.div_ceil(FRAME_SAMPLES as u64)).unwrap_or(0);
        Ok(Some(Decided { frames, ..decided }))
    }

    fn run(&mut self) -> Result<Decided, ModelError> {
        let outputs = self.session.run(&[Input::F32(&self.window), Input::Buffer(&self.state)])?;
        let probability = outputs.f32(0)?.first().copied().unwrap_or(0.0).clamp(0.0, 1.0);
        self.state = outputs.buffer(1)?;
        self.window.copy_within(CHUNK.., 0);
        self.filled = CONTEXT;
        let frame = FRAME_SAMPLES as u64;
        let frames = (self.seen - self.decided + frame / 2 - 1) / frame;
        self.decided += frames * frame;
        Ok(Decided { frames: usize::try_from(frames).unwrap_or(0), probability })
    }

    /// The speech probability of each 10 ms frame of a recording (the last frame may be a part of one). For
    /// use off line: the detector starts afresh before and after.
    pub fn speech_of(&mut self, samples: &[f32]) -> Result<Vec<f32>, ModelError> {
        self.reset();
        let wanted = samples.len().div_ceil(FRAME_SAMPLES);
        let mut speech = Vec::with_capacity(wanted + 4);
        for piece in samples.chunks(FRAME_SAMPLES) {
            let mut frame = [0.0; FRAME_SAMPLES];
            for (to, from) in frame.iter_mut().zip(piece) {
                *to = super::finite(*from);
            }
            if let Some(decided) = self.push(&frame)? {
                speech.resize(speech.len() + decided.frames, decided.probability);
            }
        }
        let last = self.flush()?.map_or(0.0, |d| d.probability);
        speech.resize(wanted, last);
        self.reset();
        Ok(speech)
    }
}

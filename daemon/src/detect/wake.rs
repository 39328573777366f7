//! The wake word: openWakeWord's chain in tract, streaming, any number of heads on one shared front part.
//!
//! ```text
//!  16 kHz ──▶ mel: 480 old + 1280 new samples ──▶ 8 frames of 32 ──▶ x/10 + 2 ──▶ embedding (keeps its own past) ──▶ 96 numbers
//!                                                                                                                     │
//!                                   score of each word ◀── head [1,16,96] ◀── the last 16 of them (1.28 s + 0.76 s) ◀─┘
//! ```
//!
//! A score depends on where the word falls on the 80 ms grid, so the chain can run on several grids at once,
//! each shifted by 80 ms / [`PHASES`]; `docs/design/detection.md` has the measurement behind the number.

use super::section::WakeModel;
use crate::error::chain;
use crate::inference::{Buffer, Input, InputFact, ModelError, ModelStore, Plan, Role, Session, normal_name};
use crate::units::FRAME_SAMPLES;

/// Grids on which the chain is evaluated.
pub const PHASES: usize = 4;
/// Mel frames of one embedding step: 80 ms.
const STEP_FRAMES: usize = 8;
const BINS: usize = 32;
const EMBEDDING: usize = 96;
/// Embeddings that a head looks at.
const HISTORY: usize = 16;
/// Samples before the new ones that the mel spectrogram needs.
const MEL_CONTEXT: usize = 480;
/// Steps after which the embeddings hold nothing of the start any more.
const PRIMING_STEPS: usize = 10 + HISTORY;

/// A wake word to listen for.
#[derive(Debug, Clone, PartialEq)]
pub struct WakeWord {
    pub model: WakeModel,
    /// Score from which the word counts as heard, 0 to 1.
    pub threshold: f32,
}

impl WakeWord {
    /// Name of the word in events.
    pub fn name(&self) -> String {
        match &self.model {
            WakeModel::Named(name) => normal_name(name),
            WakeModel::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    /// Checks that the word can be listened for.
    ///
    /// # Errors
    /// The file or the model that stands in the way.
    pub fn check(&self, store: &ModelStore) -> Result<(), ModelError> {
        self.load(store).map(drop)
    }

    fn load(&self, store: &ModelStore) -> Result<Plan, ModelError> {
        let facts = [(0, InputFact::f32(&[1, HISTORY, EMBEDDING]))];
        let plan = match &self.model {
            WakeModel::Named(name) => store.load(&normal_name(name), &facts)?,
            WakeModel::File(path) => store.load_path(path, &facts)?,
        };
        plan.expect_shapes(&[&[1, HISTORY, EMBEDDING]], &[&[1, 1]])?;
        Ok(plan)
    }
}

/// One grid: the past of the embedding network and the last embeddings.
#[derive(Debug, Clone)]
struct Grid {
    past: Vec<Buffer>,
    /// [`HISTORY`] × [`EMBEDDING`], oldest first.
    embeddings: Vec<f32>,
}

/// A head is often a file of the owner's own. A head that fails on some sound gives no score for it, and the
/// failure is told once; the device goes on listening with the others.
#[derive(Debug)]
struct Head {
    session: Session,
    fault: Option<ModelError>,
}

impl Head {
    fn new(plan: &Plan) -> Result<Self, ModelError> {
        Ok(Self { session: plan.session()?, fault: None })
    }

    fn score(&mut self, embeddings: &[f32]) -> f32 {
        let score = self
            .session
            .run(&[Input::F32(embeddings)])
            .and_then(|outputs| Ok(outputs.f32(0)?.first().copied().unwrap_or(0.0)));
        score.unwrap_or_else(|fault| {
            if self.fault.is_none() {
                let name = self.session.plan().name();
                log::error!(
                    "the wake word {name} fails on what is heard and is passed over: {}",
                    chain(&fault)
                );
                self.fault = Some(fault);
            }
            if let Ok(fresh) = self.session.plan().session() {
                self.session = fresh;
            }
            0.0
        })
    }
}

/// The chain. It hears every pushed frame; the gate decides which frames are pushed.
#[derive(Debug)]
pub struct WakeChain {
    mel: Session,
    embedding: Session,
    heads: Vec<Head>,
    phases: usize,
    grids: Vec<Grid>,
    /// A grid that has heard a quiet room for long enough.
    quiet: Grid,
    /// The mel context, then the samples of the next step so far; int16 scale.
    samples: Vec<f32>,
    filled: usize,
    /// The last [`STEP_FRAMES`] mel frames, oldest first.
    frames: Vec<f32>,
    next_grid: usize,
    scores: Vec<f32>,
}

impl WakeChain {
    /// Loads the chain with one head a word. `phases` divides 8.
    pub fn new(store: &ModelStore, words: &[WakeWord], phases: usize) -> Result<Self, ModelError> {
        let phases = if phases > 0 && STEP_FRAMES.is_multiple_of(phases) { phases } else { 1 };
        let new_frames = STEP_FRAMES / phases;
        let window = MEL_CONTEXT + new_frames * FRAME_SAMPLES;
        let mel =
            store.load(&super::model_of(store, Role::WakeMel)?, &[(0, InputFact::f32(&[1, window]))])?;
        mel.expect_shapes(&[&[1, window]], &[&[1, 1, new_frames, BINS]])?;
        let embedding = store.load(&super::model_of(store, Role::WakeEmbedding)?, &[])?;
        let shapes: Vec<Vec<usize>> = embedding.inputs().iter().map(|i| i.shape.clone()).collect();
        let inputs: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        // The output state must have the shape of the input state.
        let mut outputs: Vec<&[usize]> = vec![&[1, EMBEDDING, 1, 1]];
        outputs.extend(inputs.iter().skip(1));
        let mut wanted: Vec<&[usize]> = vec![&[1, STEP_FRAMES, BINS, 1]];
        wanted.extend(inputs.iter().skip(1));
        embedding.expect_shapes(&wanted, &outputs)?;
        let past = inputs.iter().skip(1).map(|shape| Buffer::zeros(shape)).collect();
        let quiet = Grid { past, embeddings: vec![0.0; HISTORY * EMBEDDING] };
        let mut heads = Vec::new();
        for word in words {
            heads.push(Head::new(&word.load(store)?)?);
        }
        let mut chain = Self {
            mel: mel.session()?,
            embedding: embedding.session()?,
            scores: vec![0.0; heads.len()],
            heads,
            phases,
            grids: vec![quiet.clone(); phases],
            quiet,
            samples: vec![0.0; window],
            filled: MEL_CONTEXT,
            frames: vec![0.0; STEP_FRAMES * BINS],
            next_grid: 0,
        };
        chain.prime()?;
        // A head that fails on a quiet room is no model.
        match chain.heads.iter_mut().find_map(|head| head.fault.take()) {
            Some(fault) => Err(fault),
            None => Ok(chain),
        }
    }

    /// Lets grid 0 hear a quiet room and keeps the result as the state that a fresh chain starts from: a head
    /// has never seen embeddings of nothing.
    fn prime(&mut self) -> Result<(), ModelError> {
        let mut noise = Noise(1);
        for _ in 0..PRIMING_STEPS * STEP_FRAMES * self.phases {
            let mut frame = [0.0; FRAME_SAMPLES];
            frame.fill_with(|| noise.next() * QUIET_ROOM);
            self.push(&frame)?;
        }
        if let Some(grid) = self.grids.first() {
            self.quiet = grid.clone();
        }
        self.reset();
        Ok(())
    }

    /// Forgets all sound.
    pub fn reset(&mut self) {
        for grid in &mut self.grids {
            grid.clone_from(&self.quiet);
        }
        self.samples.fill(0.0);
        self.filled = MEL_CONTEXT;
        self.frames.fill(0.0);
        self.next_grid = 0;
    }

    /// How often the embedding network ran.
    pub fn runs(&self) -> u64 {
        self.embedding.runs()
    }

    /// Takes the next frame ([-1, 1]) and gives, every 80 ms / phases, the score of each word for the sound
    /// up to here.
    pub fn push(&mut self, frame: &[f32; FRAME_SAMPLES]) -> Result<Option<&[f32]>, ModelError> {
        let room = self.samples.get_mut(self.filled..self.filled + FRAME_SAMPLES).unwrap_or_default();
        for (to, from) in room.iter_mut().zip(frame) {
            *to = from * 32_768.0;
        }
        self.filled += FRAME_SAMPLES;
        if self.filled < self.samples.len() {
            return Ok(None);
        }
        self.step()?;
        let tail = self.samples.len() - MEL_CONTEXT;
        self.samples.copy_within(tail.., 0);
        self.filled = MEL_CONTEXT;
        Ok(Some(&self.scores))
    }

    fn step(&mut self) -> Result<(), ModelError> {
        let outputs = self.mel.run(&[Input::F32(&self.samples)])?;
        let mel = outputs.f32(0)?;
        self.frames.copy_within(mel.len().min(STEP_FRAMES * BINS).., 0);
        let kept = self.frames.len().saturating_sub(mel.len());
        for (to, from) in self.frames.iter_mut().skip(kept).zip(mel) {
            *to = from / 10.0 + 2.0;
        }
        let Some(grid) = self.grids.get_mut(self.next_grid) else { return Ok(()) };
        self.next_grid = (self.next_grid + 1) % self.phases;

        let mut inputs = vec![Input::F32(&self.frames)];
        inputs.extend(grid.past.iter().map(Input::Buffer));
        let outputs = self.embedding.run(&inputs)?;
        drop(inputs);
        grid.embeddings.copy_within(EMBEDDING.., 0);
        let newest = grid.embeddings.iter_mut().skip((HISTORY - 1) * EMBEDDING);
        for (to, from) in newest.zip(outputs.f32(0)?) {
            *to = *from;
        }
        for (index, past) in grid.past.iter_mut().enumerate() {
            *past = outputs.buffer(index + 1)?;
        }
        for (head, score) in self.heads.iter_mut().zip(&mut self.scores) {
            *score = head.score(&grid.embeddings);
        }
        Ok(())
    }
}

/// Peak of the noise of a quiet room, about -66 dBFS.
const QUIET_ROOM: f32 = 0.000_5;

/// White noise in [-1, 1], the same in every run.
#[derive(Debug)]
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // The upper 16 bits as a signed number.
        f32::from((self.0 >> 16) as u16) / 32_768.0 - 1.0
    }
}

//! The two networks of Whisper in tract.
//!
//! Unlike the other models these keep symbolic axes: the decoder's cache grows by one token a step, and one
//! plan for every length of sound holds its weights once. Measured (docs/design/stt.md), symbolic axes cost
//! nothing here.

use std::fmt;
use std::io::Cursor;

use tract_onnx::prelude::*;

use super::embedding::{Embedding, WIDTH};
use super::mel::BANDS;
use crate::inference::{ModelStore, contained, fold_large_casts};
use crate::stt::SttError;

const ENCODER: &str = "whisper-tiny-en-encoder";
const DECODER: &str = "whisper-tiny-en-decoder";
pub const LAYERS: usize = 4;
pub const HEADS: usize = 6;
pub const HEAD_WIDTH: usize = 64;
/// Tokens of the vocabulary, special ones included.
pub const TOKENS: usize = 51_864;

type Graph = std::sync::Arc<TypedSimplePlan>;

/// The decoder's view of the sound: cross-attention keys and values per layer, `[1, HEADS, T, HEAD_WIDTH]`
/// each.
pub struct Encoded(TVec<TValue>);

pub struct Networks {
    encoder: Graph,
    decoder: Graph,
    embedding: Embedding,
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Networks").finish_non_exhaustive()
    }
}

fn fault(step: &'static str) -> impl Fn(TractError) -> SttError {
    move |error| SttError::Tract { step, source: error.into() }
}

fn plan(bytes: Vec<u8>, declare: impl Fn(&mut InferenceModel) -> TractResult<()>) -> TractResult<Graph> {
    contained(|| {
        let mut model =
            tract_onnx::onnx().with_ignore_output_shapes(true).model_for_read(&mut Cursor::new(&bytes))?;
        drop(bytes);
        declare(&mut model)?;
        let mut model = model.into_typed()?;
        fold_large_casts(&mut model)?;
        model.into_optimized()?.into_runnable()
    })
}

impl Networks {
    pub fn load(store: &ModelStore) -> Result<Self, SttError> {
        let refused = |name: &'static str| {
            move |error: TractError| SttError::Whisper {
                what: format!("{name} cannot be used ({error:#})"),
                fix: store.fix_of(name),
            }
        };
        let encoder = store.read(ENCODER).map_err(SttError::Model)?;
        let encoder = plan(encoder, |model| {
            let context: TDim = model.symbols.sym("T").into();
            model.set_input_fact(0, f32::fact(&[1.to_dim(), BANDS.to_dim(), context * 2]).into())
        })
        .map_err(refused(ENCODER))?;
        let decoder = store.read(DECODER).map_err(SttError::Model)?;
        let decoder = plan(decoder, |model| {
            let context: TDim = model.symbols.sym("T").into();
            let past: TDim = model.symbols.sym("P").into();
            let state = |length: &TDim| {
                f32::fact(&[1.to_dim(), HEADS.to_dim(), length.clone(), HEAD_WIDTH.to_dim()]).into()
            };
            model.set_input_fact(0, f32::fact([1, 1, WIDTH]).into())?;
            model.set_input_fact(1, i64::fact([1, 1]).into())?;
            for i in 0..2 * LAYERS {
                model.set_input_fact(2 + i, state(&past))?;
                model.set_input_fact(2 + 2 * LAYERS + i, state(&context))?;
            }
            Ok(())
        })
        .map_err(refused(DECODER))?;
        Ok(Self { encoder, decoder, embedding: Embedding::load(store)? })
    }

    /// `mel` is `[BANDS, frames]`, frames even.
    pub fn encode(&self, mel: &[f32], frames: usize) -> Result<Encoded, SttError> {
        let step = "running Whisper's encoder";
        let run = || -> TractResult<TVec<TValue>> {
            let mel = Tensor::from_shape(&[1, BANDS, frames], mel)?;
            self.encoder.run(tvec!(mel.into_tvalue()))
        };
        let mut outputs = contained(run).map_err(fault(step))?;
        outputs.truncate(2 * LAYERS);
        if outputs.len() == 2 * LAYERS { Ok(Encoded(outputs)) } else { Err(SttError::NotFinite { step }) }
    }

    /// A decoding of `sound` from its first token on.
    pub fn decode<'a>(&'a self, sound: &'a Encoded) -> Decoding<'a> {
        Decoding { networks: self, sound, past: vec![Vec::new(); 2 * LAYERS * HEADS], position: 0 }
    }
}

/// The state of one decoding: its position, and the memory of self-attention.
pub struct Decoding<'a> {
    networks: &'a Networks,
    sound: &'a Encoded,
    /// Keys and values of the tokens so far; one vector per layer, kind and head, since a head's rows are
    /// contiguous.
    past: Vec<Vec<f32>>,
    position: usize,
}

impl Decoding<'_> {
    /// Feeds `token`; returns the scores (logits) of the next token, `TOKENS` of them, all finite.
    pub fn step(&mut self, token: usize) -> Result<Vec<f32>, SttError> {
        let step = "running Whisper's decoder";
        let outputs = contained(|| self.run(token)).map_err(fault(step))?;
        let mut states = outputs.iter().skip(1);
        for heads in self.past.chunks_exact_mut(HEADS) {
            let state = states.next().map(values).unwrap_or_default();
            for (past, new) in heads.iter_mut().zip(state.chunks_exact(HEAD_WIDTH)) {
                past.extend_from_slice(new);
            }
        }
        self.position += 1;
        let hidden = outputs.first().map(values).unwrap_or_default();
        if hidden.len() == WIDTH && hidden.iter().all(|x| x.is_finite()) {
            Ok(self.networks.embedding.scores(&hidden))
        } else {
            Err(SttError::NotFinite { step })
        }
    }

    fn run(&self, token: usize) -> TractResult<TVec<TValue>> {
        let row = self.networks.embedding.row(token);
        let position = Tensor::from_shape(&[1, 1], &[self.position as i64])?;
        let mut inputs =
            tvec!(Tensor::from_shape(&[1, 1, WIDTH], &row)?.into_tvalue(), position.into_tvalue());
        for heads in self.past.chunks_exact(HEADS) {
            let rows = heads.concat();
            inputs.push(Tensor::from_shape(&[1, HEADS, self.position, HEAD_WIDTH], &rows)?.into_tvalue());
        }
        inputs.extend(self.sound.0.iter().cloned());
        self.networks.decoder.run(inputs)
    }
}

fn values(tensor: &TValue) -> Vec<f32> {
    tensor
        .to_plain_array_view::<f32>()
        .ok()
        .map(|view| view.as_slice().map_or_else(|| view.iter().copied().collect(), <[f32]>::to_vec))
        .unwrap_or_default()
}

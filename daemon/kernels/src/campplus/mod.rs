//! CAM++, the network that turns speech into a voice, written out for tract's matrix kernels.
//!
//! ```text
//!  features [T, 80] ─▶ 2-D head ─▶ TDNN, half rate ─▶ 12, 24, 16 layers and transitions ─▶ mean, deviation ─▶ [192]
//!                      head.rs                        dense.rs
//! ```
//!
//! The weights are those of the ONNX file; its graph, run by tract, gives the same embeddings (the tests
//! compare) at more than twice the time. The differences here:
//!
//! * a 3×3 convolution is one matrix product whose result is biased, added to the residual, rectified and
//!   stored while it is still in registers; tract's own filter runs a tenth of the points one by one;
//! * normalisation and rectifier are applied while the operand of a product is put in the kernels' order;
//! * the mask of a layer is computed once per 100 frames that share it, not once per frame;
//! * channels are appended in place instead of being copied with every layer;
//! * a machine for which tract has no kernel runs a plain one, so the device starts there as well;
//! * one copy of the weights serves speech of any length, and nothing is optimised when the program starts.
//!
//! CAM++: Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware
//! Masking", 2023.

use std::ops::Range;

mod dense;
mod head;
mod kernel;
mod matrix;
mod portable;
#[cfg(test)]
mod tests;
mod weights;

use dense::{GROWTH, Kernels, Layer, Linear, Scratch, Transition};
use head::{Convolution, Image};
use kernel::{Choose, Kernel};
use matrix::{Buffer, Panels};
use tract_onnx::prelude::Framework;
use weights::{Affine, Weights};

/// Numbers in an embedding.
pub const DIMENSIONS: usize = 192;
/// Mel bins of a feature frame.
pub const BINS: usize = 80;
/// Frames taken at once: 30 s. Memory grows with them, some 40 KB each.
const MOST_FRAMES: usize = 3_000;

/// Layers and dilation of each dense block.
const BLOCKS: [(usize, usize); 3] = [(12, 1), (24, 2), (16, 2)];
/// Channels of the TDNN between the head and the blocks, and its taps.
const TDNN: usize = 128;
const TDNN_TAPS: usize = 5;
/// Frequencies that the head leaves, and their channels together.
const HEAD_ROWS: usize = BINS / 8;
const HEAD_CHANNELS: usize = head::CHANNELS * HEAD_ROWS;
/// Channels of the largest block at its end.
const MOST_CHANNELS: usize = 1024;
/// Channels whose mean and deviation become the embedding.
const POOLED: usize = 512;

/// Why there is no network or no embedding.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file is not an ONNX model")]
    Parse(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the file is not the graph of CAM++: {0}")]
    Graph(&'static str),
    #[error("the operands of a product do not fit together")]
    Shape,
    #[error("running a matrix kernel")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the features are not 3 to {MOST_FRAMES} frames of {BINS} finite numbers")]
    Features,
}

/// The last channels of the network over some frames, at half their rate: voices are pooled of them.
#[derive(Debug)]
pub struct Channels {
    values: Buffer,
    frames: usize,
}

/// The network with its weights in the kernels' order, about 30 MB. Shared between threads.
#[derive(Debug)]
pub struct Network {
    head_kernel: Kernel,
    head: [Convolution; 10],
    kernels: Kernels,
    tdnn: Linear,
    blocks: Vec<(Vec<Layer>, Transition)>,
    last: (Vec<f32>, Affine),
}

impl Network {
    /// Takes the weights out of an ONNX file. It checks only their order, shapes and dilations, not the rest
    /// of the graph, so the caller checks that it is the file that was tested.
    pub fn from_onnx(bytes: &[u8]) -> Result<Self, Error> {
        Self::with(Kernel::choose, bytes)
    }

    fn with(choose: Choose, mut bytes: &[u8]) -> Result<Self, Error> {
        let model =
            tract_onnx::onnx().proto_model_for_read(&mut bytes).map_err(|e| Error::Parse(e.into()))?;
        let mut weights = Weights::new(&model)?;
        let w = &mut weights;
        let (c, head_kernel, kernels) = (head::CHANNELS, head::kernel(choose), Kernels::by(choose));
        let k = &head_kernel;
        let head = [
            Convolution::read(w, k, 1, 1)?,
            Convolution::read(w, k, c, 2)?,
            Convolution::read_with_shortcut(w, k)?,
            Convolution::read(w, k, c, 1)?,
            Convolution::read(w, k, c, 1)?,
            Convolution::read(w, k, c, 2)?,
            Convolution::read_with_shortcut(w, k)?,
            Convolution::read(w, k, c, 1)?,
            Convolution::read(w, k, c, 1)?,
            Convolution::read(w, k, c, 2)?,
        ];
        let (values, bias) = w.convolution(&[TDNN, HEAD_CHANNELS, TDNN_TAPS], 1)?;
        let tdnn = Linear::new(&kernels.wide, &values, &bias, true)?;
        let mut inputs = TDNN;
        let mut blocks = Vec::new();
        for (index, (count, dilation)) in BLOCKS.into_iter().enumerate() {
            let mut layers = Vec::new();
            for _ in 0..count {
                layers.push(Layer::read(w, &kernels, inputs, dilation)?);
                inputs += GROWTH;
            }
            let last = index + 1 == BLOCKS.len();
            blocks.push((layers, Transition::read(w, &kernels.wide, inputs, inputs / 2, last)?));
            inputs /= 2;
        }
        let (values, _) = w.convolution(&[DIMENSIONS, 2 * POOLED, 1], 1)?;
        let last = (values, w.normalisation(DIMENSIONS)?);
        weights.finish()?;
        Ok(Self { head_kernel, head, kernels, tdnn, blocks, last })
    }

    /// The names of the matrix kernels that were chosen for this processor: of the head, of the rest.
    pub fn kernels(&self) -> [&str; 3] {
        [self.head_kernel.name(), self.kernels.wide.name(), self.kernels.narrow.name()]
    }

    /// The embedding, not normalised, of features frame by frame: [`BINS`] numbers each, mean-normalised log
    /// mel energies. A function of the features alone. The channels are for [`Network::pool`].
    ///
    /// # Errors
    /// [`Error::Features`] for less than three frames or more than 3,000, an incomplete frame, or a number
    /// that is not finite.
    pub fn run(&self, features: &[f32]) -> Result<([f32; DIMENSIONS], Channels), Error> {
        let frames = features.len() / BINS;
        let whole = features.len().is_multiple_of(BINS) && (3..=MOST_FRAMES).contains(&frames);
        if !whole || !features.iter().all(|x| x.is_finite()) {
            return Err(Error::Features);
        }
        let image = self.run_head(features, frames)?;
        let frames = frames.div_ceil(2);
        let mut scratch = Scratch::new(&self.kernels, frames);
        let mut from = Buffer::zeros(MOST_CHANNELS * frames);
        let mut to = Buffer::zeros(MOST_CHANNELS * frames);
        self.run_tdnn(&image, frames, &mut scratch.wide, &mut from)?;
        drop(image);
        let mut row = Vec::new();
        for (layers, transition) in &self.blocks {
            for layer in layers {
                layer.run(frames, &mut from, &mut scratch)?;
            }
            transition.run(frames, &from, &mut to, &mut scratch.wide, &mut row)?;
            std::mem::swap(&mut from, &mut to);
        }
        let channels = Channels { values: from, frames };
        Ok((self.embedding(&channels, 0..frames)?, channels))
    }

    /// The embedding, not normalised, of a part of the frames of a pass. Only the pooling is over the part,
    /// so it costs next to nothing and includes a little of the sound around it.
    ///
    /// # Errors
    /// [`Error::Features`] for a part of less than four frames or beyond the last.
    pub fn pool(&self, channels: &Channels, part: Range<usize>) -> Result<[f32; DIMENSIONS], Error> {
        let part = part.start / 2..part.end / 2;
        let fits = part.end <= channels.frames && part.len() >= 2;
        if fits { self.embedding(channels, part) } else { Err(Error::Features) }
    }

    fn run_head(&self, features: &[f32], frames: usize) -> Result<Image, Error> {
        let [c0, c1, c2, c3, c4, c5, c6, c7, c8, c9] = &self.head;
        let panels = &mut self.head_kernel.rows();
        let image = |height| Image::new(head::CHANNELS, height, frames);
        let mut input = Image::new(1, BINS, frames);
        for bin in 0..BINS {
            for (to, frame) in input.row_mut(0, bin).iter_mut().zip(features.chunks_exact(BINS)) {
                *to = frame[bin];
            }
        }
        let mut whole = image(BINS);
        c0.run(&input, None, None, &mut whole, panels)?;
        let [mut a, mut b, mut c] = [(); 3].map(|()| image(BINS / 2));
        c1.run(&whole, None, None, &mut a, panels)?;
        c2.run(&a, Some(&whole), None, &mut b, panels)?;
        drop(whole);
        c3.run(&b, None, None, &mut a, panels)?;
        c4.run(&a, None, Some(&b), &mut c, panels)?;
        let [mut d, mut e, mut f] = [(); 3].map(|()| image(BINS / 4));
        c5.run(&c, None, None, &mut d, panels)?;
        c6.run(&d, Some(&c), None, &mut e, panels)?;
        c7.run(&e, None, None, &mut d, panels)?;
        c8.run(&d, None, Some(&e), &mut f, panels)?;
        let mut out = image(HEAD_ROWS);
        c9.run(&f, None, None, &mut out, panels)?;
        Ok(out)
    }

    /// Five taps along time over all rows of the head's image; every second frame.
    fn run_tdnn(
        &self,
        image: &Image,
        frames: usize,
        panels: &mut Panels,
        to: &mut Buffer,
    ) -> Result<(), Error> {
        panels.resize(HEAD_CHANNELS * TDNN_TAPS, frames);
        let (mut bordered, mut row) = (Vec::new(), Vec::new());
        for channel in 0..HEAD_CHANNELS {
            bordered.clear();
            bordered.extend([0.0; TDNN_TAPS / 2]);
            bordered.extend_from_slice(image.row(channel / HEAD_ROWS, channel % HEAD_ROWS));
            bordered.extend([0.0; TDNN_TAPS / 2 + 1]);
            row.clear();
            for tap in 0..TDNN_TAPS {
                row.extend(bordered[tap..].iter().step_by(2).take(frames));
            }
            panels.set(channel * TDNN_TAPS, &row);
        }
        self.tdnn.run(frames, panels, to, 0)
    }

    /// Mean and (unbiased) deviation over a `part` of the time, a product, a normalisation.
    fn embedding(&self, channels: &Channels, part: Range<usize>) -> Result<[f32; DIMENSIONS], Error> {
        let frames = channels.frames;
        let channels = channels.values.as_slice().get(..POOLED * frames).ok_or(Error::Shape)?;
        let mut pooled = Vec::with_capacity(2 * POOLED);
        let mut deviations = Vec::with_capacity(POOLED);
        let mut centred = Vec::with_capacity(part.len());
        for channel in channels.chunks_exact(frames) {
            let channel = &channel[part.clone()];
            let mean = dense::mean(channel);
            centred.clear();
            centred.extend(channel.iter().map(|x| x - mean));
            pooled.push(mean);
            deviations.push((dense::dot(&centred, &centred) / (channel.len() - 1) as f32).sqrt());
        }
        pooled.extend(deviations);
        let (weights, Affine { scale, shift }) = &self.last;
        let mut rows = weights.chunks_exact(pooled.len()).zip(scale.iter().zip(shift));
        Ok(std::array::from_fn(|_| {
            rows.next().map_or(0.0, |(row, (scale, shift))| dense::dot(row, &pooled) * scale + shift)
        }))
    }
}

//! The layers over time: dense blocks with context-aware masking, the transitions between them.

use super::Error;
use super::kernel::{Bias, Choose, Kernel, Place, Then};
use super::matrix::{Buffer, Panels};
use super::weights::{Affine, Weights};

/// Channels that a layer adds.
pub const GROWTH: usize = 32;
/// Channels between the two convolutions of a layer.
const BOTTLENECK: usize = 128;
/// Channels inside the mask.
const GATE: usize = 64;
/// Frames (at half rate) that share a mask.
const SEGMENT: usize = 100;
/// Taps of the convolution along time.
const TAPS: usize = 3;
/// Channels that are put in a kernel's order at once; divides every number of channels.
const TOGETHER: usize = 8;
/// Frames for which kernels are chosen: 3 s at half rate.
const TYPICAL_FRAMES: usize = 150;

/// Kernels for the products with weights of this module.
#[derive(Debug, Clone)]
pub struct Kernels {
    /// 128 or more outputs.
    pub wide: Kernel,
    /// The 32 outputs of a layer.
    pub narrow: Kernel,
}

impl Kernels {
    pub fn by(choose: Choose) -> Self {
        Self {
            wide: choose(Some(BOTTLENECK), 4 * BOTTLENECK, TYPICAL_FRAMES),
            narrow: choose(Some(GROWTH), BOTTLENECK * TAPS, TYPICAL_FRAMES),
        }
    }
}

/// Room that one layer after the other uses.
#[derive(Debug)]
pub struct Scratch {
    pub wide: Panels,
    narrow: Panels,
    hidden: Buffer,
    row: Vec<f32>,
}

impl Scratch {
    pub fn new(kernels: &Kernels, frames: usize) -> Self {
        let hidden = Buffer::zeros(BOTTLENECK * frames);
        Self { wide: kernels.wide.columns(), narrow: kernels.narrow.columns(), hidden, row: Vec::new() }
    }
}

/// A product with weights: `[outputs, depth] · [depth, frames]`.
#[derive(Debug)]
pub struct Linear {
    kernel: Kernel,
    weights: Panels,
    bias: Buffer,
    outputs: usize,
    rectify: bool,
}

impl Linear {
    /// `values` are `[outputs, depth]`.
    pub fn new(kernel: &Kernel, values: &[f32], bias: &[f32], rectify: bool) -> Result<Self, Error> {
        let (outputs, depth) = (bias.len(), values.len() / bias.len());
        let mut weights = kernel.rows();
        weights.fill(values, depth, outputs);
        Ok(Self { kernel: kernel.clone(), weights, bias: Buffer::from_slice(bias), outputs, rectify })
    }

    /// Writes channel after channel of `frames` numbers, from `offset` on.
    pub fn run(
        &self,
        frames: usize,
        input: &Panels,
        buffer: &mut Buffer,
        offset: usize,
    ) -> Result<(), Error> {
        let then = Then { bias: Bias::PerRow(&self.bias), add: None, rectify: self.rectify };
        let mut place = Place { buffer, offset, row: frames, column: 1 };
        self.kernel.run((self.outputs, frames), &self.weights, input, &then, &mut place)
    }
}

/// A normalisation, the rectifier, then a product with weights at each frame.
#[derive(Debug)]
pub struct Transition {
    normalisation: Affine,
    linear: Linear,
}

impl Transition {
    /// The next normalisation and convolution of the file; `rectify` its result or not.
    pub fn read(
        weights: &mut Weights<'_>,
        kernel: &Kernel,
        inputs: usize,
        outputs: usize,
        rectify: bool,
    ) -> Result<Self, Error> {
        let normalisation = weights.normalisation(inputs)?;
        let (values, bias) = weights.convolution(&[outputs, inputs, 1], 1)?;
        Ok(Self { normalisation, linear: Linear::new(kernel, &values, &bias, rectify)? })
    }

    /// From the first channels of `input` to `output`.
    pub fn run(
        &self,
        frames: usize,
        input: &Buffer,
        output: &mut Buffer,
        panels: &mut Panels,
        row: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let Affine { scale, shift } = &self.normalisation;
        panels.resize(scale.len(), frames);
        let channels = input.as_slice().chunks_exact(frames).zip(scale.iter().zip(shift));
        row.clear();
        for (k, (channel, (scale, shift))) in channels.enumerate() {
            row.extend(channel.iter().map(|x| positive(scale * x + shift)));
            if row.len() == TOGETHER * frames {
                panels.set(k + 1 - TOGETHER, row);
                row.clear();
            }
        }
        self.linear.run(frames, panels, output, 0)
    }
}

/// The rectifier, in the form that compiles to one instruction.
fn positive(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

/// One layer of a dense block.
///
/// ```text
///  channels so far ─▶ normalise, rectify ─▶ 128 ─▶ rectify ─┬─▶ 3 taps along time ─▶ 32 ───────▶ × ─▶ 32 more
///                                                           └─▶ mean of all + mean of 100 frames ─▶ 64 ─▶ mask
/// ```
#[derive(Debug)]
pub struct Layer {
    narrow: Transition,
    local: Linear,
    dilation: usize,
    gate: [Small; 2],
}

impl Layer {
    /// The next layer of the file; `inputs` channels come before it.
    pub fn read(
        weights: &mut Weights<'_>,
        kernels: &Kernels,
        inputs: usize,
        dilation: usize,
    ) -> Result<Self, Error> {
        let narrow = Transition::read(weights, &kernels.wide, inputs, BOTTLENECK, true)?;
        let (values, bias) = weights.convolution(&[GROWTH, BOTTLENECK, TAPS], dilation)?;
        let local = Linear::new(&kernels.narrow, &values, &bias, false)?;
        let gate = [Small::read(weights, BOTTLENECK, GATE)?, Small::read(weights, GATE, GROWTH)?];
        Ok(Self { narrow, local, dilation, gate })
    }

    /// Reads the first channels of `channels`, writes the next 32.
    pub fn run(&self, frames: usize, channels: &mut Buffer, scratch: &mut Scratch) -> Result<(), Error> {
        let Scratch { wide, narrow, hidden, row } = scratch;
        self.narrow.run(frames, channels, hidden, wide, row)?;
        narrow.resize(BOTTLENECK * TAPS, frames);
        let edge = self.dilation;
        row.clear();
        for (c, channel) in hidden.as_slice().chunks_exact(frames).enumerate() {
            let (late, early) = (frames - edge, &channel[..frames - edge]);
            row.extend(std::iter::repeat_n(0.0, edge));
            row.extend_from_slice(early);
            row.extend_from_slice(channel);
            row.extend_from_slice(&channel[edge..]);
            row.extend(std::iter::repeat_n(0.0, frames - late));
            if row.len() == TOGETHER * TAPS * frames {
                narrow.set((c + 1 - TOGETHER) * TAPS, row);
                row.clear();
            }
        }
        let start = self.narrow.normalisation.scale.len() * frames;
        self.local.run(frames, narrow, channels, start)?;
        let masks = self.masks(frames, hidden);
        let added = &mut channels.as_mut_slice()[start..start + GROWTH * frames];
        for (c, channel) in added.chunks_exact_mut(frames).enumerate() {
            for (part, mask) in channel.chunks_mut(SEGMENT).zip(&masks) {
                part.iter_mut().for_each(|x| *x *= mask[c]);
            }
        }
        Ok(())
    }

    /// One mask per segment, a number from 0 to 1 per added channel.
    fn masks(&self, frames: usize, hidden: &Buffer) -> Vec<Vec<f32>> {
        let segments = frames.div_ceil(SEGMENT);
        let mut contexts = vec![Vec::with_capacity(BOTTLENECK); segments];
        for channel in hidden.as_slice().chunks_exact(frames) {
            let sums = channel.chunks(SEGMENT).map(sum);
            let mean = sums.clone().sum::<f32>() / frames as f32;
            for ((sum, part), context) in sums.zip(channel.chunks(SEGMENT)).zip(&mut contexts) {
                context.push(mean + sum / part.len() as f32);
            }
        }
        contexts
            .iter()
            .map(|context| {
                let mut inner = self.gate[0].run(context);
                inner.iter_mut().for_each(|x| *x = x.max(0.0));
                let mut mask = self.gate[1].run(&inner);
                mask.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
                mask
            })
            .collect()
    }
}

/// A product with one vector.
#[derive(Debug)]
struct Small {
    /// `[inputs, outputs]`, so that one input at a time is added to all outputs.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Small {
    fn read(weights: &mut Weights<'_>, inputs: usize, outputs: usize) -> Result<Self, Error> {
        let (values, bias) = weights.convolution(&[outputs, inputs, 1], 1)?;
        let weights = (0..inputs).flat_map(|k| values.chunks(inputs).map(move |row| row[k])).collect();
        Ok(Self { weights, bias })
    }

    fn run(&self, input: &[f32]) -> Vec<f32> {
        let mut sums = self.bias.clone();
        for (x, column) in input.iter().zip(self.weights.chunks(sums.len())) {
            for (sum, weight) in sums.iter_mut().zip(column) {
                *sum += x * weight;
            }
        }
        sums
    }
}

/// The mean of some numbers.
pub fn mean(values: &[f32]) -> f32 {
    sum(values) / values.len().max(1) as f32
}

/// A sum in eight strands: quicker, and no less exact than one.
fn sum(values: &[f32]) -> f32 {
    let (whole, rest) = values.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for chunk in whole {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// The sum of the products of two rows, in eight strands as well.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

//! The 2-D head: ten 3×3 convolutions over frequency and time; three of them halve the frequencies.
//!
//! An image is stored with a border of zeros, so that rows follow each other without a seam: the 3×3
//! neighbourhoods of all its points are nine shifted copies of one long row. A convolution is then one
//! product of [points, channels · 9] and [channels · 9, 32]. Its results at the two border points between
//! rows are thrown away (0.7 % at 300 frames). The 1×1 convolution of a shortcut becomes 32 more columns of
//! the product that it is added to.

use super::Error;
use super::kernel::{Bias, Choose, Kernel, Place, Then};
use super::matrix::{Buffer, Panels};
use super::weights::Weights;

/// Channels of every layer.
pub const CHANNELS: usize = 32;
/// Taps of a 3×3 kernel.
const TAPS: usize = 9;
/// Panels gathered before they are multiplied: few enough to be still in the cache.
const GROUP: usize = 4;

/// The kernel for every layer.
///
/// The number of points is not named: for 12,000 tract's cost model takes tiles of 16 × 8, a third slower
/// here than the wide ones that it takes for an unknown number.
pub fn kernel(choose: Choose) -> Kernel {
    choose(None, CHANNELS * TAPS, CHANNELS)
}

/// `channels` planes of `height` rows of `frames` numbers, each with a border of one zero.
#[derive(Debug)]
pub struct Image {
    pub data: Buffer,
    height: usize,
    pitch: usize,
}

impl Image {
    pub fn new(channels: usize, height: usize, frames: usize) -> Self {
        let pitch = frames + 2;
        Self { data: Buffer::zeros(channels * (height + 2) * pitch), height, pitch }
    }

    fn plane(&self) -> usize {
        (self.height + 2) * self.pitch
    }

    /// Row `y` of channel `c` without its border.
    pub fn row(&self, c: usize, y: usize) -> &[f32] {
        let start = c * self.plane() + (y + 1) * self.pitch + 1;
        &self.data.as_slice()[start..start + self.pitch - 2]
    }

    /// [`Image::row`], to be written.
    pub fn row_mut(&mut self, c: usize, y: usize) -> &mut [f32] {
        let (start, frames) = (c * self.plane() + (y + 1) * self.pitch + 1, self.pitch - 2);
        &mut self.data.as_mut_slice()[start..start + frames]
    }

    /// Makes the border points between rows zero again.
    fn clear_seams(&mut self) {
        let pitch = self.pitch;
        for row in self.data.as_mut_slice().chunks_exact_mut(pitch) {
            row[0] = 0.0;
            row[pitch - 1] = 0.0;
        }
    }
}

/// A 3×3 convolution of zero-bordered images, then the rectifier.
#[derive(Debug)]
pub struct Convolution {
    kernel: Kernel,
    weights: Panels,
    bias: Buffer,
    inputs: usize,
    /// Rows of the input per row of the output.
    stride: usize,
    /// Of the shortcut, if there is one.
    shortcut_stride: Option<usize>,
}

impl Convolution {
    /// The next convolution of the file.
    pub fn read(
        weights: &mut Weights<'_>,
        kernel: &Kernel,
        inputs: usize,
        stride: usize,
    ) -> Result<Self, Error> {
        let (values, bias) = weights.convolution(&[CHANNELS, inputs, 3, 3], 1)?;
        Self::new(kernel, &values, &bias, (inputs, stride), None)
    }

    /// The next two convolutions of the file: a 3×3 one and the 1×1 shortcut added to it.
    pub fn read_with_shortcut(weights: &mut Weights<'_>, kernel: &Kernel) -> Result<Self, Error> {
        let (values, bias) = weights.convolution(&[CHANNELS, CHANNELS, 3, 3], 1)?;
        let (more, shortcut_bias) = weights.convolution(&[CHANNELS, CHANNELS, 1, 1], 1)?;
        let joined: Vec<f32> = values
            .chunks(CHANNELS * TAPS)
            .zip(more.chunks(CHANNELS))
            .flat_map(|(a, b)| [a, b].concat())
            .collect();
        let bias: Vec<f32> = bias.iter().zip(&shortcut_bias).map(|(a, b)| a + b).collect();
        Self::new(kernel, &joined, &bias, (CHANNELS, 1), Some(2))
    }

    fn new(
        kernel: &Kernel,
        values: &[f32],
        bias: &[f32],
        (inputs, stride): (usize, usize),
        shortcut_stride: Option<usize>,
    ) -> Result<Self, Error> {
        let mut weights = kernel.columns();
        weights.fill(values, values.len() / CHANNELS, CHANNELS);
        let bias = Buffer::from_slice(bias);
        Ok(Self { kernel: kernel.clone(), weights, bias, inputs, stride, shortcut_stride })
    }

    /// `add` has the layout of `to`; the 1×1 convolution reads the image `shortcut`.
    pub fn run(
        &self,
        from: &Image,
        shortcut: Option<&Image>,
        add: Option<&Image>,
        to: &mut Image,
        panels: &mut Panels,
    ) -> Result<(), Error> {
        let sources = [(Some(from), self.stride, TAPS), (shortcut, self.shortcut_stride.unwrap_or(1), 1)];
        let points = to.height * to.pitch - 2;
        let depth = self.inputs * TAPS + if self.shortcut_stride.is_some() { CHANNELS } else { 0 };
        let width = panels.width();
        let (plane, pitch) = (to.plane(), to.pitch);
        for start in (0..points).step_by(GROUP * width) {
            let rows = (points - start).min(GROUP * width);
            panels.resize(depth, rows);
            for (index, first) in (start..start + rows).step_by(width).enumerate() {
                let len = (start + rows - first).min(width);
                let mut to = panels.panel_mut(index);
                for (source, stride, taps) in sources {
                    if let Some(source) = source {
                        let channels = if taps == TAPS { self.inputs } else { CHANNELS };
                        let (part, rest) = to.split_at_mut(channels * taps * width);
                        gather(source, (channels, stride, taps), (first, len), part, width);
                        to = rest;
                    }
                }
            }
            let then =
                Then { bias: Bias::PerColumn(&self.bias), add: add.map(|image| &image.data), rectify: true };
            let mut place = Place { buffer: &mut to.data, offset: pitch + 1 + start, row: 1, column: plane };
            self.kernel.run((rows, CHANNELS), panels, &self.weights, &then, &mut place)?;
        }
        to.clear_seams();
        Ok(())
    }
}

/// Copies the neighbourhoods of `len` output points from the `first` on: for each channel and tap one row of
/// `width`.
fn gather(
    source: &Image,
    (channels, stride, taps): (usize, usize, usize),
    (first, len): (usize, usize),
    to: &mut [f32],
    width: usize,
) {
    let pitch = source.pitch;
    let mut done = 0;
    while done < len {
        let (y, x) = ((first + done) / pitch, (first + done) % pitch);
        // Without a stride the points of the next row follow without a seam.
        let part = if stride == 1 { len } else { (len - done).min(pitch - x) };
        let origin = y * stride * pitch + x;
        let mut rows = to.chunks_exact_mut(width);
        for plane in source.data.as_slice().chunks_exact(source.plane()).take(channels) {
            for tap in 0..taps {
                let Some(row) = rows.next() else { return };
                // A single tap is the middle one.
                let offset = if taps == 1 { pitch + 1 } else { tap / 3 * pitch + tap % 3 };
                copy(&plane[origin + offset..], &mut row[done..], part);
            }
        }
        done += part;
    }
}

/// Copies `len` numbers; the widths of tract's kernels without a call, beyond them a call is quicker.
fn copy(from: &[f32], to: &mut [f32], len: usize) {
    fn fixed<const N: usize>(from: &[f32], to: &mut [f32]) {
        if let (Some((from, _)), Some((to, _))) =
            (from.split_first_chunk::<N>(), to.split_first_chunk_mut::<N>())
        {
            *to = *from;
        }
    }
    match len {
        8 => fixed::<8>(from, to),
        12 => fixed::<12>(from, to),
        16 => fixed::<16>(from, to),
        24 => fixed::<24>(from, to),
        32 => fixed::<32>(from, to),
        _ => to[..len].copy_from_slice(&from[..len]),
    }
}

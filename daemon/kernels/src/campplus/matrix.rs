//! The operands of matrix products: aligned numbers, and panels in the order that tract's kernels read.

use std::fmt;

use tract_linalg::mmm::{MMMInputFormat, MMMInputValue, PackedExoticFact};
use tract_linalg::pack::PackedFormat;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{ExoticFact, ToDim, tract_linalg};
use tract_onnx::tract_core::tract_data::internal::f16;

/// Numbers aligned for the kernels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Buffer(Tensor);

impl Buffer {
    /// In bytes; no kernel asks for more.
    pub const ALIGNMENT: usize = 512;

    pub fn zeros(len: usize) -> Self {
        // Zeros of a plain number type at a constant alignment cannot be refused.
        Self(Tensor::zero_aligned::<f32>(&[len], Self::ALIGNMENT).unwrap_or_default())
    }

    pub fn from_slice(values: &[f32]) -> Self {
        let mut buffer = Self::zeros(values.len());
        buffer.as_mut_slice().copy_from_slice(values);
        buffer
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn tensor(&self) -> &Tensor {
        &self.0
    }

    pub fn as_slice(&self) -> &[f32] {
        self.0.try_as_plain_ram().and_then(|view| view.as_slice::<f32>()).unwrap_or_default()
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.0
            .to_plain_array_view_mut::<f32>()
            .ok()
            .and_then(tract_ndarray::ArrayViewMutD::into_slice)
            .unwrap_or_default()
    }
}

/// One operand in a kernel's order.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Panels {
    format: PackedFormat,
    fact: PackedExoticFact,
    data: Buffer,
    /// Depth, and rows (of a left operand) or columns (of a right one).
    k: usize,
    mn: usize,
    /// Numbers of one panel, its end padding included.
    panel: usize,
}

impl Panels {
    pub fn new(format: PackedFormat) -> Self {
        let fact = PackedExoticFact { format: Box::new(format.clone()), mn: 0.to_dim(), k: 0 };
        Self { format, fact, data: Buffer::zeros(0), k: 0, mn: 0, panel: 0 }
    }

    /// Sets the shape. The old content of the panels is lost.
    pub fn resize(&mut self, k: usize, mn: usize) {
        (self.k, self.mn, self.panel) = (k, mn, self.format.single_panel_len(k));
        self.fact.k = k;
        let len = mn.div_ceil(self.format.r) * self.panel;
        if self.data.len() < len {
            self.data = Buffer::zeros(len);
        }
    }

    /// Holds a matrix of `mn` rows of depth `k`, given row after row.
    pub fn fill(&mut self, values: &[f32], k: usize, mn: usize) {
        self.resize(k, mn);
        for index in 0..k {
            let across: Vec<f32> = values.chunks_exact(k).map(|row| row[index]).collect();
            self.set(index, &across);
        }
    }

    pub fn format(&self) -> &PackedFormat {
        &self.format
    }

    /// Depth, and rows or columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.k, self.mn)
    }

    /// Rows or columns of a panel.
    pub fn width(&self) -> usize {
        self.format.r
    }

    /// Panel `index`: [`Panels::width`] numbers for each k.
    pub fn panel(&self, index: usize) -> &[f32] {
        let (start, len) = (index * self.panel, self.k * self.format.r);
        &self.data.as_slice()[start..start + len]
    }

    /// The same, to be written.
    pub fn panel_mut(&mut self, index: usize) -> &mut [f32] {
        let (start, len) = (index * self.panel, self.k * self.format.r);
        &mut self.data.as_mut_slice()[start..start + len]
    }

    /// Sets all numbers of some depths from `k` on, given depth after depth.
    ///
    /// The distance of panels is a multiple of the caches' period, so a pass through all of them for one
    /// depth evicts the numbers just written. A few depths at once are much quicker.
    pub fn set(&mut self, k: usize, values: &[f32]) {
        let (panel, r, mn) = (self.panel, self.format.r, self.mn);
        let data = &mut self.data.as_mut_slice()[k * r..];
        // Copies of a known length are a few instructions; these are the widths of tract's kernels.
        match r {
            3 => spread::<3>(values, mn, data, panel),
            4 => spread::<4>(values, mn, data, panel),
            5 => spread::<5>(values, mn, data, panel),
            6 => spread::<6>(values, mn, data, panel),
            8 => spread::<8>(values, mn, data, panel),
            12 => spread::<12>(values, mn, data, panel),
            16 => spread::<16>(values, mn, data, panel),
            _ => {
                for (index, to) in data.chunks_mut(panel).enumerate().take(mn.div_ceil(r)) {
                    for (to, row) in to.chunks_mut(r).zip(values.chunks_exact(mn)) {
                        let from = &row[index * r..mn.min((index + 1) * r)];
                        to[..from.len()].copy_from_slice(from);
                    }
                }
            }
        }
    }
}

/// [`Panels::set`] for panels of width `R`.
fn spread<const R: usize>(values: &[f32], mn: usize, data: &mut [f32], panel: usize) {
    for (index, to) in data.chunks_mut(panel).enumerate().take(mn.div_ceil(R)) {
        for (to, row) in to.as_chunks_mut::<R>().0.iter_mut().zip(values.chunks_exact(mn)) {
            let from = &row[index * R..];
            match from.first_chunk::<R>() {
                Some(from) => *to = *from,
                None => to[..from.len()].copy_from_slice(from),
            }
        }
    }
}

impl fmt::Debug for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Panels[{} x {}, {}]", self.k, self.mn, self.format)
    }
}

impl fmt::Display for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl MMMInputValue for Panels {
    fn format(&self) -> &dyn MMMInputFormat {
        &self.format
    }

    fn scratch_panel_buffer_layout(&self) -> Option<std::alloc::Layout> {
        None
    }

    fn panel_bytes(&self, i: usize, _: Option<*mut u8>) -> TractResult<*const u8> {
        let panel = self.data.as_slice().get(i * self.panel..(i + 1) * self.panel);
        Ok(panel.ok_or_else(|| TractError::msg("no such panel"))?.as_ptr().cast())
    }

    fn mn(&self) -> usize {
        self.mn
    }

    fn k(&self) -> usize {
        self.k
    }

    fn exotic_fact(&self) -> &dyn ExoticFact {
        &self.fact
    }

    fn extract_at_mn_f16(&self, _: usize, _: &mut [f16]) -> TractResult<()> {
        Err(TractError::msg("not half precision"))
    }

    fn extract_at_mn_f32(&self, mn: usize, slice: &mut [f32]) -> TractResult<()> {
        let start = mn / self.format.r * self.panel;
        let panel = self.data.as_slice().get(start..start + self.panel);
        let panel = panel.ok_or_else(|| TractError::msg("no such panel"))?;
        for (to, from) in slice.iter_mut().zip(panel.chunks(self.format.r)) {
            *to = from[mn % self.format.r];
        }
        Ok(())
    }
}

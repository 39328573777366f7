//! Matrix products on tract's kernels that write the result to its final place.
//!
//! A kernel computes a tile of `mr × nr` results from a panel of `mr` rows of A and one of `nr` columns of B,
//! both stored k by k. Which kernel is fastest depends on the machine and the shape; tract chooses.
//! Operations on a tile after the product (bias, addition, rectifier) cost nothing further.
//!
//! tract's kernels take pointers, so this is the one place of the speaker check with unsafe code.
//! [`Kernel::run`] checks everything that they reach before it calls them; a caller's mistake is
//! [`Error::Shape`], never a stray access.

use tract_linalg::mmm::{
    AsInputValue, FusedSpec, MMMInputFormat, MatMatMul, Query, Suitable, pick_by_shape, retain_best,
};
use tract_linalg::pack::PackedFormat;
use tract_linalg::{BinOp, MmmDispatch};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::tract_linalg;
use tract_onnx::tract_core::tract_data::internal::TensorView;

use super::matrix::{Buffer, Panels};
use super::{Error, portable};

/// A kernel for products of about one shape.
#[derive(Debug, Clone)]
pub struct Kernel {
    code: Code,
    a: PackedFormat,
    b: PackedFormat,
}

/// Chooses a kernel, as [`Kernel::choose`] does.
pub type Choose = fn(Option<usize>, usize, usize) -> Kernel;

#[derive(Debug, Clone)]
enum Code {
    Tract { mmm: Box<dyn MatMatMul>, packing: usize },
    Portable,
}

impl Kernel {
    /// The kernel that tract prefers on this machine for `[m, k] · [k, n]`; `m` is `None` for "many". A
    /// machine for which tract has none takes [`Kernel::portable`], slower and equally exact.
    pub fn choose(m: Option<usize>, k: usize, n: usize) -> Self {
        let mut query = Query::plain(f32::datum_type(), m, Some(k), Some(n));
        query.allow_extractor = false;
        let dispatch = MmmDispatch::native();
        if let Some(kernel) = dispatch.pick(&query).and_then(Self::plain) {
            return kernel;
        }
        // Some machines prefer a kernel for operands of less precision.
        let mut others = dispatch.suitable(&query);
        others.retain(|suitable| Self::plain(suitable.clone()).is_some());
        retain_best(&mut others);
        let best = pick_by_shape(&query, &others).and_then(|index| others.get(index)).or(others.first());
        best.cloned().and_then(Self::plain).unwrap_or_else(Self::portable)
    }

    /// A kernel in plain Rust, for any machine.
    pub fn portable() -> Self {
        let panels = PackedFormat {
            dt: f32::datum_type(),
            r: portable::WIDTH,
            alignment_bytes: Buffer::ALIGNMENT,
            end_padding_record: 0,
        };
        Self { code: Code::Portable, a: panels.clone(), b: panels }
    }

    /// The kernel, if it takes f32 in plain panels on both sides.
    fn plain((mmm, packing, _): Suitable) -> Option<Self> {
        let plain = |format: &dyn MMMInputFormat| {
            let format = format.downcast_ref::<PackedFormat>()?;
            let fits =
                format.dt == f32::datum_type() && Buffer::ALIGNMENT.is_multiple_of(format.alignment_bytes);
            fits.then(|| format.clone())
        };
        let (a, b) = mmm.packings().get(packing)?;
        let (a, b) = (plain(&**a)?, plain(&**b)?);
        Some(Self { code: Code::Tract { mmm, packing }, a, b })
    }

    /// The name by which tract knows it.
    pub fn name(&self) -> &str {
        match &self.code {
            Code::Tract { mmm, .. } => mmm.name(),
            Code::Portable => "plain Rust",
        }
    }

    /// Rows and columns that are computed at once.
    fn tile(&self) -> (usize, usize) {
        match &self.code {
            Code::Tract { mmm, .. } => (mmm.mr(), mmm.nr()),
            Code::Portable => (portable::WIDTH, portable::WIDTH),
        }
    }

    /// Empty panels for the left operand.
    pub fn rows(&self) -> Panels {
        Panels::new(self.a.clone())
    }

    /// Empty panels for the right operand.
    pub fn columns(&self) -> Panels {
        Panels::new(self.b.clone())
    }

    /// `out[offset + row · i + column · j] = f(Σₖ a[i, k] · b[k, j])` for `i < m`, `j < n`.
    #[expect(unsafe_code, reason = "tract's kernels take pointers; what they reach is checked first")]
    pub fn run(
        &self,
        (m, n): (usize, usize),
        a: &Panels,
        b: &Panels,
        then: &Then<'_>,
        out: &mut Place<'_>,
    ) -> Result<(), Error> {
        let reach = |count: usize, distance: usize| count.checked_sub(1)?.checked_mul(distance);
        let last = reach(m, out.row)
            .zip(reach(n, out.column))
            .and_then(|(a, b)| a.checked_add(b)?.checked_add(out.offset));
        let bias_fits = match then.bias {
            Bias::PerRow(bias) => bias.len() >= m,
            Bias::PerColumn(bias) => bias.len() >= n,
        };
        let panels_fit = (a.format(), b.format()) == (&self.a, &self.b)
            && (self.a.r, self.b.r) == self.tile()
            && (a.shape(), b.shape().1) == ((b.shape().0, m), n);
        let (first, last) = (out.offset, last.filter(|last| *last < out.buffer.len()).ok_or(Error::Shape)?);
        if !panels_fit || !bias_fits || then.add.is_some_and(|add| add.len() != out.buffer.len()) {
            return Err(Error::Shape);
        }
        let (mmm, packing) = match &self.code {
            Code::Tract { mmm, packing } => (mmm, *packing),
            Code::Portable => {
                portable::run((m, n), a, b, then, out);
                return Ok(());
            }
        };
        let zero = tensor0(0f32);
        // tract takes the elements of the view for the end of the memory.
        let shape = [last - first + 1];
        let (row, column) = (isize_of(out.row), isize_of(out.column));
        let at = |buffer: &Buffer| {
            // SAFETY: `first..=last` lies within the buffer (and the one added has its length), checked
            // above; a store covers offset + row · (m - 1) + column · (n - 1) = last at most.
            unsafe {
                let view =
                    TensorView::from_bytes(buffer.tensor(), isize_of(first * size_of::<f32>()), &shape, &[1]);
                mmm.c_from_data_and_strides(size_of::<f32>(), row, column).wrap(&view)
            }
        };
        let mut steps: TVec<FusedSpec<'_>> = tvec![FusedSpec::AddMatMul {
            a: AsInputValue::Borrowed(a),
            b: AsInputValue::Borrowed(b),
            packing
        }];
        match then.bias {
            Bias::PerRow(bias) => steps.push(FusedSpec::BinPerRow(bias.tensor().view(), BinOp::Add)),
            Bias::PerColumn(bias) => steps.push(FusedSpec::BinPerCol(bias.tensor().view(), BinOp::Add)),
        }
        if let Some(add) = then.add {
            steps.push(FusedSpec::AddUnicast(at(add)));
        }
        if then.rectify {
            steps.push(FusedSpec::BinScalar(&zero, BinOp::Max));
        }
        steps.push(FusedSpec::Store(at(out.buffer)));
        // SAFETY: panels are in this kernel's packing, of equal depth and of m rows and n columns, and
        // everything read or stored lies within its buffer, all checked above.
        unsafe { mmm.run(m, n, &steps) }.map_err(|source| Error::Run(source.into()))
    }
}

fn isize_of(value: usize) -> isize {
    // No buffer of ours is near isize::MAX.
    isize::try_from(value).unwrap_or(0)
}

/// Operations on a product before it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Then<'a> {
    pub bias: Bias<'a>,
    /// Added elementwise; laid out as the output.
    pub add: Option<&'a Buffer>,
    /// Negative results become 0.
    pub rectify: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Bias<'a> {
    PerRow(&'a Buffer),
    PerColumn(&'a Buffer),
}

/// Where a product goes.
#[derive(Debug)]
pub struct Place<'a> {
    pub buffer: &'a mut Buffer,
    pub offset: usize,
    /// Distance of rows and of columns.
    pub row: usize,
    pub column: usize,
}

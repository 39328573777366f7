//! The matrix product in plain Rust, for a machine that tract has no kernel for.
//!
//! The compiler turns the tile into the vector instructions that it may use there. It takes several times as
//! long as tract's kernels; `docs/lab/speaker-speed.md` has the numbers.

use super::kernel::{Bias, Place, Then};
use super::matrix::Panels;

/// Rows and columns of a tile.
pub const WIDTH: usize = 8;

/// As [`super::kernel::Kernel::run`], which checks that the operands fit together.
pub fn run((m, n): (usize, usize), a: &Panels, b: &Panels, then: &Then<'_>, out: &mut Place<'_>) {
    for (top, left) in (0..m).step_by(WIDTH).flat_map(|i| (0..n).step_by(WIDTH).map(move |j| (i, j))) {
        let tile = product(a.panel(top / WIDTH), b.panel(left / WIDTH));
        for (i, row) in (top..m).zip(&tile) {
            for (j, sum) in (left..n).zip(row) {
                let at = out.offset + i * out.row + j * out.column;
                let bias = match then.bias {
                    Bias::PerRow(bias) => bias.as_slice()[i],
                    Bias::PerColumn(bias) => bias.as_slice()[j],
                };
                let value = sum + bias + then.add.map_or(0.0, |add| add.as_slice()[at]);
                out.buffer.as_mut_slice()[at] = if then.rectify { value.max(0.0) } else { value };
            }
        }
    }
}

/// One tile: the sum over k of the products of `a`'s and `b`'s numbers.
fn product(a: &[f32], b: &[f32]) -> [[f32; WIDTH]; WIDTH] {
    let mut tile = [[0.0; WIDTH]; WIDTH];
    for (a, b) in a.as_chunks::<WIDTH>().0.iter().zip(b.as_chunks::<WIDTH>().0) {
        for (row, a) in tile.iter_mut().zip(a) {
            for (sum, b) in row.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    tile
}

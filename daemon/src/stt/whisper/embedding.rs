//! The table of token embeddings: a token's numbers at the decoder's input, the scores of all tokens at its
//! output.
//!
//! It is two thirds of the model. As 8-bit integers with a scale for each row and each column (error 0.9 %;
//! its effect on the text: docs/design/stt.md) it takes 20 MB instead of 120. A step of the decoder, which
//! waits for these bytes, reads a quarter of them. Products are summed in integers, so scores are the same on
//! every machine.

use jarvis_kernels::integers::dot;

use super::graph::TOKENS;
use crate::inference::ModelStore;
use crate::stt::SttError;

/// Numbers of one token.
pub const WIDTH: usize = 384;

pub struct Embedding {
    /// `[TOKENS, WIDTH]`, signed.
    integers: Vec<u8>,
    row_scales: Vec<f32>,
    column_scales: Vec<f32>,
}

impl Embedding {
    pub fn load(store: &ModelStore) -> Result<Self, SttError> {
        const NAME: &str = "whisper-tiny-en-embedding";
        let bytes = store.read(NAME).map_err(SttError::Model)?;
        Self::parse(bytes).map_err(|what| SttError::Whisper { what: what.into(), fix: store.fix_of(NAME) })
    }

    /// The integers row by row, then a scale for each row, then one for each column (f32, little endian).
    fn parse(mut bytes: Vec<u8>) -> Result<Self, &'static str> {
        let tail = bytes.get(TOKENS * WIDTH..).unwrap_or_default();
        let scales: Vec<f32> = tail.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let Some((rows, columns)) = scales.split_at_checked(TOKENS) else {
            return Err("the table of embeddings is cut short");
        };
        if columns.len() != WIDTH || tail.len() % 4 != 0 {
            return Err("the table of embeddings has another size than the decoder's");
        }
        if !scales.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err("the table of embeddings holds a scale that is not a number");
        }
        let (row_scales, column_scales) = (rows.to_vec(), columns.to_vec());
        bytes.truncate(TOKENS * WIDTH);
        bytes.shrink_to_fit();
        Ok(Self { integers: bytes, row_scales, column_scales })
    }

    /// The numbers of `token`, `WIDTH` of them.
    pub fn row(&self, token: usize) -> Vec<f32> {
        let start = token.saturating_mul(WIDTH);
        let integers = self.integers.get(start..start.saturating_add(WIDTH)).unwrap_or_default();
        let scale = self.row_scales.get(token).copied().unwrap_or_default();
        integers
            .iter()
            .zip(&self.column_scales)
            .map(|(integer, column)| f32::from(integer.cast_signed()) * scale * column)
            .collect()
    }

    /// The score of every token: its row times `hidden` (`WIDTH` finite numbers).
    ///
    /// `hidden` is rounded to 16 bits, so a sum is at most 384 · 127 · 32767 < 2³¹, and cannot overflow.
    pub fn scores(&self, hidden: &[f32]) -> Vec<f32> {
        let scaled: Vec<f32> = hidden.iter().zip(&self.column_scales).map(|(h, column)| h * column).collect();
        let largest = scaled.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
        let step = largest / f32::from(i16::MAX);
        let rounded: Vec<i16> = scaled.iter().map(|x| to_i16(x / step)).collect();
        self.integers
            .chunks_exact(WIDTH)
            .zip(&self.row_scales)
            .map(|(row, scale)| to_f32(dot(row, &rounded)) * (scale * step))
            .collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 32767 by construction; a cast saturates")]
fn to_i16(x: f32) -> i16 {
    x.round() as i16
}

/// Rounds to the 24 bits of f32, far finer than the table itself.
fn to_f32(x: i32) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..TOKENS * WIDTH).map(|i| i.to_le_bytes()[0].wrapping_mul(31)).collect();
        for row in 0..TOKENS {
            bytes.extend((0.001 + row as f32 * 1e-7).to_le_bytes());
        }
        bytes.extend((0..WIDTH).flat_map(|c| (1.0 + c as f32).to_le_bytes()));
        bytes
    }

    #[test]
    fn scores_are_the_products_of_rows_and_hidden_numbers() {
        let embedding = Embedding::parse(table()).unwrap();
        let hidden: Vec<f32> = (0..WIDTH).map(|i| (i as f32 * 0.7).sin() / (1.0 + i as f32)).collect();
        let scores = embedding.scores(&hidden);
        assert_eq!(scores.len(), TOKENS);
        for token in [0, 1, 777, TOKENS - 1] {
            let row = embedding.row(token);
            assert_eq!(row.len(), WIDTH);
            let expected: f32 = row.iter().zip(&hidden).map(|(a, b)| a * b).sum();
            assert!((scores[token] - expected).abs() < 1e-3 * (1.0 + expected.abs()), "{token}");
        }
        assert!(embedding.scores(&[0.0; WIDTH]).iter().all(|s| *s == 0.0));
        assert!(embedding.row(TOKENS).is_empty());
    }

    #[test]
    fn the_largest_sum_does_not_overflow() {
        assert_eq!(dot(&[0x81; WIDTH], &[i16::MAX; WIDTH]), -127 * 32_767 * 384);
        assert_eq!(dot(&[0x80; WIDTH], &[i16::MAX; WIDTH]), -128 * 32_767 * 384);
    }

    #[test]
    fn a_table_of_another_size_or_with_a_broken_scale_is_refused() {
        let whole = table();
        let mut broken = whole.clone();
        let last = broken.len() - 4;
        broken[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        let longer = [&whole[..], &[0; 4]].concat();
        for bytes in [whole[..whole.len() - 4].to_vec(), whole[..100].to_vec(), vec![], broken, longer] {
            assert!(Embedding::parse(bytes).is_err());
        }
    }
}

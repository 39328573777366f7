//! Products of integers.

/// The sum of the products of a row of 8-bit integers (signed, as bytes) and as many of 16 bits. The longer
/// of both is cut. A sum beyond 32 bits wraps.
///
/// Written so that the compiler makes it multiply-and-add instructions of eight 16-bit integers, also where
/// overflow is checked.
#[must_use]
pub fn dot(row: &[u8], numbers: &[i16]) -> i32 {
    row.iter()
        .zip(numbers)
        .fold(0, |sum: i32, (a, b)| sum.wrapping_add(i32::from(a.cast_signed()).wrapping_mul(i32::from(*b))))
}

#[cfg(test)]
mod tests {
    use super::dot;

    #[test]
    fn the_bytes_are_signed_and_the_longer_is_cut() {
        let row: Vec<u8> = (0..=255).collect();
        let numbers: Vec<i16> = (0..300).map(|n| n * 100 - 15_000).collect();
        let signed = row.iter().map(|b| i32::from(b.cast_signed()));
        let expected: i32 = signed.zip(&numbers).map(|(a, b)| a * i32::from(*b)).sum();
        assert_eq!(dot(&row, &numbers), expected);
        assert_eq!(dot(&[255, 127], &[3, -2, 9]), -3 - 254);
        assert_eq!(dot(&[], &numbers), 0);
    }
}

//! "Did you mean …?": the known word nearest to a mistyped one.

/// Below this Jaro-Winkler similarity a suggestion would be a guess.
const ALIKE: f64 = 0.8;

/// The candidate most like `word`, if one is alike enough to be meant.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no typing mistakes, and comparing them would cost quadratic time.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word, candidate), candidate))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn a_typing_mistake_finds_its_word_and_a_strange_word_finds_none() {
        assert_eq!(closest("devcie", ["channel", "device"]), Some("device"));
        assert_eq!(closest("Period-MS", ["period_ms", "device"]), Some("period_ms"));
        assert_eq!(closest("zebra", ["channel", "device"]), None);
        assert_eq!(closest(&"x".repeat(10_000), ["x"]), None);
    }
}

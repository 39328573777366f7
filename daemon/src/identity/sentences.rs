//! Sentences to read aloud at an enrolment.
//!
//! Each takes four to seven seconds. Together they hold every vowel and consonant of English several times,
//! the rare ones ("pleasure", "azure", "noisy", "thunder") among them: a voice that is compared later says
//! other words. None of them holds a wake word.

pub const SENTENCES: [&str; 8] = [
    "The old lighthouse keeper poured himself a cup of strong black coffee and watched the grey ships go by.",
    "Every Thursday my neighbour's children chase their yellow kite across the wide field behind the school.",
    "We usually buy fresh bread, some cheese and a jar of honey at the small shop near the church.",
    "When thunder rolled over the valley, the young horses jumped the fence and vanished in the fog.",
    "Please join us on the third of June, for the view from our roof is a pleasure just before sunset.",
    "A quiet voice from the kitchen asked whether anybody had eaten the last piece of orange cake.",
    "His father fixed the noisy washing machine with a rusty spoon and a good deal of patience.",
    "Could you choose five brown boxes, and put the heavy tools and the azure vase into each of them?",
];

/// The sentence after `kept` others.
pub fn after(kept: usize) -> &'static str {
    SENTENCES.get(kept % SENTENCES.len()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_differ_are_long_enough_and_call_no_device() {
        for (n, sentence) in SENTENCES.iter().enumerate() {
            let words = sentence.split_whitespace().count();
            assert!((15..=20).contains(&words), "{sentence}: {words} words");
            assert!(!sentence.to_lowercase().contains("jarvis"), "{sentence}");
            let begins = |other: &&&str| other.split(' ').next() == sentence.split(' ').next();
            assert_eq!(SENTENCES.iter().filter(begins).count(), 1, "{sentence}: begins like another one");
            assert_eq!(after(n + SENTENCES.len()), *sentence);
        }
    }

    #[test]
    fn every_letter_stands_in_the_first_five() {
        let text = SENTENCES[..5].concat().to_lowercase();
        let missing: String = ('a'..='z').filter(|letter| !text.contains(*letter)).collect();
        assert!(missing.trim_matches(['q', 'x', 'z']).is_empty(), "{missing}");
    }
}

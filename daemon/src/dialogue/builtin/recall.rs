//! Finds a person's statements about a topic, also when they were heard a little differently.

use strsim::osa_distance;

use super::intent::{Intent, understand};
use super::rephrase::{inside_a_sentence, second_person, sentence};
use super::words::{Word, words_of};
use crate::dialogue::OwnMemory;
use crate::memory::{Kind, MemoryError, Message, Wanted, Words, is_run_letter, point_before};

/// Words that say nothing about a topic.
const EMPTY_WORDS: &[&str] = &[
    "the",
    "a",
    "an",
    "my",
    "your",
    "our",
    "his",
    "her",
    "their",
    "is",
    "are",
    "was",
    "were",
    "am",
    "be",
    "been",
    "do",
    "did",
    "does",
    "of",
    "about",
    "in",
    "on",
    "at",
    "to",
    "for",
    "with",
    "from",
    "by",
    "i",
    "you",
    "me",
    "we",
    "us",
    "it",
    "he",
    "she",
    "they",
    "that",
    "this",
    "these",
    "those",
    "there",
    "and",
    "or",
    "what",
    "where",
    "when",
    "who",
    "whose",
    "how",
    "which",
    "why",
    "please",
    "any",
    "some",
    "tell",
    "told",
    "say",
    "said",
    "remember",
    "know",
    "have",
    "has",
    "had",
    "can",
    "could",
    "will",
    "would",
    "should",
    "anything",
    "something",
    "everything",
    "again",
    "now",
    "put",
    "if",
    "as",
];

/// Half of a topic's words must be in a statement that is given as an answer.
const ENOUGH: f64 = 0.5;
/// Most words of a topic. A sentence has fewer; in a whole text the first ones tell the topic.
const MAX_TERMS: usize = 32;
/// Words of a statement that are compared with a topic one by one.
const MAX_WORDS: usize = 1_000;
/// A longer word was not misheard by a letter, and the comparison of two such words costs the product of
/// their lengths.
const MAX_MISHEARD_CHARS: usize = 32;

/// The words of `topic` that name it.
pub fn terms(topic: &str) -> Vec<String> {
    let mut terms: Vec<String> = Vec::new();
    for word in words_of(topic).into_iter().map(|word| word.norm) {
        if terms.len() == MAX_TERMS {
            break;
        }
        if !EMPTY_WORDS.contains(&word.as_str()) && !terms.contains(&word) {
            terms.push(word);
        }
    }
    terms
}

/// As [`terms`], as one text in which the words keep their signs: .NET, AC/DC.
pub fn query(topic: &str) -> String {
    let mut groups: Vec<(String, Vec<Word>)> = Vec::new();
    for word in words_of(topic) {
        let sign = match groups.last().and_then(|(_, group)| topic.get(group.last()?.end..word.start)) {
            Some(sign @ ("/" | "&")) => Some(sign),
            _ => None,
        };
        match (groups.last_mut(), sign) {
            (Some((written, group)), Some(sign)) => {
                written.push_str(sign);
                written.push_str(&word.norm);
                group.push(word);
            }
            _ => {
                let letter = word.norm.starts_with(char::is_alphabetic);
                let point = letter && topic.get(..word.start).is_some_and(point_before);
                groups.push((format!("{}{}", if point { "." } else { "" }, word.norm), vec![word]));
            }
        }
    }
    let telling = |(written, group): (String, Vec<Word>)| {
        (group.len() > 1 || !EMPTY_WORDS.contains(&written.as_str())).then_some(written)
    };
    groups.into_iter().filter_map(telling).take(MAX_TERMS).collect::<Vec<_>>().join(" ")
}

/// The person's statements about `topic`: exact matches, or else the statements that share most words with
/// it. Statements to be remembered come first, then the newest.
pub async fn find(memory: OwnMemory<'_>, topic: &str) -> Result<Vec<Message>, MemoryError> {
    let terms = terms(topic);
    if terms.is_empty() {
        return Ok(Vec::new());
    }
    let words = query(topic);
    let signed = Wanted::of(&words);
    let exact = memory.recall(&words, Words::All, 20).await?;
    if !exact.is_empty() {
        return Ok(exact);
    }
    let mut candidates = memory.recall(&words, Words::Any, 50).await?;
    // No index holds a misheard word: compare with the things to remember, word by word.
    for note in memory.notes(200).await? {
        if !candidates.contains(&note) {
            candidates.push(note);
        }
    }
    let mut scored: Vec<(f64, Message)> = candidates
        .into_iter()
        .filter(|message| signed.all_in(&message.text))
        .map(|message| (coverage(&terms, &message.text), message))
        .filter(|(coverage, _)| *coverage >= ENOUGH)
        .collect();
    scored.sort_by(|(a, first), (b, second)| {
        b.total_cmp(a).then((second.kind == Kind::Note).cmp(&(first.kind == Kind::Note)))
    });
    Ok(scored.into_iter().map(|(_, message)| message).collect())
}

/// Which part of `terms` is in `text`, 0…1.
fn coverage(terms: &[String], text: &str) -> f64 {
    let mut words: Vec<String> = words_of(text).into_iter().take(MAX_WORDS).map(|word| word.norm).collect();
    words.sort_unstable();
    words.dedup();
    let found = terms.iter().filter(|term| words.iter().any(|word| close(word, term))).count();
    #[expect(clippy::cast_precision_loss, reason = "a handful of words")]
    let part = found as f64 / terms.len().max(1) as f64;
    part
}

/// Equal, another form of the same word, or one letter apart.
pub fn close(word: &str, term: &str) -> bool {
    let stem = |w: &str| {
        ["ing", "ed", "es", "s"]
            .iter()
            .find_map(|end| w.strip_suffix(end).filter(|w| w.chars().count() >= 3))
            .unwrap_or(w)
            .to_owned()
    };
    // A script without spaces: the term is somewhere in the run.
    if term.contains(is_run_letter) && word.contains(term) {
        return true;
    }
    let (long, short) = (word.chars().count(), term.chars().count());
    let alike = (5..=MAX_MISHEARD_CHARS).contains(&short) && long.abs_diff(short) <= 1;
    word == term || stem(word) == stem(term) || (alike && osa_distance(word, term) <= 1)
}

/// Whether all of `terms` are in `text`, as far as [`find`] can tell.
pub fn covers(terms: &[String], text: &str) -> bool {
    coverage(terms, text) >= 1.0
}

/// Repeats a person's own words to them: "You told me that your key is under the pot."
pub fn tell(message: &Message) -> String {
    tell_text(&message.text)
}

/// As [`tell`], of the words alone.
pub fn tell_text(text: &str) -> String {
    match understand(text) {
        Intent::Remember { statement, clause: true } => told(&statement),
        Intent::Remember { statement, clause: false } => asked(&statement),
        Intent::Remind(what) => asked(&format!("to {what}")),
        _ => told(text),
    }
}

fn told(statement: &str) -> String {
    sentence(format!("You told me that {}", second_person(&inside_a_sentence(statement))))
}

fn asked(what: &str) -> String {
    sentence(format!("You asked me to remember {}", second_person(&inside_a_sentence(what))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_its_telling_words() {
        assert_eq!(terms("where the spare key is"), ["spare", "key"]);
        assert_eq!(terms("my dentist"), ["dentist"]);
        assert!(terms("it").is_empty());
        assert_eq!(query("where the spare key is"), "spare key");
        assert_eq!(query("what C++, .NET, AC/DC and the R&D are"), "c++ .net ac/dc r&d");
        assert_eq!(query("it"), "");
    }

    #[test]
    fn words_that_sound_alike_cover_a_topic() {
        let note = "remember that the spare keys are under the blue pot";
        assert!(coverage(&terms("the spare key"), note) > 0.99);
        assert!(coverage(&terms("spear key"), note) > 0.49, "{}", coverage(&terms("spear key"), note));
        assert!(coverage(&terms("the car insurance"), note) < ENOUGH);
    }
}

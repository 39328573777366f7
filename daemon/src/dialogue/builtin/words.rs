//! Words as a recogniser hears them: lower case, without punctuation, fillers, or the end of a wake phrase;
//! and a matcher for short patterns of them.

use strsim::osa_distance;

use crate::memory::{is_run_letter, signs_behind};
use crate::text::tidy;

/// One word: as it is compared, and where it stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub norm: String,
    pub start: usize,
    pub end: usize,
}

const HESITATIONS: &[&str] = &["uh", "um", "er", "erm", "ehm", "hm", "hmm", "mm", "mmm", "ah", "uhm"];
/// Words before a command that say nothing: politeness, and the rest of a badly heard "hey jarvis".
const OPENERS: &[&[&str]] = &[
    &["please"],
    &["hey"],
    &["hay"],
    &["ok"],
    &["okay"],
    &["well"],
    &["so"],
    &["and"],
    &["oh"],
    &["now"],
    &["just"],
    &["also"],
    &["yes"],
    &["yeah"],
    &["alright"],
    &["listen"],
    &["jarvis"],
    &["jervis"],
    &["javis"],
    &["charvis"],
    &["jarvis's"],
    &["travis"],
    &["can", "you"],
    &["could", "you"],
    &["would", "you"],
    &["will", "you"],
    &["i", "want", "you", "to"],
    &["i", "would", "like", "you", "to"],
    &["i", "need", "you", "to"],
    &["let", "me", "know"],
];
const CLOSERS: &[&[&str]] =
    &[&["please"], &["thanks"], &["thank", "you"], &["for", "me"], &["okay"], &["ok"]];

/// Words of `text`, hesitations left out, contractions opened ("what's" is "what is").
pub fn words_of(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for (start, end) in spans(text) {
        let raw = text.get(start..end).unwrap_or_default();
        let norm = raw.to_lowercase().replace('\u{2019}', "'");
        if HESITATIONS.contains(&norm.as_str()) {
            continue;
        }
        let (first, rest) = open_contraction(&norm);
        words.push(Word { norm: first, start, end });
        if let Some(rest) = rest {
            words.push(Word { norm: rest.into(), start: end, end });
        }
    }
    words
}

/// The words of a command: [`words_of`] without openers and closers, unless nothing else is there.
pub fn command_of(text: &str) -> Vec<Word> {
    let all = words_of(text);
    let mut words = all.as_slice();
    while let Some(rest) = strip_any(words, OPENERS, |words, n| words.split_at_checked(n)) {
        words = rest.1;
    }
    while let Some(rest) = strip_any(words, CLOSERS, |words, n| {
        words.len().checked_sub(n).map(|at| words.split_at(at)).map(|(a, b)| (b, a))
    }) {
        words = rest.1;
    }
    words.to_vec()
}

type Split<'a> = (&'a [Word], &'a [Word]);

/// Cuts one of `phrases` off with `cut`, which returns (the piece, the rest); never the whole.
fn strip_any<'a>(
    words: &'a [Word],
    phrases: &[&[&str]],
    cut: impl Fn(&'a [Word], usize) -> Option<Split<'a>>,
) -> Option<Split<'a>> {
    phrases.iter().find_map(|phrase| {
        let (piece, rest) = cut(words, phrase.len())?;
        let same = piece.iter().zip(*phrase).all(|(word, wanted)| word.norm == *wanted);
        (same && !rest.is_empty()).then_some((piece, rest))
    })
}

/// The original text around `words`: from behind the word before them to the word after them, with every mark
/// and emoji, for a code may begin or end with them. Hesitations are dropped. So are the marks that divide it
/// from the order, one full stop at its end, and a closing mark whose opening mark stands before the order.
pub fn original(text: &str, words: &[Word]) -> String {
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return String::new() };
    let spans = spans(text);
    let from = spans.iter().rev().find(|span| span.1 <= first.start).map_or(0, |span| span.1);
    let next = spans.iter().find(|span| span.0 >= last.end).map(|span| span.0);
    let to = next.unwrap_or(text.len());
    let mut out = String::new();
    let mut at = from;
    for (start, end) in spans.into_iter().filter(|span| span.0 >= from && span.1 <= to) {
        let raw = text.get(start..end).unwrap_or_default();
        if HESITATIONS.contains(&raw.to_lowercase().as_str()) {
            out.push_str(text.get(at..start).unwrap_or_default());
            at = to - behind_the_divider(text.get(end..to).unwrap_or_default()).len();
        }
    }
    out.push_str(text.get(at..to).unwrap_or_default());
    let mut statement = behind_the_divider(&out).trim_end();
    if next.is_some() {
        // A "please" follows.
        statement = statement.trim_end_matches(|c: char| c == ',' || c.is_whitespace());
    }
    // One statement is one line.
    tidy(closed(without_full_stop(statement), text.get(..from).unwrap_or_default()))
}

/// `text` without the marks at its beginning that divide it from the word before: those that are attached to
/// that word, a dash or dots that stand alone.
fn behind_the_divider(text: &str) -> &str {
    const MARKS: [char; 5] = [',', ':', ';', '.', '…'];
    let attached = text.trim_start_matches(MARKS).trim_start();
    let (alone, rest) = attached.split_once(char::is_whitespace).unwrap_or((attached, ""));
    if matches!(alone, "-" | "–" | "—" | "..." | "…" | ",") { rest.trim_start() } else { attached }
}

/// `statement` without the full stop that ends it; several are no full stop.
pub fn without_full_stop(statement: &str) -> &str {
    statement.strip_suffix('.').filter(|rest| !rest.ends_with('.')).unwrap_or(statement)
}

/// `statement` without a closing mark at its end that belongs to an opening mark in `before`.
fn closed<'a>(statement: &'a str, before: &str) -> &'a str {
    const PAIRS: &[(char, char)] = &[
        ('"', '"'),
        ('\'', '\''),
        ('\u{201c}', '\u{201d}'),
        ('\u{201e}', '\u{201c}'),
        ('\u{2018}', '\u{2019}'),
        ('\u{ab}', '\u{bb}'),
        ('(', ')'),
        ('[', ']'),
        ('{', '}'),
    ];
    let opens_before = |open: char| before.split_whitespace().any(|token| token.starts_with(open));
    let count = |mark: char| statement.matches(mark).count();
    let belongs = |&(open, close): &(char, char)| {
        let lonely = if open == close { count(open) % 2 == 1 } else { count(close) > count(open) };
        lonely && opens_before(open)
    };
    PAIRS
        .iter()
        .find_map(|pair| statement.strip_suffix(pair.1).filter(|_| belongs(pair)))
        .map_or(statement, |inside| without_full_stop(inside.trim_end()))
}

/// The emoji behind the last of `words` as one more word; `None` if there are none.
pub fn symbols_behind(text: &str, words: &[Word]) -> Option<Word> {
    let start = words.last()?.end;
    let behind = text.get(start..)?;
    let behind = behind.split(char::is_alphanumeric).next().unwrap_or_default();
    let norm = symbols(behind).split_whitespace().collect::<Vec<_>>().join(" ");
    (!norm.is_empty()).then(|| Word { norm, start, end: start + behind.len() })
}

/// The emoji and other symbols of the text between two words, with its blanks; nothing if there are none.
fn symbols(between: &str) -> String {
    let symbol = |c: char| {
        use unicode_properties::{GeneralCategoryGroup as Group, UnicodeGeneralCategory as _};
        let kind = c.general_category_group();
        matches!(c, '%' | '$' | '\u{200d}') || (!c.is_ascii() && matches!(kind, Group::Symbol | Group::Mark))
    };
    let kept: String = between.chars().filter(|c| c.is_whitespace() || symbol(*c)).collect();
    if kept.trim().is_empty() { String::new() } else { kept }
}

/// Byte ranges of words: runs of letters and digits, with apostrophes, with points, colons and commas between
/// digits, and with the signs of C++ and C#.
fn spans(text: &str) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let mut open: Option<usize> = None;
    let mut previous = ' ';
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map_or(' ', |(_, next)| *next);
        let inside = c.is_alphanumeric()
            || is_run_letter(c)
            || (matches!(c, '\'' | '\u{2019}') && previous.is_alphanumeric() && next.is_alphanumeric())
            || (matches!(c, '.' | ':' | ',') && previous.is_ascii_digit() && next.is_ascii_digit());
        match (inside, open) {
            (true, None) => open = Some(at),
            (false, Some(start)) => {
                let signs = if previous.is_alphabetic() { text.get(at..).map_or(0, signs_behind) } else { 0 };
                spans.push((start, at + signs));
                open = None;
            }
            _ => {}
        }
        previous = c;
    }
    if let Some(start) = open {
        spans.push((start, text.len()));
    }
    spans
}

fn open_contraction(word: &str) -> (String, Option<&'static str>) {
    const ASKERS: &[&str] = &["what", "who", "where", "when", "how", "it", "that", "there", "here"];
    let Some((stem, ending)) = word.split_once('\'') else { return (word.into(), None) };
    match ending {
        "s" if ASKERS.contains(&stem) => (stem.into(), Some("is")),
        "m" => (stem.into(), Some("am")),
        "re" => (stem.into(), Some("are")),
        "ve" => (stem.into(), Some("have")),
        "ll" => (stem.into(), Some("will")),
        "d" if ASKERS.contains(&stem) => (stem.into(), Some("did")),
        "d" => (stem.into(), Some("would")),
        _ => (word.into(), None),
    }
}

/// Whether `heard` is `wanted`, or close enough that a recogniser may have meant it.
pub fn sounds_like(heard: &str, wanted: &str) -> bool {
    let slack = match wanted.len() {
        0..6 => 0,
        6..8 => 1,
        _ => 2,
    };
    heard == wanted
        || (slack > 0
            && heard.len().abs_diff(wanted.len()) <= 4 * slack
            && osa_distance(heard, wanted) <= slack)
}

/// Matches `words` from their beginning to their end against `pattern` and returns the words that `*` took.
///
/// A pattern is a list of: `a|b` one of these words; `a?` such a word or nothing; `*` all the rest, at least
/// one word.
pub fn matches<'w>(words: &'w [Word], pattern: &str) -> Option<&'w [Word]> {
    let Some((token, pattern)) = split_token(pattern) else {
        return words.is_empty().then_some(words);
    };
    if token == "*" {
        return (!words.is_empty()).then_some(words);
    }
    let optional = token.ends_with('?');
    let options = token.trim_end_matches('?');
    if let Some((first, rest)) = words.split_first()
        && options.split('|').any(|option| sounds_like(&first.norm, option))
        && let Some(taken) = matches(rest, pattern)
    {
        return Some(taken);
    }
    if optional { matches(words, pattern) } else { None }
}

fn split_token(pattern: &str) -> Option<(&str, &str)> {
    let pattern = pattern.trim_start();
    match pattern.split_once(' ') {
        Some(split) => Some(split),
        None if pattern.is_empty() => None,
        None => Some((pattern, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norms(words: &[Word]) -> Vec<&str> {
        words.iter().map(|word| word.norm.as_str()).collect()
    }

    #[test]
    fn fillers_wake_words_and_punctuation_are_not_words() {
        for text in [
            ", remember that, uh, it rains.",
            "Hey Jarvis, remember that it rains",
            "OK, Jarvis. Please, um, remember that it rains, please!",
            "could you remember that it rains, thank you",
        ] {
            assert_eq!(norms(&command_of(text)), ["remember", "that", "it", "rains"], "{text}");
        }
        assert_eq!(norms(&command_of("thank you")), ["thank", "you"]);
        assert_eq!(
            norms(&command_of("What’s the time? It's 7:30.")),
            ["what", "is", "the", "time", "it", "is", "7:30"]
        );
        assert!(command_of(" ,.!? 🙂 ").is_empty());
    }

    #[test]
    fn the_original_text_keeps_its_spelling_and_loses_hesitations() {
        let text = "Remember that, uh, Anna's number is, um, 3.14, please.";
        let words = command_of(text);
        assert_eq!(original(text, matches(&words, "remember that *").unwrap()), "Anna's number is, 3.14");
    }

    #[test]
    fn symbols_around_the_words_stay() {
        for (text, statement) in [
            ("remember that I love 🙂", "I love 🙂"),
            ("remember that 🍓 are for Anna, please", "🍓 are for Anna"),
            ("remember that it costs 5 €.", "it costs 5 €"),
            ("remember that I got $5 or 50%", "I got $5 or 50%"),
            ("remember that it is * nice *", "it is * nice *"),
            ("remember that *1234# opens it", "*1234# opens it"),
            ("remember that C++, please.", "C++"),
            ("remember that: -- ends it", "-- ends it"),
            ("remember that ... the key is here..", "the key is here.."),
            ("remember that - it rains", "it rains"),
            ("\"Remember that it rains.\"", "it rains"),
            ("(remember that it rains (a lot)).", "it rains (a lot)"),
            ("remember that 'x'", "'x'"),
            ("remember that it\nrains", "it rains"),
        ] {
            let words = command_of(text);
            assert_eq!(original(text, matches(&words, "remember that *").unwrap()), statement);
        }
    }

    #[test]
    fn a_pattern_takes_alternatives_options_and_the_rest() {
        let words = words_of("what do you still remember about the key");
        assert_eq!(
            norms(matches(&words, "what do|did you still? remember about *").unwrap()),
            ["the", "key"]
        );
        assert!(matches(&words, "what do|did you remember about *").is_none());
        assert!(matches(&words_of("remember"), "remember *").is_none());
        assert!(matches(&words_of("rember it"), "remember it").is_some());
        assert!(matches(&words_of("november it"), "remember it").is_none());
    }
}

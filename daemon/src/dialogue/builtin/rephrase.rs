//! Saying a person's words back to them: "my key" is "your key". Their marks stay: they may belong to a code.

use super::words::without_full_stop;

/// `statement` of the person, told to the person.
pub fn second_person(statement: &str) -> String {
    let tokens: Vec<&str> = statement.split_whitespace().collect();
    let mut out: Vec<String> = Vec::with_capacity(tokens.len());
    // Where all is in capitals, "US" is no country.
    let shouted = !statement.contains(char::is_lowercase);
    // Set by a pronoun whose verb has to follow it ("I am" → "you are").
    let mut verb: Option<(&str, &str)> = None;
    for (i, token) in tokens.iter().enumerate() {
        let (before, core, after) = split_punctuation(token);
        if !is_prose(before, core, after) || (core == "US" && !shouted) {
            verb = None;
            out.push((*token).to_owned());
            continue;
        }
        let lower = core.to_lowercase().replace('\u{2019}', "'");
        let next = tokens.get(i + 1).map(|next| split_punctuation(next).1.to_lowercase()).unwrap_or_default();
        let expected = verb.take();
        let turned = match lower.as_str() {
            word if expected.is_some_and(|(from, _)| from == word) => {
                expected.map(|(_, to)| to).unwrap_or_default()
            }
            "i" | "we" => {
                verb = match next.as_str() {
                    "am" => Some(("am", "are")),
                    "was" => Some(("was", "were")),
                    _ => None,
                };
                "you"
            }
            "me" if follows(&tokens, i, "i") => "yourself",
            "us" if follows(&tokens, i, "we") => "yourselves",
            "me" | "us" => "you",
            "my" | "our" => "your",
            "mine" | "ours" => "yours",
            "myself" => "yourself",
            "ourselves" => "yourselves",
            "i'm" | "we're" => "you are",
            "i've" | "we've" => "you have",
            "i'll" | "we'll" => "you will",
            "i'd" | "we'd" => "you would",
            "your" => "my",
            "yours" => "mine",
            "yourself" => "myself",
            "you're" => "I am",
            "you've" => "I have",
            "you'll" => "I will",
            "you'd" => "I would",
            "you" => {
                verb = match next.as_str() {
                    "are" => Some(("are", "am")),
                    "were" => Some(("were", "was")),
                    _ => None,
                };
                const FOLLOWS_A_SUBJECT: &[&str] = &[
                    "are", "were", "can", "could", "will", "would", "should", "must", "may", "have", "had",
                    "do", "did", "need", "like", "know",
                ];
                if FOLLOWS_A_SUBJECT.contains(&next.as_str()) { "I" } else { "me" }
            }
            _ => core,
        };
        out.push(format!("{before}{turned}{after}"));
    }
    out.join(" ")
}

/// Whether the word at `at` is the object of a verb whose subject, right before the verb, is `subject`: "we
/// meet us", "I've bought me …".
fn follows(tokens: &[&str], at: usize, subject: &str) -> bool {
    let Some([first, verb]) = at.checked_sub(2).and_then(|from| tokens.get(from..at)) else { return false };
    let (_, first, divided) = split_punctuation(first);
    let first = first.to_lowercase().replace('\u{2019}', "'");
    let first = first.split('\'').next().unwrap_or_default();
    first == subject && divided.is_empty() && split_punctuation(verb).2.is_empty()
}

/// `statement` as the middle of a sentence: no capital at its beginning unless it is a name, no full stop at
/// its end.
pub fn inside_a_sentence(statement: &str) -> String {
    const COMMON: &[&str] = &[
        "the", "a", "an", "my", "our", "your", "his", "her", "their", "its", "it", "it's", "he", "she",
        "they", "we", "you", "this", "that", "these", "those", "there", "in", "on", "at", "to", "if", "when",
        "every", "some", "all", "yours",
    ];
    let statement = without_full_stop(statement.trim());
    let (first, rest) = statement.split_once(' ').unwrap_or((statement, ""));
    let lower = first.to_lowercase();
    // "IT" is no "it".
    let capitalized = first.chars().skip(1).all(char::is_lowercase);
    if capitalized && COMMON.contains(&lower.as_str()) {
        format!("{lower} {rest}").trim_end().to_owned()
    } else {
        statement.to_owned()
    }
}

/// `text` with a full stop, unless a mark ends it already.
pub fn sentence(text: String) -> String {
    if text.ends_with(['.', '!', '?', '…']) { text } else { text + "." }
}

/// Whether `core` stands between its marks as a word of a sentence does; a code such as "#me" does not.
fn is_prose(before: &str, core: &str, after: &str) -> bool {
    const OPENING: &[char] = &['"', '\'', '\u{201c}', '\u{201e}', '\u{2018}', '\u{ab}', '(', '[', '{'];
    const CLOSING: &[char] = &[
        '"', '\'', '\u{201d}', '\u{201c}', '\u{2019}', '\u{bb}', ')', ']', '}', ',', '.', ';', ':', '!', '?',
        '…',
    ];
    !core.is_empty()
        && before.chars().all(|c| OPENING.contains(&c))
        && after.chars().all(|c| CLOSING.contains(&c))
}

fn split_punctuation(token: &str) -> (&str, &str, &str) {
    let core = token.trim_start_matches(|c: char| !c.is_alphanumeric());
    let before = token.strip_suffix(core).unwrap_or_default();
    let trimmed = core.trim_end_matches(|c: char| !c.is_alphanumeric());
    let after = core.strip_prefix(trimmed).unwrap_or_default();
    (before, trimmed, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_person_becomes_you_and_the_device_becomes_i() {
        for (said, told) in [
            ("the spare key is under the blue pot", "the spare key is under the blue pot"),
            ("my spare key is under my blue pot", "your spare key is under your blue pot"),
            ("I am allergic to nuts", "you are allergic to nuts"),
            ("I was born in May, and I like it", "you were born in May, and you like it"),
            ("i'm at home and i’ve eaten", "you are at home and you have eaten"),
            ("Bob gave me mine (my ring)", "Bob gave you yours (your ring)"),
            ("you are called Jarvis", "I am called Jarvis"),
            ("I gave you your name", "you gave me my name"),
            ("we are going to our cabin", "you are going to your cabin"),
            ("the code is #me and the US is big", "the code is #me and the US is big"),
            ("we meet us at our place", "you meet yourselves at your place"),
            ("I've bought me a hat, but he saw me", "you have bought yourself a hat, but he saw you"),
            ("GIVE US OUR BREAD", "GIVE you your BREAD"),
            ("0042 (don't tell)", "0042 (don't tell)"),
            ("", ""),
        ] {
            assert_eq!(second_person(said), told);
        }
    }

    #[test]
    fn a_statement_fits_into_a_sentence() {
        assert_eq!(inside_a_sentence("The key is here."), "the key is here");
        assert_eq!(inside_a_sentence("Anna lives in Rome!"), "Anna lives in Rome!");
        assert_eq!(inside_a_sentence("IT is in room 4.."), "IT is in room 4..");
        assert_eq!(sentence("it is 3 pm".into()), "it is 3 pm.");
        assert_eq!(sentence("the password is hunter2!".into()), "the password is hunter2!");
        assert_eq!(inside_a_sentence("My"), "my");
    }
}

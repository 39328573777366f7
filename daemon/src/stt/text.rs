//! Text as the dialogue compares it: words alone.

/// Lower case, without punctuation, one space between words: "Hey, what's the time?" → "hey what's the time".
///
/// Apostrophes inside words stay (typographic ones become plain), so do hyphens' two sides as two words.
/// Letters and digits of every script stay as they are.
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let letters: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
    let word = |at: Option<usize>| at.and_then(|i| letters.get(i)).is_some_and(|c| is_word(*c));
    for (at, &letter) in letters.iter().enumerate() {
        let inner_apostrophe =
            matches!(letter, '\'' | '’' | 'ʼ') && word(at.checked_sub(1)) && word(Some(at + 1));
        // "7.30", "1,000": one number, written as it was said.
        let digit = |at: Option<usize>| at.and_then(|i| letters.get(i)).is_some_and(char::is_ascii_digit);
        let inner_point =
            matches!(letter, '.' | ',' | ':') && digit(at.checked_sub(1)) && digit(Some(at + 1));
        if is_word(letter) || inner_point {
            out.push(letter);
        } else if inner_apostrophe {
            out.push('\'');
        } else if !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Letters, digits, and the marks that scripts put on them (which are not alphanumeric for every script).
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '\u{300}'..='\u{36f}' | '\u{93a}'..='\u{94d}' | '%' | '°' | '+')
}

/// Whether `text` has anything to read.
pub(crate) fn has_words(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_punctuation_do_not_matter() {
        assert_eq!(
            normalise(" What do you remember, about the spare key? "),
            "what do you remember about the spare key"
        );
        assert_eq!(
            normalise("Remember that the spare key is under the blue pot."),
            "remember that the spare key is under the blue pot"
        );
        assert_eq!(normalise("Well-known — things…"), "well known things");
    }

    #[test]
    fn apostrophes_stay_inside_words_only() {
        assert_eq!(normalise("'What’s' the dog's name'"), "what's the dog's name");
    }

    #[test]
    fn numbers_stay_one_word() {
        assert_eq!(normalise("At 7.30, 1,000 times: 7:45."), "at 7.30 1,000 times 7:45");
    }

    #[test]
    fn other_scripts_stay() {
        assert_eq!(normalise("그는 이리저리, 피하면서!"), "그는 이리저리 피하면서");
        assert_eq!(normalise("ÄRGER"), "ärger");
    }

    #[test]
    fn nothing_to_read_gives_nothing() {
        assert_eq!(normalise(" ... ♪ ?!"), "");
        assert_eq!(normalise(""), "");
        assert!(!has_words(" ♪ "));
    }
}

//! The words of a text as terms of a query to the full-text index. Nothing in a text is query syntax.
//!
//! ```text
//!  spare          text : "spare"
//!  გასაღებ        text : "გასაღებ"*                           endings follow without a space
//!  钥匙在          grams : "038053021273" + "021273022312"     anywhere in a run (0006_hangul.sql)
//!  열쇠           grams : "050676049632"                       particles and other words without a space
//!  钥             grams : "038053"*
//! ```

/// Letters of one phrase: a longer run is split into phrases, all of which must be in the message.
const PHRASE_LETTERS: usize = 16;

/// Whether `c` belongs to a script written without spaces between words, or, as Korean, often without them.
/// The letters are those of `migrations/sqlite/0006_hangul.sql`.
pub(crate) fn is_run_letter(c: char) -> bool {
    matches!(c,
        '\u{e01}'..='\u{edf}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17f9}' | '\u{3005}'..='\u{3007}'
        | '\u{3041}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{ff66}'..='\u{ff9f}'
        | '\u{20000}'..='\u{323af}')
}

/// The words of `text` as terms, each once, at most `most` of them.
pub(super) fn terms_of(text: &str, most: usize) -> Vec<String> {
    let mut terms: Vec<String> = Vec::new();
    for word in text.split(|c: char| !c.is_alphanumeric() && !is_run_letter(c)) {
        let mut runs = word.split(|c| !is_run_letter(c)).filter(|run| !run.is_empty()).peekable();
        // For a word that is only partly such a run, the index can find the run.
        let found: Vec<String> = if runs.peek().is_some() {
            runs.flat_map(phrases).collect()
        } else {
            (!word.is_empty()).then(|| term_of(word)).into_iter().collect()
        };
        for term in found {
            if terms.len() == most {
                return terms;
            }
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
    }
    terms
}

/// A word as a query term. Words of scripts that attach endings without a space (those above U+0E00, except
/// the Latin and Greek letters there) match as beginnings.
fn term_of(word: &str) -> String {
    let joined = |c: char| c >= '\u{e00}' && !matches!(c, '\u{1e00}'..='\u{1fff}');
    format!("text : \"{word}\"{}", if word.contains(joined) { "*" } else { "" })
}

/// A run of letters as phrases of its pairs.
fn phrases(run: &str) -> Vec<String> {
    let letters: Vec<u32> = run.chars().map(u32::from).collect();
    let one = |letters: &[u32]| match letters {
        [letter] => format!("grams : \"{letter:06}\"*"),
        _ => {
            let pairs = letters.windows(2).map(|two| match two {
                [a, b] => format!("\"{a:06}{b:06}\""),
                _ => String::new(),
            });
            format!("grams : {}", pairs.collect::<Vec<_>>().join(" + "))
        }
    };
    letters.chunks(PHRASE_LETTERS).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_no_syntax_whatever_the_text_contains() {
        let all = |text| terms_of(text, 16).join(" AND ");
        assert_eq!(all("spare key"), "text : \"spare\" AND text : \"key\"");
        assert_eq!(all("\"a\" OR b* NEAR(c, 2) ^d -e col:f").matches('"').count() % 2, 0);
        assert_eq!(all("it's"), "text : \"it\" AND text : \"s\"");
        assert_eq!(
            all("열쇠 Schlüssel ключ"),
            "grams : \"050676049632\" AND text : \"Schlüssel\" AND text : \"ключ\""
        );
        assert_eq!(all("key key KEY"), "text : \"key\" AND text : \"KEY\"");
        assert_eq!(all(""), "");
        assert_eq!(all("🙂 … \0 \"\" --"), "");
        assert_eq!(all(&"word ".repeat(10_000)), "text : \"word\"");
    }

    #[test]
    fn a_run_of_letters_is_a_phrase_of_pairs() {
        let all = |text| terms_of(text, 16).join(" AND ");
        assert_eq!(all("钥匙在"), "grams : \"038053021273\" + \"021273022312\"");
        assert_eq!(all("花"), "grams : \"033457\"*");
        assert_eq!(all("USB钥匙"), "grams : \"038053021273\"");
        assert_eq!(terms_of(&"钥".repeat(100_000), 16).len(), 1, "the same 16 letters again and again");
        // Vowel signs and tone marks of Thai belong to the word.
        assert_eq!(terms_of("อยู่", 16).len(), 1);
    }
}

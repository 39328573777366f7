//! Words that people choose for things (names, titles, session ids): their allowed characters, and their form
//! for comparison.

use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The reason why a text cannot be a name, if any: it holds an invisible character, so that two names could
/// look alike and differ, or one that turns the display of the text behind it. Joiners and variation
/// selectors may stand where a script or an emoji needs them ([`belongs`]); [`name_key`] does not count them.
pub(crate) fn unseen(text: &str) -> Option<&'static str> {
    in_place(text)
        .find_map(|(before, c, after)| if belongs(before, c, after) { None } else { unseen_char(c) })
}

/// As [`unseen`], for a text that is no person's writing: it allows no invisible character anywhere.
pub(crate) fn unseen_anywhere(text: &str) -> Option<&'static str> {
    text.chars().find_map(unseen_char)
}

fn unseen_char(c: char) -> Option<&'static str> {
    match c.general_category() {
        GeneralCategory::Control | GeneralCategory::LineSeparator | GeneralCategory::ParagraphSeparator => {
            Some("it contains a control character")
        }
        // Direction marks, zero-width spaces and joiners, byte order marks, tags.
        GeneralCategory::Format => Some("it contains an invisible or direction-changing character"),
        GeneralCategory::Unassigned | GeneralCategory::PrivateUse | GeneralCategory::Surrogate => {
            Some("it contains a character that has no agreed meaning")
        }
        _ if blank(c) => Some("it contains an invisible character"),
        _ => None,
    }
}

const NON_JOINER: char = '\u{200c}';
const JOINER: char = '\u{200d}';
const SELECTORS: std::ops::RangeInclusive<char> = '\u{fe00}'..='\u{fe0f}';

/// Each character with its neighbours.
fn in_place(text: &str) -> impl Iterator<Item = (Option<char>, char, Option<char>)> {
    let mut before = None;
    let mut chars = text.chars().peekable();
    std::iter::from_fn(move || {
        let c = chars.next()?;
        let here = (before, c, chars.peek().copied());
        before = Some(c);
        Some(here)
    })
}

/// Whether `c` is a joiner or a selector that changes how its neighbours are written: between letters of
/// scripts that join (Persian, Hindi and others), between emoji, behind an emoji.
fn belongs(before: Option<char>, c: char, after: Option<char>) -> bool {
    const JOINING: &[std::ops::RangeInclusive<char>] =
        &['\u{600}'..='\u{109f}', '\u{1780}'..='\u{18af}', '\u{fb50}'..='\u{fdff}', '\u{fe70}'..='\u{fefc}'];
    let joins = |c: char| {
        let kind = c.general_category();
        let mark = matches!(kind, GeneralCategory::NonspacingMark | GeneralCategory::SpacingMark);
        JOINING.iter().any(|script| script.contains(&c)) && (mark || c.is_alphabetic())
    };
    let pictures = |c: char| {
        c.general_category() == GeneralCategory::OtherSymbol || matches!(c, '\u{1f3fb}'..='\u{1f3ff}')
    };
    let behind = |fits: &dyn Fn(char) -> bool| before.is_some_and(fits);
    let ahead = |fits: &dyn Fn(char) -> bool| after.is_some_and(fits);
    match c {
        NON_JOINER => behind(&joins) && ahead(&joins),
        JOINER => {
            behind(&joins) && ahead(&joins)
                || behind(&|c| pictures(c) || SELECTORS.contains(&c)) && ahead(&pictures)
        }
        // A digit on a key, such as 1️⃣.
        '\u{fe0f}' if ahead(&|c| c == '\u{20e3}') => behind(&|c| matches!(c, '0'..='9' | '#' | '*')),
        c if SELECTORS.contains(&c) => behind(&pictures),
        _ => false,
    }
}

/// Characters outside the format category that are displayed as nothing: the rest of
/// `Default_Ignorable_Code_Point` (Unicode 16, `DerivedCoreProperties.txt`), and the empty Braille cell.
fn blank(c: char) -> bool {
    matches!(c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// `text` in composed form (NFC), with single spaces and without the characters that [`unseen`] finds.
pub(crate) fn tidy(text: &str) -> String {
    let composed: String = text.nfc().collect();
    let seen: String = in_place(&composed)
        .filter_map(|(before, c, after)| match c {
            c if c.is_whitespace() || c.is_control() => Some(' '),
            c if belongs(before, c, after) => Some(c),
            c if unseen_char(c).is_some() => None,
            c => Some(c),
        })
        .collect();
    seen.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first `most` characters of [`tidy`] text, which are tidy themselves: a cut may end in a space, or
/// leave a joiner without its right neighbour.
pub(crate) fn tidy_within(text: &str, most: usize) -> String {
    let mut cut: String = tidy(text).chars().take(most).collect();
    loop {
        let again = tidy(&cut);
        if again == cut {
            return cut;
        }
        cut = again;
    }
}

/// Whether `name` has more than marks: a letter, a digit or a picture.
pub(crate) fn names_something(name: &str) -> bool {
    name.chars().any(|c| c.is_alphanumeric() || c.general_category() == GeneralCategory::OtherSymbol)
}

/// The form in which names are compared: composed form without forms of compatibility (NFKC: ﬁ is fi, Ｔ is
/// T), folded case, single spaces. Joiners and selectors do not count: they change the drawing of letters and
/// emoji, not their identity. Persian and Arabic codes of a letter are the same.
pub(crate) fn name_key(name: &str) -> String {
    let drawn = |c: char| c != NON_JOINER && c != JOINER && !SELECTORS.contains(&c);
    let same = |c: char| match c {
        '\u{64a}' | '\u{649}' => '\u{6cc}',
        '\u{643}' => '\u{6a9}',
        c => c,
    };
    let composed: String = name.nfkc().filter(|c| drawn(*c)).map(same).collect();
    // Lower-casing can take a composed letter apart again; İ becomes an i with one more dot.
    let lower = composed.to_lowercase().replace("i\u{307}", "i");
    let lower: String = lower.chars().flat_map(folded).nfkc().collect();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A lower-case letter in full case folding (Unicode, `CaseFolding.txt`): ß is ss, ς is σ. It is the folding
/// of the upper case, except for the dotless ı, which differs from i.
fn folded(lower: char) -> impl Iterator<Item = char> {
    let other = (lower != 'ı').then(|| lower.to_uppercase().flat_map(char::to_lowercase));
    let same = other.is_none().then_some(lower);
    other.into_iter().flatten().chain(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_tidy() {
        assert_eq!(tidy_within("a  b c", 2), "a");
        assert_eq!(tidy_within("👩\u{200d}👧", 2), "👩");
        assert_eq!(tidy_within("x\u{fe0f}\u{200d}👧", 9), "x👧");
    }

    #[test]
    fn joiners_and_selectors_may_stand_where_they_are_needed_and_make_no_other_name() {
        for name in [
            "علی\u{200c}رضا",
            "👩\u{200d}👧",
            "❤\u{fe0f}",
            "👩\u{200d}❤\u{fe0f}\u{200d}👨",
            "क्\u{200d}ष",
            "1\u{fe0f}\u{20e3}",
        ] {
            assert_eq!(unseen(name), None, "{name:?}");
            assert_eq!(tidy(name), name);
            let bare: String =
                name.chars().filter(|c| !matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe0f}')).collect();
            assert_eq!(name_key(name), name_key(&bare));
            assert!(unseen_anywhere(name).is_some());
        }
        for twin in [
            "علی\u{200c}",
            "\u{200c}علی",
            "علی\u{200c}\u{200c}رضا",
            "An\u{200c}na",
            "👩\u{200d}",
            "👩\u{200d}a",
            "a\u{fe0f}",
            "1\u{fe0f}",
            "a\u{fe0f}\u{20e3}",
        ] {
            assert!(unseen(twin).is_some(), "{twin:?}");
        }
        assert_eq!(name_key("علي"), name_key("علی"));
    }

    #[test]
    fn names_that_look_alike_are_the_same_or_refused() {
        assert_eq!(name_key("Jose\u{301}"), name_key("JOSÉ"));
        assert_eq!(name_key("\u{212b}sa"), name_key("åsa"));
        assert_eq!(name_key("  Anna \u{a0} Maria"), "anna maria");
        assert_eq!(name_key("Straße"), name_key("STRASSE"));
        assert_eq!(name_key("Οδυσσέας"), name_key("ΟΔΥΣΣΈΑΣ"));
        assert_eq!(name_key("ﬁona"), "fiona");
        assert_eq!(name_key("Ｔａｎａｋａ"), "tanaka");
        assert_eq!(name_key("İbrahim"), "ibrahim");
        assert!(!names_something("\u{301}") && !names_something(".") && names_something("🙂"));
        assert_ne!(name_key("Işıl"), name_key("Işil"));
        for name in ["anna", "ødegård", "şükrü", "юлия", "ნინო", "김", "अनिल", "ångström"]
        {
            assert_eq!(name_key(name), name, "no letter of it changes");
        }
        for twin in [
            "An\u{200b}na",
            "Anna\u{200d}",
            "\u{feff}Anna",
            "Anna\u{202e}",
            "\u{2066}Anna",
            "An\u{ad}na",
            "Anna\u{fe0f}",
            "Anna\u{34f}",
            "Anna\u{3164}",
            "Anna\u{e0041}",
            "Anna\u{10ffff}",
            "Anna\u{e000}",
            "Anna\u{61c}",
            "Anna\u{2028}",
            "Anna\u{0378}",
            "A\u{7}nna",
        ] {
            assert!(unseen(twin).is_some(), "{twin:?}");
            assert_eq!(tidy(twin).replace(' ', ""), "Anna", "{twin:?}");
        }
        for name in ["Anna", "Ánna Maria", "O'Neil-Ødegård", "열쇠", "Bob 🙂", "नीना", "김", "x\u{3000}y"]
        {
            assert_eq!(unseen(name), None, "{name:?}");
        }
    }
}

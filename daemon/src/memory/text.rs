//! Words that people choose for things (names, titles, session ids): what may be in them, and what they are compared by.

use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// Why a text cannot be a name of something, if it cannot: it holds a character that nobody sees, so that two names could
/// look alike and differ, or that turns around how what follows is shown.
pub(super) fn unseen(text: &str) -> Option<&'static str> {
    text.chars().find_map(|c| match c.general_category() {
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
    })
}

/// Characters outside the format category that are shown as nothing: the rest of `Default_Ignorable_Code_Point` (Unicode
/// 16, `DerivedCoreProperties.txt`), and the empty Braille cell.
fn blank(c: char) -> bool {
    matches!(c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// `text` in composed form (NFC), with single spaces and without what [`unseen`] finds.
pub(super) fn tidy(text: &str) -> String {
    let seen: String = text
        .nfc()
        .filter_map(|c| match c {
            c if c.is_whitespace() || c.is_control() => Some(' '),
            c if unseen(c.encode_utf8(&mut [0; 4])).is_some() => None,
            c => Some(c),
        })
        .collect();
    seen.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What names are compared by: composed form, lower case, single spaces.
pub(crate) fn name_key(name: &str) -> String {
    let composed: String = name.nfc().collect();
    // Lower-casing can take a composed letter apart again.
    let lower: String = composed.to_lowercase().nfc().collect();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_alike_are_the_same_or_refused() {
        assert_eq!(name_key("Jose\u{301}"), name_key("JOSÉ"));
        assert_eq!(name_key("\u{212b}sa"), name_key("åsa"));
        assert_eq!(name_key("  Anna \u{a0} Maria"), "anna maria");
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

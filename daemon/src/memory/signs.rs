//! Words with signs: C++, C#, .NET, AC/DC, R&D. The full-text index holds letters and digits only, so the
//! messages that it finds are compared as text.
//!
//! ```text
//!  searched   message          index   here
//!  C++        C++ is hard      yes     yes
//!  C++        vitamin C        yes     no     the word is there without its signs
//!  C          C++ is hard      yes     no     the word is there with signs only
//!  AC/DC      AC DC plays      yes     yes    the parts follow each other
//!  AC/DC      DC for the AC    yes     no
//!  cafe       the Café         yes     yes    the index folds more than this comparison, so it decides
//! ```

use super::terms::is_run_letter;
use crate::text::name_key;

/// One word of a text in the form used to compare names.
struct Atom {
    /// The word with its signs.
    word: String,
    bare: String,
    tie: Tie,
}

/// The characters between a word and the one before it.
#[derive(PartialEq, Eq)]
enum Tie {
    /// One slash or ampersand.
    Sign,
    /// Blanks, slashes, ampersands.
    Loose,
    Apart,
}

/// The result of looking for a word in a text.
#[derive(PartialEq, Eq)]
enum Finding {
    Has,
    /// The text has the letters, but as another word.
    Other,
    /// Only the index can decide.
    Unknown,
}

/// The words of a search, which may carry signs.
pub(crate) struct Wanted(Vec<Vec<Atom>>);

impl Wanted {
    pub(crate) fn of(text: &str) -> Self {
        let mut groups: Vec<Vec<Atom>> = Vec::new();
        for atom in atoms(text) {
            match groups.last_mut() {
                Some(group) if atom.tie == Tie::Sign => group.push(atom),
                _ => groups.push(vec![atom]),
            }
        }
        Self(groups)
    }

    /// Whether any word carries a sign.
    pub(super) fn has_signs(&self) -> bool {
        self.0.iter().any(|group| group.len() > 1 || group.iter().any(|atom| atom.word != atom.bare))
    }

    /// Whether `text`, in which the index found all words, has all of them with these signs.
    pub(crate) fn all_in(&self, text: &str) -> bool {
        let atoms = atoms(text);
        self.0.iter().all(|group| find(group, &atoms) != Finding::Other)
    }

    /// Whether `text`, in which the index found at least one word, has one with these signs.
    pub(super) fn any_in(&self, text: &str) -> bool {
        let atoms = atoms(text);
        let found: Vec<Finding> = self.0.iter().map(|group| find(group, &atoms)).collect();
        found.contains(&Finding::Has) || !found.contains(&Finding::Other)
    }
}

/// The words of `text`, with their signs.
pub(super) fn words_of(text: &str) -> Vec<String> {
    atoms(text).into_iter().map(|atom| atom.word).collect()
}

/// The length in bytes of the signs at the start of `rest`, the text after a letter, that belong to the word:
/// C++, C++20, F#, but neither Anna+Bob nor Room#5.
pub(crate) fn signs_behind(rest: &str) -> usize {
    let behind = rest.trim_start_matches(['+', '#']);
    let signs = rest.len() - behind.len();
    let ends = !behind.starts_with(char::is_alphanumeric) || rest.get(..signs) == Some("++");
    if ends { signs } else { 0 }
}

/// Whether `before`, the text before a letter, ends in a point that belongs to the word: .NET.
pub(crate) fn point_before(before: &str) -> bool {
    let opens = |rest: &str| rest.is_empty() || rest.ends_with([' ', '(', '"', '/']);
    before.strip_suffix('.').is_some_and(opens)
}

fn atoms(text: &str) -> Vec<Atom> {
    let letter = |c: char| c.is_alphanumeric() || is_run_letter(c);
    let key = name_key(text);
    let mut atoms = Vec::new();
    let mut rest = key.as_str();
    while let Some(start) = rest.find(letter) {
        let (gap, behind) = rest.split_at(start);
        let end = behind.find(|c| !letter(c)).unwrap_or(behind.len());
        let (bare, behind) = behind.split_at(end);
        let signs = if bare.ends_with(char::is_alphabetic) { signs_behind(behind) } else { 0 };
        let (signs, behind) = behind.split_at(signs);
        let apart = atoms.is_empty() || gap != ".";
        let point =
            if apart && bare.starts_with(char::is_alphabetic) && point_before(gap) { "." } else { "" };
        let tie = match gap {
            "/" | "&" => Tie::Sign,
            "" => Tie::Apart,
            gap if gap.chars().all(|c| matches!(c, ' ' | '/' | '&')) => Tie::Loose,
            _ => Tie::Apart,
        };
        atoms.push(Atom { word: format!("{point}{bare}{signs}"), bare: bare.to_owned(), tie });
        rest = behind;
    }
    atoms
}

fn find(group: &[Atom], atoms: &[Atom]) -> Finding {
    let same = |run: &[Atom]| {
        run.iter().zip(group).all(|(atom, wanted)| atom.word == wanted.word)
            && run.iter().skip(1).all(|atom| atom.tie != Tie::Apart)
    };
    if atoms.windows(group.len().max(1)).any(same) {
        return Finding::Has;
    }
    let there = |wanted: &Atom| atoms.iter().any(|atom| atom.bare == wanted.bare);
    if group.iter().all(there) { Finding::Other } else { Finding::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_belong_to_their_word() {
        for (wanted, text, all) in [
            ("C++", "C++ is hard", true),
            ("c++", "I learn C++20.", true),
            ("C++", "vitamin C is healthy", false),
            ("C++", "the plan is C#", false),
            ("C", "C++ is hard", false),
            ("C", "C is simple, C++ is not", true),
            (".NET", "the .net course", true),
            (".NET", "the net is torn", false),
            ("net", "the .NET course", false),
            ("net", "it ends.net begins", true),
            ("Node.js", "Node.js is old", true),
            ("AC/DC", "AC DC plays", true),
            ("AC/DC", "AC & DC plays", true),
            ("AC/DC", "the AC needs DC", false),
            ("R&D", "the R&D team", true),
            ("R&D", "drive R, then D", false),
            ("Anna", "Anna/Bob come at five", true),
            ("Anna", "Anna+Bob come at five", true),
            ("room", "room#5 is free", true),
            ("cafe", "the Café", true),
            ("C++ course", "the C++ course", true),
        ] {
            assert_eq!(Wanted::of(wanted).all_in(text), all, "{wanted} in {text}");
        }
        let wanted = Wanted::of("C++ course");
        assert!(wanted.any_in("a course") && wanted.any_in("C++") && !wanted.any_in("vitamin C"));
        assert!(wanted.has_signs() && !Wanted::of("the spare key").has_signs());
    }
}

//! Whisper's tokens: their spelling, and those that are never chosen.

use super::graph::TOKENS;
use crate::inference::ModelStore;
use crate::stt::SttError;

/// A blank between words, alone: not allowed as the first token.
pub const SPACE: usize = 220;
pub const END_OF_TEXT: usize = 50_256;
pub const START: usize = 50_257;
/// Probability of this token at the first step = probability that there is no speech.
pub const NO_SPEECH: usize = 50_361;
pub const NO_TIMESTAMPS: usize = 50_362;

#[derive(Debug)]
pub struct Vocabulary {
    /// The bytes of each token; empty for special ones. Only the concatenation of tokens is UTF-8.
    spelling: Vec<Vec<u8>>,
    suppressed: Vec<bool>,
}

impl Vocabulary {
    pub fn load(store: &ModelStore) -> Result<Self, SttError> {
        const NAME: &str = "whisper-tiny-en-vocabulary";
        let spelling = store.read(NAME).map_err(SttError::Model)?;
        let suppressed = store.read("whisper-tiny-en-suppress").map_err(SttError::Model)?;
        Self::parse(&spelling, &suppressed)
            .map_err(|what| SttError::Whisper { what: what.into(), fix: store.fix_of(NAME) })
    }

    /// `spelling`: per token one byte length, then the bytes. `suppressed`: one token number a line.
    fn parse(mut spelling: &[u8], suppressed: &[u8]) -> Result<Self, &'static str> {
        let mut tokens = Vec::with_capacity(TOKENS);
        while let Some((&length, rest)) = spelling.split_first() {
            let Some((bytes, rest)) = rest.split_at_checked(length.into()) else {
                return Err("the vocabulary is cut short");
            };
            tokens.push(bytes.to_vec());
            spelling = rest;
        }
        if tokens.len() != TOKENS {
            return Err("the vocabulary has another number of tokens than the decoder");
        }
        // All tokens from the start token on are no text either.
        let mut never = vec![false; TOKENS];
        never.iter_mut().skip(START).for_each(|s| *s = true);
        let list = std::str::from_utf8(suppressed).map_err(|_| "the suppress list is not text")?;
        for line in list.lines() {
            let number = line.trim().parse::<usize>().ok();
            let slot = number.and_then(|n| never.get_mut(n));
            *slot.ok_or("the suppress list holds something that is not a token")? = true;
        }
        Ok(Self { spelling: tokens, suppressed: never })
    }

    /// Whether `token` may be chosen; `first` for the first token of a text.
    pub fn allows(&self, token: usize, first: bool) -> bool {
        let blank = first && (token == SPACE || token == END_OF_TEXT);
        !blank && self.suppressed.get(token).is_some_and(|s| !s)
    }

    pub fn text_of(&self, tokens: &[usize]) -> String {
        let bytes: Vec<u8> = tokens.iter().filter_map(|t| self.spelling.get(*t)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A vocabulary in which token n < 26 spells the n-th letter.
    pub fn letters() -> Vocabulary {
        let mut spelling = Vec::new();
        for token in 0..TOKENS {
            match u8::try_from(token) {
                Ok(n) if n < 26 => spelling.extend([1, b'a' + n]),
                _ => spelling.push(0),
            }
        }
        Vocabulary::parse(&spelling, b"25\n").unwrap()
    }

    #[test]
    fn tokens_spell_text_and_suppressed_ones_are_not_allowed() {
        let vocabulary = letters();
        assert_eq!(vocabulary.text_of(&[7, 8, END_OF_TEXT]), "hi");
        assert!(vocabulary.allows(7, true));
        assert!(!vocabulary.allows(25, false));
        assert!(!vocabulary.allows(END_OF_TEXT, true) && vocabulary.allows(END_OF_TEXT, false));
        assert!(!vocabulary.allows(NO_TIMESTAMPS, false) && !vocabulary.allows(TOKENS, false));
    }

    #[test]
    fn a_damaged_vocabulary_is_refused() {
        let whole = vec![0u8; TOKENS];
        assert!(Vocabulary::parse(&whole, b"1\n2").is_ok());
        for (spelling, list) in [
            (&whole[1..], &b""[..]),
            (&[&whole[1..], &[5]].concat()[..], b""),
            (&[], b""),
            (&whole[..], b"51864"),
            (&whole[..], b"one"),
            (&whole[..], b"\xff\xfe"),
        ] {
            assert!(Vocabulary::parse(spelling, list).is_err());
        }
    }
}

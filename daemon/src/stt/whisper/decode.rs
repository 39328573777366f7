//! Greedy decoding: the most likely token at each step, until the text ends or turns in circles.

use super::graph::{Encoded, Networks};
use super::vocabulary::{END_OF_TEXT, NO_SPEECH, NO_TIMESTAMPS, START, Vocabulary};
use crate::stt::SttError;

/// The result of one decoding.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    pub text: String,
    /// Mean natural-log probability of the tokens, the end of text included.
    pub log_probability: f64,
    /// Probability that there is no speech at all.
    pub no_speech: f64,
    /// The text repeated itself and was stopped.
    pub looped: bool,
}

/// Below this the 30 s context is tried as well.
const DOUBTFUL: f64 = -0.6;
/// Below this nothing was understood.
const HOPELESS: f64 = -1.4;
/// Above this there was nothing to understand.
const SILENT: f64 = 0.6;

impl Hypothesis {
    /// Figures for the log. Never the words: the speaker may not be verified.
    pub fn log(&self, context: &str) {
        log::debug!(
            "{context} context: {} characters, log-probability {}, no speech {}, looped {}",
            self.text.chars().count(),
            crate::plain::figure(self.log_probability, 2),
            crate::plain::figure(self.no_speech, 2),
            self.looped
        );
    }

    /// Whether a longer context may do better.
    pub fn is_doubtful(&self) -> bool {
        self.looped || self.log_probability < DOUBTFUL
    }

    /// Whether the text is more likely invented than heard.
    pub fn is_rejected(&self) -> bool {
        self.looped || self.log_probability < HOPELESS || self.no_speech > SILENT
    }
}

/// Log of the sum of the exponentials of the allowed scores, and the best of them.
fn best_of(logits: &[f32], allowed: impl Fn(usize) -> bool) -> Option<(usize, f64)> {
    let mut best: Option<(usize, f32)> = None;
    for (token, &score) in logits.iter().enumerate() {
        if best.is_none_or(|(_, top)| score > top) && allowed(token) {
            best = Some((token, score));
        }
    }
    let (token, top) = best?;
    let others = logits.iter().enumerate().filter(|(t, _)| allowed(*t));
    let sum: f64 = others.map(|(_, &score)| f64::from(score - top).exp()).sum();
    Some((token, -sum.ln()))
}

/// The probability of one token among all.
fn probability_of(logits: &[f32], token: usize) -> f64 {
    let top = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
    logits.get(token).map_or(0.0, |x| f64::from(x - top).exp() / sum)
}

/// Whether `tokens` ends in the same group of tokens over and over. The decoder then turns in circles, which
/// its probabilities do not show. Short groups need more repeats, since people do say "no no no".
fn turns_in_circles(tokens: &[usize]) -> bool {
    (1..=16).any(|group| {
        let repeats = match group {
            1 => 6,
            2 => 4,
            _ => 3,
        };
        let Some(start) = tokens.len().checked_sub(group * repeats) else { return false };
        let tail = tokens.get(start..).unwrap_or_default();
        tail.iter().zip(tail.iter().skip(group)).all(|(a, b)| a == b)
    })
}

/// Decodes `sound` into at most `limit` tokens.
pub fn greedy(
    networks: &Networks,
    vocabulary: &Vocabulary,
    sound: &Encoded,
    limit: usize,
) -> Result<Hypothesis, SttError> {
    let mut decoding = networks.decode(sound);
    let no_speech = probability_of(&decoding.step(START)?, NO_SPEECH);
    let (mut tokens, mut sum, mut looped) = (Vec::new(), 0.0, false);
    let mut last = NO_TIMESTAMPS;
    while tokens.len() < limit {
        let logits = decoding.step(last)?;
        let Some((token, log_probability)) = best_of(&logits, |t| vocabulary.allows(t, tokens.is_empty()))
        else {
            break;
        };
        sum += log_probability;
        if token == END_OF_TEXT {
            break;
        }
        tokens.push(token);
        last = token;
        if turns_in_circles(&tokens) {
            looped = true;
            break;
        }
        if no_speech > SILENT && tokens.len() >= 2 {
            // The hypothesis will be rejected for any text.
            break;
        }
    }
    let log_probability = sum / (tokens.len() + 1) as f64;
    Ok(Hypothesis { text: vocabulary.text_of(&tokens), log_probability, no_speech, looped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_allowed_token_is_chosen_with_its_probability_among_the_allowed() {
        let (token, log_probability) = best_of(&[1.0, 5.0, 1.0, 0.0], |t| t != 1).unwrap();
        assert_eq!(token, 0);
        let expected = (1f64.exp() / (2.0 * 1f64.exp() + 1.0)).ln();
        assert!((log_probability - expected).abs() < 1e-9);
        assert_eq!(best_of(&[1.0], |_| false), None);
        assert!((probability_of(&[0.0, 0.0], 1) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn repeated_groups_are_loops_and_ordinary_repetition_is_not() {
        assert!(turns_in_circles(&[9, 1, 1, 1, 1, 1, 1]));
        assert!(turns_in_circles(&[1, 2, 1, 2, 1, 2, 1, 2]));
        assert!(turns_in_circles(&[9, 9, 1, 2, 3, 1, 2, 3, 1, 2, 3]));
        assert!(!turns_in_circles(&[1, 1, 1]), "no no no");
        assert!(!turns_in_circles(&[1, 2, 3, 4, 1, 2, 3, 4, 5]));
        assert!(!turns_in_circles(&[]));
    }
}

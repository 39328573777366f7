//! Orders of less than a second of speech: "what can you do", "yes, confirm that".
//!
//! They are embedded as they are and must reach a higher bar. The bar is lower if the voice also matches the
//! person verified just before, through the same microphone and in the same mood. An order that reaches
//! neither is too short to tell, which is no failure. Bars and rates are in `docs/lab/second-voice.md`.

use super::SpeakerError;
use super::calibration::sigmoid;
use super::hear::{JustHeard, Part};
use super::speech::NetSpeech;
use super::verification::{Candidate, EnrolledVoice, Verdict, Verifier, decide};

/// Net speech that is compared at all.
pub const LEAST_SHORT_S: f32 = 0.5;
/// Required log odds at half a second and at a second, and in proportion between them; 1.7 are the threshold
/// of 0.85.
const BAR: [f64; 2] = [3.0, 2.5];
/// Weight of the likeness to the person verified just before, in log odds, and the deficit that it makes up
/// for first.
const JUST_WEIGHS: f64 = 12.0;
const JUST_ASKS: f64 = 2.5;

/// Whether so little speech identifies a person. `just`: the cosine to the person verified just before,
/// behind the channel compensation, if they are the same.
pub fn is_known(log_odds: f64, net_speech_s: f32, just: Option<f32>) -> bool {
    with_just(log_odds, just) >= bar(net_speech_s)
}

/// The log odds with the voice heard just before, which never counts against anybody.
fn with_just(log_odds: f64, just: Option<f32>) -> f64 {
    just.map_or(log_odds, |just| log_odds.max(log_odds + JUST_WEIGHS * f64::from(just) - JUST_ASKS))
}

/// The log odds that `net_speech_s` of speech must reach.
fn bar(net_speech_s: f32) -> f64 {
    let share = f64::from(((net_speech_s - LEAST_SHORT_S) / (1.0 - LEAST_SHORT_S)).clamp(0.0, 1.0));
    BAR[0] + share * (BAR[1] - BAR[0])
}

impl Verifier {
    /// The speaker of so little speech.
    pub(super) fn short(
        &self,
        net: &NetSpeech,
        enrolled: &[&EnrolledVoice],
        threshold: f32,
        just: Option<&JustHeard>,
    ) -> Result<Part, SpeakerError> {
        let net_speech_s = net.quality.net_speech_s;
        if net_speech_s < LEAST_SHORT_S {
            return Ok(Part::whole(Verdict::TooShort { net_speech_s }, None));
        }
        let voice = self.model().embed_net(net)?;
        let mut candidates = self.candidates(&voice, net.quality, enrolled);
        if let Some(just) = just {
            let likeness = self.likeness(&voice, &just.voice);
            for theirs in candidates.iter_mut().filter(|c| c.voice.user_id == just.user_id) {
                theirs.log_odds = with_just(theirs.log_odds, Some(likeness));
                theirs.confidence = sigmoid(theirs.log_odds);
            }
            candidates.sort_by(|a, b| b.log_odds.total_cmp(&a.log_odds));
        }
        let verdict = of_short(&candidates, threshold, net_speech_s);
        Ok(Part::whole(verdict, Some(voice)))
    }
}

/// The verdict on less than a second of speech.
pub(super) fn of_short(candidates: &[Candidate<'_>], threshold: f32, net_speech_s: f32) -> Verdict {
    let known = candidates.first().is_some_and(|best| is_known(best.log_odds, net_speech_s, None));
    match decide(candidates, threshold, net_speech_s) {
        verdict @ (Verdict::Verified { .. } | Verdict::Ambiguous { .. }) if known => verdict,
        // Too little speech for any verdict but that it is them, or that there are two people.
        _ => Verdict::TooShort { net_speech_s },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_speech_must_be_likelier_theirs_and_the_same_voice_before_it_helps() {
        assert!(bar(0.5) > bar(0.8) && bar(0.8) > bar(1.0));
        assert!((bar(0.3) - bar(0.5)).abs() < 1e-9 && (bar(2.0) - bar(1.0)).abs() < 1e-9);
        let odds = bar(0.7) - 1.0;
        assert!(!is_known(odds, 0.7, None) && !is_known(odds, 0.7, Some(0.1)));
        assert!(is_known(odds, 0.7, Some(0.8)) && is_known(bar(0.7), 0.7, None));
        assert!(is_known(bar(0.7), 0.7, Some(0.0)), "what was heard before is never held against them");
        assert!(!is_known(f64::NAN, 0.7, None) && !is_known(-7.0, 0.7, Some(1.0)));
    }
}

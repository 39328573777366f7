//! What is known of an utterance while it is being said, the first look at who says it included.

use super::deadline::Stage;
use super::door::Door;
use super::turns::Turns;
use super::voices::FirstLook;
use crate::detect::Utterance;
use crate::error::chain;
use crate::events::{Moment, TurnId};
use crate::speaker::{Part, Verdict};
use crate::units::FramePos;

/// Frames of speech behind a first look, 0.5 s, that may be somebody else's order.
const MORE_SPEECH: usize = 50;
/// From this probability on a frame is speech.
const SPEECH: f32 = 0.5;

/// What is known of the command that is being heard.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// A wake word was said, or the device was asked to listen, and no command has followed yet.
    pub(super) woken: bool,
    /// The turn of what is heard, from its first event on.
    turn: Option<TurnId>,
    /// Up to where the command was handed to the recogniser.
    pub(super) until: FramePos,
    /// The words so far, as last shown.
    pub(super) partial: String,
    /// A first look at who speaks, while they do.
    pub(super) look: Option<FirstLook>,
    /// The result, where it is certain: nothing of this utterance is transcribed but what is verified
    /// at its end.
    pub(super) stranger: Option<Part>,
    /// Frames that the look was taken at.
    looked_at: usize,
    /// The recogniser could not take all of it.
    pub(super) torn: bool,
}

impl Hearing {
    /// Another utterance, of the turn that its wake word began.
    pub(super) fn begin(&mut self, pos: FramePos) {
        *self = Self { woken: self.woken, turn: self.turn, until: pos, ..Self::default() };
    }

    /// A moment of the turn that is heard, which begins with the first of them.
    pub(super) fn moment(&mut self, pos: FramePos) -> Moment {
        Moment { turn: Some(*self.turn.get_or_insert_with(TurnId::generate)), pos }
    }

    /// The verdict of the first look, if it stands for all of `utterance`: a stranger who goes on may be
    /// followed by the owner, so it does not where there is more speech behind it.
    pub(super) fn certain_of(&self, utterance: &Utterance) -> Option<&Part> {
        let stranger = self.stranger.as_ref()?;
        let more = utterance.speech.iter().skip(self.looked_at).filter(|p| **p >= SPEECH).count();
        (more < MORE_SPEECH || stranger.verdict == Verdict::NotEnrolled).then_some(stranger)
    }
}

impl Turns {
    /// Begins a first look, unless nobody's voice matters or the device pauses: an attempt during the pause
    /// must not tell anything to whoever tries.
    pub(super) async fn look(&self, raw: Vec<f32>, speech: Vec<f32>, hearing: &mut Hearing, door: &Door) {
        let paused = door.gate.remaining_ms(self.memory.clock().now_unix_ms()) > 0;
        if !self.verify || paused || door.granted().is_some() || door.enrolling.is_some() {
            return;
        }
        hearing.looked_at = speech.len();
        match self.pulse.within(Stage::Memory, self.voices.first_look(raw, speech)).await {
            Some(Ok(look)) => hearing.look = Some(look),
            Some(Err(error)) => log::debug!("no first look at who speaks: {}", chain(&error)),
            None => log::warn!("no first look at who speaks: {}", Stage::Memory.overdue()),
        }
    }

    /// Takes note of a first look that is over, or of any with `wait`. One that fails decides nothing: the
    /// whole utterance does.
    pub(super) async fn see(&self, hearing: &mut Hearing, wait: bool) {
        if !hearing.look.as_ref().is_some_and(|look| wait || look.is_finished()) {
            return;
        }
        let Some(look) = hearing.look.take() else { return };
        let Some(looked) = self.pulse.within(Stage::Verify, look).await else {
            return log::warn!("no first look at who speaks: {}", Stage::Verify.overdue());
        };
        match looked {
            Ok((Ok(verdict), took)) => {
                log::debug!(
                    "a first look at who speaks took {} ms: {}",
                    took.as_millis(),
                    verdict.as_ref().map_or("not certain", |part| part.verdict.name())
                );
                if verdict.is_some() {
                    self.forget_sound();
                }
                hearing.stranger = verdict;
            }
            Ok((Err(error), _)) => log::debug!("no first look at who speaks: {}", chain(&error)),
            Err(error) => log::debug!("a first look at who speaks was interrupted: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_look_stands_unless_there_is_more_speech_behind_it() {
        let utterance = |speech: Vec<f32>| Utterance {
            start: FramePos(0),
            end: FramePos(speech.len() as u64),
            raw: Vec::new(),
            clean: Vec::new(),
            speech,
            command_start: 0,
            truncated: false,
        };
        let hearing = Hearing { stranger: Some(Part::rejected_of(1)), looked_at: 200, ..Hearing::default() };
        let ended = utterance([vec![0.9; 230], vec![0.1; 70]].concat());
        let goes_on = utterance([vec![0.9; 200], vec![0.1; 40], vec![0.9; 100]].concat());
        assert!(hearing.certain_of(&ended).is_some());
        assert!(hearing.certain_of(&goes_on).is_none(), "the owner may have spoken");
        assert!(Hearing::default().certain_of(&ended).is_none());
        let mut nobody = Part::rejected_of(1);
        nobody.verdict = Verdict::NotEnrolled;
        let hearing = Hearing { stranger: Some(nobody), looked_at: 200, ..Hearing::default() };
        assert!(hearing.certain_of(&goes_on).is_some(), "there is nobody who could have");
    }
}

//! What is known of an utterance while it is being said, the first look at who says it included.

use super::deadline::Stage;
use super::door::Door;
use super::turns::Turns;
use super::voices::FirstLook;
use crate::error::chain;
use crate::speaker::Verdict;
use crate::units::FramePos;

/// What is known of the command that is being heard.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// A wake word was said, or the device was asked to listen, and no command has followed yet.
    pub(super) woken: bool,
    /// Up to where the command was handed to the recogniser.
    pub(super) until: FramePos,
    /// The words so far, as last shown.
    pub(super) partial: String,
    /// A first look at who speaks, while they do.
    pub(super) look: Option<FirstLook>,
    /// What it came to, where that is certain: no more of this utterance is transcribed.
    pub(super) stranger: Option<Verdict>,
    /// The recogniser could not take all of it.
    pub(super) torn: bool,
}

impl Hearing {
    /// Another utterance.
    pub(super) fn begin(&mut self, pos: FramePos) {
        *self = Self { woken: self.woken, until: pos, ..Self::default() };
    }
}

impl Turns {
    /// Begins a first look, unless nobody's voice matters or the device pauses: an attempt during the pause must not tell
    /// anything to whoever tries.
    pub(super) async fn look(&self, raw: Vec<f32>, speech: Vec<f32>, hearing: &mut Hearing, door: &Door) {
        let paused = door.gate.remaining_ms(self.memory.clock().now_unix_ms()) > 0;
        if !self.verify || paused || door.granted().is_some() || door.enrolling.is_some() {
            return;
        }
        match self.pulse.within(Stage::Memory, self.voices.first_look(raw, speech)).await {
            Some(Ok(look)) => hearing.look = Some(look),
            Some(Err(error)) => log::debug!("no first look at who speaks: {}", chain(&error)),
            None => log::warn!("no first look at who speaks: {}", Stage::Memory.overdue()),
        }
    }

    /// Takes note of a first look that is over, or of any with `wait`. One that fails decides nothing: the whole utterance does.
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
                    verdict.as_ref().map_or("not certain", Verdict::name)
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

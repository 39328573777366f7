//! Speaking an answer: text to sound by a command, sound to the loudspeaker by ALSA, detection held
//! meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::hearing::HearingControl;
use crate::audio::playback::{self, PlaybackError};
use crate::dialogue::speech::{Speech, SpeechError};
use crate::error::chain;
use crate::health::{Condition, Health};

/// Name of the loudspeaker in [`Health`].
pub const COMPONENT: &str = "speech";
/// How long a room still carries what the loudspeaker said, with the time that the sound takes through both
/// devices.
const ECHO_TAIL_MS: u32 = 250;
/// A sound device that keeps a call for this much longer than the answer lasts has hung. Longer than what
/// [`playback::play`] waits for a device that says that it takes nothing.
const HUNG: Duration = Duration::from_secs(10);
/// The same once the device is told to stop.
const HUNG_AT_STOP: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Answer {
    speech: Arc<Speech>,
    device: String,
    health: Health,
    /// A thread is inside the sound device.
    playing: Arc<AtomicBool>,
}

impl Answer {
    pub fn new(speech: Speech, device: String, health: Health) -> Self {
        Self { speech: Arc::new(speech), device, health, playing: Arc::default() }
    }

    /// Speaks `text` to its end or until `stop`. What cannot be spoken stays text: the turn is stored
    /// already.
    ///
    /// # Errors
    /// The sentence that [`Health`] shows as well. A device without a loudspeaker, or a speech program, is
    /// none.
    pub async fn speak(
        &self,
        text: &str,
        control: &HearingControl,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let rendered = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            rendered = self.speech.render(text) => rendered,
        };
        let sound = match rendered {
            Ok(sound) => sound,
            Err(error) => {
                let sentence = format!("answers are text only: {}", chain(&error));
                self.health.set(COMPONENT, Condition::degraded(&sentence));
                return if matches!(error, SpeechError::Silent(_)) { Ok(()) } else { Err(sentence) };
            }
        };
        if self.playing.swap(true, Ordering::AcqRel) {
            // The thread of an earlier answer cannot be ended; another one would only wait beside it.
            return Err(self.hung());
        }
        let most = Duration::from_secs_f32(sound.seconds()) + HUNG;
        let (device, token, playing) = (self.device.clone(), stop.clone(), self.playing.clone());
        let hold = control.hold(ECHO_TAIL_MS);
        let playback = tokio::task::spawn_blocking(move || {
            let played = playback::play(&device, &sound.samples, sound.rate_hz, &token);
            playing.store(false, Ordering::Release);
            played
        });
        let told_and_hung = async {
            stop.cancelled().await;
            tokio::time::sleep(HUNG_AT_STOP).await;
        };
        let played = tokio::select! {
            played = playback => Some(played),
            () = tokio::time::sleep(most) => None,
            () = told_and_hung => None,
        };
        drop(hold);
        match played {
            Some(Ok(Ok(()))) => {
                self.health.set(COMPONENT, Condition::Ok);
                Ok(())
            }
            Some(Ok(Err(error))) => self.text_only(&error),
            Some(Err(error)) => Err(format!("speaking was interrupted: {error}")),
            None => Err(self.hung()),
        }
    }

    fn hung(&self) -> String {
        let device = &self.device;
        let sentence = format!(
            "answers are text only: the playback device {device} hangs; restart the service when it works again"
        );
        self.health.set(COMPONENT, Condition::degraded(&sentence));
        sentence
    }

    /// A device without a loudspeaker is no fault. [`Health`] says a change once.
    fn text_only(&self, error: &PlaybackError) -> Result<(), String> {
        if error.is_no_device() {
            self.health.set(COMPONENT, Condition::off(format!("answers are text only: {}", chain(error))));
            return Ok(());
        }
        let sentence = format!("an answer was not spoken: {}", chain(error));
        self.health.set(COMPONENT, Condition::degraded(&sentence));
        Err(sentence)
    }
}

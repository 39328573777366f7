//! Speaking an answer: text to sound by a command, sound to the loudspeaker by ALSA, detection held meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::hearing::HearingControl;
use crate::audio::playback::{self, PlaybackError};
use crate::dialogue::speech::Speech;
use crate::error::chain;
use crate::health::{Condition, Health};

/// Name of the loudspeaker in [`Health`].
pub const COMPONENT: &str = "speech";
/// How long a room still carries what the loudspeaker said.
const ECHO_TAIL: Duration = Duration::from_millis(250);

#[derive(Debug, Clone)]
pub struct Answer {
    speech: Arc<Speech>,
    device: String,
    health: Health,
}

impl Answer {
    pub fn new(speech: Speech, device: String, health: Health) -> Self {
        Self { speech: Arc::new(speech), device, health }
    }

    /// Speaks `text` to its end or until `stop`. What cannot be spoken stays text: the turn is stored already.
    pub async fn speak(&self, text: &str, control: &HearingControl, stop: &CancellationToken) {
        let rendered = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            rendered = self.speech.render(text) => rendered,
        };
        let sound = match rendered {
            Ok(sound) => sound,
            Err(error) => {
                self.health
                    .set(COMPONENT, Condition::degraded(format!("answers are text only: {}", chain(&error))));
                return;
            }
        };
        control.set_held(true);
        let (device, token) = (self.device.clone(), stop.clone());
        let played = tokio::task::spawn_blocking(move || {
            playback::play(&device, &sound.samples, sound.rate_hz, &token)
        })
        .await;
        tokio::time::sleep(ECHO_TAIL).await;
        control.set_held(false);
        match played {
            Ok(Ok(())) => {
                self.health.set(COMPONENT, Condition::Ok);
            }
            Ok(Err(error)) => self.text_only(&error),
            Err(error) => log::error!("speaking was interrupted: {error}"),
        }
    }

    /// A device without a loudspeaker is no fault. [`Health`] says a change once.
    fn text_only(&self, error: &PlaybackError) {
        self.health.set(
            COMPONENT,
            if error.is_no_device() {
                Condition::off(format!("answers are text only: {}", chain(error)))
            } else {
                Condition::degraded(format!("an answer was not spoken: {}", chain(error)))
            },
        );
    }
}

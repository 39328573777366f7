//! Speaking: text to sound by a command, sound to the thread of the loudspeaker, detection held meanwhile.
//!
//! An answer is spoken sentence by sentence: the next one is made into sound while the one before is heard,
//! and the playback device stays open from the first to the last.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::hearing::{HearingControl, Hold};
use crate::audio::loudspeaker::{Loudspeaker, Playing};
use crate::audio::playback::PlaybackError;
use crate::dialogue::speech::{Speech, SpeechError};
use crate::error::chain;
use crate::health::{Condition, Health};
use crate::memory::Durable;

/// Name of the loudspeaker in [`Health`].
pub const COMPONENT: &str = "speech";
/// Time that a room carries the device's speech on, with the time that the sound takes through both devices.
const ECHO_TAIL_MS: u32 = 250;
/// A sound device that holds a call for this much longer than the answer lasts has hung. This is longer than
/// the player waits for a device that reports that it takes nothing.
const HUNG: Duration = Duration::from_secs(10);
/// The same once the device is told to stop.
const HUNG_AT_STOP: Duration = Duration::from_secs(2);

/// Words for the loudspeaker.
#[derive(Debug)]
pub enum Sentence {
    /// Of an answer, which is on the disk.
    Answer(Durable),
    /// The device speaks for itself: a prompt, a refusal, a fault. These words belong to no turn, and none of
    /// them claims that something is stored.
    Notice(String),
}

impl Sentence {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Answer(words) => words.as_str(),
            Self::Notice(words) => words,
        }
    }
}

impl From<&str> for Sentence {
    fn from(notice: &str) -> Self {
        Self::Notice(notice.to_owned())
    }
}

impl From<String> for Sentence {
    fn from(notice: String) -> Self {
        Self::Notice(notice)
    }
}

impl From<Durable> for Sentence {
    fn from(words: Durable) -> Self {
        Self::Answer(words)
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    speech: Arc<Speech>,
    loudspeaker: Loudspeaker,
    health: Health,
}

/// The device speaks: it hears nothing meanwhile.
struct Speaking<'a> {
    playing: Playing,
    _hold: Hold<'a>,
}

impl Answer {
    pub fn new(speech: Speech, loudspeaker: Loudspeaker, health: Health) -> Self {
        Self { speech: Arc::new(speech), loudspeaker, health }
    }

    /// Speaks `first`, then the sentences of `more` until it is closed; `cut` ends it. Words that cannot be
    /// spoken stay text: the turn is stored already.
    ///
    /// # Errors
    /// The sentence that [`Health`] shows as well. A device without a loudspeaker or a speech program is no
    /// error.
    pub async fn speak(
        &self,
        first: Sentence,
        mut more: Option<mpsc::Receiver<Sentence>>,
        control: &HearingControl,
        cut: &CancellationToken,
    ) -> Result<(), String> {
        let mut next = Some(first);
        let mut speaking: Option<Speaking<'_>> = None;
        let mut unspoken = Ok(());
        let mut most = HUNG;
        while let Some(sentence) = next.take() {
            let rendered = tokio::select! {
                biased;
                () = cut.cancelled() => break,
                rendered = self.speech.render(sentence.as_str()) => rendered,
            };
            let sound = match rendered {
                Ok(sound) => sound,
                Err(error) => {
                    unspoken = self.not_rendered(&error);
                    break;
                }
            };
            most += Duration::from_secs_f32(sound.seconds());
            let begun = match speaking.take() {
                Some(speaking) => speaking,
                None => match self.loudspeaker.begin(cut) {
                    Some(playing) => Speaking { playing, _hold: control.hold(ECHO_TAIL_MS) },
                    // The thread is still in an earlier answer, which cannot be ended.
                    None => return Err(self.hung()),
                },
            };
            let taken = in_time(begun.playing.play(sound), most, cut).await;
            speaking = Some(begun);
            match taken {
                Some(true) => {}
                // It says why at its end.
                Some(false) => break,
                None => return Err(self.hung()),
            }
            if let Some(more) = &mut more {
                next = tokio::select! {
                    biased;
                    () = cut.cancelled() => None,
                    sentence = more.recv() => sentence,
                };
            }
        }
        let Some(Speaking { playing, _hold: hold }) = speaking else { return unspoken };
        let played = in_time(playing.finish(), most, cut).await;
        drop(hold);
        match played {
            Some(Ok(())) if unspoken.is_err() => unspoken,
            Some(Ok(())) => {
                self.health.set(COMPONENT, Condition::Ok);
                Ok(())
            }
            Some(Err(error)) => self.text_only(&error),
            None => Err(self.hung()),
        }
    }

    fn not_rendered(&self, error: &SpeechError) -> Result<(), String> {
        let sentence = format!("answers are text only: {}", chain(error));
        self.health.set(COMPONENT, Condition::degraded(&sentence));
        if matches!(error, SpeechError::Silent(_)) { Ok(()) } else { Err(sentence) }
    }

    fn hung(&self) -> String {
        self.loudspeaker.hangs();
        let device = self.loudspeaker.device();
        let sentence = format!(
            "answers are text only: the playback device {device} hangs; restart the service when it works \
             again"
        );
        self.health.set(COMPONENT, Condition::degraded(&sentence));
        sentence
    }

    /// A device without a loudspeaker is no fault. [`Health`] logs a change once.
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

/// The result of `work`, unless the sound device hangs in it.
async fn in_time<T>(work: impl Future<Output = T>, most: Duration, cut: &CancellationToken) -> Option<T> {
    let told_and_hung = async {
        cut.cancelled().await;
        tokio::time::sleep(HUNG_AT_STOP).await;
    };
    tokio::select! {
        done = work => Some(done),
        () = tokio::time::sleep(most) => None,
        () = told_and_hung => None,
    }
}

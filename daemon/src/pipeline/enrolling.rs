//! An enrolment before the microphone of the device: what is said is a sample and nothing else.
//!
//! ```text
//!  begin ─▶ "please say …" ─▶ window ─▶ sample ─┬─ enough ─▶ stored ─▶ finished
//!             ▲                           │     └─ refused at the end ─▶ failed
//!             └── kept, or refused: again ┘  nothing said, or refused, five times in a row ─▶ failed
//! ```
//!
//! Whoever starts it gets what the command line gives without options: a voice that is somebody else's, or another than the
//! person's own, is refused.

use std::sync::Arc;

use super::enrol::{self, Allowed, Face, Refused};
use super::recordings::{self, Sentences};
use super::voices::Voices;
use crate::memory::{MAX_NAME_CHARS, Memory, User};
use crate::speaker::{Enrolment, Progress, Refusal, Step, Template};

/// How long the device waits for each sentence.
pub const WINDOW_MS: u32 = 15_000;
/// Attempts in a row that came to nothing.
const MOST_IN_VAIN: u32 = 5;
/// No name that can be given is longer: [`MAX_NAME_CHARS`] of at most four bytes.
const MOST_NAME_BYTES: usize = 4 * MAX_NAME_CHARS;

/// What the person is asked to say: sentences of some four seconds with most sounds of the language in them.
const SENTENCES: [&str; 5] = [
    "The quick brown fox jumps over the lazy dog while the old cat sleeps beside the warm kitchen fire.",
    "Please remember to water the plants in the living room every Monday and Thursday before the news.",
    "My favourite season is autumn, when the leaves turn red and gold and the air smells of apples.",
    "The weather this morning was bright and cold, so I walked along the river before breakfast.",
    "Whoever speaks to this device should speak as they always do, from across the room.",
];

/// An enrolment that goes on.
#[derive(Debug)]
pub struct Enrolling {
    name: String,
    known: Option<User>,
    /// `None` only while a sample is looked at.
    enrolment: Option<Enrolment>,
    /// The samples so far, where they are to be kept.
    kept: Option<Sentences>,
    in_vain: u32,
}

/// What an attempt came to.
pub struct Heard {
    pub progress: Progress,
    pub over: bool,
}

impl Enrolling {
    /// With `keep` what is said is stored with the voice, encrypted.
    ///
    /// # Errors
    /// A name that cannot have a voice, a database that does not work.
    pub async fn begin(memory: &Memory, voices: &Voices, name: &str, keep: bool) -> Result<Self, Refused> {
        let known = enrol::person(memory, name).await?;
        if known.is_none() && (name.trim().is_empty() || name.len() > MOST_NAME_BYTES) {
            // Before anybody has said three sentences for it; what else is wrong with a name is found when it is stored.
            return Err(Refused::NameLength);
        }
        let name = known.as_ref().map_or(name, |user| user.name.as_str()).to_owned();
        let enrolment = Some(Enrolment::new(voices.verifier.model().clone()));
        Ok(Self { name, known, enrolment, kept: keep.then(Sentences::new), in_vain: 0 })
    }

    /// Where it stands.
    pub fn progress(&self, step: Step, reason: Option<String>) -> Progress {
        let mut progress = self.enrolment.as_ref().map_or_else(
            || Progress::failed(&self.name, Refused::Lost.sentence(Face::Mqtt)),
            |enrolment| enrolment.standing(&self.name, step, reason),
        );
        if matches!(progress.state, Step::Waiting | Step::Kept | Step::Refused) {
            let next = (progress.phrase as usize).saturating_sub(1) % SENTENCES.len();
            progress.say = SENTENCES.get(next).map(|sentence| (*sentence).to_owned());
        }
        progress
    }

    /// Nobody said anything.
    pub fn silence(&mut self) -> Heard {
        self.refused("nothing was heard; say the sentence aloud".to_owned())
    }

    fn refused(&mut self, reason: String) -> Heard {
        self.in_vain += 1;
        if self.in_vain >= MOST_IN_VAIN {
            let reason = format!("given up after {MOST_IN_VAIN} attempts in a row: {reason}");
            return Heard { progress: self.progress(Step::Failed, Some(reason)), over: true };
        }
        Heard { progress: self.progress(Step::Refused, Some(reason)), over: false }
    }

    /// Takes an utterance: 16 kHz mono in [-1, 1], raw, with a VAD probability per 10 ms frame.
    pub async fn sample(
        &mut self,
        memory: &Memory,
        voices: &Voices,
        raw: Arc<Vec<f32>>,
        speech: Arc<Vec<f32>>,
    ) -> Heard {
        let failed = |heard: &Self, refused: &Refused| {
            let reason = Some(refused.sentence(Face::Mqtt));
            Heard { progress: heard.progress(Step::Failed, reason), over: true }
        };
        let Some(mut enrolment) = self.enrolment.take() else { return failed(self, &Refused::Lost) };
        let kept = self.kept.is_some().then(|| recordings::sentence(&raw));
        let looked_at = tokio::task::spawn_blocking(move || {
            let added = enrolment.add(&raw, &speech);
            (enrolment, added)
        });
        let added = match looked_at.await {
            Ok((enrolment, added)) => {
                self.enrolment = Some(enrolment);
                added
            }
            Err(error) => {
                log::error!("a sample of an enrolment could not be looked at: {error}");
                return failed(self, &Refused::Lost);
            }
        };
        match added {
            Ok(_) => {
                self.in_vain = 0;
                if let Some(all) = &mut self.kept {
                    all.extend(kept);
                }
            }
            Err(Refusal::Full) => {}
            Err(refusal) => return self.refused(Refused::Samples(refusal).sentence(Face::Mqtt)),
        }
        let Some(enrolment) = self.enrolment.as_ref().filter(|enrolment| enrolment.is_enough()) else {
            return Heard { progress: self.progress(Step::Kept, None), over: false };
        };
        let stored = match enrolment.clone().finish() {
            Ok(template) => self.store(memory, voices, &template).await,
            Err(refusal) => Err(Refused::Samples(refusal)),
        };
        match stored {
            Ok(()) => Heard { progress: self.progress(Step::Finished, None), over: true },
            Err(refused) => failed(self, &refused),
        }
    }

    async fn store(&mut self, memory: &Memory, voices: &Voices, template: &Template) -> Result<(), Refused> {
        let known = self.known.as_ref();
        enrol::belongs(memory, voices, known, template, Allowed::default()).await?;
        let recordings = self.kept.take().unwrap_or_default();
        let kept = enrol::keep(memory, voices, (known, self.name.as_str()), template, &recordings).await;
        kept.map(|_| ()).map_err(Refused::Device)
    }
}

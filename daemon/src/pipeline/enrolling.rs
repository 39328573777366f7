//! An enrolment before the microphone of the device: an utterance is a sample and nothing else.
//!
//! ```text
//!  begin ─▶ "please say …" ─▶ window ─▶ sample ─┬─ enough ─▶ stored ─┬─ nothing further asked for ─▶ finished
//!             ▲                           │     │                    └─▶ further samples, see below
//!             │                           │     └─ refused at the end ─▶ failed
//!             └── kept, or refused: again ┘  nothing said, or refused, five times in a row ─▶ failed
//!
//!  "now louder: please say …" ─▶ window ─▶ kept and stored, left out, refused, or nothing said
//!             ▲                              │
//!             └────── the next style ────────┴─ none left ─▶ finished
//! ```
//!
//! Further samples are asked for only on request, each once: silence leaves one out. The voice is stored
//! before the first of them and with each kept one, so an interruption loses nothing.
//!
//! It is as strict as the command line without options: a voice that is somebody else's, or not the person's
//! enrolled one, is refused.

use crate::control::{EnrolmentRequest, Face, Refused};
use crate::identity::sentences;
use crate::identity::session::{Options, Session, Start};
use crate::identity::sound::Recording;
use crate::identity::voices::Voices;
use crate::speaker::{LeftOut, Progress, Refusal, Step, Style};

/// How long the device waits for each sentence.
pub const WINDOW_MS: u32 = 15_000;
/// Attempts in a row that came to nothing.
const MOST_IN_VAIN: u32 = 5;

/// An enrolment that goes on.
#[derive(Debug)]
pub struct Enrolling {
    session: Session,
    /// Further samples still to ask for, in this order.
    styles: Vec<Style>,
    in_vain: u32,
}

/// The result of an attempt.
pub struct SampleOutcome {
    pub progress: Progress,
    pub over: bool,
}

impl Enrolling {
    /// # Errors
    /// Those of [`Session::begin`].
    pub async fn begin(voices: &Voices, name: &str, wanted: EnrolmentRequest) -> Result<Self, Refused> {
        let EnrolmentRequest { adds, further, keep_recordings } = wanted;
        let start = if adds { Start::Further } else { Start::Anew };
        let options = Options { start, keep_recordings, ..Options::default() };
        let session = Session::begin(voices, name, options).await?;
        Ok(Self { session, styles: further, in_vain: 0 })
    }

    /// The state of the enrolment. A cancellation after the voice was stored counts as finished.
    pub fn progress(&self, step: Step, reason: Option<String>) -> Progress {
        let mut progress = self.session.standing(step, reason, &self.styles);
        if matches!(progress.state, Step::Waiting | Step::Kept | Step::Refused | Step::LeftOut) {
            let kept = (progress.phrase as usize).saturating_sub(1);
            progress.say = Some(sentences::after(kept).to_owned());
        }
        progress
    }

    /// Nobody said anything.
    pub fn silence(&mut self) -> SampleOutcome {
        if self.session.is_complete() {
            return self.next_style(Step::LeftOut, None);
        }
        self.refused("nothing was heard; say the sentence aloud".to_owned())
    }

    fn refused(&mut self, reason: String) -> SampleOutcome {
        self.in_vain += 1;
        if self.in_vain >= MOST_IN_VAIN {
            let reason = format!("given up after {MOST_IN_VAIN} attempts in a row: {reason}");
            return SampleOutcome { progress: self.progress(Step::Failed, Some(reason)), over: true };
        }
        SampleOutcome { progress: self.progress(Step::Refused, Some(reason)), over: false }
    }

    fn failed(&self, refused: &Refused) -> SampleOutcome {
        refused.log();
        SampleOutcome {
            progress: self.progress(Step::Failed, Some(refused.sentence(Face::Mqtt))),
            over: true,
        }
    }

    /// The style that was asked for is done with.
    fn next_style(&mut self, step: Step, reason: Option<String>) -> SampleOutcome {
        self.styles.drain(..self.styles.len().min(1));
        let over = self.styles.is_empty();
        let step = if over { Step::Finished } else { step };
        SampleOutcome { progress: self.progress(step, reason), over }
    }

    /// Takes an utterance.
    pub async fn sample(&mut self, recording: Recording) -> SampleOutcome {
        if self.session.is_complete() {
            return self.further(recording).await;
        }
        match self.session.sample(recording).await {
            Ok(_) => self.in_vain = 0,
            Err(Refused::Samples(Refusal::Full)) => {}
            Err(refused @ Refused::Samples(_)) => return self.refused(refused.sentence(Face::Mqtt)),
            Err(refused) => return self.failed(&refused),
        }
        if !self.session.is_enough() {
            return SampleOutcome { progress: self.progress(Step::Kept, None), over: false };
        }
        if let Err(refused) = self.session.store().await {
            return self.failed(&refused);
        }
        let over = self.styles.is_empty();
        let step = if over { Step::Finished } else { Step::Kept };
        SampleOutcome { progress: self.progress(step, None), over }
    }

    async fn further(&mut self, recording: Recording) -> SampleOutcome {
        match self.session.offer(recording).await {
            Ok(report) => match report.left_out {
                Some(why) => self.next_style(Step::LeftOut, Some(LeftOut::sentence(why).to_owned())),
                None => match self.session.store().await {
                    Ok(()) => self.next_style(Step::Kept, None),
                    Err(refused) => self.failed(&refused),
                },
            },
            Err(refused @ Refused::Samples(_)) => {
                self.next_style(Step::Refused, Some(refused.sentence(Face::Mqtt)))
            }
            Err(refused) => self.failed(&refused),
        }
    }
}

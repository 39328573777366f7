//! An enrolment with samples from any face: files, uploads, the microphone of the device.
//!
//! ```text
//!  begin ─▶ sample … ─▶ complete ─▶ offer … ─▶ store
//!             │            │           │          └ sealed and stored, with consent; again after further samples
//!             │            │           └ a further sample: kept if the person is better known by it
//!             │            └ enough samples, of a voice that may become this person's
//!             └ kept, or refused with the way out
//! ```
//!
//! Nothing is stored before `store`, and a refusal changes nothing.

use super::ownership;
pub use super::ownership::Allowed;
use super::recordings::{self, Sentence, Sentences};
use super::sound::Recording;
use super::voices::{Voices, VoicesError};
use crate::control::{Face, Refused};
use crate::memory::{MAX_NAME_CHARS, User};
use crate::speaker::section::UserThresholds;
use crate::speaker::{
    EnrolledVoice, Enrolment, Further, FurtherReport, Progress, Refusal, SampleReport, Step, Style, Template,
    Verdict,
};

/// No valid name is longer: [`MAX_NAME_CHARS`] of at most four bytes.
const MOST_NAME_BYTES: usize = 4 * MAX_NAME_CHARS;

/// Which samples an enrolment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// None: an earlier voice is enrolled anew.
    #[default]
    Anew,
    /// None; the recordings kept earlier stay and are given again as samples.
    FromRecordings,
    /// Those of the enrolled voice, if there is one.
    Add,
    /// Those of the enrolled voice, to which only further samples are added.
    Further,
}

/// How somebody is enrolled.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub start: Start,
    pub allowed: Allowed,
    /// Whether the recordings of the samples are kept, sealed, on this device.
    pub keep_recordings: bool,
}

/// An enrolment that goes on.
#[derive(Debug)]
pub struct Session {
    voices: Voices,
    name: String,
    known: Option<User>,
    course: Course,
    allowed: Allowed,
    /// The recordings that are stored with the voice.
    kept: Sentences,
    /// Whether `kept` grows by the samples given now.
    keeps: bool,
}

#[derive(Debug)]
enum Course {
    Sampling(Enrolment),
    /// The voice may be stored.
    Complete(Box<Template>),
    /// The same, and further samples are compared with it.
    Further(Box<Further>),
    /// A sample is being compared, or was lost in the program.
    Away,
}

impl Session {
    /// Begins an enrolment of the person called `name`.
    ///
    /// # Errors
    /// A name that cannot have a voice or, for [`Start::Further`], has none; a database or key that does not
    /// work.
    pub async fn begin(voices: &Voices, name: &str, options: Options) -> Result<Self, Refused> {
        let known = ownership::person(&voices.memory, name).await?;
        if known.is_none() && (name.trim().is_empty() || name.len() > MOST_NAME_BYTES) {
            // Checked before the person says three sentences for it. Other faults of a name are found when it
            // is stored.
            return Err(Refused::NameLength);
        }
        let Options { start, mut allowed, keep_recordings } = options;
        let name = known.as_ref().map_or(name, |user| user.name.as_str()).to_owned();
        let voice = match &known {
            Some(user) if start != Start::Anew => voices.memory.voiceprint(user.id).await?,
            _ => None,
        };
        if start == Start::Further && voice.is_none() {
            return Err(Refused::NoVoice(name));
        }
        let mut kept = None;
        if let Some(voice) = &voice {
            let read = voices.recordings.read(&voices.vault, voice);
            kept = read.map_err(|error| Refused::Device(error.into()))?;
        }
        let model = voices.verifier.model().clone();
        let course = match voice {
            Some(voice) if matches!(start, Start::Add | Start::Further) => {
                let template = voices.open(voice).map_err(|e| Refused::Device(e.into()))?.template;
                allowed.add = true;
                match start {
                    Start::Further => Course::Complete(Box::new(template)),
                    _ => Course::Sampling(
                        Enrolment::extend(model, &template).map_err(|e| Refused::Device(e.into()))?,
                    ),
                }
            }
            _ => Course::Sampling(Enrolment::new(model)),
        };
        let (kept, keeps) = (kept.unwrap_or_default(), keep_recordings);
        Ok(Self { voices: voices.clone(), name, known, course, allowed, kept, keeps })
    }

    /// The person's name as it is stored, or as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The recordings that are stored with the voice.
    pub fn recordings(&self) -> &Sentences {
        &self.kept
    }

    /// Whether [`Session::complete`] has what it needs.
    pub fn is_enough(&self) -> bool {
        match &self.course {
            Course::Sampling(enrolment) => enrolment.is_enough(),
            Course::Complete(_) | Course::Further(_) => true,
            Course::Away => false,
        }
    }

    /// Whether only further samples are taken.
    pub fn is_complete(&self) -> bool {
        self.template().is_some()
    }

    /// The voice, once it is complete.
    pub fn template(&self) -> Option<&Template> {
        match &self.course {
            Course::Complete(template) => Some(template),
            Course::Further(further) => Some(further.template()),
            Course::Sampling(_) | Course::Away => None,
        }
    }

    /// Net speech of all samples together, in seconds.
    pub fn net_speech_s(&self) -> f32 {
        match &self.course {
            Course::Sampling(enrolment) => enrolment.net_speech_s(),
            _ => self.template().map_or(0.0, Template::net_speech_s),
        }
    }

    /// The state of the enrolment. `styles`: the further samples that will be asked for.
    #[expect(clippy::cast_possible_truncation, reason = "at most 16 samples and some styles")]
    pub fn standing(&self, step: Step, reason: Option<String>, styles: &[Style]) -> Progress {
        if let Course::Sampling(enrolment) = &self.course {
            return enrolment.standing(&self.name, step, reason);
        }
        let Some(template) = self.template() else {
            return Progress::failed(&self.name, Refused::Lost.sentence(Face::Mqtt));
        };
        let kept = template.prototypes().len();
        // The voice was stored before the first further sample.
        let state = if step == Step::Cancelled { Step::Finished } else { step };
        let over = matches!(state, Step::Finished | Step::Failed);
        Progress {
            user: self.name.clone(),
            state,
            percent: 100,
            phrase: (kept + usize::from(!over)) as u32,
            phrases: (kept + styles.len()) as u32,
            net_speech_s: template.net_speech_s(),
            reason,
            style: styles.first().filter(|_| !over).copied(),
            say: None,
        }
    }

    /// Checks a sample and keeps it if it is good.
    ///
    /// # Errors
    /// [`Refused::Samples`] if it is not; nothing is changed.
    pub async fn sample(&mut self, recording: Recording) -> Result<SampleReport, Refused> {
        let sentence = self.sentence(&recording);
        let mut enrolment = match std::mem::replace(&mut self.course, Course::Away) {
            Course::Sampling(enrolment) => enrolment,
            complete => {
                self.course = complete;
                return Err(Refused::Samples(Refusal::Full));
            }
        };
        let compared = tokio::task::spawn_blocking(move || {
            let added = enrolment.add(&recording.raw, &recording.speech);
            (enrolment, added)
        });
        let (enrolment, added) = compared.await.map_err(|error| lost(&error))?;
        self.course = Course::Sampling(enrolment);
        let report = added.map_err(Refused::Samples)?;
        self.kept.extend(sentence);
        Ok(report)
    }

    /// Ends the samples: the voice is whole, and may become this person's.
    ///
    /// # Errors
    /// Too few samples, a voice that is enrolled under another name, a voice that is not the person's own.
    pub async fn complete(&mut self) -> Result<(), Refused> {
        let Course::Sampling(enrolment) = &self.course else { return Ok(()) };
        let template = enrolment.finish().map_err(Refused::Samples)?;
        ownership::belongs(&self.voices, self.known.as_ref(), &template, self.allowed).await?;
        self.course = Course::Complete(Box::new(template));
        Ok(())
    }

    /// Offers a further sample, which is kept if it makes the person measurably better known.
    ///
    /// # Errors
    /// [`Refused::Samples`] if the sample has a fault; the errors of [`Session::complete`].
    pub async fn offer(&mut self, recording: Recording) -> Result<FurtherReport, Refused> {
        self.complete().await?;
        let sentence = self.sentence(&recording);
        let mut further = self.further().await?;
        let before = further.template().clone();
        let compared = tokio::task::spawn_blocking(move || {
            let offered = further.offer(&recording.raw, &recording.speech);
            (further, offered)
        });
        let (further, offered) = compared.await.map_err(|error| lost(&error))?;
        let report = match offered {
            Ok(report) => report,
            Err(refusal) => {
                self.course = Course::Further(further);
                return Err(Refused::Samples(refusal));
            }
        };
        if report.left_out.is_none() {
            let allowed = Allowed { add: true, ..self.allowed };
            let template = further.template();
            if let Err(refused) =
                ownership::belongs(&self.voices, self.known.as_ref(), template, allowed).await
            {
                self.course = Course::Complete(Box::new(before));
                return Err(refused);
            }
            self.kept.extend(sentence);
        }
        self.course = Course::Further(further);
        Ok(report)
    }

    /// Compares an utterance with the voice as if it were stored already, beside the other voices of the
    /// house.
    ///
    /// # Errors
    /// A database or a model that does not work; a voice that is not complete.
    pub async fn verify(
        &self,
        recording: Recording,
        threshold: f32,
        own: &UserThresholds,
    ) -> Result<Verdict, Refused> {
        let template = self.template().ok_or(Refused::Lost)?.clone();
        let mut enrolled = match self.voices.enrolled_with(own).await {
            Ok(enrolled) => enrolled,
            // No stored voice opens: the new one is the first that does.
            Err(VoicesError::Sealed { .. }) => Vec::new(),
            Err(error) => return Err(Refused::Device(error.into())),
        };
        let user_id = self.known.as_ref().map_or_else(String::new, |user| user.id.to_string());
        enrolled.retain(|voice| voice.user_id != user_id);
        let (user_name, own_threshold) = (self.name.clone(), own.of(&self.name));
        enrolled.push(EnrolledVoice { user_id, user_name, template, threshold: own_threshold });
        let verifier = self.voices.verifier.clone();
        let compared = tokio::task::spawn_blocking(move || {
            verifier.verify(&recording.raw, &recording.speech, &enrolled, threshold)
        });
        let verdict = compared.await.map_err(|error| lost(&error))?;
        verdict.map_err(|error| Refused::Device(error.into()))
    }

    /// Whether a verdict of [`Session::verify`] is for this person.
    pub fn is_verified_by(&self, verdict: &Verdict) -> bool {
        let known = self.known.as_ref().map_or_else(String::new, |user| user.id.to_string());
        matches!(verdict, Verdict::Verified { user_id, .. } if *user_id == known)
    }

    /// Stores the voice and the recordings that are kept with it. Somebody who is not known yet is added.
    ///
    /// # Errors
    /// The errors of [`Session::complete`]; an invalid name, a database or a disk that does not work.
    pub async fn store(&mut self) -> Result<(), Refused> {
        self.complete().await?;
        let Some(template) = self.template() else { return Err(Refused::Lost) };
        let person = (self.known.as_ref(), self.name.as_str());
        let kept = ownership::keep(&self.voices, person, template, &self.kept).await;
        self.known = Some(kept.map_err(Refused::Device)?);
        self.allowed.add = true;
        Ok(())
    }

    fn sentence(&self, recording: &Recording) -> Option<Sentence> {
        self.keeps.then(|| recordings::sentence(&recording.raw))
    }

    /// Takes the part that compares further samples out of the course.
    async fn further(&mut self) -> Result<Box<Further>, Refused> {
        let template = match std::mem::replace(&mut self.course, Course::Away) {
            Course::Further(further) => return Ok(further),
            Course::Complete(template) => template,
            Course::Sampling(_) | Course::Away => return Err(Refused::Lost),
        };
        let others = ownership::others(&self.voices, self.known.as_ref()).await;
        self.course = Course::Complete(template.clone());
        let further = Further::new(self.voices.verifier.clone(), *template, others?);
        Ok(Box::new(further.map_err(|error| Refused::Device(error.into()))?))
    }
}

fn lost(error: &tokio::task::JoinError) -> Refused {
    log::error!("a sample of an enrolment could not be compared: {error}");
    Refused::Lost
}

//! An enrolment before the microphone of the device: what is said is a sample and nothing else.
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
//! Further samples are asked for only where whoever starts it wants them, each once: silence leaves one out.
//! The voice is stored before the first of them and with each that is kept, so whatever interrupts them loses
//! nothing.
//!
//! It is as strict as the command line without options: a voice that is somebody else's, or
//! another than the person's own, is refused.

use std::collections::VecDeque;
use std::sync::Arc;

use super::enrol::{self, Allowed};
use super::recordings::{self, Sentence, Sentences};
use super::voices::Voices;
use crate::control::{Face, Refused, Wanted};
use crate::error::{Exit, Failure};
use crate::memory::{MAX_NAME_CHARS, Memory, User};
use crate::speaker::{Enrolment, Further, LeftOut, Progress, Refusal, Step, Style, Template};

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
    course: Course,
    /// Further samples that are still to be asked for.
    styles: VecDeque<Style>,
    /// The recordings that are stored with the voice.
    kept: Sentences,
    /// Whether that grows by what is said now.
    keeps: bool,
    in_vain: u32,
}

#[derive(Debug)]
enum Course {
    Normal(Enrolment),
    /// The voice is stored.
    Further(Box<Further>),
    /// A sample is looked at.
    Away,
}

/// What an attempt came to.
pub struct Heard {
    pub progress: Progress,
    pub over: bool,
}

impl Enrolling {
    /// # Errors
    /// A name that cannot have a voice or, where samples are added, has none; a database that does not work.
    pub async fn begin(
        memory: &Memory,
        voices: &Voices,
        name: &str,
        wanted: Wanted,
    ) -> Result<Self, Refused> {
        let known = enrol::person(memory, name).await?;
        if known.is_none() && (name.trim().is_empty() || name.len() > MOST_NAME_BYTES) {
            // Before anybody has said three sentences for it; what else is wrong with a name is found when it
            // is stored.
            return Err(Refused::NameLength);
        }
        let name = known.as_ref().map_or(name, |user| user.name.as_str()).to_owned();
        let Wanted { adds, further, keep_recordings } = wanted;
        let mut kept = Sentences::new();
        let course = if adds {
            let no_voice = || Refused::NoVoice(name.clone());
            let user = known.as_ref().ok_or_else(no_voice)?;
            let voice = memory.voiceprint(user.id).await?.ok_or_else(no_voice)?;
            // Recordings that were kept with it stay kept.
            let earlier = voices.recordings.read(&voices.vault, &voice);
            let earlier = earlier.map_err(|e| Refused::Device(e.into()))?;
            kept = earlier.unwrap_or_default();
            let cannot = |e| Failure::because(Exit::Failed, "the enrolled voice cannot be used", e);
            let voice = voices.open(voice).map_err(|e| Refused::Device(cannot(e)))?;
            further_of(memory, voices, Some(user), voice.template).await?
        } else {
            Course::Normal(Enrolment::new(voices.verifier.model().clone()))
        };
        Ok(Self { name, known, course, styles: further.into(), kept, keeps: keep_recordings, in_vain: 0 })
    }

    /// Where it stands. One that is cancelled after the voice was stored has finished.
    pub fn progress(&self, step: Step, reason: Option<String>) -> Progress {
        let mut progress = match &self.course {
            Course::Normal(enrolment) => enrolment.standing(&self.name, step, reason),
            Course::Further(further) => self.further_standing(further.template(), step, reason),
            Course::Away => Progress::failed(&self.name, Refused::Lost.sentence(Face::Mqtt)),
        };
        if matches!(progress.state, Step::Waiting | Step::Kept | Step::Refused | Step::LeftOut) {
            let next = (progress.phrase as usize).saturating_sub(1) % SENTENCES.len();
            progress.say = SENTENCES.get(next).map(|sentence| (*sentence).to_owned());
        }
        progress
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 16 samples and four styles")]
    fn further_standing(&self, template: &Template, step: Step, reason: Option<String>) -> Progress {
        let kept = template.prototypes().len();
        let state = if step == Step::Cancelled { Step::Finished } else { step };
        let over = matches!(state, Step::Finished | Step::Failed);
        Progress {
            user: self.name.clone(),
            state,
            percent: 100,
            phrase: (kept + usize::from(!over)) as u32,
            phrases: (kept + self.styles.len()) as u32,
            net_speech_s: template.net_speech_s(),
            reason,
            style: self.styles.front().filter(|_| !over).copied(),
            say: None,
        }
    }

    /// Nobody said anything.
    pub fn silence(&mut self) -> Heard {
        if matches!(self.course, Course::Further(_)) {
            return self.next_style(Step::LeftOut, None);
        }
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

    fn failed(&self, refused: &Refused) -> Heard {
        refused.log();
        Heard { progress: self.progress(Step::Failed, Some(refused.sentence(Face::Mqtt))), over: true }
    }

    /// The style that was asked for is done with.
    fn next_style(&mut self, step: Step, reason: Option<String>) -> Heard {
        self.styles.pop_front();
        let over = self.styles.is_empty();
        let step = if over { Step::Finished } else { step };
        Heard { progress: self.progress(step, reason), over }
    }

    /// Takes an utterance: 16 kHz mono in [-1, 1], raw, with a VAD probability per 10 ms frame.
    pub async fn sample(
        &mut self,
        memory: &Memory,
        voices: &Voices,
        raw: Arc<Vec<f32>>,
        speech: Arc<Vec<f32>>,
    ) -> Heard {
        let sentence = self.keeps.then(|| recordings::sentence(&raw));
        match std::mem::replace(&mut self.course, Course::Away) {
            Course::Normal(enrolment) => {
                self.normal(memory, voices, (enrolment, raw, speech), sentence).await
            }
            Course::Further(further) => self.further(memory, voices, (further, raw, speech), sentence).await,
            Course::Away => self.failed(&Refused::Lost),
        }
    }

    async fn normal(
        &mut self,
        memory: &Memory,
        voices: &Voices,
        (mut enrolment, raw, speech): (Enrolment, Arc<Vec<f32>>, Arc<Vec<f32>>),
        sentence: Option<Sentence>,
    ) -> Heard {
        let looked_at = tokio::task::spawn_blocking(move || {
            let added = enrolment.add(&raw, &speech);
            (enrolment, added)
        });
        let (enrolment, added) = match looked_at.await {
            Ok(done) => done,
            Err(error) => return self.lost(&error),
        };
        let finished = enrolment.is_enough().then(|| enrolment.finish());
        self.course = Course::Normal(enrolment);
        match added {
            Ok(_) => {
                self.in_vain = 0;
                self.kept.extend(sentence);
            }
            Err(Refusal::Full) => {}
            Err(refusal) => return self.refused(Refused::Samples(refusal).sentence(Face::Mqtt)),
        }
        let template = match finished {
            None => return Heard { progress: self.progress(Step::Kept, None), over: false },
            Some(Err(refusal)) => return self.failed(&Refused::Samples(refusal)),
            Some(Ok(template)) => template,
        };
        if let Err(refused) = self.store(memory, voices, &template, Allowed::default()).await {
            return self.failed(&refused);
        }
        if self.styles.is_empty() {
            return Heard { progress: self.progress(Step::Finished, None), over: true };
        }
        match further_of(memory, voices, self.known.as_ref(), template).await {
            Ok(further) => {
                self.course = further;
                Heard { progress: self.progress(Step::Kept, None), over: false }
            }
            Err(refused) => {
                refused.log();
                let reason = Some(refused.sentence(Face::Mqtt));
                Heard { progress: self.progress(Step::Finished, reason), over: true }
            }
        }
    }

    async fn further(
        &mut self,
        memory: &Memory,
        voices: &Voices,
        (mut further, raw, speech): (Box<Further>, Arc<Vec<f32>>, Arc<Vec<f32>>),
        sentence: Option<Sentence>,
    ) -> Heard {
        let looked_at = tokio::task::spawn_blocking(move || {
            let offered = further.offer(&raw, &speech);
            (further, offered)
        });
        let (further, offered) = match looked_at.await {
            Ok(done) => done,
            Err(error) => return self.lost(&error),
        };
        let template = further.template().clone();
        self.course = Course::Further(further);
        let left_out = match offered {
            Ok(report) => report.left_out,
            Err(refusal) => {
                let reason = Refused::Samples(refusal).sentence(Face::Mqtt);
                return self.next_style(Step::Refused, Some(reason));
            }
        };
        if let Some(why) = left_out {
            return self.next_style(Step::LeftOut, Some(LeftOut::sentence(why).to_owned()));
        }
        self.kept.extend(sentence);
        let allowed = Allowed { add: true, ..Allowed::default() };
        match self.store(memory, voices, &template, allowed).await {
            Ok(()) => self.next_style(Step::Kept, None),
            Err(refused) => self.failed(&refused),
        }
    }

    fn lost(&self, error: &tokio::task::JoinError) -> Heard {
        log::error!("a sample of an enrolment could not be looked at: {error}");
        self.failed(&Refused::Lost)
    }

    async fn store(
        &mut self,
        memory: &Memory,
        voices: &Voices,
        template: &Template,
        allowed: Allowed,
    ) -> Result<(), Refused> {
        let known = self.known.as_ref();
        enrol::belongs(memory, voices, known, template, allowed).await?;
        let kept = enrol::keep(memory, voices, (known, self.name.as_str()), template, &self.kept).await;
        self.known = Some(kept.map_err(Refused::Device)?);
        Ok(())
    }
}

/// Further samples for a stored voice.
async fn further_of(
    memory: &Memory,
    voices: &Voices,
    user: Option<&User>,
    template: Template,
) -> Result<Course, Refused> {
    let others = enrol::others(memory, voices, user).await?;
    let further = Further::new(voices.verifier.clone(), template, others);
    let cannot = |e| Refused::Device(Failure::because(Exit::Failed, "the enrolled voice cannot be used", e));
    Ok(Course::Further(Box::new(further.map_err(cannot)?)))
}

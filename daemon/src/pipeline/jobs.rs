//! The work that the turn machine asks for, and its results.

use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answer::Sentence;
use super::deadline::Stage;
use super::enrolling::{self, Enrolling};
use super::machine::{Done, Job, Ticket};
use super::turns::{Shared, Turns};
use crate::control::{EnrolmentRequest, Face, Refused};
use crate::dialogue::Select;
use crate::error::chain;
use crate::identity::access;
use crate::identity::sound::Recording;
use crate::memory::{ANONYMOUS, Durable, MemoryError, TurnMeta, User};
use crate::speaker::{Part, Progress, Step};
use crate::stt::{SttError, Transcript};

type Work<'a> = Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

/// The running jobs: at most one for each result that the machine waits for.
#[derive(Default)]
pub(super) struct Jobs<'a>(Vec<(Ticket, Work<'a>)>);

impl<'a> Jobs<'a> {
    pub(super) fn start(&mut self, ticket: Ticket, work: Work<'a>) {
        self.0.push((ticket, work));
    }

    pub(super) fn give_up(&mut self, ticket: Ticket) {
        self.0.retain(|(running, _)| *running != ticket);
    }

    /// The next result; waits for ever while nothing goes on.
    pub(super) async fn next(&mut self) -> (Ticket, Done) {
        std::future::poll_fn(|context| {
            let mut ready = None;
            for (at, (_, work)) in self.0.iter_mut().enumerate() {
                if let Poll::Ready(done) = work.as_mut().poll(context) {
                    ready = Some((at, done));
                    break;
                }
            }
            match ready {
                Some((at, done)) => Poll::Ready((self.0.remove(at).0, done)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// The wires between the driver and a job that goes on.
#[derive(Default)]
pub(super) struct Wires {
    /// Ends the present speech.
    pub(super) quiet: CancellationToken,
    /// The sentences that follow the one being spoken.
    pub(super) more: Option<mpsc::Receiver<Sentence>>,
    /// The sentences of the answer that is being made.
    pub(super) aloud: Option<mpsc::Sender<Durable>>,
}

impl Turns {
    /// The work of a job.
    pub(super) fn work<'a>(&'a self, job: Job, shared: &'a Shared, wires: Wires) -> Work<'a> {
        match job {
            Job::Gate => Box::pin(async {
                let (gate, granted) = shared.access.read(&self.memory).await;
                Done::Gate { gate, granted }
            }),
            Job::Chance => Box::pin(async { Done::Chance(shared.access.try_in_pause(&self.memory).await) }),
            Job::EarlyVerdict { raw, speech } => {
                Box::pin(async { Done::EarlyVerdict(self.early_verdict(raw, speech).await.map(Box::new)) })
            }
            Job::Voices { raw, speech, just } => Box::pin(async move {
                let voice = self.live.voice.load();
                let (threshold, own) = (voice.threshold, &voice.user_thresholds);
                let just = just.map(|just| *just);
                let parts = self.voices.hear(raw, speech, just, threshold, own).await;
                Done::Voices(parts.map_err(|error| chain(&error)))
            }),
            Job::Person { id, name } => Box::pin(async move {
                let found = match id.parse() {
                    Ok(id) => self.memory.user(id).await,
                    Err(_) => self.memory.user_by_name(&name).await,
                };
                Done::Person(found.map_err(|error| chain(&error)))
            }),
            Job::Anonymous => Box::pin(async {
                let found = self.anonymous().await;
                Done::Person(found.map_err(|error| chain(&error)))
            }),
            Job::Words => Box::pin(async { Done::Words(self.words(None).await) }),
            Job::OwnWords(own) => Box::pin(async { Done::Words(self.words(Some(own)).await) }),
            Job::Answer { user, text, engine, confidence } => {
                Box::pin(
                    async move { self.answer(&user, &text, engine, confidence, wires.aloud.as_ref()).await },
                )
            }
            Job::Say(sentence) => Box::pin(async move {
                Done::Spoken(match &self.answer {
                    Some(answer) => answer.speak(sentence, wires.more, &self.control, &wires.quiet).await,
                    None => Ok(()),
                })
            }),
            Job::Apart => Box::pin(async { Done::Apart(matches!(self.memory.apart().await, Ok(Some(_)))) }),
            Job::Pin { user, pin } => Box::pin(async move {
                let entered = access::enter(&self.memory, &user, pin, self.pin_valid).await;
                Done::Pin(entered.map(|entry| (entry.outcome, entry.user)))
            }),
            Job::Enrol { user, wanted } => {
                Box::pin(async move { Done::Begun(self.begin_enrolment(&user, wanted, shared).await) })
            }
            Job::Sample { raw, speech } => Box::pin(async {
                let mut enrolling = shared.enrolling.lock().await;
                let Some(enrolling) = enrolling.as_mut() else { return lost() };
                let enrolling::SampleOutcome { progress, over } =
                    enrolling.sample(Recording { raw, speech }).await;
                Done::Sampled { progress, over }
            }),
            Job::Silence => Box::pin(async {
                let mut enrolling = shared.enrolling.lock().await;
                let Some(enrolling) = enrolling.as_mut() else { return lost() };
                let enrolling::SampleOutcome { progress, over } = enrolling.silence();
                Done::Sampled { progress, over }
            }),
        }
    }

    /// An early verdict on the speaker. A failed one decides nothing.
    async fn early_verdict(&self, raw: Vec<f32>, speech: Vec<f32>) -> Option<Part> {
        let why = match self.voices.early_verdict(raw, speech).await {
            Err(error) => chain(&error),
            Ok(early) => match early.await {
                Ok((Ok(verdict), took)) => {
                    log::debug!(
                        "an early verdict took {} ms: {}",
                        took.as_millis(),
                        verdict.as_ref().map_or("not certain", |part| part.verdict.name())
                    );
                    return verdict;
                }
                Ok((Err(error), _)) => chain(&error),
                Err(error) => chain(&error),
            },
        };
        log::debug!("no early verdict: {why}");
        None
    }

    async fn anonymous(&self) -> Result<User, MemoryError> {
        match self.memory.user_by_name(ANONYMOUS).await {
            Err(MemoryError::NotFound { .. }) => self.memory.add_user(ANONYMOUS).await,
            found => found,
        }
    }

    /// The words of `own` sound, or of the sound that the recogniser was fed.
    async fn words(&self, own: Option<Vec<f32>>) -> Result<Transcript, String> {
        let stt = self.stt.as_ref().ok_or_else(|| SttError::WorkerGone.to_string())?;
        if let Some(own) = own {
            stt.reset();
            stt.accept(own);
        }
        stt.finish().await.map_err(|error| chain(&error))
    }

    async fn answer(
        &self,
        user: &User,
        text: &str,
        engine: &'static str,
        confidence: Option<f32>,
        aloud: Option<&mpsc::Sender<Durable>>,
    ) -> Done {
        if let Some(fresh) = &self.fresh {
            // Has a shorter deadline of its own; without the writes of other devices the answer uses the rows
            // here.
            let _ = timeout(Stage::Memory.most(), fresh.settle()).await;
        }
        let started = Instant::now();
        let meta = TurnMeta { confidence, engine: Some(engine.to_owned()), ..TurnMeta::default() };
        let result = self.dialogue.turn_aloud(user, Select::Continue, text, meta, aloud).await;
        Done::Answered { result, took: started.elapsed() }
    }

    async fn begin_enrolment(
        &self,
        user: &str,
        wanted: EnrolmentRequest,
        shared: &Shared,
    ) -> Result<Progress, Refused> {
        let enrolling = Enrolling::begin(&self.voices, user, wanted).await?;
        let progress = enrolling.progress(Step::Waiting, None);
        *shared.enrolling.lock().await = Some(enrolling);
        Ok(progress)
    }
}

/// The enrolment is gone.
fn lost() -> Done {
    Done::Sampled { progress: Progress::failed("", Refused::Lost.sentence(Face::Mqtt)), over: true }
}

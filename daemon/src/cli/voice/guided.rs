//! `jarvisd voice enroll` without recordings: the person reads sentences before the microphone.
//!
//! ```text
//!  sentence ─▶ phrase ─▶ sample ─┬─ kept, not yet enough ─▶ the next sentence
//!                                ├─ refused, or nothing heard: why, and the same sentence again
//!                                └─ enough ─▶ whose voice is it ─▶ from across the room ─▶ last sentence
//!  last sentence ─▶ verified ─▶ stored by the caller         (left out where nobody speaks)
//! ```
//!
//! Nothing is stored before the voice has proven itself on a sentence that is none of its samples. So an
//! interruption, or a voice that is not recognised, leaves an earlier voiceprint as it was. The sound stays
//! in memory.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Compared;
use super::enroll::{Sample, fault};
use crate::app::Settings;
use crate::app::parts;
use crate::cli::meter::{self, Meter};
use crate::cli::output;
use crate::control::{Face, Refused};
use crate::detect::Utterance;
use crate::detect::listener::{Heard, Listener};
use crate::error::{Exit, Failure};
use crate::identity::sentences;
use crate::identity::session::Session;
use crate::identity::sound::Recording;
use crate::plain::figure;
use crate::speaker::enrolment::LEAST_TOTAL_S;
use crate::speaker::{Step, Style};

/// How long the person has to begin a sentence.
const WINDOW: Duration = Duration::from_secs(15);
/// The same where they walk across the room first.
const WALK: Duration = Duration::from_secs(20);
/// Attempts in a row that came to nothing.
const MOST_IN_VAIN: u32 = 5;

/// The outcome, which is an error's sentence where the voice is not enrolled, and every sample.
pub type Outcome = (Result<(), String>, Vec<Sample>);

/// Leads somebody through an enrolment. The caller stores the voice.
///
/// # Errors
/// A microphone that cannot be used, a device that does not work, an interruption.
pub async fn run(
    settings: &Settings,
    session: &mut Session,
    (only_add, json): (bool, bool),
) -> Result<Outcome, Failure> {
    let models = parts::open_models(settings)?;
    let listener = Listener::for_phrases(&settings.audio, &settings.endpoint, &models)?;
    let (meter, samples) = (Meter::new(json), Vec::new());
    let done = meter::until_interrupted(async |stop| {
        let listener = Some(Box::new(listener));
        let mut course = Course { settings, session, meter: &meter, stop, listener, samples };
        let outcome = course.run(only_add).await?;
        Ok((outcome, course.samples))
    })
    .await;
    meter.end();
    done
}

struct Course<'a> {
    settings: &'a Settings,
    session: &'a mut Session,
    meter: &'a Meter,
    stop: CancellationToken,
    /// Away while it listens.
    listener: Option<Box<Listener>>,
    samples: Vec<Sample>,
}

impl Course<'_> {
    async fn run(&mut self, only_add: bool) -> Result<Result<(), String>, Failure> {
        let name = output::plain(self.session.name());
        self.meter.line(format!(
            "{name}, read each sentence aloud, as you usually speak and from where you will speak,\n\
             and pause behind it. Nobody else should speak. Ctrl-C ends this and changes nothing."
        ))?;
        if let Err(reason) = self.collect(only_add).await? {
            return Ok(Err(reason));
        }
        match self.session.complete().await {
            Ok(()) => {}
            Err(Refused::Device(failure)) => return Err(failure),
            Err(refused) => return Ok(Err(refused.sentence(Face::CommandLine))),
        }
        self.across_the_room().await?;
        self.prove().await
    }

    /// Takes samples until there are enough; one where samples are added to a voice.
    async fn collect(&mut self, only_add: bool) -> Result<Result<(), String>, Failure> {
        let (mut kept, mut in_vain) = (0, 0);
        while kept == 0 || (!only_add && !self.session.is_enough()) {
            let state = self.session.standing(Step::Waiting, None, &[]);
            self.meter.line(format!("\n{} of {}:  {}", state.phrase, state.phrases, self.sentence()))?;
            let reason = match self.hear(WINDOW).await? {
                None => self.why_nothing(),
                Some(recording) => match self.sample(recording).await? {
                    None => {
                        (kept, in_vain) = (kept + 1, 0);
                        continue;
                    }
                    Some(reason) => reason,
                },
            };
            self.meter.line(format!("    once more: {reason}"))?;
            in_vain += 1;
            if in_vain == MOST_IN_VAIN {
                return Ok(Err(given_up(&reason)));
            }
        }
        Ok(Ok(()))
    }

    /// Gives a sample; the reason where it is refused.
    async fn sample(&mut self, recording: Recording) -> Result<Option<String>, Failure> {
        let mut sample = self.new_sample(&recording);
        match self.session.sample(recording).await {
            Ok(report) => {
                sample.accepted = true;
                sample.heard(report.quality);
                sample.likeness = report.likeness;
                self.meter.line(format!(
                    "    kept: {} s of speech, {} dB, {} dB above the noise ({} of {} s)",
                    figure(report.quality.net_speech_s, 1),
                    figure(report.quality.level_db, 0),
                    figure(report.quality.snr_db, 0),
                    figure(self.session.net_speech_s(), 1),
                    figure(LEAST_TOTAL_S, 0),
                ))?;
            }
            Err(refused) => sample.reason = Some(fault(refused)?),
        }
        let reason = sample.reason.clone();
        self.samples.push(sample);
        Ok(reason)
    }

    /// Offers one sample from a distance. It is kept where the person is measurably better known by it.
    async fn across_the_room(&mut self) -> Result<(), Failure> {
        self.meter.line(format!(
            "\nNow {}, from where you will often call; say nothing to leave it out:\n    {}",
            Style::Far.manner(),
            self.sentence()
        ))?;
        let Some(recording) = self.hear(WALK).await? else { return self.meter.line("    left out") };
        let mut sample = self.new_sample(&recording);
        sample.style = Some(Style::Far);
        let said = match self.session.offer(recording).await {
            Ok(report) => {
                sample.accepted = report.left_out.is_none();
                sample.heard(report.quality);
                (sample.confidence_before, sample.confidence_after) =
                    (Some(report.before), Some(report.after));
                sample.left_out = report.left_out;
                sample.reason = report.left_out.map(|why| why.sentence().to_owned());
                let (before, after) = (figure(report.before, 2), figure(report.after, 2));
                match report.left_out {
                    None => format!("kept: the confidence from there rises from {before} to {after}"),
                    Some(why) => format!("not kept: {} (confidence {before})", why.sentence()),
                }
            }
            Err(refused) => {
                let reason = fault(refused)?;
                let said = format!("left out: {reason}");
                sample.reason = Some(reason);
                said
            }
        };
        self.samples.push(sample);
        self.meter.line(format!("    {said}"))
    }

    /// Compares a last sentence with the voice, beside everybody else's.
    async fn prove(&mut self) -> Result<Result<(), String>, Failure> {
        let voice = &self.settings.voice;
        let (threshold, own) = (voice.threshold, &voice.user_thresholds);
        for attempt in 1..=MOST_IN_VAIN {
            let sentence = sentences::after(self.session.standing(Step::Waiting, None, &[]).phrase as usize);
            self.meter.line(format!("\nTo try it, near the microphone again:\n    {sentence}"))?;
            let reason = match self.hear(WINDOW).await? {
                None => self.why_nothing(),
                Some(recording) => {
                    let verdict = self.session.verify(recording, threshold, own).await;
                    let verdict = verdict.map_err(Refused::failure)?;
                    if self.session.is_verified_by(&verdict) {
                        let confidence = verdict.confidence().unwrap_or_default();
                        let name = output::plain(self.session.name());
                        self.meter.line(format!(
                            "    that is {name}, with a confidence of {}\n",
                            figure(confidence, 3)
                        ))?;
                        return Ok(Ok(()));
                    }
                    Compared::of(&verdict, threshold, own).refusal()
                }
            };
            if attempt == MOST_IN_VAIN {
                return Ok(Err(given_up(&reason)));
            }
            self.meter.line(format!("    once more: {reason}"))?;
        }
        Ok(Ok(()))
    }

    /// The sentence to read next.
    fn sentence(&self) -> &'static str {
        let phrase = self.session.standing(Step::Waiting, None, &[]).phrase as usize;
        sentences::after(phrase.saturating_sub(1))
    }

    fn new_sample(&self, recording: &Recording) -> Sample {
        Sample::of(PathBuf::from((self.samples.len() + 1).to_string()), recording)
    }

    /// A phrase that begins within `patience`.
    ///
    /// # Errors
    /// A microphone that cannot be used, an interruption.
    async fn hear(&mut self, patience: Duration) -> Result<Option<Recording>, Failure> {
        let away = || Failure::new(Exit::Failed, "the microphone was lost in the program; start again");
        let listener = self.listener.take().ok_or_else(away)?;
        let (listener, heard) = self.meter.listen(listener, patience, &self.stop).await?;
        self.listener = Some(listener);
        match heard {
            Heard::Phrase(Utterance { raw, speech, .. }) => Ok(Some(Recording { raw, speech })),
            Heard::Nothing | Heard::Wake { .. } => Ok(None),
            Heard::Stopped => {
                Err(Failure::new(Exit::Failed, "interrupted: no voice was enrolled, and nothing was changed"))
            }
        }
    }

    /// Why nobody was heard, and the remedy.
    fn why_nothing(&self) -> String {
        let listener = self.listener.as_ref();
        if let Some(fault) = listener.and_then(|listener| listener.fault()) {
            return format!("the microphone delivers {}; {}", fault.words(), fault.fix());
        }
        let loudest =
            listener.and_then(|listener| listener.range_db()).map_or(-100.0, |(loudest, _)| loudest);
        format!(
            "nothing was heard, and nothing was louder than {} dB; say the sentence aloud, come closer to \
             the microphone, or raise its gain",
            figure(loudest, 0)
        )
    }
}

fn given_up(reason: &str) -> String {
    format!("given up after {MOST_IN_VAIN} attempts in a row: {reason}")
}

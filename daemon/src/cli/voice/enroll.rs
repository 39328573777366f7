//! `jarvisd voice enroll`: recordings of one person, or sentences before the microphone → checks → a sealed
//! template.
//!
//! The rules for the owner of a voice are in `identity`, which every face uses. A refusal changes nothing.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Tools;
use super::further::{self, FurtherFiles};
use super::guided;
use crate::app::Settings;
use crate::cli::{Common, output, with_memory};
use crate::control::{Face, Refused};
use crate::detect::vad::Vad;
use crate::error::{Exit, Failure, chain};
use crate::identity::recordings;
use crate::identity::session::{Allowed, Options, Session, Start};
use crate::identity::sound::Recording;
use crate::plain::figure;
use crate::speaker::{LeftOut, Progress, Quality, Refusal, Step, Style};

#[derive(Debug, clap::Args)]
pub struct Enroll {
    /// Person whose voice it is.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Recordings, WAV or FLAC, one sentence each. Without any the microphone is listened to, and shows what
    /// to read.
    #[arg(value_name = "WAV")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    further: FurtherFiles,
    /// Enrol anew from the recordings that are kept of this person, for instance after an update that brought
    /// another speaker model. They stay kept.
    #[arg(
        long,
        conflicts_with_all = ["files", "add", "keep_recordings", "far", "second_microphone", "loud", "hurry"]
    )]
    kept: bool,
    /// Add the recordings to the enrolled voice instead of enrolling it anew.
    #[arg(long)]
    add: bool,
    /// Put this voice in place of another one that is enrolled for this person. Without it only the same
    /// voice is enrolled anew.
    #[arg(long, conflicts_with = "add")]
    replace: bool,
    /// Enrol a voice although it is like that of another enrolled person. The device may then answer neither
    /// of them.
    #[arg(long)]
    another_person: bool,
    /// Keep the accepted recordings, encrypted with the key of the voice and on this device alone, in no
    /// backup. With --add earlier recordings stay kept in any case; enrolling anew without this deletes them.
    #[arg(long)]
    keep_recordings: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// The result for one recording.
#[derive(Debug, Default, Serialize)]
pub struct Sample {
    /// Its number, where it is one that was kept, or one from the microphone.
    pub file: PathBuf,
    /// How it was said, where it is a further one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<Style>,
    pub accepted: bool,
    length_s: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    net_speech_s: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level_db: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snr_db: Option<f32>,
    /// Cosine to the samples before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub likeness: Option<f32>,
    /// The confidence with which the person is known in this style, without the sample and with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_before: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_after: Option<f32>,
    /// Why it is not kept although it has no fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
    /// The reason why it was refused and the remedy, or why it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Sample {
    pub fn of(file: PathBuf, recording: &Recording) -> Self {
        Self { file, length_s: recording.length_s(), ..Self::default() }
    }

    pub fn heard(&mut self, quality: Quality) {
        let Quality { net_speech_s, level_db, snr_db, .. } = quality;
        (self.net_speech_s, self.level_db, self.snr_db) = (Some(net_speech_s), Some(level_db), Some(snr_db));
    }
}

#[derive(Debug, Serialize)]
struct Enrolled<'a> {
    user: &'a str,
    enrolled: bool,
    /// Of all samples together, those of an earlier enrolment that was added to included.
    net_speech_s: f32,
    samples: Vec<Sample>,
    /// Recordings that are kept now.
    recordings_kept: usize,
    /// The reason why the voice was not enrolled, and the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub fn run(settings: &Settings, args: &Enroll, common: &Common) -> Result<(), Failure> {
    with_memory(settings, async |memory| {
        let Tools { mut vad, voices } = Tools::open(settings, memory).await?;
        let session = Session::begin(&voices, &args.user, args.options()).await;
        let mut session = session.map_err(Refused::failure)?;
        let name = session.name().to_owned();
        let (outcome, samples) = if args.is_guided() {
            guided::run(settings, &mut session, (args.add, args.json)).await?
        } else {
            let samples = samples(settings, args, &mut session, &mut vad).await?;
            complete(settings, args, (&mut session, samples), &mut vad).await?
        };
        let changed = match &outcome {
            Ok(()) => !args.only_further() || samples.iter().any(|sample| sample.accepted),
            Err(_) => false,
        };
        if changed {
            session.store().await.map_err(Refused::failure)?;
        }
        let recordings_kept = if outcome.is_ok() { session.recordings().len() } else { 0 };
        let result = Enrolled {
            user: &name,
            enrolled: outcome.is_ok(),
            net_speech_s: session.net_speech_s(),
            samples,
            recordings_kept,
            reason: outcome.as_ref().err().cloned(),
        };
        if args.json {
            output::json(&result)?;
        } else if !args.is_guided() {
            tell(&result.samples)?;
        }
        if let Err(reason) = outcome {
            return Err(Failure::new(Exit::Data, format!("the voice was not enrolled: {reason}")));
        }
        if args.json {
            return Ok(());
        }
        if !changed {
            return output::line(format!("The voice of {} stays as it is.", output::plain(&name)));
        }
        output::line(format!(
            "Enrolled {}: {} s of speech in {} samples.",
            output::plain(&name),
            figure(result.net_speech_s, 1),
            session.template().map_or(0, |template| template.prototypes().len())
        ))?;
        if recordings_kept > 0 {
            output::line(format!("{recordings_kept} recordings are kept, encrypted, on this device alone."))?;
        }
        if !args.add && !args.is_guided() && !args.only_further() && args.further.all().is_empty() {
            further::tell_how(&common.command(), &name)?;
        }
        Ok(())
    })
}

impl Enroll {
    /// Whether only further samples are given, for a voice that is enrolled.
    fn only_further(&self) -> bool {
        self.files.is_empty() && !self.kept && !self.further.all().is_empty()
    }

    /// Whether the samples come from the microphone.
    fn is_guided(&self) -> bool {
        self.files.is_empty() && !self.kept && self.further.all().is_empty()
    }

    fn options(&self) -> Options {
        let start = match self {
            Self { kept: true, .. } => Start::FromRecordings,
            _ if self.only_further() => Start::Further,
            Self { add: true, .. } => Start::Add,
            _ => Start::Anew,
        };
        let Self { replace, another_person, keep_recordings, .. } = *self;
        let allowed = Allowed { replace, another_person, ..Allowed::default() };
        Options { start, allowed, keep_recordings }
    }
}

/// Gives the recordings, or those that were kept, as samples.
async fn samples(
    settings: &Settings,
    args: &Enroll,
    session: &mut Session,
    vad: &mut Vad,
) -> Result<Vec<Sample>, Failure> {
    let bar = progress();
    show(&bar, &session.standing(Step::Waiting, None, &[]));
    let mut samples = Vec::new();
    if args.kept {
        let sounds: Vec<Vec<f32>> = session.recordings().iter().map(|kept| recordings::sound(kept)).collect();
        if sounds.is_empty() {
            let name = output::plain(&args.user);
            let message = format!(
                "no recordings of {name} are kept: enrol with new ones, `jarvisd voice enroll --user NAME \
                 WAV…`"
            );
            return Err(Failure::new(Exit::Failed, message));
        }
        for (n, sound) in sounds.into_iter().enumerate() {
            let file = PathBuf::from((n + 1).to_string());
            samples.push(take(session, &bar, file, Recording::of(sound, vad)?).await?);
        }
    }
    for file in &args.files {
        let recording = Recording::read(file, settings.audio.channel, vad)?;
        samples.push(take(session, &bar, file.clone(), recording).await?);
    }
    bar.finish_and_clear();
    Ok(samples)
}

/// Ends the samples and offers the further ones. Returns why the voice is not enrolled, and the result of
/// each sample.
async fn complete(
    settings: &Settings,
    args: &Enroll,
    (session, mut samples): (&mut Session, Vec<Sample>),
    vad: &mut Vad,
) -> Result<(Result<(), String>, Vec<Sample>), Failure> {
    match session.complete().await {
        Ok(()) => {}
        Err(Refused::Device(failure)) => return Err(failure),
        Err(refused) => return Ok((Err(refused.sentence(Face::CommandLine)), samples)),
    }
    for (style, file) in args.further.all() {
        let recording = Recording::read(file, settings.audio.channel, vad)?;
        samples.push(further::offer(session, (style, file), recording).await?);
    }
    let none_kept = !samples.iter().any(|sample| sample.accepted);
    let faults = samples.iter().filter(|sample| sample.left_out.is_none());
    let fault = faults.filter_map(|sample| sample.reason.clone()).next();
    let outcome = match fault.filter(|_| args.only_further() && none_kept) {
        Some(fault) => Err(fault),
        None => Ok(()),
    };
    Ok((outcome, samples))
}

async fn take(
    session: &mut Session,
    bar: &ProgressBar,
    file: PathBuf,
    recording: Recording,
) -> Result<Sample, Failure> {
    let mut sample = Sample::of(file, &recording);
    match session.sample(recording).await {
        Ok(report) => {
            sample.accepted = true;
            sample.heard(report.quality);
            sample.likeness = report.likeness;
        }
        Err(refused) => sample.reason = Some(fault(refused)?),
    }
    let step = if sample.accepted { Step::Kept } else { Step::Refused };
    show(bar, &session.standing(step, sample.reason.clone(), &[]));
    Ok(sample)
}

/// The fault of a sample.
///
/// # Errors
/// A failure of the device, which is no fault of the sample.
pub fn fault(refused: Refused) -> Result<String, Failure> {
    match refused {
        Refused::Samples(Refusal::Model(error)) => Err(error.into()),
        Refused::Samples(refusal) => Ok(chain(&refusal)),
        refused => Err(refused.failure()),
    }
}

fn tell(samples: &[Sample]) -> Result<(), Failure> {
    samples.iter().try_for_each(|sample| {
        let file = sample.file.display();
        if sample.style.is_some() {
            return further::tell(sample);
        }
        match &sample.reason {
            Some(reason) => output::line(format!("{file}: refused: {reason}")),
            None => output::line(format!(
                "{file}: {} s of speech, {} dB, {} dB above the noise",
                figure(sample.net_speech_s.unwrap_or_default(), 1),
                figure(sample.level_db.unwrap_or_default(), 0),
                figure(sample.snr_db.unwrap_or_default(), 0)
            )),
        }
    })
}

/// Hidden where standard error is no terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} % {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let Progress { percent, phrase, phrases, reason, .. } = progress;
    bar.set_position(u64::from(*percent));
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" (refused: {reason})"));
    bar.set_message(format!("phrase {phrase} of {phrases}{reason}"));
}

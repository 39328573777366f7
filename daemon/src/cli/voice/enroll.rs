//! `jarvisd voice enroll`: recordings of one person → checks → a sealed template.
//!
//! The rules of whose voice may become whose are in `pipeline::enrol`, which MQTT uses as well. A refusal
//! changes nothing.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::further::{self, FurtherFiles};
use super::{Tools, speaker_failure, voices_failure};
use crate::app::Settings;
use crate::cli::recording::{self, Recording};
use crate::cli::{Common, output, with_memory};
use crate::control::{Face, Refused};
use crate::detect::vad::Vad;
use crate::error::{Exit, Failure, chain};
use crate::memory::{Memory, User};
use crate::pipeline::enrol::{self, Allowed};
use crate::pipeline::recordings::{self, Sentences};
use crate::pipeline::voices::Voices;
use crate::plain::figure;
use crate::speaker::{Enrolment, Further, LeftOut, Progress, Quality, Refusal, Step, Style, Template};

#[derive(Debug, clap::Args)]
pub struct Enroll {
    /// Whose voice.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Recordings, WAV or FLAC, one sentence each.
    #[arg(
        required_unless_present_any = ["kept", "far", "second_microphone", "loud", "hurry"],
        value_name = "WAV"
    )]
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
    /// Enrol a voice although it is like that of somebody else who is enrolled. The device may then answer
    /// neither of them.
    #[arg(long)]
    another_person: bool,
    /// Keep the recordings that were accepted, encrypted with the key of the voice and on this device alone,
    /// in no backup. With --add what was kept before stays kept in any case; enrolling anew without this
    /// deletes it.
    #[arg(long)]
    keep_recordings: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What became of one recording.
#[derive(Debug, Default, Serialize)]
pub struct Sample {
    /// Its number, where it is one that was kept.
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
    likeness: Option<f32>,
    /// How surely the person is known in this style without the sample and with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_before: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_after: Option<f32>,
    /// Why it is not kept although it has no fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
    /// Why it was refused and what to do, or why it is left out.
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
    /// Why the voice was not enrolled and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub fn run(settings: &Settings, args: &Enroll, common: &Common) -> Result<(), Failure> {
    with_memory(settings, async |memory| {
        let known = enrol::person(memory, &args.user).await.map_err(Refused::failure)?;
        let Tools { mut vad, voices } = Tools::open(settings, memory).await?;
        // Further samples alone are added to what is enrolled.
        let only_further = args.files.is_empty() && !args.kept;
        let add = args.add || only_further;
        let mut enrolment = begin(memory, &voices, known.as_ref(), add).await?;
        let name = known.as_ref().map_or(args.user.as_str(), |user| user.name.as_str());
        let bar = progress();
        let mut samples: Vec<Sample> = Vec::new();
        let mut kept = earlier_recordings(memory, &voices, known.as_ref(), (args, add)).await?;
        show(&bar, &enrolment.standing(name, Step::Waiting, None));
        let mut hear = |file: PathBuf, recording: &Recording| -> Result<bool, Failure> {
            let sample = take(&mut enrolment, file, recording)?;
            let accepted = sample.accepted;
            let step = if accepted { Step::Kept } else { Step::Refused };
            show(&bar, &enrolment.standing(name, step, sample.reason.clone()));
            samples.push(sample);
            Ok(accepted)
        };
        if args.kept {
            for (n, sentence) in kept.iter().enumerate() {
                let recording = Recording::of(recordings::sound(sentence), &mut vad)?;
                hear(PathBuf::from((n + 1).to_string()), &recording)?;
            }
        }
        for file in &args.files {
            let recording = recording::read(file, settings.audio.channel, &mut vad)?;
            if hear(file.clone(), &recording)? && args.keep_recordings {
                kept.push(recordings::sentence(&recording.raw));
            }
        }
        bar.finish_and_clear();

        let mut net_speech_s = enrolment.net_speech_s();
        let outcome = match enrolment.finish() {
            Ok(template) => {
                let Enroll { replace, another_person, .. } = *args;
                let allowed = Allowed { add, replace, another_person };
                enrol::belongs(memory, &voices, known.as_ref(), &template, allowed).await.map(|()| template)
            }
            Err(refusal) => Err(Refused::Samples(refusal)),
        };
        let outcome = match outcome {
            Err(Refused::Device(failure)) => return Err(failure),
            outcome => outcome.map_err(|refused| refused.sentence(Face::CommandLine)),
        };
        let (outcome, changed) = match outcome {
            Err(reason) => (Err(reason), false),
            Ok(template) => {
                let further = Offer { memory, voices: &voices, known: known.as_ref(), settings, args };
                let (template, offered) = further.all(template, &mut vad).await?;
                let any = offered.iter().any(|(sample, _)| sample.accepted);
                let fault = offered.iter().find(|(sample, _)| !sample.accepted && sample.left_out.is_none());
                let fault =
                    fault.and_then(|(sample, _)| sample.reason.clone()).filter(|_| only_further && !any);
                for (sample, sentence) in offered {
                    kept.extend(sentence);
                    samples.push(sample);
                }
                net_speech_s = template.net_speech_s();
                (fault.map_or(Ok(template), Err), any || !only_further)
            }
        };
        let reason = outcome.as_ref().err().cloned();
        let recordings_kept = if outcome.is_ok() { kept.len() } else { 0 };
        let result = Enrolled {
            user: name,
            enrolled: outcome.is_ok(),
            net_speech_s,
            samples,
            recordings_kept,
            reason,
        };
        let template = match outcome {
            Ok(template) => template,
            Err(reason) => {
                if args.json {
                    output::json(&result)?;
                } else {
                    tell(&result.samples)?;
                }
                return Err(Failure::new(Exit::Data, format!("the voice was not enrolled: {reason}")));
            }
        };
        if changed {
            enrol::keep(memory, &voices, (known.as_ref(), &args.user), &template, &kept).await?;
        }
        if args.json {
            return output::json(&result);
        }
        tell(&result.samples)?;
        if !changed {
            return output::line(format!("The voice of {} stays as it is.", output::plain(name)));
        }
        output::line(format!(
            "Enrolled {}: {} s of speech in {} samples.",
            output::plain(name),
            figure(net_speech_s, 1),
            template.prototypes().len()
        ))?;
        if recordings_kept > 0 {
            output::line(format!("{recordings_kept} recordings are kept, encrypted, on this device alone."))?;
        }
        if !add && args.further.all().is_empty() {
            further::tell_how(&common.command(), name)?;
        }
        Ok(())
    })
}

/// Further samples of a voice that is about to be stored.
struct Offer<'a> {
    memory: &'a Memory,
    voices: &'a Voices,
    known: Option<&'a User>,
    settings: &'a Settings,
    args: &'a Enroll,
}

impl Offer<'_> {
    /// The voice with what was kept of them; what became of each, and its sound where that is to be kept.
    async fn all(
        &self,
        template: Template,
        vad: &mut Vad,
    ) -> Result<(Template, Vec<(Sample, Option<recordings::Sentence>)>), Failure> {
        let files = self.args.further.all();
        if files.is_empty() {
            return Ok((template, Vec::new()));
        }
        let others = enrol::others(self.memory, self.voices, self.known).await?;
        let further = Further::new(self.voices.verifier.clone(), template, others);
        let mut further = further.map_err(speaker_failure)?;
        let mut offered = Vec::new();
        for (style, file) in files {
            let recording = recording::read(file, self.settings.audio.channel, vad)?;
            let sample = further::offer(&mut further, (style, file), &recording)?;
            let keep = self.args.keep_recordings && sample.accepted;
            offered.push((sample, keep.then(|| recordings::sentence(&recording.raw))));
        }
        Ok((further.into_template(), offered))
    }
}

/// The kept recordings of the voice that is added to, or enrolled anew from them: they are sealed anew with
/// it.
async fn earlier_recordings(
    memory: &Memory,
    voices: &Voices,
    user: Option<&User>,
    (args, add): (&Enroll, bool),
) -> Result<Sentences, Failure> {
    let mut kept = None;
    if let Some(user) = user.filter(|_| add || args.kept)
        && let Some(voice) = memory.voiceprint(user.id).await?
    {
        kept = voices.recordings.read(&voices.vault, &voice)?;
    }
    if args.kept && kept.is_none() {
        let name = output::plain(&args.user);
        let message = format!(
            "no recordings of {name} are kept: enrol with new ones, `jarvisd voice enroll --user NAME WAV…`"
        );
        return Err(Failure::new(Exit::Failed, message));
    }
    Ok(kept.unwrap_or_default())
}

async fn begin(
    memory: &Memory,
    voices: &Voices,
    user: Option<&User>,
    add: bool,
) -> Result<Enrolment, Failure> {
    let earlier = match user.filter(|_| add) {
        Some(user) => memory.voiceprint(user.id).await?,
        None => None,
    };
    let model = voices.verifier.model().clone();
    match earlier {
        None => Ok(Enrolment::new(model)),
        Some(voiceprint) => {
            let earlier = voices.open(voiceprint).map_err(voices_failure)?;
            Enrolment::extend(model, &earlier.template).map_err(speaker_failure)
        }
    }
}

fn take(enrolment: &mut Enrolment, file: PathBuf, recording: &Recording) -> Result<Sample, Failure> {
    let mut sample = Sample::of(file, recording);
    match enrolment.add(&recording.raw, &recording.speech) {
        Ok(report) => {
            sample.accepted = true;
            sample.heard(report.quality);
            sample.likeness = report.likeness;
        }
        Err(Refusal::Model(e)) => return Err(speaker_failure(e)),
        Err(refusal) => sample.reason = Some(chain(&refusal)),
    }
    Ok(sample)
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

//! `jarvisd voice`: enrolling voices and trying them, from recordings.

use std::path::PathBuf;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use super::recording::{self, Recording};
use super::{Common, confirmed, models, output, user_named, with_memory};
use crate::audio::Channel;
use crate::config::Settings;
use crate::detect::vad::Vad;
use crate::error::{Exit, Failure, chain};
use crate::memory::{Memory, MemoryError, NewAudit, NewVoiceprint, User};
use crate::pipeline::parts;
use crate::pipeline::voices::{Voices, VoicesError};
use crate::speaker::{Enrolment, SpeakerError, Template, VaultError, Verdict};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Enrol a voice from recordings of one person alone: three to five sentences, ten seconds of speech in all.
    #[command(after_help = "\
Record a sentence:   arecord -f S16_LE -r 48000 -d 6 one.wav
Then:                jarvisd voice enroll --user Anna one.wav two.wav three.wav

Every sample is checked; one that is too short, too quiet, overdriven, noisy or of somebody else
is refused with the reason. A person who is not known yet is added. The voice is kept as a sealed
template; the recordings are not kept.")]
    Enroll(Enroll),
    /// Is this recording the voice of this person? Exit code 1 if not.
    Verify(Verify),
    /// Whose voice is this recording? Exit code 1 if nobody's.
    Identify(Identify),
    /// List the enrolled voices.
    List(List),
    /// Delete a person's voice; the person and their conversations stay.
    Delete(Delete),
    /// Error rates of the speaker check on a list of trials.
    #[command(after_help = "\
Prints EER, minDCF, Cllr, calibration error and the error rates at voice.threshold as JSON, also by
length of speech. Files are looked for as they are named, then beside the list. Nothing is stored.")]
    Score(super::score::Args),
}

#[derive(Debug, clap::Args)]
pub struct Enroll {
    /// Whose voice.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Recordings, WAV or FLAC, one sentence each.
    #[arg(required = true, value_name = "WAV")]
    files: Vec<PathBuf>,
    /// Add the recordings to the enrolled voice instead of replacing it.
    #[arg(long)]
    add: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Whose voice it should be.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Recording, WAV or FLAC.
    #[arg(value_name = "WAV")]
    file: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Identify {
    /// Recording, WAV or FLAC.
    #[arg(value_name = "WAV")]
    file: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Whose voice.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(long, short)]
    yes: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    match command {
        Command::Score(args) => super::score::run(&args, &settings),
        Command::Enroll(args) => enroll(&settings, &args),
        Command::Verify(args) => compare(&settings, Some(&args.user), &args.file, args.json),
        Command::Identify(args) => compare(&settings, None, &args.file, args.json),
        Command::List(args) => with_memory(&settings, async |memory| list(memory, args.json).await),
        Command::Delete(args) => with_memory(&settings, async |memory| delete(memory, &args).await),
    }
}

/// What enrolling and comparing need.
struct Tools {
    vad: Vad,
    voices: Voices,
}

impl Tools {
    async fn open(settings: &Settings, memory: &Memory) -> Result<Self, Failure> {
        let store = parts::open_models(settings)?;
        let vad = Vad::new(&store).map_err(models::failure)?;
        let verifier = parts::load_verifier(&store, &settings.paths.models)?;
        let vault = Arc::new(parts::open_vault(settings, &verifier, memory).await?);
        Ok(Self { vad, voices: Voices { memory: memory.clone(), vault, verifier } })
    }
}

fn voices_failure(error: VoicesError) -> Failure {
    match error {
        VoicesError::Memory(error) => error.into(),
        other => Failure::because(Exit::Failed, "the enrolled voices cannot be used", other),
    }
}

fn speaker_failure(error: SpeakerError) -> Failure {
    let exit = match error {
        SpeakerError::NoSpeech => Exit::Data,
        SpeakerError::OtherModel { .. } => Exit::Failed,
        _ => Exit::Config,
    };
    Failure::new(exit, chain(&error))
}

fn vault_failure(error: VaultError) -> Failure {
    Failure::new(Exit::Config, chain(&error))
}

/// What became of one recording.
#[derive(Debug, Serialize)]
struct Sample {
    file: PathBuf,
    accepted: bool,
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
    /// Why it was refused and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Enrolled<'a> {
    user: &'a str,
    enrolled: bool,
    /// Of all samples together, those of an earlier enrolment that was added to included.
    net_speech_s: f32,
    samples: Vec<Sample>,
}

fn enroll(settings: &Settings, args: &Enroll) -> Result<(), Failure> {
    with_memory(settings, async |memory| {
        let Tools { mut vad, voices } = Tools::open(settings, memory).await?;
        let known = match memory.user_by_name(&args.user).await {
            Ok(user) => Some(user),
            Err(MemoryError::NotFound { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        let mut enrolment = begin(memory, &voices, known.as_ref(), args.add).await?;
        let bar = progress(args.files.len());
        let mut samples = Vec::new();
        for file in &args.files {
            bar.set_message(file.display().to_string());
            let recording = recording::read(file, Channel::Mean, &mut vad)?;
            samples.push(add(&mut enrolment, file.clone(), &recording)?);
            bar.inc(1);
        }
        bar.finish_and_clear();

        let net_speech_s = enrolment.net_speech_s();
        let finished = enrolment.finish();
        let name = known.as_ref().map_or(args.user.as_str(), |user| user.name.as_str());
        let result = Enrolled { user: name, enrolled: finished.is_ok(), net_speech_s, samples };
        if args.json {
            output::json(&result)?;
        } else {
            tell(&result.samples)?;
        }
        let template = finished.map_err(|refusal| {
            Failure::new(Exit::Data, format!("the voice was not enrolled: {}", chain(&refusal)))
        })?;
        let user = match known.clone() {
            Some(user) => user,
            None => memory.add_person(&args.user).await?,
        };
        keep(memory, &voices, &user, &template, &result).await?;
        if args.json {
            return Ok(());
        }
        output::line(format!(
            "Enrolled {}: {net_speech_s:.1} s of speech in {} samples.",
            output::plain(&user.name),
            template.prototypes().len()
        ))
    })
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

fn add(enrolment: &mut Enrolment, file: PathBuf, recording: &Recording) -> Result<Sample, Failure> {
    let length_s = recording.length_s();
    let (report, reason) = match enrolment.add(&recording.raw, &recording.speech) {
        Ok(report) => (Some(report), None),
        Err(crate::speaker::Refusal::Model(e)) => return Err(speaker_failure(e)),
        Err(refusal) => (None, Some(chain(&refusal))),
    };
    Ok(Sample {
        file,
        accepted: report.is_some(),
        length_s,
        net_speech_s: report.map(|r| r.quality.net_speech_s),
        level_db: report.map(|r| r.quality.level_db),
        snr_db: report.map(|r| r.quality.snr_db),
        likeness: report.and_then(|r| r.likeness),
        reason,
    })
}

fn tell(samples: &[Sample]) -> Result<(), Failure> {
    samples.iter().try_for_each(|sample| {
        let file = sample.file.display();
        match &sample.reason {
            Some(reason) => output::line(format!("{file}: refused: {reason}")),
            None => output::line(format!(
                "{file}: {:.1} s of speech, {:.0} dB, {:.0} dB above the noise",
                sample.net_speech_s.unwrap_or_default(),
                sample.level_db.unwrap_or_default(),
                sample.snr_db.unwrap_or_default()
            )),
        }
    })
}

/// Seals the template and stores it, with the consent that enrolling is.
async fn keep(
    memory: &Memory,
    voices: &Voices,
    user: &User,
    template: &Template,
    result: &Enrolled<'_>,
) -> Result<(), Failure> {
    let sealed = voices.vault.seal(&user.id.to_string(), template).map_err(vault_failure)?;
    let qualities: Vec<_> = result
        .samples
        .iter()
        .filter(|sample| sample.accepted)
        .map(|s| json!({ "net_speech_s": s.net_speech_s, "level_db": s.level_db, "snr_db": s.snr_db }))
        .collect();
    let new = NewVoiceprint {
        wrapped_key: sealed.wrapped_key,
        blob: sealed.blob,
        model_sha256: sealed.model_sha256,
        front_end_sha256: sealed.front_end_sha256,
        samples: u32::try_from(template.prototypes().len()).unwrap_or(u32::MAX),
        net_speech_s: f64::from(result.net_speech_s),
        quality: json!({ "samples": qualities, "cohesion": template.cohesion() }),
    };
    memory.put_voiceprint(user.id, &new).await?;
    Ok(())
}

/// Hidden where standard error is no terminal.
fn progress(files: usize) -> ProgressBar {
    let bar = ProgressBar::new(files as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// A verdict as JSON.
#[derive(Debug, Serialize)]
struct Compared {
    /// `verified`, `uncertain`, `rejected`, `too_short`, `ambiguous`, `not_enrolled`.
    outcome: &'static str,
    /// Who it is (verified) or most likely is (uncertain).
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// Calibrated probability of the most likely person.
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f32>,
    /// Standard deviations above impostors.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    net_speech_s: Option<f32>,
    threshold: f32,
}

impl Compared {
    fn of(verdict: &Verdict, threshold: f32) -> Self {
        let (user, score, net_speech_s) = match verdict {
            Verdict::Verified { user_name, score, net_speech_s, .. }
            | Verdict::Uncertain { user_name, score, net_speech_s, .. } => {
                (Some(user_name.clone()), Some(*score), Some(*net_speech_s))
            }
            Verdict::Rejected { score, net_speech_s, .. } => (None, Some(*score), Some(*net_speech_s)),
            Verdict::TooShort { net_speech_s } | Verdict::Ambiguous { net_speech_s, .. } => {
                (None, None, Some(*net_speech_s))
            }
            Verdict::NotEnrolled => (None, None, None),
        };
        Self {
            outcome: verdict.name(),
            user,
            confidence: verdict.confidence(),
            score,
            net_speech_s,
            threshold,
        }
    }

    /// Why it is not this person, or nobody.
    fn refusal(&self) -> String {
        let confidence = self.confidence.unwrap_or_default();
        match self.outcome {
            "uncertain" => format!(
                "not verified: {} is likely ({confidence:.2}), but not by the {:.2} that voice.threshold asks for",
                self.user.as_deref().map_or_else(String::new, output::plain),
                self.threshold
            ),
            "too_short" => format!(
                "too short: {:.1} s of speech were heard, and one second is the least",
                self.net_speech_s.unwrap_or_default()
            ),
            "ambiguous" => "two enrolled voices are too alike to tell which it is".to_owned(),
            "not_enrolled" => "no voice is enrolled; `jarvisd voice enroll` does that".to_owned(),
            _ => format!("rejected: no enrolled voice that was asked for (confidence {confidence:.2})"),
        }
    }
}

fn compare(
    settings: &Settings,
    name: Option<&str>,
    file: &std::path::Path,
    json: bool,
) -> Result<(), Failure> {
    let threshold = settings.voice.threshold;
    with_memory(settings, async |memory| {
        let Tools { mut vad, voices } = Tools::open(settings, memory).await?;
        let recording = recording::read(file, Channel::Mean, &mut vad)?;
        let enrolled = match name {
            None => voices.enrolled().await.map_err(voices_failure)?,
            Some(name) => {
                let user = user_named(memory, name).await?;
                let sealed = memory.voiceprint(user.id).await?;
                let voice = sealed.map(|sealed| voices.open(sealed)).transpose();
                voice.map_err(voices_failure)?.into_iter().collect()
            }
        };
        let verdict = voices
            .verifier
            .verify(&recording.raw, &recording.speech, &enrolled, threshold)
            .map_err(speaker_failure)?;
        let compared = Compared::of(&verdict, threshold);
        let detail = json!({
            "confidence": compared.confidence, "score": compared.score,
            "net_speech_s": compared.net_speech_s, "threshold": threshold, "recording": true,
        });
        let verified = match &verdict {
            Verdict::Verified { user_id, .. } => user_id.parse().ok(),
            _ => None,
        };
        let entry =
            NewAudit { user: verified, action: "verify", outcome: verdict.name(), detail: Some(detail) };
        memory.append_audit(&entry).await?;
        if json {
            output::json(&compared)?;
        }
        match &verdict {
            Verdict::Verified { .. } if json => Ok(()),
            Verdict::Verified { user_name, confidence, net_speech_s, .. } => output::line(format!(
                "Verified {}: confidence {confidence:.3} from {net_speech_s:.1} s of speech.",
                output::plain(user_name)
            )),
            _ => Err(Failure::new(Exit::Failed, compared.refusal())),
        }
    })
}

async fn list(memory: &Memory, json: bool) -> Result<(), Failure> {
    let voices: Vec<_> = memory.list_voiceprints().await?.into_iter().map(|voice| voice.info).collect();
    if json {
        return output::json(&voices);
    }
    if voices.is_empty() {
        return output::line("No voice is enrolled; `jarvisd voice enroll` does that.");
    }
    let rows: Vec<[String; 4]> = voices
        .into_iter()
        .map(|v| {
            [
                v.user_name,
                v.samples.to_string(),
                format!("{:.1} s", v.net_speech_s),
                output::time(v.created_unix_ms),
            ]
        })
        .collect();
    output::table(["NAME", "SAMPLES", "SPEECH", "ENROLLED"], &rows)
}

#[derive(Debug, Serialize)]
struct Deleted<'a> {
    deleted: &'a str,
}

async fn delete(memory: &Memory, args: &Delete) -> Result<(), Failure> {
    let user = user_named(memory, &args.user).await?;
    let name = output::plain(&user.name);
    if memory.voiceprint(user.id).await?.is_none() {
        return Err(Failure::new(Exit::Failed, format!("no voice of {name} is enrolled")));
    }
    if !confirmed(&format!("Delete the voice of {name} for good?"), args.yes)? {
        return output::line("Nothing was deleted.");
    }
    memory.delete_voiceprint(user.id).await?;
    if args.json {
        return output::json(&Deleted { deleted: &user.name });
    }
    output::line(format!("Deleted the voice of {name}."))
}

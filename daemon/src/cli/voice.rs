//! `jarvisd voice`: enrolling voices and trying them, from recordings or before the microphone.

mod enroll;
mod further;
mod guided;
mod pin;
mod recordings;
mod score;
mod show;

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::{Common, confirmed, models, output, user_named, with_memory};
use crate::app::Settings;
use crate::app::parts;
use crate::detect::vad::Vad;
use crate::error::{Exit, Failure};
use crate::identity::pins;
use crate::identity::recordings::Recordings;
use crate::identity::sound::Recording;
use crate::identity::voices::Voices;
use crate::memory::{Memory, NewAudit};
use crate::plain::figure;
use crate::speaker::section::UserThresholds;
use crate::speaker::{EnrolledVoice, Verdict};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Enrol a voice: before the microphone, which shows what to read, or from recordings of one person
    /// alone. Three to five sentences, ten seconds of speech in all.
    #[command(after_help = "\
Before the microphone:  jarvisd voice enroll --user Anna
From recordings:        jarvisd voice enroll --user Anna one.wav two.wav three.wav

Before the microphone it tells after each sentence what could be better, and ends with a trial of
the voice. Interrupted, it changes nothing. A microphone that the daemon holds for itself is busy:
stop the daemon meanwhile, or use the shared names of firmware-config.

Every sample is checked; one that is too short, too quiet, overdriven, noisy or of somebody else
is refused with the reason; the same recording counts once. A person who is not known yet is added.
The voice is kept as a sealed template; the recordings are not kept, unless --keep-recordings asks
for it: then they are encrypted and stay on this device. One voice belongs to one person:
a voice that is enrolled under another name is refused.")]
    Enroll(enroll::Enroll),
    /// Is this recording the voice of this person? Exit code 1 if not.
    Verify(Verify),
    /// Name the person whose voice this recording is. Exit code 1 if nobody's.
    Identify(Identify),
    /// List the enrolled voices.
    List(output::Json),
    /// Show how good a person's enrolment is; nothing of the voice itself.
    Show(Show),
    /// Delete a person's voice; the person and their conversations stay.
    Delete(Delete),
    /// PINs, which let a person in for a short time while their voice fails them.
    #[command(subcommand)]
    Pin(pin::Command),
    /// Recordings of an enrolment that were kept because somebody asked for it.
    #[command(subcommand)]
    Recordings(recordings::Command),
    /// Error rates of the speaker check on a list of trials.
    #[command(after_help = "\
Prints EER, minDCF, Cllr, calibration error and the error rates at voice.threshold as JSON, also by
length of speech. Files are looked for as they are named, then beside the list. Nothing is stored.")]
    Score(score::Args),
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Person whose voice it should be.
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
pub struct Show {
    /// Person whose voice it is.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Person whose voice it is.
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
        Command::Score(args) => score::run(&args, &settings),
        Command::Enroll(args) => enroll::run(&settings, &args, common),
        Command::Pin(command) => pin::run(&settings, command),
        Command::Recordings(command) => recordings::run(&settings, command),
        Command::Verify(args) => compare(&settings, Some(&args.user), &args.file, args.json),
        Command::Identify(args) => compare(&settings, None, &args.file, args.json),
        Command::List(args) => with_memory(&settings, async |memory| list(memory, args.json).await),
        Command::Show(args) => {
            with_memory(&settings, async |memory| show::run(&settings, memory, &args).await)
        }
        Command::Delete(args) => {
            with_memory(&settings, async |memory| delete(&settings, memory, &args).await)
        }
    }
}

/// The parts that enrolling and comparing need.
struct Tools {
    vad: Vad,
    voices: Voices,
}

impl Tools {
    async fn open(settings: &Settings, memory: &Memory) -> Result<Self, Failure> {
        let store = parts::open_models(settings)?;
        let vad = Vad::new(&store).map_err(models::failure)?;
        let verifier = parts::load_verifier(&store, &settings.voice)?;
        let vault = Arc::new(parts::open_vault(settings, verifier.model().identity().clone(), memory).await?);
        let recordings = Recordings::of(&settings.paths.data);
        Ok(Self { vad, voices: Voices { memory: memory.clone(), vault, verifier, recordings } })
    }
}

/// A verdict as JSON.
#[derive(Debug, Serialize)]
struct Compared {
    /// `verified`, `uncertain`, `rejected`, `too_short`, `ambiguous`, `multiple_speakers`, `not_enrolled`.
    outcome: &'static str,
    /// The person identified (verified) or the most likely one (uncertain).
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
    /// Speech of somebody else in the recording: cut out before transcription (verified), or the reason of
    /// the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_s: Option<f32>,
    /// The one that counts for this person, or for everyone.
    threshold: f32,
}

impl Compared {
    fn of(verdict: &Verdict, threshold: f32, own: &UserThresholds) -> Self {
        let (user, score, net_speech_s) = match verdict {
            Verdict::Verified { user_name, score, net_speech_s, .. }
            | Verdict::Uncertain { user_name, score, net_speech_s, .. } => {
                (Some(user_name.clone()), Some(*score), Some(*net_speech_s))
            }
            Verdict::Rejected { score, net_speech_s, .. } => (None, Some(*score), Some(*net_speech_s)),
            Verdict::TooShort { net_speech_s }
            | Verdict::Ambiguous { net_speech_s, .. }
            | Verdict::MultipleSpeakers { net_speech_s, .. } => (None, None, Some(*net_speech_s)),
            Verdict::NotEnrolled => (None, None, None),
        };
        let threshold = user.as_deref().and_then(|name| own.of(name)).unwrap_or(threshold);
        Self {
            outcome: verdict.name(),
            user,
            confidence: verdict.confidence(),
            score,
            net_speech_s,
            other_s: verdict.other_s(),
            threshold,
        }
    }

    /// Why it is not this person, or nobody.
    fn refusal(&self) -> String {
        let confidence = self.confidence.unwrap_or_default();
        match self.outcome {
            "uncertain" => format!(
                "not verified: {} is likely ({}), but not by the {} that the configuration asks for",
                self.user.as_deref().map_or_else(String::new, output::plain),
                figure(confidence, 2),
                figure(self.threshold, 2)
            ),
            "too_short" => format!(
                "too short: {} s of speech were heard, which is too little to be sure; a second is enough",
                figure(self.net_speech_s.unwrap_or_default(), 1)
            ),
            "ambiguous" => "two enrolled voices are too alike to tell which it is".to_owned(),
            "multiple_speakers" => format!(
                "somebody else speaks as well, for {} s; say it again when nobody else does \
                 (voice.second_voice and voice.refuse_overlap decide on this)",
                figure(self.other_s.unwrap_or_default(), 1)
            ),
            "not_enrolled" => "no voice is enrolled; `jarvisd voice enroll` does that".to_owned(),
            _ => format!(
                "rejected: no enrolled voice that was asked for (confidence {})",
                figure(confidence, 2)
            ),
        }
    }
}

fn compare(
    settings: &Settings,
    name: Option<&str>,
    file: &std::path::Path,
    json: bool,
) -> Result<(), Failure> {
    let (threshold, own) = (settings.voice.threshold, &settings.voice.user_thresholds);
    with_memory(settings, async |memory| {
        let Tools { mut vad, voices } = Tools::open(settings, memory).await?;
        let recording = Recording::read(file, settings.audio.channel, &mut vad)?;
        let enrolled = match name {
            None => voices.enrolled_with(own).await?,
            Some(name) => {
                let user = user_named(memory, name).await?;
                let sealed = memory.voiceprint(user.id).await?;
                let voice = sealed.map(|sealed| voices.open(sealed)).transpose()?;
                voice
                    .into_iter()
                    .map(|voice| EnrolledVoice { threshold: own.of(&user.name), ..voice })
                    .collect()
            }
        };
        let verdict = voices.verifier.verify(&recording.raw, &recording.speech, &enrolled, threshold)?;
        let compared = Compared::of(&verdict, threshold, own);
        let detail = json!({
            "confidence": compared.confidence, "score": compared.score,
            "net_speech_s": compared.net_speech_s, "threshold": compared.threshold, "recording": true,
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
                "Verified {}: confidence {} from {} s of speech{}.",
                output::plain(user_name),
                figure(*confidence, 3),
                figure(*net_speech_s, 1),
                compared.other_s.map_or_else(String::new, |other_s| format!(
                    ", {} s of which are somebody else's and count for nothing",
                    figure(other_s, 1)
                ))
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
                format!("{} s", figure(v.net_speech_s, 1)),
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

async fn delete(settings: &Settings, memory: &Memory, args: &Delete) -> Result<(), Failure> {
    let user = user_named(memory, &args.user).await?;
    let name = output::plain(&user.name);
    if memory.voiceprint(user.id).await?.is_none() {
        let elsewhere = match settings.store.postgres_url {
            Some(_) => "; delete one that another device has enrolled over there",
            None => "",
        };
        return Err(Failure::new(Exit::Failed, format!("no voice of {name} is enrolled here{elsewhere}")));
    }
    if !confirmed(&format!("Delete the voice of {name} for good?"), args.yes)? {
        return output::line("Nothing was deleted.");
    }
    memory.delete_voiceprint(user.id).await?;
    pins::clear(memory, user.id).await?;
    Recordings::of(&settings.paths.data).delete(user.id).await?;
    if args.json {
        return output::json(&Deleted { deleted: &user.name });
    }
    output::line(format!("Deleted the voice of {name}."))
}

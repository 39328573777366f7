//! `jarvisd voice enroll`: recordings of one person → checks → a sealed template.
//!
//! ```text
//!  name ─ reserved: refused          template ─ enrolled under another name: refused, unless --another-person
//!  recordings ─▶ samples ─ too few: refused   └ another voice than the person's own: refused, unless --replace
//!                                             └ else ─▶ sealed, stored, with consent and an audit row
//! ```
//!
//! A refusal changes nothing: no person is added and no voice replaced.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use super::{Tools, speaker_failure, voices_failure};
use crate::audio::Channel;
use crate::cli::recording::{self, Recording};
use crate::cli::{output, with_memory};
use crate::config::Settings;
use crate::error::{Exit, Failure, chain};
use crate::memory::{ANONYMOUS, Memory, MemoryError, NewVoiceprint, User, Voiceprint};
use crate::pipeline::voices::Voices;
use crate::speaker::{Enrolment, ONE_PERSON_FROM, OTHER_PERSON_BELOW, Quality, Refusal, Template};

#[derive(Debug, clap::Args)]
pub struct Enroll {
    /// Whose voice.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Recordings, WAV or FLAC, one sentence each.
    #[arg(required = true, value_name = "WAV")]
    files: Vec<PathBuf>,
    /// Add the recordings to the enrolled voice instead of enrolling it anew.
    #[arg(long)]
    add: bool,
    /// Put this voice in place of another one that is enrolled for this person. Without it only the same voice is enrolled
    /// anew.
    #[arg(long, conflicts_with = "add")]
    replace: bool,
    /// Enrol a voice although it is like that of somebody else who is enrolled. The device may then answer neither of them.
    #[arg(long)]
    another_person: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
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
    /// Why the voice was not enrolled and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub fn run(settings: &Settings, args: &Enroll) -> Result<(), Failure> {
    with_memory(settings, async |memory| {
        let known = person(memory, &args.user).await?;
        let Tools { mut vad, voices } = Tools::open(settings, memory).await?;
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
        let outcome = match enrolment.finish() {
            Ok(template) => {
                belongs(memory, &voices, known.as_ref(), &template, args).await?.map(|()| template)
            }
            Err(refusal) => Err(chain(&refusal)),
        };
        let name = known.as_ref().map_or(args.user.as_str(), |user| user.name.as_str());
        let reason = outcome.as_ref().err().cloned();
        let result = Enrolled { user: name, enrolled: outcome.is_ok(), net_speech_s, samples, reason };
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
        let user = match known.clone() {
            Some(user) => user,
            None => memory.add_person(&args.user).await?,
        };
        keep(memory, &voices, &user, &template, &result).await?;
        if args.json {
            return output::json(&result);
        }
        tell(&result.samples)?;
        output::line(format!(
            "Enrolled {}: {net_speech_s:.1} s of speech in {} samples.",
            output::plain(&user.name),
            template.prototypes().len()
        ))
    })
}

/// Who is to be enrolled; `None` if the person is not known yet.
async fn person(memory: &Memory, name: &str) -> Result<Option<User>, Failure> {
    let reserved = || {
        let message = format!(
            "\"{ANONYMOUS}\" is whoever is answered while voice verification is switched off, and has no voice; \
             enrol the person under a name of their own"
        );
        Failure::new(Exit::Data, message)
    };
    if name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase() == ANONYMOUS {
        return Err(reserved());
    }
    match memory.user_by_name(name).await {
        Ok(user) => Ok(Some(user)),
        Err(MemoryError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether the voice may become `user`'s; the sentence says why not. A voiceprint that does not open is not compared: it
/// never verifies anyone, and enrolling anew is what mends it.
async fn belongs(
    memory: &Memory,
    voices: &Voices,
    user: Option<&User>,
    template: &Template,
    args: &Enroll,
) -> Result<Result<(), String>, Failure> {
    let mut own = None;
    let mut nearest: Option<(f32, String)> = None;
    for voiceprint in memory.list_voiceprints().await? {
        let Voiceprint { info, .. } = &voiceprint;
        let is_own = user.is_some_and(|user| user.id == info.user_id);
        let name = output::plain(&info.user_name);
        let voice = match voices.open(voiceprint) {
            Ok(voice) => voice,
            Err(e) => {
                log::warn!("not compared: {}; `jarvisd doctor` tells more", chain(&e));
                continue;
            }
        };
        let alike = voices.verifier.same_person(template, &voice.template);
        if is_own {
            own = Some((alike, name));
        } else if nearest.as_ref().is_none_or(|(best, _)| alike > *best) {
            nearest = Some((alike, name));
        }
    }
    if let Some((alike, other)) = &nearest {
        if *alike >= ONE_PERSON_FROM && !args.another_person {
            return Ok(Err(format!(
                "this voice is already enrolled as {other}; enrolled twice, the device could not tell which of the two \
                 speaks, and would answer neither. Add the recordings there (`voice enroll --add --user`) or delete that \
                 voice (`voice delete --user`); if these are two people who sound alike, say --another-person"
            )));
        }
        if *alike >= OTHER_PERSON_BELOW {
            log::warn!(
                "this voice is like that of {other}: the device may at times be unable to tell them apart"
            );
        }
    }
    match own {
        Some((alike, name)) if alike < OTHER_PERSON_BELOW && !args.replace && !args.add => Ok(Err(format!(
            "this does not sound like the voice that is enrolled as {name}; check --user, or say --replace to put this \
             voice in its place"
        ))),
        _ => Ok(Ok(())),
    }
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
        Err(Refusal::Model(e)) => return Err(speaker_failure(e)),
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
    let sealed = voices.vault.seal(&user.id.to_string(), template);
    let sealed = sealed.map_err(|e| Failure::of(Exit::Config, &e))?;
    // Of the template, not of this run: with --add the earlier samples stay.
    let qualities = template.prototypes().iter().map(|prototype| {
        let Quality { net_speech_s, level_db, snr_db, .. } = prototype.quality;
        json!({ "net_speech_s": net_speech_s, "level_db": level_db, "snr_db": snr_db })
    });
    let new = NewVoiceprint {
        wrapped_key: sealed.wrapped_key,
        blob: sealed.blob,
        model_sha256: sealed.model_sha256,
        front_end_sha256: sealed.front_end_sha256,
        samples: u32::try_from(template.prototypes().len()).unwrap_or(u32::MAX),
        net_speech_s: f64::from(result.net_speech_s),
        quality: json!({ "samples": qualities.collect::<Vec<_>>(), "cohesion": template.cohesion() }),
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

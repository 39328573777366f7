//! `jarvisd voice show`: the quality of an enrolment, from the figures kept beside the sealed template.

use serde::Serialize;

use super::Show;
use crate::app::Settings;
use crate::cli::{output, user_named};
use crate::error::{Exit, Failure};
use crate::identity::recordings::Recordings;
use crate::memory::{Memory, VoiceprintInfo};
use crate::plain::figure;

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    voice: VoiceprintInfo,
    /// Time of the person's consent to a stored voiceprint, milliseconds since 1970 UTC.
    consent_unix_ms: Option<i64>,
    /// Probability from which this person counts as verified.
    threshold: f32,
    /// Bytes of the recordings that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    recordings_bytes: Option<u64>,
}

pub async fn run(settings: &Settings, memory: &Memory, args: &Show) -> Result<(), Failure> {
    let user = user_named(memory, &args.user).await?;
    let name = output::plain(&user.name);
    let Some(voiceprint) = memory.voiceprint(user.id).await? else {
        let word = output::shell_word(&name);
        let message =
            format!("no voice of {name} is enrolled; `jarvisd voice enroll --user {word} WAV…` does that");
        return Err(Failure::new(Exit::Failed, message));
    };
    let threshold = settings.voice.user_thresholds.of(&user.name).unwrap_or(settings.voice.threshold);
    let recordings_bytes = Recordings::of(&settings.paths.data).bytes(user.id);
    let consent_unix_ms = user.consent_unix_ms;
    let shown = Shown { voice: voiceprint.info, consent_unix_ms, threshold, recordings_bytes };
    if args.json {
        return output::json(&shown);
    }
    let voice = &shown.voice;
    let mut rows = vec![
        ["Enrolled".to_owned(), output::time(voice.created_unix_ms)],
        ["Consent".to_owned(), shown.consent_unix_ms.map_or("not given".to_owned(), output::time)],
        ["Threshold".to_owned(), threshold.to_string()],
        ["Samples".to_owned(), voice.samples.to_string()],
        ["Speech".to_owned(), format!("{} s", figure(voice.net_speech_s, 1))],
        [
            "Recordings".to_owned(),
            shown
                .recordings_bytes
                .map_or("not kept".to_owned(), |bytes| format!("kept, encrypted, {bytes} bytes")),
        ],
    ];
    if let Some(cohesion) = voice.quality["cohesion"].as_f64() {
        rows.push([
            "Agreement".to_owned(),
            format!("{} (cosine of the sample that is least like the others)", figure(cohesion, 2)),
        ]);
    }
    let samples = voice.quality["samples"].as_array().map_or(&[][..], Vec::as_slice);
    for (number, sample) in samples.iter().enumerate() {
        let shown = |key: &str, digits| figure(sample[key].as_f64().unwrap_or_default(), digits);
        rows.push([
            format!("Sample {}", number + 1),
            format!(
                "{} s of speech, {} dB, {} dB above the noise",
                shown("net_speech_s", 1),
                shown("level_db", 0),
                shown("snr_db", 0)
            ),
        ]);
    }
    output::table(["NAME", &name], &rows)
}

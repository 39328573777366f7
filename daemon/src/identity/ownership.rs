//! From samples to a stored voice: the rules for samples of any origin.
//!
//! ```text
//!  name ─ reserved: refused   template ─ enrolled under another name: refused, unless it is said to be another person
//!                                      └ another voice than the person's own: refused, unless it is to be replaced
//!                                      └ else ─▶ sealed, stored, with consent and an audit row
//! ```
//!
//! A refusal changes nothing: no person is added and no voice replaced.

use serde_json::json;

use super::recordings::Sentences;
use super::voices::Voices;
use crate::control::Refused;
use crate::error::{Exit, Failure, chain, visible};
use crate::memory::{ANONYMOUS, Memory, MemoryError, NewVoiceprint, User, Voiceprint};
use crate::speaker::{ONE_PERSON_FROM, OTHER_PERSON_BELOW, Quality, Template};

/// The owner's permissions for an enrolment; none by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Samples are added to the enrolled voice.
    pub add: bool,
    /// Another voice of the same person may be replaced.
    pub replace: bool,
    /// The voice may be like that of somebody else.
    pub another_person: bool,
}

/// The person to enrol; `None` if the person is not known yet.
///
/// # Errors
/// A name that cannot have a voice, a database that does not work.
pub async fn person(memory: &Memory, name: &str) -> Result<Option<User>, Refused> {
    if name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase() == ANONYMOUS {
        return Err(Refused::Anonymous);
    }
    if let Some(missing) = memory.apart().await? {
        // A restore brings along the turns that were held apart, and no voices.
        let message = format!("no voice is enrolled while {missing}");
        return Err(Refused::Device(Failure::new(Exit::Unavailable, message)));
    }
    match memory.user_by_name(name).await {
        Ok(user) => Ok(Some(user)),
        Err(MemoryError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Checks that the voice may become `user`'s. A voiceprint that does not open is not compared: it never
/// verifies anyone, and a new enrolment mends it.
///
/// # Errors
/// The reason for a refusal, or a database that does not work.
pub async fn belongs(
    voices: &Voices,
    user: Option<&User>,
    template: &Template,
    allowed: Allowed,
) -> Result<(), Refused> {
    let mut own = None;
    let mut nearest: Option<(f32, String)> = None;
    for voiceprint in voices.memory.list_voiceprints().await? {
        let Voiceprint { info, .. } = &voiceprint;
        let is_own = user.is_some_and(|user| user.id == info.user_id);
        let name = visible(&info.user_name);
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
        if *alike >= ONE_PERSON_FROM && !allowed.another_person {
            return Err(Refused::EnrolledAs(other.clone()));
        }
        if *alike >= OTHER_PERSON_BELOW {
            log::warn!(
                "this voice is like that of {other}: the device may at times be unable to tell them apart"
            );
        }
    }
    match own {
        Some((alike, name)) if alike < OTHER_PERSON_BELOW && !allowed.replace && !allowed.add => {
            Err(Refused::AnotherVoice(name))
        }
        _ => Ok(()),
    }
}

/// The voices of everybody but `user` that open.
///
/// # Errors
/// A database that does not work.
pub async fn others(voices: &Voices, user: Option<&User>) -> Result<Vec<Template>, MemoryError> {
    let all = voices.memory.list_voiceprints().await?;
    let others = all.into_iter().filter(|other| user.is_none_or(|user| user.id != other.info.user_id));
    Ok(others.filter_map(|other| Some(voices.open(other).ok()?.template)).collect())
}

/// Seals the template and stores it with `recordings` beside it; none of an earlier enrolment stay. Enrolling
/// counts as consent. A person who is not known yet is added.
///
/// # Errors
/// A key that cannot be used, an invalid name, a database or a disk that does not work.
pub async fn keep(
    voices: &Voices,
    (known, name): (Option<&User>, &str),
    template: &Template,
    recordings: &Sentences,
) -> Result<User, Failure> {
    let user = match known {
        Some(user) => user.clone(),
        None => voices.memory.add_person(name).await?,
    };
    let sealed = voices.vault.seal(&user.id.to_string(), template);
    let sealed = sealed.map_err(|e| Failure::of(Exit::Config, &e))?;
    let draft = match recordings.as_slice() {
        [] => None,
        _ => Some(voices.recordings.draft(&voices.vault, (user.id, &sealed), recordings).await?),
    };
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
        net_speech_s: f64::from(template.net_speech_s()),
        quality: json!({ "samples": qualities.collect::<Vec<_>>(), "cohesion": template.cohesion() }),
    };
    if let Err(e) = voices.memory.put_voiceprint(user.id, &new).await {
        if let Some(draft) = draft {
            draft.discard().await;
        }
        return Err(e.into());
    }
    match draft {
        Some(draft) => draft.install().await?,
        None => {
            voices.recordings.delete(user.id).await?;
        }
    }
    Ok(user)
}

//! From samples to a stored voice: the rules that hold however the samples came.
//!
//! ```text
//!  name ─ reserved: refused   template ─ enrolled under another name: refused, unless it is said to be another person
//!                                      └ another voice than the person's own: refused, unless it is to be replaced
//!                                      └ else ─▶ sealed, stored, with consent and an audit row
//! ```
//!
//! A refusal changes nothing: no person is added and no voice replaced.

use serde_json::json;

use crate::error::{Exit, Failure, chain, visible};
use crate::memory::{ANONYMOUS, Memory, MemoryError, NewVoiceprint, User, Voiceprint};
use crate::pipeline::recordings::Sentences;
use crate::pipeline::voices::Voices;
use crate::speaker::{ONE_PERSON_FROM, OTHER_PERSON_BELOW, Quality, Refusal, Template};

/// What the owner allows an enrolment to do; nothing by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Samples are added to the enrolled voice.
    pub add: bool,
    /// Another voice of the same person may be replaced.
    pub replace: bool,
    /// The voice may be like that of somebody else.
    pub another_person: bool,
}

/// Where an enrolment was asked for. Each has other means to go on, and what is said there names no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    CommandLine,
    /// Also what the device says aloud.
    Mqtt,
}

/// Why nobody is enrolled.
#[derive(Debug)]
pub enum Refused {
    /// The name stands for whoever is answered without verification.
    Anonymous,
    NameLength,
    /// Nobody of this name has a voice that could be added to.
    NoVoice(String),
    /// Another enrolment goes on.
    Busy,
    Muted,
    /// The voice is enrolled under this name.
    EnrolledAs(String),
    /// The person with this name has another voice.
    AnotherVoice(String),
    /// The sample, or all of them together, are not good enough.
    Samples(Refusal),
    /// The sample was lost in the program.
    Lost,
    /// A database, a key or a disk that does not work; or a name that the memory does not take.
    Device(Failure),
}

impl From<MemoryError> for Refused {
    fn from(error: MemoryError) -> Self {
        Self::Device(error.into())
    }
}

impl Refused {
    /// What failed and what to do.
    pub fn sentence(&self, face: Face) -> String {
        let at_terminal = face == Face::CommandLine;
        match self {
            Self::Anonymous => format!(
                "\"{ANONYMOUS}\" is whoever is answered while voice verification is switched off, and has \
                 no voice; \
                 enrol the person under a name of their own"
            ),
            Self::NameLength => "the name is empty or too long; give another one".to_owned(),
            Self::NoVoice(name) => format!("no voice of {name} is enrolled; enrol it first"),
            Self::Busy => "another enrolment goes on; cancel it first".to_owned(),
            Self::Muted => "the device is muted; unmute it first".to_owned(),
            Self::EnrolledAs(other) => {
                let way_out = if at_terminal {
                    "Add the recordings there (`voice enroll --add --user`) or delete that voice (`voice \
                     delete --user`); \
                     if these are two people who sound alike, say --another-person"
                } else {
                    "If these are two people who sound alike, whoever looks after the device can enrol \
                     the voice there"
                };
                format!(
                    "this voice is already enrolled as {other}; enrolled twice, the device could not tell \
                     which of the two \
                     speaks, and would answer neither. {way_out}"
                )
            }
            Self::AnotherVoice(name) => {
                let way_out = if at_terminal {
                    "check --user, or say --replace to put this voice in its place"
                } else {
                    "start again with the name of whoever speaks; whoever looks after the device can \
                     replace the voice there"
                };
                format!("this does not sound like the voice that is enrolled as {name}; {way_out}")
            }
            Self::Samples(refusal) => chain(refusal),
            Self::Lost => "the last sample could not be looked at; start again".to_owned(),
            Self::Device(failure) if at_terminal || failure.exit == Exit::Data => chain(failure),
            Self::Device(failure) => {
                log::error!("an enrolment failed: {}", chain(failure));
                "the device could not do it; its journal says why".to_owned()
            }
        }
    }

    /// For the command line.
    pub fn failure(self) -> Failure {
        match self {
            Self::Device(failure) => failure,
            other => Failure::new(Exit::Data, other.sentence(Face::CommandLine)),
        }
    }
}

/// Who is to be enrolled; `None` if the person is not known yet.
///
/// # Errors
/// A name that cannot have a voice, a database that does not work.
pub async fn person(memory: &Memory, name: &str) -> Result<Option<User>, Refused> {
    if name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase() == ANONYMOUS {
        return Err(Refused::Anonymous);
    }
    if let Some(missing) = memory.apart().await? {
        // A restore brings turns along that were held apart, and no voices.
        let message = format!("no voice is enrolled while {missing}");
        return Err(Refused::Device(Failure::new(Exit::Unavailable, message)));
    }
    match memory.user_by_name(name).await {
        Ok(user) => Ok(Some(user)),
        Err(MemoryError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether the voice may become `user`'s. A voiceprint that does not open is not compared: it
/// never verifies anyone, and enrolling anew is what mends it.
///
/// # Errors
/// Why not, or a database that does not work.
pub async fn belongs(
    memory: &Memory,
    voices: &Voices,
    user: Option<&User>,
    template: &Template,
    allowed: Allowed,
) -> Result<(), Refused> {
    let mut own = None;
    let mut nearest: Option<(f32, String)> = None;
    for voiceprint in memory.list_voiceprints().await? {
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
pub async fn others(
    memory: &Memory,
    voices: &Voices,
    user: Option<&User>,
) -> Result<Vec<Template>, MemoryError> {
    let all = memory.list_voiceprints().await?;
    let others = all.into_iter().filter(|other| user.is_none_or(|user| user.id != other.info.user_id));
    Ok(others.filter_map(|other| Some(voices.open(other).ok()?.template)).collect())
}

/// Seals the template and stores it, with the consent that enrolling is, and `recordings` beside it; none of
/// an earlier enrolment stay. Somebody who is not known yet is added.
///
/// # Errors
/// A key that cannot be used, a name that is none, a database or a disk that does not work.
pub async fn keep(
    memory: &Memory,
    voices: &Voices,
    (known, name): (Option<&User>, &str),
    template: &Template,
    recordings: &Sentences,
) -> Result<User, Failure> {
    let user = match known {
        Some(user) => user.clone(),
        None => memory.add_person(name).await?,
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
    if let Err(e) = memory.put_voiceprint(user.id, &new).await {
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

//! Builds the parts of the pipeline from the settings: models checked and planned, memory and vault opened.

use std::sync::Arc;

use super::{LiveSections, Settings};
use crate::backup::{pre_migration, way_back};
use crate::clock::Clock;
use crate::config::Live;
use crate::detect::Detector;
use crate::dialogue::speech::Speech;
use crate::dialogue::{Builtin, Dialogue, Responder, section};
use crate::error::{Exit, Failure, chain};
use crate::health::{Condition, Health};
use crate::identity::recordings::Recordings;
use crate::identity::voices::Voices;
use crate::inference::ModelStore;
use crate::inference::allocator::{self, Resident};
use crate::memory::{Device, Memory};
use crate::pipeline::answer;
use crate::speaker::section::Voice;
use crate::speaker::vault::KeySources;
use crate::speaker::{
    Calibration, ModelIdentity, OverlapModel, SealedVoiceprint, SecondVoice, SpeakerModel, Vault, Verifier,
};
use crate::store::StoreOptions;
use crate::stt::{self, Opened, Recognizer};

/// Everything between the front end and the answer, ready to be started.
pub struct Parts {
    pub detector: Detector,
    pub voices: Voices,
    /// `None` where speech to text is off or no engine is installed; `health` says so.
    pub recognizer: Option<Box<dyn Recognizer>>,
    pub memory: Memory,
    pub dialogue: Dialogue,
    pub speech: Speech,
    pub live: LiveSections,
}

impl Parts {
    /// Opens and loads everything; the models are planned in parallel, because start-up waits for them.
    ///
    /// `missing` decides for a memory that vanished.
    ///
    /// # Errors
    /// One sentence with the way out: a missing or wrong model, a database or key that cannot be used.
    pub async fn load(settings: &Settings, health: &Health, missing: MissingMemory) -> Result<Self, Failure> {
        let models = open_models(settings)?;
        let (wake, endpoint) = (settings.wake.clone(), settings.endpoint.clone());
        let (stt, dirs) = (settings.stt.clone(), settings.paths.models.clone());
        let mut voice = settings.voice.clone();
        if !voice.enabled {
            // Nobody is compared, so nobody else is looked for.
            voice.refuse_overlap = false;
            voice.second_voice = SecondVoice::Answer;
        }
        let (for_detector, for_speaker, for_stt) = (models.clone(), models.clone(), models);
        let detector = tokio::task::spawn_blocking(move || {
            Detector::new(&for_detector, &wake, &endpoint)
                .map_err(|e| Failure::because(Exit::Config, "the detector cannot start", e))
        });
        let verifier = tokio::task::spawn_blocking(move || load_verifier(&for_speaker, &voice));
        let recognizer = tokio::task::spawn_blocking(move || stt::open(&stt, &dirs, &for_stt));
        let memory = open_memory_or(settings, missing).await?;
        memory.report_to(health);
        memory.apart().await?;

        let detector = joined(detector.await)?;
        let verifier = joined(verifier.await)?;
        let opened = recognizer
            .await
            .map_err(|error| Failure::because(Exit::Failed, "speech to text cannot start", error))?
            .map_err(|error| Failure::of(Exit::Config, &error))?;
        let (recognizer, condition) = match opened {
            Opened::Ready(recognizer) => (Some(recognizer), Condition::Ok),
            Opened::Off => (None, Condition::off("speech to text is switched off")),
            Opened::Unusable { sentence } => (None, Condition::failed(sentence)),
        };
        health.set("stt", condition);
        let vault = open_vault(settings, verifier.model().identity().clone(), &memory).await?;
        let voices = Voices {
            memory: memory.clone(),
            vault: Arc::new(vault),
            verifier,
            recordings: Recordings::of(&settings.paths.data),
        };
        if settings.voice.enabled {
            // Checked now, not at the first word: with a key that opens nothing nobody will be answered.
            match voices.enrolled().await {
                Ok(_) => health.set("voice", Condition::Ok),
                Err(error) => {
                    let why = format!("nobody can be verified: {}", chain(&error));
                    log::error!("{why}");
                    health.set("voice", Condition::failed(why));
                }
            }
        } else {
            health.set("voice", Condition::off("voice verification is switched off: everyone is answered"));
            log::warn!("voice verification is switched off: the device answers every voice");
        }
        let live = LiveSections::of(settings);
        let dialogue = open_dialogue(&live.dialogue, memory.clone());
        let speech = open_speech(settings, health);
        if let Some(Resident { before_kb, after_kb }) = allocator::give_back() {
            let mb = |kb: u64| kb * 1_024 / 1_000_000;
            log::debug!(
                "everything is loaded: {} MB resident, {} MB before what loading left was given back",
                mb(after_kb),
                mb(before_kb)
            );
        }
        Ok(Self { detector, voices, recognizer, memory, dialogue, speech, live })
    }
}

fn joined<T>(result: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    result.unwrap_or_else(|error| {
        Err(Failure::because(Exit::Failed, "loading the models was interrupted", error))
    })
}

/// The models named by the manifest.
///
/// # Errors
/// A manifest that is missing or cannot be read.
pub fn open_models(settings: &Settings) -> Result<Arc<ModelStore>, Failure> {
    ModelStore::open(&settings.paths.models).map(Arc::new).map_err(|e| Failure::of(Exit::Config, &e))
}

/// Speaker model and calibration, which must belong together.
///
/// # Errors
/// A missing, wrong or mismatched model or calibration file.
pub fn load_speaker(models: &ModelStore) -> Result<Verifier, Failure> {
    let model = SpeakerModel::load(models).map_err(|e| Failure::of(Exit::Config, &e))?;
    let calibration = Calibration::load(models).map_err(|e| Failure::of(Exit::Config, &e))?;
    Verifier::new(Arc::new(model), calibration).map_err(|e| Failure::of(Exit::Config, &e))
}

/// [`load_speaker`] with the owner's treatment of second voices, and, if needed, the model that hears where
/// somebody else speaks.
///
/// # Errors
/// As for [`load_speaker`].
pub fn load_verifier(models: &ModelStore, voice: &Voice) -> Result<Verifier, Failure> {
    let verifier = load_speaker(models)?.with_second_voice(voice.second_voice);
    if !voice.hears_others() {
        return Ok(verifier);
    }
    let model = Arc::new(OverlapModel::load(models).map_err(|e| Failure::of(Exit::Config, &e))?);
    let apart = voice.second_voice != SecondVoice::Answer;
    let verifier = if apart { verifier.hearing_turns(model.clone()) } else { verifier };
    Ok(if voice.refuse_overlap { verifier.refusing_overlap(model) } else { verifier })
}

/// The action to take where the memory vanished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingMemory {
    /// Refuse, and say how it comes back.
    Refuse,
    /// Go on, and hold new turns apart until the owner has decided.
    HoldApart,
}

/// The database of this device; its folder is made if it is missing. A memory that vanished is refused.
///
/// # Errors
/// See [`Memory::open`].
pub async fn open_memory(settings: &Settings) -> Result<Memory, Failure> {
    open_memory_or(settings, MissingMemory::Refuse).await
}

/// As [`open_memory`]; `missing` decides for a memory that vanished.
///
/// # Errors
/// See [`Memory::open`].
pub async fn open_memory_or(settings: &Settings, missing: MissingMemory) -> Result<Memory, Failure> {
    let backups = settings.backups();
    pre_migration::back_up_device(&backups).await;
    let device = Device { id: settings.device.id.clone() };
    let options = StoreOptions {
        max_bytes: settings.store.max_mib.map(|mib| u64::from(mib) << 20),
        vanished: way_back::policy(&backups, missing == MissingMemory::HoldApart),
        ..StoreOptions::default()
    };
    let memory = Memory::open_with(&settings.paths.db, &device, Clock::System, &options).await?;
    if let Ok(Some(only)) = memory.only_in_backup().await {
        log::warn!("{only}");
    }
    Ok(memory)
}

/// The vault that seals voiceprints of this speaker model. A rotation of its key that was interrupted is
/// brought to its end.
///
/// # Errors
/// A key that is missing while voices are enrolled, readable by others, or of the wrong size.
pub async fn open_vault(
    settings: &Settings,
    identity: ModelIdentity,
    memory: &Memory,
) -> Result<Vault, Failure> {
    let sources = key_sources(settings);
    let stored: Vec<_> = memory.list_voiceprints().await?.iter().map(SealedVoiceprint::from).collect();
    let opened = if stored.is_empty() {
        Vault::open(&sources, identity)
    } else {
        Vault::open_existing(&sources, identity)
    };
    let settled = opened.and_then(|vault| vault.settle(&stored).map(|()| vault));
    settled.map_err(|e| Failure::of(Exit::Config, &e))
}

/// The vault of this device as it is, for looking at voiceprints: no key is made, and only the name of the
/// speaker model is loaded.
///
/// # Errors
/// There is no key, or no model.
pub fn existing_vault(settings: &Settings) -> Result<Vault, Failure> {
    let models = open_models(settings)?;
    let calibration = Calibration::load(&models).map_err(|e| Failure::of(Exit::Config, &e))?;
    let vault = Vault::open_existing(&key_sources(settings), calibration.identity().clone());
    vault.map_err(|e| Failure::of(Exit::Config, &e))
}

/// Whether this device has a key for voiceprints, usable or not.
pub fn has_voice_key(settings: &Settings) -> bool {
    Vault::has_key(&key_sources(settings))
}

fn key_sources(settings: &Settings) -> KeySources {
    KeySources { credentials_dir: settings.paths.credentials.clone(), key_file: settings.paths.key.clone() }
}

/// The dialogue of this device, for the daemon and for `jarvisd ask`.
pub fn open_dialogue(settings: &Live<section::Dialogue>, memory: Memory) -> Dialogue {
    Dialogue::new(memory, Responder::Builtin(Builtin::default()), settings.clone())
}

/// Made also while speech is switched off, so that a reload can switch it on.
fn open_speech(settings: &Settings, health: &Health) -> Speech {
    if !settings.speech.enabled {
        health.set(answer::COMPONENT, Condition::off("answers are text only: speech is switched off"));
    }
    Speech::new(&settings.speech)
}

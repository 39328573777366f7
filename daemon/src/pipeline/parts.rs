//! Builds the parts of the pipeline from the settings: models checked and planned, memory and vault opened.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{Settings, WakeModel};
use crate::detect::{DetectSettings, Detector, WakeWord};
use crate::dialogue::speech::{Speech, SpeechSettings};
use crate::dialogue::{Builtin, Dialogue, DialogueSettings, Responder};
use crate::error::{Exit, Failure};
use crate::health::{Condition, Health};
use crate::inference::ModelStore;
use crate::memory::{Device, Memory};
use crate::pipeline::answer::{self, Answer};
use crate::pipeline::voices::Voices;
use crate::speaker::vault::KeySources;
use crate::speaker::{Calibration, SpeakerModel, Vault, Verifier};
use crate::store::StoreOptions;
use crate::stt::{self, Recognizer, SttSettings};

/// Everything between the front end and the answer, ready to be started.
pub struct Parts {
    pub detector: Detector,
    pub voices: Voices,
    /// `None` where speech to text is off or no engine is installed; `health` says so.
    pub recognizer: Option<Box<dyn Recognizer>>,
    pub memory: Memory,
    pub dialogue: Dialogue,
    pub answer: Option<Answer>,
}

impl Parts {
    /// Opens and loads everything; the models are planned in parallel, because that is what start-up waits for.
    ///
    /// # Errors
    /// One sentence with the way out: a missing or wrong model, a database or key that cannot be used.
    pub async fn load(settings: &Settings, health: &Health) -> Result<Self, Failure> {
        let models = open_models(settings)?;
        let detect = detect_settings(settings);
        let stt = stt_settings(settings);
        let (for_detector, for_speaker, for_stt) = (models.clone(), models.clone(), models);
        let calibration_dirs = settings.paths.models.clone();
        let detector = tokio::task::spawn_blocking(move || {
            Detector::new(&for_detector, &detect)
                .map_err(|e| Failure::because(Exit::Config, "the detector cannot start", e))
        });
        let verifier = tokio::task::spawn_blocking(move || load_verifier(&for_speaker, &calibration_dirs));
        let recognizer = tokio::task::spawn_blocking(move || stt::open(&stt, &for_stt));
        let memory = open_memory(settings).await?;
        health.set("store", Condition::Ok);

        let detector = joined(detector.await)?;
        let verifier = joined(verifier.await)?;
        let recognizer = match recognizer.await {
            Ok(Ok(Some(recognizer))) => {
                health.set("stt", Condition::Ok);
                Some(recognizer)
            }
            Ok(Ok(None)) => {
                let condition = match settings.stt.engine {
                    stt::Engine::Off => Condition::off("speech to text is switched off"),
                    _ => Condition::failed(stt::NO_ENGINE),
                };
                health.set("stt", condition);
                None
            }
            Ok(Err(error)) => {
                return Err(Failure::because(Exit::Config, "speech to text cannot start", error));
            }
            Err(error) => return Err(Failure::because(Exit::Failed, "speech to text cannot start", error)),
        };
        let vault = open_vault(settings, &verifier, &memory).await?;
        if settings.voice.enabled {
            health.set("voice", Condition::Ok);
        } else {
            health.set("voice", Condition::off("voice verification is switched off: everyone is answered"));
            log::warn!("voice verification is switched off: the device answers every voice");
        }
        let voices = Voices { memory: memory.clone(), vault: Arc::new(vault), verifier };
        let dialogue = open_dialogue(settings, memory.clone());
        let answer = Some(open_answer(settings, health));
        Ok(Self { detector, voices, recognizer, memory, dialogue, answer })
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
    ModelStore::open(&settings.paths.models)
        .map(Arc::new)
        .map_err(|e| Failure::because(Exit::Config, "the models cannot be used", e))
}

/// Speaker model and calibration, which must belong together.
///
/// # Errors
/// A missing, wrong or mismatched model or calibration file.
pub fn load_verifier(models: &ModelStore, calibration_dirs: &[PathBuf]) -> Result<Verifier, Failure> {
    let unusable = |e: Box<dyn std::error::Error + Send + Sync>| {
        Failure::because(Exit::Config, "voices cannot be told apart", e)
    };
    let model = SpeakerModel::load(models).map_err(|e| unusable(e.into()))?;
    let calibration = Calibration::load(calibration_dirs).map_err(|e| unusable(e.into()))?;
    Verifier::new(Arc::new(model), calibration).map_err(|e| unusable(e.into()))
}

/// The database of this device; its folder is made if it is missing.
///
/// # Errors
/// See [`Memory::open`].
pub async fn open_memory(settings: &Settings) -> Result<Memory, Failure> {
    let db = &settings.paths.db;
    let device = Device { id: settings.device.id.clone() };
    // Pages of 4 KiB.
    let options = StoreOptions {
        max_pages: settings.store.max_mib.map(|mib| mib.saturating_mul(256)),
        ..StoreOptions::default()
    };
    Memory::open_with(db, &device, Clock::System, &options)
        .await
        .map_err(|e| Failure::because(e.exit(), format!("the database {} cannot be used", db.display()), e))
}

/// The vault that seals voiceprints of this speaker model.
///
/// # Errors
/// A key that is missing while voices are enrolled, readable by others, or of the wrong size.
pub async fn open_vault(settings: &Settings, verifier: &Verifier, memory: &Memory) -> Result<Vault, Failure> {
    let sources = KeySources {
        credentials_dir: settings.paths.credentials.clone(),
        key_file: settings.paths.key.clone(),
    };
    let identity = verifier.model().identity().clone();
    let opened = if memory.list_voiceprints().await?.is_empty() {
        Vault::open(&sources, identity)
    } else {
        Vault::open_existing(&sources, identity)
    };
    opened.map_err(|e| Failure::because(Exit::Config, "the key of the voiceprints cannot be used", e))
}

/// The dialogue of this device, as the daemon and `jarvisd ask` hold it.
pub fn open_dialogue(settings: &Settings, memory: Memory) -> Dialogue {
    let dialogue = DialogueSettings {
        continue_within_ms: i64::from(settings.dialogue.continue_conversation_min) * 60_000,
        ..DialogueSettings::default()
    };
    Dialogue::new(memory, Responder::Builtin(Builtin::default()), dialogue)
}

fn detect_settings(settings: &Settings) -> DetectSettings {
    let endpoint = &settings.endpoint;
    let wake = settings.wake.model.0.iter().map(|model| WakeWord {
        model: match model {
            WakeModel::Named(name) => name.replace('_', "-"),
            WakeModel::File(path) => path.display().to_string(),
        },
        threshold: settings.wake.threshold,
    });
    DetectSettings {
        wake: wake.collect(),
        pre_roll_ms: endpoint.pre_roll_ms,
        end_silence_ms: endpoint.end_silence_ms,
        max_utterance_ms: endpoint.max_utterance_ms,
        no_speech_timeout_ms: endpoint.no_speech_timeout_ms,
        follow_up_ms: settings.dialogue.follow_up_s * 1000,
        ..DetectSettings::default()
    }
}

fn stt_settings(settings: &Settings) -> SttSettings {
    SttSettings {
        engine: settings.stt.engine,
        vosk_model: settings.stt.vosk_model.clone(),
        model_dirs: settings.paths.models.clone(),
    }
}

/// Made also while speech is switched off, so that a reload can switch it on.
fn open_answer(settings: &Settings, health: &Health) -> Answer {
    if !settings.speech.enabled {
        health.set(answer::COMPONENT, Condition::off("answers are text only: speech is switched off"));
    }
    let speech = Speech::new(SpeechSettings {
        command: settings.speech.command.0.clone(),
        timeout_s: settings.speech.timeout_s,
        ..SpeechSettings::default()
    });
    Answer::new(speech, settings.audio.playback_device.clone(), health.clone())
}

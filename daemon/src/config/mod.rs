//! Configuration: files as written → checked [`Settings`].
//!
//! ```text
//!  jarvis.toml ─▶ conf.d/*.toml ─▶ JARVIS__SECTION__KEY     the later wins, key by key   (source.rs)
//!        └──────────────┴──────────────────┴──▶ Layers ──▶ sections, each value checked   (settings.rs, value.rs)
//!                                                  └──▶ what contradicts what             (below)
//! ```
//!
//! A fault never stops the reading: all of them are reported at once, each with its place and its key. What a section
//! holds is declared once (`settings.rs`); the structs, the checks and `docs/configuration.md` come from that.

mod address;
mod fault;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod paths;
mod reference;
mod schema;
mod settings;
mod source;
mod suggest;
mod value;
mod zone;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use address::{BrokerUrl, PostgresUrl};
pub use fault::{Fault, Origin};
pub use paths::Paths;
pub use reference::reference_page;
pub use schema::Key;
pub use settings::{Audio, Backup, Device, Dialogue, Endpoint, Http, Mqtt, Speech, Store, Stt, Voice, Wake};
pub use source::{ENV_PREFIX, Effective};
pub use value::{CommandLine, Recipients, Remote, UserThresholds, WakeModel, WakeModels};

use crate::stt::Engine;
use schema::Section;
use source::{KnownKeys, Layers};

/// Host names that images of cards come with.
const FRESH_NAMES: [&str; 6] = ["debian", "dietpi", "localhost", "raspberry", "raspberrypi", "ubuntu"];

/// Where to look for the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder that stands for `/`: the configuration and all data lie below it.
    pub root: Option<PathBuf>,
    /// File to read instead of `etc/jarvis/jarvis.toml`; it must exist.
    pub config_file: Option<PathBuf>,
    /// The environment of the process.
    pub env: Vec<(OsString, OsString)>,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    pub device: Device,
    pub audio: Audio,
    pub wake: Wake,
    pub endpoint: Endpoint,
    pub voice: Voice,
    pub stt: Stt,
    pub dialogue: Dialogue,
    pub speech: Speech,
    pub store: Store,
    pub mqtt: Mqtt,
    pub http: Http,
    pub backup: Backup,
    pub paths: Paths,
    /// What is no fault but not what was meant either, a sentence each.
    pub warnings: Vec<String>,
    /// Every key with the value in force, secrets masked, in the order of the reference page.
    pub effective: Vec<Effective>,
    /// Files that were read, in their order.
    pub files: Vec<PathBuf>,
}

/// The sections in the order of the reference page: name, what it is for, its keys.
fn sections() -> Vec<(&'static str, String, Vec<Key>)> {
    fn one<S: Section>() -> (&'static str, String, Vec<Key>) {
        (S::NAME, schema::unwrap_lines(S::DOC), S::keys())
    }
    vec![
        one::<Device>(),
        one::<Audio>(),
        one::<Wake>(),
        one::<Endpoint>(),
        one::<Voice>(),
        one::<Stt>(),
        one::<Dialogue>(),
        one::<Speech>(),
        one::<Store>(),
        one::<Mqtt>(),
        one::<Http>(),
        one::<Backup>(),
    ]
}

/// Where things are before any file is read: the configuration can name another folder for backups.
pub fn paths(options: &Options) -> Paths {
    let (root, named) = places(options);
    Paths::new(&root, named.as_deref(), &options.env)
}

/// The folder that stands for `/`, and the configuration file if one is named.
fn places(options: &Options) -> (PathBuf, Option<PathBuf>) {
    let root = match &options.root {
        Some(root) => std::path::absolute(root).unwrap_or_else(|_| root.clone()),
        None => PathBuf::from("/"),
    };
    let named = options.config_file.as_ref();
    (root, named.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())))
}

/// Reads and checks the configuration.
///
/// # Errors
/// Every fault of every file and variable, in the order of reading; never an empty list.
pub fn load(options: &Options) -> Result<Settings, Vec<Fault>> {
    let (root, named) = places(options);
    let mut paths = Paths::new(&root, named.as_deref(), &options.env);

    let mut faults = Vec::new();
    // One that does not exist yet is an empty one: whoever writes first makes it.
    if root.exists() && !root.is_dir() {
        let place: std::sync::Arc<Path> = root.as_path().into();
        faults.push(Fault::new(Origin::file(&place, 0), None, "--root names a file; it takes a folder"));
    }
    let known: KnownKeys =
        sections().into_iter().map(|(name, _, keys)| (name, keys.iter().map(|k| k.name).collect())).collect();
    let mut layers = Layers::new(known);
    layers.read_file(&paths.config_file, named.is_some(), &mut faults);
    layers.read_folder(&paths.config_dir, &mut faults);
    layers.read_env(&options.env, &mut faults);
    layers.find_near_misses(&options.env, &mut faults);
    faults.extend(zone::fault(&options.env));

    let settings = Settings {
        device: Device::take(&mut layers, &mut faults),
        audio: Audio::take(&mut layers, &mut faults),
        wake: Wake::take(&mut layers, &mut faults),
        endpoint: Endpoint::take(&mut layers, &mut faults),
        voice: Voice::take(&mut layers, &mut faults),
        stt: Stt::take(&mut layers, &mut faults),
        dialogue: Dialogue::take(&mut layers, &mut faults),
        speech: Speech::take(&mut layers, &mut faults),
        store: Store::take(&mut layers, &mut faults),
        mqtt: Mqtt::take(&mut layers, &mut faults),
        http: Http::take(&mut layers, &mut faults),
        backup: Backup::take(&mut layers, &mut faults),
        warnings: Vec::new(),
        effective: Vec::new(),
        files: std::mem::take(&mut layers.files),
        paths: {
            paths.models.dedup();
            paths
        },
    };
    faults.extend(settings.contradictions(&layers));
    if !faults.is_empty() {
        return Err(faults);
    }
    let warnings = settings.unused_or_unwise(&layers);
    let backups = settings.backup.dir.clone().unwrap_or_else(|| settings.paths.backups.clone());
    Ok(Settings {
        warnings,
        effective: layers.effective,
        paths: Paths { backups, ..settings.paths },
        ..settings
    })
}

impl Settings {
    /// Values that are right each by itself and wrong together.
    fn contradictions(&self, layers: &Layers) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, sentence: String| {
            faults.push(Fault::new(layers.origin(key), Some(key.to_owned()), sentence));
        };
        let endpoint = &self.endpoint;
        if endpoint.end_silence_ms >= endpoint.max_utterance_ms {
            let longest = endpoint.max_utterance_ms;
            fault(
                "endpoint.end_silence_ms",
                format!("must be shorter than endpoint.max_utterance_ms, which is {longest}"),
            );
        } else if endpoint.pre_roll_ms + endpoint.end_silence_ms >= endpoint.max_utterance_ms {
            let least = endpoint.pre_roll_ms + endpoint.end_silence_ms;
            fault(
                "endpoint.max_utterance_ms",
                format!(
                    "must be longer than endpoint.pre_roll_ms and endpoint.end_silence_ms together, which is {least}"
                ),
            );
        }
        let stt = &self.stt;
        if stt.engine == Engine::Whisper && stt.language != "en" {
            fault(
                "stt.language",
                format!(
                    "is \"{}\", and Whisper as shipped knows English only: install a Vosk model and set stt.engine",
                    stt.language
                ),
            );
        }
        if !cfg!(feature = "vosk") && (stt.engine == Engine::Vosk || stt.vosk_model.is_some()) {
            let key = if stt.engine == Engine::Vosk { "stt.engine" } else { "stt.vosk_model" };
            fault(key, "asks for Vosk, and this program was built without it: use \"whisper\"".to_owned());
        }
        let mqtt = &self.mqtt;
        if let Some(url) = &mqtt.url {
            if mqtt.ca_file.is_some() && !url.tls {
                fault("mqtt.ca_file", "is of use only with TLS: write mqtt.url with mqtts://".to_owned());
            }
            if mqtt.password_file.is_some() && mqtt.username.is_none() {
                fault("mqtt.password_file", "needs a user: set mqtt.username".to_owned());
            }
        }
        let store = &self.store;
        if store.postgres_client_cert.is_some() != store.postgres_client_key.is_some() {
            let key = if store.postgres_client_cert.is_some() {
                "store.postgres_client_cert"
            } else {
                "store.postgres_client_key"
            };
            fault(key, "certificate and key belong together: set the other one as well".to_owned());
        }
        if store.postgres_ca_file.is_some() && store.postgres_url.as_ref().is_some_and(|url| url.is_scoped) {
            fault(
                "store.postgres_ca_file",
                "TLS cannot be demanded of an address with an interface; write the name of the host in \
                 store.postgres_url"
                    .to_owned(),
            );
        }
        faults
    }

    fn unused_or_unwise(&self, layers: &Layers) -> Vec<String> {
        let mut warnings = layers.warnings.clone();
        let not_yet = [
            ("http.listen", "there is no web page"),
            ("stt.libvosk", "libvosk.so is looked for beside the program and in ../lib/jarvis"),
        ];
        for (key, instead) in not_yet {
            let origin = layers.origin(key);
            if origin != Origin::Default {
                warnings.push(format!("{key} ({origin}) is not used by this version yet: {instead}"));
            }
        }
        if self.mqtt.url.is_none() {
            for key in ["mqtt.username", "mqtt.password_file", "mqtt.ca_file"] {
                if layers.origin(key) != Origin::Default {
                    warnings.push(format!("{key} is set, but mqtt.url is not: nothing is published"));
                }
            }
        }
        if self.stt.vosk_model.is_some() && matches!(self.stt.engine, Engine::Whisper | Engine::Off) {
            warnings.push("stt.vosk_model is set, but stt.engine takes another recogniser".to_owned());
        }
        match &self.store.postgres_url {
            None => {
                for key in ["postgres_password_file", "postgres_ca_file", "postgres_client_cert"] {
                    let key = format!("store.{key}");
                    if layers.origin(&key) != Origin::Default {
                        warnings.push(format!(
                            "{key} is set, but store.postgres_url is not: memory stays on this device"
                        ));
                    }
                }
            }
            Some(url)
                if url.crosses_network && !url.names_ssl_mode && self.store.postgres_ca_file.is_none() =>
            {
                warnings.push(
                    "store.postgres_url crosses a network and store.postgres_ca_file is not set: the server is not verified, \
                     and what it stores may travel in the clear"
                        .to_owned(),
                );
            }
            Some(_) => {}
        }
        warnings.extend(self.shared_name(layers));
        if self.backup.remote.is_none() && self.backup.rclone_config_file.is_some() {
            warnings.push(
                "backup.rclone_config_file is set, but backup.remote is not: nothing is copied elsewhere"
                    .to_owned(),
            );
        }
        if !self.voice.enabled {
            warnings.push("voice.enabled is false: anyone within earshot is answered".to_owned());
        }
        warnings
    }

    /// An id that another device is likely to have as well, where devices meet: at a database or at a broker.
    fn shared_name(&self, layers: &Layers) -> Option<String> {
        let place = match (&self.store.postgres_url, &self.mqtt.url) {
            (Some(_), Some(_)) => "store.postgres_url and mqtt.url are",
            (Some(_), None) => "store.postgres_url is",
            (None, Some(_)) => "mqtt.url is",
            (None, None) => return None,
        };
        let id = &self.device.id;
        let which = if layers.origin("device.id") == Origin::Default {
            format!("device.id is not set, so it is the host name \"{id}\"")
        } else if FRESH_NAMES.contains(&id.as_str()) {
            format!("device.id is \"{id}\", as many a fresh card is called")
        } else {
            return None;
        };
        Some(format!(
            "{which}, and {place} set: give each device an id of its own, or two of them are taken for one"
        ))
    }

    /// The file with the password of Postgres: `store.postgres_password_file`, else the systemd credential
    /// `postgres-password`.
    pub fn postgres_password_file(&self) -> Option<PathBuf> {
        let credential = self.paths.credentials.as_ref().map(|folder| folder.join("postgres-password"));
        self.store.postgres_password_file.clone().or(credential.filter(|path| path.exists()))
    }

    /// The file with the broker's password: `mqtt.password_file`, else the systemd credential `mqtt-password`.
    pub fn mqtt_password_file(&self) -> Option<PathBuf> {
        let credential = self.paths.credentials.as_ref().map(|folder| folder.join("mqtt-password"));
        self.mqtt.password_file.clone().or(credential.filter(|path| path.exists()))
    }

    /// The configuration of rclone: `backup.rclone_config_file`, else the systemd credential `rclone.conf`; `None` leaves it to
    /// rclone where it looks.
    pub fn rclone_config_file(&self) -> Option<PathBuf> {
        let credential = self.paths.credentials.as_ref().map(|folder| folder.join("rclone.conf"));
        self.backup.rclone_config_file.clone().or(credential.filter(|path| path.exists()))
    }
}

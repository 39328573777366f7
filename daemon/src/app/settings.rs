//! The checked configuration: all sections, and the contradictions between them.

use std::path::PathBuf;
use std::sync::Arc;

use super::device::Device;
use crate::audio::section::Audio;
use crate::backup::context::Context;
use crate::backup::section::Backup;
use crate::config::{
    self, Effective, Fault, Key, KnownKeys, Layers, Live, Options, Origin, Paths, Section, unwrap_lines,
};
use crate::detect::section::{Endpoint, Wake};
use crate::dialogue::section::{Dialogue, Speech};
use crate::mqtt::MqttSettings;
use crate::mqtt::section::Mqtt;
use crate::panel::section::{Button, Led};
use crate::speaker::section::Voice;
use crate::store::postgres::PgSettings;
use crate::store::section::Store;
use crate::stt::Engine;
use crate::stt::section::Stt;

/// Host names that images of cards come with.
const FRESH_NAMES: [&str; 6] = ["debian", "dietpi", "localhost", "raspberry", "raspberrypi", "ubuntu"];

/// Gathers the sections, each named once.
macro_rules! gather {
    ($($field:ident: $section:ty,)+) => {
        /// The checked configuration.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $(pub $field: $section,)+
            pub paths: Paths,
            /// Settings that are valid but probably not meant, a sentence each.
            pub warnings: Vec<String>,
            /// Every key with the value in force, secrets masked, in the order of the reference page.
            pub effective: Arc<[Effective]>,
            /// Files that were read, in their order.
            pub files: Vec<PathBuf>,
        }

        /// The sections in the order of the reference page: name, purpose, keys.
        fn sections() -> Vec<(&'static str, String, Vec<Key>)> {
            vec![$((<$section>::NAME, unwrap_lines(<$section>::DOC), <$section>::keys()),)+]
        }

        /// The sections of a running program, for the parts that follow a reload.
        #[derive(Debug, Clone)]
        pub struct LiveSections {
            $(pub $field: Live<$section>,)+
        }

        impl LiveSections {
            pub fn of(settings: &Settings) -> Self {
                Self { $($field: Live::new(settings.$field.clone()),)+ }
            }

            /// Takes the live keys of `new`; returns whether one of them has changed.
            pub fn adopt(&self, new: &Settings) -> bool {
                [$(self.$field.adopt(&new.$field)),+].contains(&true)
            }
        }

        impl Settings {
            fn take(mut layers: Layers, paths: Paths, faults: &mut Vec<Fault>) -> (Self, Layers) {
                let settings = Self {
                    $($field: <$section>::take(&mut layers, faults),)+
                    paths,
                    warnings: Vec::new(),
                    effective: Arc::default(),
                    files: std::mem::take(&mut layers.files),
                };
                (settings, layers)
            }
        }
    };
}

gather! {
    device: Device,
    audio: Audio,
    wake: Wake,
    endpoint: Endpoint,
    voice: Voice,
    stt: Stt,
    dialogue: Dialogue,
    speech: Speech,
    store: Store,
    mqtt: Mqtt,
    button: Button,
    led: Led,
    backup: Backup,
}

/// All sections and keys as Markdown.
pub fn reference_page() -> String {
    config::page_of(sections())
}

/// Reads and checks the configuration.
///
/// # Errors
/// Every fault of every file and variable, in the order of reading; never an empty list.
pub fn load(options: &Options) -> Result<Settings, Vec<Fault>> {
    let known: KnownKeys =
        sections().into_iter().map(|(name, _, keys)| (name, keys.iter().map(|k| k.name).collect())).collect();
    let mut faults = Vec::new();
    let (layers, paths) = config::read(options, known, &mut faults);
    let (mut settings, layers) = Settings::take(layers, paths, &mut faults);
    faults.extend(settings.contradictions(&layers));
    if !faults.is_empty() {
        return Err(faults);
    }
    settings.warnings = settings.unused_or_unwise(&layers);
    settings.effective = layers.effective.into();
    settings.look_for_credentials();
    if let Some(dir) = &settings.backup.dir {
        settings.paths.backups.clone_from(dir);
    }
    Ok(settings)
}

impl Settings {
    /// Finds values that are right each by itself and wrong together.
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
                    "must be longer than endpoint.pre_roll_ms and endpoint.end_silence_ms together, which is \
                     {least}"
                ),
            );
        }
        let stt = &self.stt;
        if stt.engine == Engine::Whisper && stt.language != "en" {
            fault(
                "stt.language",
                format!(
                    "is \"{}\", and Whisper as shipped knows English only: install a Vosk model and set \
                     stt.engine",
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
        if self.mqtt.url.is_none() {
            for key in ["mqtt.username", "mqtt.password_file", "mqtt.ca_file"] {
                if layers.origin(key) != Origin::Default {
                    warnings.push(format!("{key} is set, but mqtt.url is not: nothing is published"));
                }
            }
        }
        for (code, device) in [("talk", &self.button.talk_device), ("mute", &self.button.mute_device)] {
            let key = format!("button.{code}_code");
            if device.is_none() && layers.origin(&key) != Origin::Default {
                warnings.push(format!("{key} is set, but button.{code}_device is not: it does nothing"));
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
                    "store.postgres_url crosses a network and store.postgres_ca_file is not set: the server \
                     is not verified, and what it stores may travel in the clear"
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

    /// An id that another device is likely to have as well, if devices share a database or a broker.
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

    /// The settings in force as TOML that can be read back, except for masked secrets; each with its place.
    pub fn print(&self) -> String {
        config::print(&self.effective)
    }

    /// Keys whose values differ between `self` and `new`, and that only a start reads.
    pub fn restart_needed(&self, new: &Self) -> Vec<String> {
        self.effective
            .iter()
            .zip(new.effective.iter())
            .filter(|(before, after)| before.value != after.value && !before.live)
            .map(|(before, _)| before.key.clone())
            .collect()
    }

    /// The Postgres of the configuration; `None` where there is none.
    pub fn postgres(&self) -> Option<PgSettings> {
        let store = &self.store;
        let address = store.postgres_url.as_ref()?;
        Some(PgSettings {
            address: address.clone(),
            shown: address.to_string(),
            password_file: store.postgres_password_file.clone(),
            ca_file: store.postgres_ca_file.clone(),
            client_cert: store.postgres_client_cert.clone(),
            client_key: store.postgres_client_key.clone(),
            device: self.device.id.clone(),
        })
    }

    /// The broker of the configuration; `None` where there is none.
    pub fn broker(&self) -> Option<MqttSettings> {
        Some(MqttSettings {
            mqtt: self.mqtt.clone(),
            device_name: self.device.name(),
            voice: self.voice.clone(),
            copies_backups: self.backup.remote.is_some(),
            ..MqttSettings::new(self.mqtt.url.clone()?, self.device.id.clone())
        })
    }

    /// All that backups need to know.
    pub fn backups(&self) -> Context {
        Context {
            device: self.device.id.clone(),
            paths: self.paths.clone(),
            backup: self.backup.clone(),
            postgres: self.postgres(),
            effective: self.effective.clone(),
        }
    }

    /// Names the systemd credentials where keys name no file.
    fn look_for_credentials(&mut self) {
        let Some(folder) = &self.paths.credentials else { return };
        for (file, name) in [
            (&mut self.mqtt.password_file, "mqtt-password"),
            (&mut self.store.postgres_password_file, "postgres-password"),
            (&mut self.backup.rclone_config_file, "rclone.conf"),
        ] {
            let credential = folder.join(name);
            if file.is_none() && credential.exists() {
                *file = Some(credential.into());
            }
        }
    }
}

//! Targets of the keys: the files, folders, programs and models that must exist for a value to work.
//!
//! `check-config` and `doctor` look at them. Reading the configuration does not: an unplugged disk is no
//! fault of the file.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::Settings;
use crate::backup::keys::Keys;
use crate::config::{Fault, FilePath, Origin, quote};
use crate::detect::section::WakeModel;
use crate::detect::wake::WakeWord;
use crate::dialogue::speech::Speech;
use crate::error::chain;
use crate::inference::{ModelEntry, ModelStore, Role};
use crate::plain::{self, first_line, without_mark};
use crate::stt::{Engine, VoskModelDir};

impl Settings {
    /// Faults of the targets of keys.
    pub fn faults_of_files(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |key: &str, result: Result<(), String>| {
            if let Err(sentence) = result {
                faults.push(self.fault_of(key, sentence));
            }
        };
        let models = ModelStore::open(&self.paths.models);
        for model in &self.wake.model.0 {
            // Where the manifest cannot be read, the installation is at fault and not the name.
            if let Ok(store) = &models {
                check("wake.model", self.check_wake(model, store));
            }
        }
        if let Some(path) = &self.stt.vosk_model
            && matches!(self.stt.engine, Engine::Auto | Engine::Vosk)
        {
            check("stt.vosk_model", VoskModelDir::check(path).map(drop).map_err(|e| chain(&e)));
        }
        if self.speech.enabled && !self.speech.command.0.is_empty() {
            let speech = Speech::new(&self.speech);
            check("speech.command", speech.silent().map_or(Ok(()), |why| Err(why.to_owned())));
        }
        let store = &self.store;
        let files: [(&str, &Option<FilePath>, Check); 7] = [
            ("mqtt.password_file", &self.mqtt.password_file, check_secret),
            ("mqtt.ca_file", &self.mqtt.ca_file, check_authorities),
            ("store.postgres_password_file", &store.postgres_password_file, check_secret),
            ("store.postgres_ca_file", &store.postgres_ca_file, check_authorities),
            ("store.postgres_client_cert", &store.postgres_client_cert, check_plain),
            ("store.postgres_client_key", &store.postgres_client_key, check_plain),
            ("backup.rclone_config_file", &self.backup.rclone_config_file, check_plain),
        ];
        for (key, path, good) in files {
            match path.as_ref().map(FilePath::to_be_shown) {
                Some(Ok(path)) => check(key, named(path, good)),
                Some(Err(_)) => {
                    check(key, Err("names no file that can be found; write the path of one".to_owned()));
                }
                None => {}
            }
        }
        if let Some(path) = &self.backup.dir {
            check("backup.dir", check_folder(path).and_then(|()| check_apart(path, &self.paths.data)));
        }
        if let Some(path) = &self.backup.identity_file {
            check("backup.identity_file", Keys::read(Some(path)).map(drop).map_err(|e| chain(&e)));
        }
        faults
    }

    /// Warnings about the targets of keys: odd, but perhaps intended.
    pub fn warnings_of_files(&self) -> Vec<String> {
        let secrets = [
            ("mqtt.password_file", &self.mqtt.password_file),
            ("store.postgres_password_file", &self.store.postgres_password_file),
        ];
        let odd = |(key, path): (&str, &Option<FilePath>)| {
            Some(format!("{key}: {}", odd_secret(path.as_ref()?.as_path())?))
        };
        secrets.into_iter().filter_map(odd).collect()
    }

    /// The first model without which the daemon does not start; `doctor` names them all.
    pub fn fault_of_models(&self) -> Option<Fault> {
        let fault = match ModelStore::open(&self.paths.models) {
            Ok(store) => {
                let mut needed = store.entries().iter().filter(|entry| self.needs_model(&store, entry));
                needed.find_map(|entry| store.file(&entry.name).err())?
            }
            Err(e) => e,
        };
        Some(Fault::new(Origin::Default, None, chain(&fault)))
    }

    /// Whether the daemon does not start without the model `entry` of `store`.
    pub fn needs_model(&self, store: &ModelStore, entry: &ModelEntry) -> bool {
        let chosen = |model: &WakeModel| match model {
            WakeModel::Named(name) => store.entry(name).is_some_and(|known| known.name == entry.name),
            WakeModel::File(_) => false,
        };
        match entry.role {
            Role::Vad => true,
            Role::WakeMel | Role::WakeEmbedding => !self.wake.model.0.is_empty(),
            Role::WakeHead => self.wake.model.0.iter().any(chosen),
            Role::Speaker | Role::SpeakerCalibration | Role::SpeakerCohort | Role::SpeakerChannels => true,
            Role::Segmentation => self.voice.enabled && self.voice.hears_others(),
            _ => false,
        }
    }

    /// A name must be one of a wake word in the manifest; a file must be one that the detector can run.
    fn check_wake(&self, model: &WakeModel, store: &ModelStore) -> Result<(), String> {
        match model {
            WakeModel::File(path) => {
                named(path, check_plain)?;
                let word = WakeWord { model: model.clone(), threshold: self.wake.threshold };
                word.check(store).map_err(|e| chain(&e))
            }
            WakeModel::Named(name) => {
                let heads = store.entries().iter().filter(|m| m.role == Role::WakeHead);
                let heads: Vec<&str> = heads.map(|m| m.name.as_str()).collect();
                if store.entry(name).is_some_and(|entry| entry.role == Role::WakeHead) {
                    return Ok(());
                }
                Err(format!(
                    "names \"{}\", which is no wake word; there is {}, or the path of an .onnx file",
                    quote(name),
                    heads.join(", ")
                ))
            }
        }
    }

    fn fault_of(&self, key: &str, sentence: String) -> Fault {
        let found = self.effective.iter().find(|e| e.key == key);
        let origin = found.map_or(Origin::Default, |e| e.origin.clone());
        Fault::new(origin, Some(key.to_owned()), sentence)
    }
}

/// Describes the fault of a file: a predicate for a sentence that begins with its path.
type Check = fn(&Path) -> Result<(), String>;

/// Runs `check`, and puts the path before its finding.
fn named(path: &Path, check: Check) -> Result<(), String> {
    check(path).map_err(|why| format!("{} {why}", path.display()))
}

/// Opens a file without waiting for the other end of a pipe.
fn open_plain(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|e| format!("cannot be opened: {e}"))?;
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        Ok(meta) if meta.is_dir() => Err("is a folder, not a file".to_owned()),
        Ok(_) => Err("is not a regular file".to_owned()),
        Err(e) => Err(format!("cannot be read: {e}")),
    }
}

/// Whether `path` is a file that can be opened.
fn check_plain(path: &Path) -> Result<(), String> {
    open_plain(path).map(drop)
}

/// At most `most` bytes of a file.
fn read_plain(path: &Path, most: u64, is_not: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::new());
    let file = open_plain(path)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > most {
        return Err(format!("is longer than {most} bytes, so it is not {is_not}"));
    }
    Ok(bytes)
}

/// Whether `path` holds a password on its first line; the password itself is not kept.
fn check_secret(path: &Path) -> Result<(), String> {
    let bytes = read_plain(path, 4096, "a password")?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    plain::password(text).map(drop).map_err(str::to_owned)
}

/// Describes an odd password, which may be intended.
fn odd_secret(path: &Path) -> Option<String> {
    let bytes = read_plain(path, 4096, "a password").ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let line = first_line(text);
    if line.starts_with(char::is_whitespace) || line.ends_with(char::is_whitespace) {
        return Some(format!(
            "{} begins or ends with a blank, which counts as part of the password",
            path.display()
        ));
    }
    let more = without_mark(text).lines().skip(1).any(|line| !line.trim().is_empty());
    more.then(|| format!("{} has more than one line; the first one is the password", path.display()))
}

/// Whether `path` holds at least one certificate.
fn check_authorities(path: &Path) -> Result<(), String> {
    let bytes = read_plain(path, 16 << 20, "a list of certificates")?;
    let found = CertificateDer::pem_slice_iter(&bytes).any(|certificate| certificate.is_ok());
    if found { Ok(()) } else { Err("holds no certificate; it needs one in PEM format".to_owned()) }
}

/// Whether `path` is a folder, or can become one.
fn check_folder(path: &Path) -> Result<(), String> {
    match path.ancestors().find(|part| part.exists()) {
        Some(part) if !part.is_dir() => Err(format!("{} is a file, and a folder is needed", part.display())),
        _ => Ok(()),
    }
}

/// Whether the backup folder `dir` and the memory folder `data` are apart: neither is or holds the other.
fn check_apart(dir: &Path, data: &Path) -> Result<(), String> {
    let (here, memory) = (real(dir), real(data));
    let how = if here == memory {
        "is"
    } else if here.starts_with(&memory) {
        "lies in"
    } else if memory.starts_with(&here) {
        "holds"
    } else {
        return Ok(());
    };
    Err(format!(
        "{} {how} the folder of the memory, {}; name a folder of its own, best on another disk",
        dir.display(),
        data.display()
    ))
}

/// `path` without links in the part of it that exists.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    let found = there.and_then(|(part, real)| Some(real.join(path.strip_prefix(part).ok()?)));
    found.unwrap_or_else(|| path.to_owned())
}

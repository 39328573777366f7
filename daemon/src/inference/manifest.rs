//! `models/manifest.toml`: the file of each model, its hash, its licence and its origin.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::ModelError;
use crate::error::TomlFault;

/// The purpose of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Vad,
    WakeMel,
    WakeEmbedding,
    WakeHead,
    Speaker,
    SpeakerCalibration,
    SpeakerCohort,
    SpeakerChannels,
    Segmentation,
    SttEncoder,
    SttDecoder,
    SttEmbedding,
    SttVocabulary,
    SttSuppress,
    Reference,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vad => "vad",
            Self::WakeMel => "wake_mel",
            Self::WakeEmbedding => "wake_embedding",
            Self::WakeHead => "wake_head",
            Self::Speaker => "speaker",
            Self::SpeakerCalibration => "speaker_calibration",
            Self::SpeakerCohort => "speaker_cohort",
            Self::SpeakerChannels => "speaker_channels",
            Self::Segmentation => "segmentation",
            Self::SttEncoder => "stt_encoder",
            Self::SttDecoder => "stt_decoder",
            Self::SttEmbedding => "stt_embedding",
            Self::SttVocabulary => "stt_vocabulary",
            Self::SttSuppress => "stt_suppress",
            Self::Reference => "reference",
        })
    }
}

/// One `[[model]]` of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    pub name: String,
    /// Relative to a model folder.
    pub file: String,
    /// Lower-case hexadecimal.
    pub sha256: String,
    pub bytes: u64,
    pub role: Role,
    /// SPDX identifier.
    pub licence: String,
    /// Package and version.
    pub origin: String,
    #[serde(default)]
    pub inputs: String,
    #[serde(default)]
    pub outputs: String,
    /// Whether the file is part of the repository and of the package.
    pub committed: bool,
    /// The command that obtains the file, where it is not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<String>,
}

impl ModelEntry {
    /// The remedy for a missing or damaged file. `folder` is the place of a fetched file.
    pub fn fix(&self, folder: Option<&Path>) -> String {
        match &self.fetch {
            Some(command) => format!("run `{}`", into_folder(command, folder)),
            None => {
                format!("reinstall the package, or run `git checkout -- models/{}` in a checkout", self.file)
            }
        }
    }

    fn fault(&self) -> Option<String> {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        if self.name.is_empty() || normal_name(&self.name) != self.name {
            Some("a name is lower-case words joined by hyphens".into())
        } else if self.file.is_empty() || !Path::new(&self.file).components().all(plain) {
            Some(format!("file {:?} must be a plain path inside the model folder", self.file))
        } else if self.sha256.len() != 64 || !self.sha256.chars().all(hex) {
            Some(format!("sha256 {:?} must be 64 lower-case hexadecimal digits", self.sha256))
        } else if self.committed == self.fetch.is_some() {
            Some("a model is either committed or has a fetch command".into())
        } else {
            None
        }
    }
}

/// The manifest of a model folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(default, rename = "model")]
    pub models: Vec<ModelEntry>,
}

impl Manifest {
    /// Parses and checks a manifest; `path` is used in errors only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ModelError> {
        let manifest: Self = toml::from_str(text)
            .map_err(|e| ModelError::Manifest { path: path.into(), source: TomlFault::of(&e, text) })?;
        let mut names = HashSet::new();
        for entry in &manifest.models {
            let fault = entry
                .fault()
                .or_else(|| (!names.insert(entry.name.as_str())).then(|| "the name is used twice".into()));
            if let Some(fault) = fault {
                return Err(ModelError::ManifestEntry { path: path.into(), name: entry.name.clone(), fault });
            }
        }
        Ok(manifest)
    }

    /// The entry called `name`; "Hey Jarvis", "hey_jarvis" and "hey-jarvis" are one name.
    pub fn get(&self, name: &str) -> Option<&ModelEntry> {
        let name = normal_name(name);
        self.models.iter().find(|m| m.name == name)
    }
}

/// The command line of `scripts/fetch-models.sh` that fills `folder`, as a user who may write there.
pub fn into_folder(command: &str, folder: Option<&Path>) -> String {
    let Some(folder) = folder else { return command.to_owned() };
    let name = folder.display().to_string();
    let plain = name.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c));
    let name = if plain { name } else { format!("'{}'", name.replace('\'', "'\\''")) };
    let writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    format!("{}{command} --dest {name}", if writable { "" } else { "sudo " })
}

/// The form in which names are compared: "Hey Jarvis", "hey_jarvis" and "hey-jarvis" are one.
pub fn normal_name(name: &str) -> String {
    name.trim()
        .chars()
        .map(|c| if c == '_' || c.is_whitespace() { '-' } else { c.to_ascii_lowercase() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> String {
        format!(
            "[[model]]\nname = \"a-b\"\nfile = \"a.onnx\"\nsha256 = \"{}\"\nbytes = 1\nrole = \"vad\"\n\
             licence = \"MIT\"\norigin = \"x 1\"\ncommitted = true\n",
            "0".repeat(64)
        )
    }

    fn parse(text: &str) -> Result<Manifest, ModelError> {
        Manifest::parse(text, Path::new("manifest.toml"))
    }

    #[test]
    fn the_committed_manifest_is_valid_and_describes_the_committed_files() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        let text = std::fs::read_to_string(dir.join("manifest.toml")).unwrap();
        let manifest = parse(&text).unwrap();
        for entry in manifest.models.iter().filter(|m| m.committed) {
            assert_eq!(
                std::fs::metadata(dir.join(&entry.file)).unwrap().len(),
                entry.bytes,
                "{}",
                entry.name
            );
            assert!(!entry.licence.contains("NC"), "{} must not be committed", entry.name);
        }
        for entry in manifest.models.iter().filter(|m| !m.committed) {
            assert!(!dir.join(&entry.file).exists() || entry.fetch.is_some());
        }
    }

    #[test]
    fn a_name_is_found_however_it_is_written() {
        let manifest = parse(&entry()).unwrap();
        assert!(["a-b", "A_B", "a b", " A-b "].iter().all(|n| manifest.get(n).is_some()));
        assert!(manifest.get("ab").is_none());
    }

    #[test]
    fn faults_are_refused_with_the_model_named() {
        let cases = [
            (entry() + "colour = \"red\"\n", "unknown"),
            (entry().replace("a.onnx", "../a.onnx"), "plain path"),
            (entry().replace("a.onnx", "/a.onnx"), "plain path"),
            (entry().replace("00", "0G"), "hexadecimal"),
            (entry().replace("committed = true", "committed = false"), "fetch"),
            (entry() + &entry(), "twice"),
            (entry().replace("\"vad\"", "\"oracle\""), "unknown variant"),
        ];
        for (text, want) in cases {
            let error = parse(&text).unwrap_err();
            let said = crate::error::chain(&error);
            assert!(said.contains(want), "{said:?} should contain {want:?}");
        }
    }
}

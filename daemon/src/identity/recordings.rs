//! Recordings of an enrolment, kept where the person asked for it: one sealed file a person, on this device
//! alone.
//!
//! It is not in the database, so it goes into no backup and to no other device. A draft sealed for the new
//! voiceprint is on the disk before the voiceprint is stored, and gets its final name afterwards. Of the two
//! files the one that belongs to the voiceprint opens.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::durable::{create_file, read_if_there, remove_if_there, sync_folder, sync_name};
use crate::error::{Exit, Failure};
use crate::memory::{Memory, MemoryError, UserId, Voiceprint};
use crate::speaker::{SealedVoiceprint, Vault, VaultError};

/// Most bytes that are read: half an hour.
const MAX_BYTES: u64 = 64 << 20;

/// 16 kHz mono.
pub type Sentence = Zeroizing<Vec<i16>>;
pub type Sentences = Vec<Sentence>;

#[derive(Debug, thiserror::Error)]
pub enum RecordingsError {
    #[error("the kept recordings {} cannot be read", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the recordings could not be kept in {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the kept recordings {} could not be deleted", .path.display())]
    Delete { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Sealed(#[from] VaultError),
    #[error("reading whose voice is enrolled")]
    Memory(#[from] MemoryError),
    #[error("the work at the recordings was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl From<RecordingsError> for Failure {
    fn from(error: RecordingsError) -> Self {
        match error {
            RecordingsError::Memory(error) => error.into(),
            RecordingsError::Sealed(error) => Self::of(Exit::Config, &error),
            error => Self::of(Exit::Failed, &error),
        }
    }
}

/// The folder of all of them.
#[derive(Debug, Clone)]
pub struct Recordings(PathBuf);

/// On the disk under a name that does not count yet.
#[derive(Debug)]
pub struct Draft {
    draft: PathBuf,
    path: PathBuf,
}

impl Recordings {
    pub fn of(data: &Path) -> Self {
        Self(data.join("recordings"))
    }

    fn paths(&self, user: UserId) -> Draft {
        Draft { draft: self.0.join(format!(".{user}.sealed")), path: self.0.join(format!("{user}.sealed")) }
    }

    /// Size of a person's recordings in bytes; `None` without any.
    pub fn bytes(&self, user: UserId) -> Option<u64> {
        let Draft { draft, path } = self.paths(user);
        [path, draft].iter().find_map(|path| Some(fs::metadata(path).ok()?.len()))
    }

    /// The recordings of the person whose voiceprint this is; `None` if there are none.
    ///
    /// # Errors
    /// [`RecordingsError`], also if the file was changed or belongs to another voiceprint.
    pub fn read(&self, vault: &Vault, voice: &Voiceprint) -> Result<Option<Sentences>, RecordingsError> {
        let Draft { draft, path } = self.paths(voice.info.user_id);
        let (user, sealed) = (voice.info.user_id.to_string(), SealedVoiceprint::from(voice));
        let mut wrong = None;
        for path in [path, draft] {
            let Some(bytes) = read(&path)? else { continue };
            match vault.open_recordings(&user, &sealed, &bytes) {
                Ok(plain) => return sentences_of(&plain).map(Some).ok_or(VaultError::Recordings.into()),
                Err(error) => wrong = Some(error),
            }
        }
        wrong.map_or(Ok(None), |error| Err(error.into()))
    }

    /// Writes the recordings to keep with a voiceprint that is about to be stored.
    ///
    /// # Errors
    /// [`RecordingsError::Write`], `Sealed`; then nothing was changed.
    pub async fn draft(
        &self,
        vault: &Arc<Vault>,
        (user, voiceprint): (UserId, &SealedVoiceprint),
        sentences: &Sentences,
    ) -> Result<Draft, RecordingsError> {
        let (recordings, vault) = (self.clone(), vault.clone());
        let (voiceprint, sentences) = (voiceprint.clone(), sentences.clone());
        on_disk(move || recordings.write(&vault, (user, &voiceprint), &sentences)).await
    }

    fn write(
        &self,
        vault: &Vault,
        (user, voiceprint): (UserId, &SealedVoiceprint),
        sentences: &Sentences,
    ) -> Result<Draft, RecordingsError> {
        let sealed = vault.seal_recordings(&user.to_string(), voiceprint, &bytes_of(sentences))?;
        let draft = self.paths(user);
        let write = || {
            if !self.0.is_dir() {
                fs::DirBuilder::new().mode(0o700).create(&self.0)?;
                sync_name(&self.0)?;
            }
            remove_if_there(&draft.draft)?;
            let mut file = create_file(&draft.draft)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            sync_folder(&self.0)
        };
        match write() {
            Ok(()) => Ok(draft),
            Err(source) => {
                let _ = remove_if_there(&draft.draft);
                Err(RecordingsError::Write { path: self.0.clone(), source })
            }
        }
    }

    /// Deletes a person's recordings; returns whether there were any.
    ///
    /// # Errors
    /// [`RecordingsError::Delete`].
    pub async fn delete(&self, user: UserId) -> Result<bool, RecordingsError> {
        let (folder, Draft { draft, path }) = (self.0.clone(), self.paths(user));
        on_disk(move || {
            let removed = || {
                let found = remove_if_there(&draft)? | remove_if_there(&path)?;
                if found {
                    sync_folder(&folder)?;
                }
                Ok(found)
            };
            removed().map_err(|source| RecordingsError::Delete { path: path.clone(), source })
        })
        .await
    }

    /// Deletes the recordings of people whose voice was deleted, perhaps on another device: its key is gone
    /// already. A missing voiceprint is no reason by itself: this memory may be new, and Postgres may have
    /// it.
    ///
    /// # Errors
    /// [`RecordingsError`].
    pub async fn prune(&self, memory: &Memory) -> Result<(), RecordingsError> {
        let folder = self.0.clone();
        let listed =
            on_disk(move || Ok(fs::read_dir(folder).into_iter().flatten().flatten().collect())).await;
        let entries: Vec<fs::DirEntry> = listed?;
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let user = name.trim_start_matches('.').strip_suffix(".sealed").map(str::parse::<UserId>);
            let Some(Ok(user)) = user else { continue };
            if memory.voice_was_deleted(user).await? {
                self.delete(user).await?;
            }
        }
        Ok(())
    }
}

impl Draft {
    /// The voiceprint was not stored; nothing opens it then.
    pub async fn discard(self) {
        let _ = on_disk(move || Ok(remove_if_there(&self.draft).is_ok())).await;
    }

    /// The voiceprint is stored: now it counts.
    ///
    /// # Errors
    /// [`RecordingsError::Write`]; the written draft is still found.
    pub async fn install(self) -> Result<(), RecordingsError> {
        let Self { draft, path } = self;
        on_disk(move || {
            let install = || {
                fs::rename(&draft, &path)?;
                sync_name(&path)
            };
            install().map_err(|source| RecordingsError::Write { path: path.clone(), source })
        })
        .await
    }
}

/// Work for the disk, on a thread of its own: the workers of the runtime carry the turn.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecordingsError> + Send + 'static,
) -> Result<T, RecordingsError> {
    tokio::task::spawn_blocking(work).await.map_err(RecordingsError::Interrupted)?
}

/// 16-bit samples of sound in [-1, 1].
pub fn sentence(raw: &[f32]) -> Zeroizing<Vec<i16>> {
    #[expect(clippy::cast_possible_truncation, reason = "it is clamped")]
    let sample = |x: &f32| (x.clamp(-1.0, 1.0) * f32::from(i16::MAX)).round() as i16;
    Zeroizing::new(raw.iter().map(sample).collect())
}

/// The sound of a sentence in [-1, 1].
pub fn sound(sentence: &[i16]) -> Vec<f32> {
    sentence.iter().map(|sample| f32::from(*sample) / f32::from(i16::MAX)).collect()
}

/// Each sentence with its number of samples, u32, in front; little-endian.
fn bytes_of(sentences: &Sentences) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(sentences.iter().map(|s| 4 + 2 * s.len()).sum()));
    for sentence in sentences {
        bytes.extend(u32::try_from(sentence.len()).unwrap_or(u32::MAX).to_le_bytes());
        sentence.iter().for_each(|sample| bytes.extend(sample.to_le_bytes()));
    }
    bytes
}

fn sentences_of(mut bytes: &[u8]) -> Option<Sentences> {
    let mut sentences = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (samples, rest) = rest.split_at_checked(length.checked_mul(2)?)?;
        let samples = samples.as_chunks().0.iter().map(|sample| i16::from_le_bytes(*sample));
        sentences.push(Zeroizing::new(samples.collect()));
        bytes = rest;
    }
    bytes.is_empty().then_some(sentences)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, RecordingsError> {
    read_if_there(path, MAX_BYTES)
        .map_err(|source| RecordingsError::Read { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_come_back_and_a_cut_one_does_not() {
        let said: Sentences = [&[0.0, 1.0, -1.0][..], &[], &[2.0]].map(sentence).into();
        let bytes = bytes_of(&said);
        assert_eq!(sentences_of(&bytes).unwrap(), said);
        assert_eq!(said[0].to_vec(), [0, 32_767, -32_767]);
        assert!(sentences_of(&bytes[..bytes.len() - 1]).is_none());
        assert!(sentences_of(&[255; 8]).is_none());
        assert!(sentences_of(&[1, 0]).is_none());
    }
}

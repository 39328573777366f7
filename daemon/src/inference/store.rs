//! [`ModelStore`]: from a model's name to checked bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::plan::{InputFact, Plan};
use super::{MANIFEST, Manifest, ModelEntry, ModelError};
use crate::text::hex;

/// No model that a Raspberry Pi can run is larger; a file that a user dropped in must not fill the memory.
const MAX_MODEL_BYTES: u64 = 512 << 20;

/// The models of this device: one manifest, any number of folders.
#[derive(Debug)]
pub struct ModelStore {
    manifest: Manifest,
    manifest_path: PathBuf,
    dirs: Vec<PathBuf>,
    /// Files whose hash was right at the last check, by entry name.
    checked: Mutex<HashMap<String, PathBuf>>,
}

/// The state of one model's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ModelState {
    /// The file is there and is the pinned one.
    Verified,
    Missing,
    /// The file is there, but its SHA-256 differs.
    Damaged {
        found: String,
    },
    Unreadable {
        reason: String,
    },
}

/// A line of `jarvisd models list` and `models verify`.
#[derive(Debug, Clone, Serialize)]
pub struct ModelStatus {
    #[serde(flatten)]
    pub entry: ModelEntry,
    pub path: Option<PathBuf>,
    #[serde(flatten)]
    pub state: ModelState,
    /// The remedy; empty if the model is verified.
    pub fix: String,
}

impl ModelStore {
    /// Reads the first manifest found in `dirs`. Files are looked for in all of `dirs`, in order, when they
    /// are used. An unreadable folder (another user's) is passed over as long as another has a manifest.
    pub fn open(dirs: &[PathBuf]) -> Result<Self, ModelError> {
        let mut closed = None;
        for dir in dirs {
            let path = dir.join(MANIFEST);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                    closed.get_or_insert(ModelError::Read { path, source });
                    continue;
                }
                Err(source) => return Err(ModelError::Read { path, source }),
            };
            let manifest = Manifest::parse(crate::plain::without_mark(&text), &path)?;
            return Ok(Self {
                manifest,
                manifest_path: path,
                dirs: dirs.to_vec(),
                checked: Mutex::new(HashMap::new()),
            });
        }
        Err(closed.unwrap_or_else(|| ModelError::NoManifest { dirs: dirs.to_vec() }))
    }

    pub fn manifest_path(&self) -> &Path {
        &self.manifest_path
    }

    pub fn entries(&self) -> &[ModelEntry] {
        &self.manifest.models
    }

    /// The entry called `name`, however its words are joined.
    pub fn entry(&self, name: &str) -> Option<&ModelEntry> {
        self.manifest.get(name)
    }

    /// Whether the file of `entry` is there; its hash is not looked at.
    pub fn is_here(&self, entry: &ModelEntry) -> bool {
        self.find(entry).is_ok()
    }

    /// The file of model `name`, after its hash was found right. The check is done once per process.
    pub fn file(&self, name: &str) -> Result<PathBuf, ModelError> {
        let entry = self.known(name)?;
        if let Some(path) = self.lock().get(&entry.name) {
            return Ok(path.clone());
        }
        let path = self.find(entry)?;
        let found = hash_file(&path)?;
        self.admit(entry, path, &found)
    }

    /// The bytes of model `name`, hashed as they were read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        Ok(self.read_checked(self.known(name)?)?.1)
    }

    /// A plan of model `name` for exactly the input shapes `inputs` (input index, shape); inputs not named
    /// keep the shapes that the model declares, which must then be concrete.
    pub fn load(&self, name: &str, inputs: &[(usize, InputFact)]) -> Result<Plan, ModelError> {
        let entry = self.known(name)?;
        let (path, bytes) = self.read_checked(entry)?;
        Plan::from_bytes(&entry.name, &path, &bytes, inputs)
    }

    /// A plan of a model that is not in the manifest: a file from the owner. Its hash is not known in
    /// advance, so the log names the file and its hash.
    pub fn load_path(&self, path: &Path, inputs: &[(usize, InputFact)]) -> Result<Plan, ModelError> {
        let bytes = read_capped(path)?;
        log::info!(
            "loading {} on the owner's word: it is not in the manifest (SHA-256 {})",
            path.display(),
            hex(&Sha256::digest(&bytes))
        );
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Plan::from_bytes(&name, path, &bytes, inputs)
    }

    /// Every model of the manifest with the state of its file, hashed now.
    pub fn status(&self) -> Vec<ModelStatus> {
        self.manifest.models.iter().map(|entry| self.status_of(entry)).collect()
    }

    /// The state of one model's file, hashed now.
    pub fn status_of(&self, entry: &ModelEntry) -> ModelStatus {
        let (path, state) = match self.find(entry) {
            Err(_) => (None, ModelState::Missing),
            Ok(path) => {
                let state = match hash_file(&path) {
                    Ok(found) if found == entry.sha256 => ModelState::Verified,
                    Ok(found) => ModelState::Damaged { found },
                    Err(e) => ModelState::Unreadable { reason: crate::error::chain(&e) },
                };
                (Some(path), state)
            }
        };
        let fix = match &state {
            ModelState::Verified => String::new(),
            _ => self.fix(entry, path.as_deref()),
        };
        ModelStatus { entry: entry.clone(), path, state, fix }
    }

    /// The remedy for a file of model `name` that has the right hash and cannot be used.
    pub fn fix_of(&self, name: &str) -> String {
        self.entry(name).map_or_else(String::new, |entry| self.fix(entry, self.find(entry).ok().as_deref()))
    }

    /// A damaged file is replaced where it lies; a missing one goes where this device keeps its models.
    fn fix(&self, entry: &ModelEntry, found: Option<&Path>) -> String {
        let installed = || {
            let manifest = self.manifest_path.parent().filter(|dir| is_installed(dir));
            manifest.or_else(|| install_dir(&self.dirs))
        };
        entry.fix(found.and_then(Path::parent).or_else(installed))
    }

    fn known(&self, name: &str) -> Result<&ModelEntry, ModelError> {
        self.entry(name).ok_or_else(|| ModelError::Unknown {
            name: name.into(),
            known: self.manifest.models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn find(&self, entry: &ModelEntry) -> Result<PathBuf, ModelError> {
        self.dirs.iter().map(|dir| dir.join(&entry.file)).find(|path| path.is_file()).ok_or_else(|| {
            ModelError::Missing {
                name: entry.name.clone(),
                file: entry.file.clone(),
                dirs: self.dirs.clone(),
                fix: self.fix(entry, None),
            }
        })
    }

    fn read_checked(&self, entry: &ModelEntry) -> Result<(PathBuf, Vec<u8>), ModelError> {
        let path = self.find(entry)?;
        let bytes = read_capped(&path)?;
        let path = self.admit(entry, path, &hex(&Sha256::digest(&bytes)))?;
        Ok((path, bytes))
    }

    fn admit(&self, entry: &ModelEntry, path: PathBuf, found: &str) -> Result<PathBuf, ModelError> {
        if found != entry.sha256 {
            return Err(ModelError::Damaged {
                fix: self.fix(entry, Some(&path)),
                path,
                expected: entry.sha256.clone(),
                found: found.into(),
            });
        }
        self.lock().insert(entry.name.clone(), path.clone());
        Ok(path)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, PathBuf>> {
        // The map only ever holds facts that were true when inserted, so a poisoned lock is still right.
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folder among `dirs` that fetched models belong in; `None` where the default of
/// `scripts/fetch-models.sh` will do.
pub fn install_dir(dirs: &[PathBuf]) -> Option<&Path> {
    dirs.iter().map(PathBuf::as_path).find(|dir| is_installed(dir))
}

/// Not in a source tree: fetched files are no part of it.
fn is_installed(dir: &Path) -> bool {
    dir.is_dir() && !dir.ancestors().any(|above| above.join("daemon/Cargo.toml").is_file())
}

fn read_capped(path: &Path) -> Result<Vec<u8>, ModelError> {
    let fail = |source| ModelError::Read { path: path.into(), source };
    let file = File::open(path).map_err(fail)?;
    let bytes = file.metadata().map_err(fail)?.len();
    if bytes > MAX_MODEL_BYTES {
        return Err(ModelError::TooLarge { path: path.into(), bytes, limit: MAX_MODEL_BYTES });
    }
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    file.take(MAX_MODEL_BYTES).read_to_end(&mut content).map_err(fail)?;
    Ok(content)
}

fn hash_file(path: &Path) -> Result<String, ModelError> {
    let fail = |source| ModelError::Read { path: path.into(), source };
    let mut file = File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block).map_err(fail)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(block.get(..n).unwrap_or_default()),
        }
    }
}

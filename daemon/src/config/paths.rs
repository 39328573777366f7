//! The places on disk; `--root DIR` moves all of them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::durable::behind_link;

/// Every place the program reads or writes that is not named by a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The configuration file that is read first.
    pub config_file: PathBuf,
    /// The files read after it.
    pub config_dir: PathBuf,
    /// Everything that must survive: `/var/lib/jarvis`.
    pub data: PathBuf,
    /// The database itself, where a link to another disk stands in the data folder.
    pub db: PathBuf,
    /// Master key of the voiceprints, where systemd does not pass one.
    pub key: PathBuf,
    /// Folders searched for models, first hit first.
    pub models: Vec<PathBuf>,
    pub runtime: PathBuf,
    pub backups: PathBuf,
    /// Folder of the systemd credentials of this service.
    pub credentials: Option<PathBuf>,
}

impl Paths {
    pub(super) fn new(root: &Path, config_file: Option<&Path>, env: &[(OsString, OsString)]) -> Self {
        let var = |name: &str| {
            let found = env.iter().find(|(n, _)| n == name).map(|(_, value)| PathBuf::from(value));
            found.filter(|value| !value.as_os_str().is_empty())
        };
        let config_file = config_file.map_or_else(|| root.join("etc/jarvis/jarvis.toml"), Path::to_owned);
        let data = root.join("var/lib/jarvis");
        let mut models: Vec<PathBuf> = var("JARVIS_MODELS_DIR").into_iter().collect();
        models.extend([data.join("models"), root.join("usr/share/jarvis/models")]);
        // scripts/fetch-models.sh puts them there for one user of the machine.
        let per_user = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")));
        models.extend(per_user.map(|share| share.join("jarvis/models")));
        models.extend(models_nearby());
        Self {
            config_dir: config_file.parent().unwrap_or(Path::new("")).join("conf.d"),
            config_file,
            db: behind_link(&data.join("jarvis.db")),
            key: behind_link(&data.join("voiceprint.key")),
            models,
            runtime: root.join("run/jarvis"),
            backups: root.join("var/backups/jarvis"),
            credentials: var("CREDENTIALS_DIRECTORY"),
            data,
        }
    }
}

/// Models that came with this copy of the program: `share/jarvis/models` of an unpacked package, and `models`
/// of a source tree that holds the program or the current folder. Nothing about the build machine is compiled
/// in.
fn models_nearby() -> Vec<PathBuf> {
    let program = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    let mut found = Vec::new();
    if let Some(share) = program.as_deref().and_then(Path::parent).and_then(Path::parent) {
        let packaged = share.join("share/jarvis/models");
        if packaged.is_dir() {
            found.push(packaged);
        }
    }
    let here = std::env::current_dir().ok();
    let trees = [program, here].into_iter().flatten().filter_map(|start| {
        start.ancestors().find(|folder| is_source_tree(folder)).map(|tree| tree.join("models"))
    });
    for models in trees {
        for folder in [models.clone(), models.join("fetched")] {
            if folder.is_dir() && !found.contains(&folder) {
                found.push(folder);
            }
        }
    }
    found
}

/// A checkout of this repository; any folder that merely has `models` in it is not trusted.
fn is_source_tree(folder: &Path) -> bool {
    folder.join("models/manifest.toml").is_file() && folder.join("daemon/Cargo.toml").is_file()
}

//! A simulated sound card (`simmic.c`) for tests that speak to real ALSA.
//!
//! alsa-lib reads its configuration from an environment variable, so the card belongs to a process: give a
//! child [`Card::environment`]. Files in [`Card::dir`] hold the sound heard, the sound played and the faults;
//! see `simmic.c`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("simmic.c");
const CONFIGURATION: &str = include_str!("asound.conf.in");
/// Tells a test in a process of its own the folder of its card.
const DIR_VARIABLE: &str = "JARVIS_TEST_CARD";

/// The files of one simulated card; removed with it.
#[derive(Debug)]
pub struct Card {
    dir: PathBuf,
    _owned: Option<tempfile::TempDir>,
}

impl Card {
    /// A new card.
    pub fn new() -> Self {
        let library = compiled();
        let owned = tempfile::tempdir().expect("a temporary folder");
        let dir = owned.path().to_owned();
        let text = CONFIGURATION
            .replace("@LIB@", &library.display().to_string())
            .replace("@DIR@", &dir.display().to_string());
        std::fs::write(dir.join("asound.conf"), text).expect("write the configuration");
        Self { dir, _owned: Some(owned) }
    }

    /// The card that this process was started with, by [`Card::environment`].
    pub fn of_this_process() -> Self {
        let dir = std::env::var_os(DIR_VARIABLE).expect("started with the environment of a card");
        Self { dir: dir.into(), _owned: None }
    }

    /// The environment that gives a child process this card and no other.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("ALSA_CONFIG_PATH", self.dir.join("asound.conf")), (DIR_VARIABLE, self.dir.clone())]
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Switches a fault of `simmic.c` on or off: `unplug`, `busy`, `freeze`, `suspend`, `xrun`, `hang`,
    /// `echo`.
    pub fn fault(&self, name: &str, on: bool) {
        let path = self.dir.join(name);
        if on {
            std::fs::write(path, "").expect("set a fault");
        } else {
            std::fs::remove_file(path).expect("clear a fault");
        }
    }

    /// Sets the sound that the microphone hears from its first start on, in the device's format.
    pub fn hears(&self, sound: &[u8]) {
        std::fs::write(self.dir.join("in.raw"), sound).expect("write in.raw");
    }

    /// The sound that the loudspeaker has played since the last call.
    pub fn played(&self) -> Vec<u8> {
        let path = self.dir.join("out.raw");
        let sound = std::fs::read(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        sound
    }
}

/// Compiles the plug-in once per version of its source.
fn compiled() -> PathBuf {
    let mut hash = DefaultHasher::new();
    SOURCE.hash(&mut hash);
    let library = std::env::temp_dir().join(format!("jarvis-simmic-{:016x}.so", hash.finish()));
    if library.exists() {
        return library;
    }
    let build = tempfile::tempdir().expect("a temporary folder");
    let (source, made) = (build.path().join("simmic.c"), build.path().join("simmic.so"));
    std::fs::write(&source, SOURCE).expect("write the source");
    // The program itself is built with the same compiler and header, so neither may be missing.
    let compile = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&made, &source])
        .arg("-lasound")
        .output()
        .expect("a C compiler");
    assert!(compile.status.success(), "simmic.c: {}", String::from_utf8_lossy(&compile.stderr));
    // Another process may be doing the same: the last one wins, and they are equal.
    let staged = library.with_extension(format!("{}.part", std::process::id()));
    std::fs::copy(&made, &staged).expect("copy the plug-in");
    std::fs::rename(&staged, &library).expect("put the plug-in in place");
    library
}

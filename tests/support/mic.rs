//! A microphone and a loudspeaker made of files: an ALSA plugin compiled here, paced in real time, with faults on demand.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::{Root, scratch, sox};

/// What the plugin captures and plays: S16_LE, mono.
pub const RATE_HZ: u64 = 48_000;

pub struct Mic {
    dir: PathBuf,
    born: Instant,
}

impl Mic {
    /// Plugs the microphone `mic` and the loudspeaker `spk` into everything `root` starts from here on.
    pub fn plug_into(root: &mut Root) -> Self {
        let dir = root.path().join("sound");
        fs::create_dir_all(&dir).unwrap();
        File::create(dir.join("in.raw")).unwrap();
        let template = fs::read_to_string(source_dir().join("asound.conf.in")).unwrap();
        let conf = template
            .replace("@PLUGIN@", plugin().to_str().unwrap())
            .replace("@DIR@", dir.to_str().unwrap());
        let conf_path = dir.join("asound.conf");
        fs::write(&conf_path, conf).unwrap();
        root.env("ALSA_CONFIG_PATH", &conf_path);
        Self { dir, born: Instant::now() }
    }

    /// Puts a recording on the air, half a second from now or after what is already waiting, and returns the second
    /// (since the microphone was made) at which it ends.
    pub fn hears(&self, recording: &Path) -> f64 {
        let raw = self.dir.join("next.raw");
        sox(&[
            recording.to_str().unwrap(), "-t", "raw", "-r", &RATE_HZ.to_string(), "-c", "1", "-b", "16", "-e", "signed-integer",
            raw.to_str().unwrap(),
        ]);
        let sound = fs::read(&raw).unwrap();
        let mut tape = OpenOptions::new().write(true).open(self.dir.join("in.raw")).unwrap();
        let now = (self.born.elapsed().as_secs_f64() + 0.5) * f64::from(u32::try_from(RATE_HZ).unwrap());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a test")]
        let start = (now as u64 * 2).max(tape.metadata().unwrap().len());
        tape.seek(SeekFrom::Start(start)).unwrap();
        tape.write_all(&sound).unwrap();
        #[expect(clippy::cast_precision_loss, reason = "seconds of a test")]
        let end_s = (start + sound.len() as u64) as f64 / (2 * RATE_HZ) as f64;
        end_s
    }

    /// Everything the device has played so far, as raw S16 mono at [`RATE_HZ`].
    pub fn played(&self) -> Vec<u8> {
        fs::read(self.dir.join("out.raw")).unwrap_or_default()
    }

    fn fault(&self, name: &str, on: bool) {
        let path = self.dir.join(name);
        if on {
            File::create(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    pub fn unplug(&self) {
        self.fault("unplug", true);
    }

    pub fn plug_back(&self) {
        self.fault("unplug", false);
    }

    /// The device stays open but its clock stands still.
    pub fn freeze(&self, on: bool) {
        self.fault("freeze", on);
    }

    pub fn busy(&self, on: bool) {
        self.fault("busy", on);
    }
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support")
}

/// The plugin, compiled once per source text.
fn plugin() -> PathBuf {
    let source = source_dir().join("simmic.c");
    let text = fs::read(&source).unwrap();
    let mark = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let dir = scratch().join("simmic");
    fs::create_dir_all(&dir).unwrap();
    let library = dir.join(format!("libasound_module_pcm_simmic-{mark:016x}.so"));
    if !library.exists() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let fresh = work.path().join("plugin.so");
        let status = Command::new("gcc")
            .args(["-O2", "-shared", "-fPIC", "-o", fresh.to_str().unwrap(), source.to_str().unwrap(), "-lasound"])
            .status()
            .expect("gcc is installed");
        assert!(status.success(), "the ALSA test plugin does not compile; is libasound2-dev installed?");
        fs::rename(fresh, &library).unwrap();
    }
    library
}

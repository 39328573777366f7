//! A microphone and a loudspeaker for the daemon under test: the simulated card of `simmic.c`, heard in real
//! time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Root, scratch, sox, wait_until};

/// ALSA name of the microphone and of the loudspeaker: S16_LE, mono. "pair" is the same in stereo.
pub const DEVICE: &str = "room";
pub const RATE_HZ: u32 = 48_000;

pub struct Mic {
    dir: PathBuf,
}

impl Mic {
    /// Plugs the card into every process that `root` starts from here on.
    pub fn plug_into(root: &mut Root) -> Self {
        let dir = root.path().join("sound");
        fs::create_dir_all(&dir).unwrap();
        let template = fs::read_to_string(source_dir().join("asound.conf.in")).unwrap();
        let conf =
            template.replace("@LIB@", plugin().to_str().unwrap()).replace("@DIR@", dir.to_str().unwrap());
        let conf_path = dir.join("asound.conf");
        fs::write(&conf_path, conf).unwrap();
        root.env("ALSA_CONFIG_PATH", &conf_path);
        let mic = Self { dir };
        mic.own_noise(true);
        mic
    }

    /// Whether the microphone has its own noise, as every real one does, or delivers zeros.
    pub fn own_noise(&self, on: bool) {
        self.fault("noise", on);
    }

    /// From the first start of the daemon on the microphone delivers these samples, interleaved, as long as
    /// they last.
    pub fn delivers(&self, samples: impl Iterator<Item = i16>) {
        fs::write(self.dir.join("in.raw"), samples.flat_map(i16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    }

    /// Says a recording into the microphone, now. Returns when it has begun, with its length.
    pub fn hears(&self, recording: &Path) -> Duration {
        let next = self.dir.join("next.raw");
        let rate = RATE_HZ.to_string();
        let format = ["-t", "raw", "-r", &rate, "-c", "1", "-b", "16", "-e", "signed-integer"];
        let mut args = vec![recording.to_str().unwrap()];
        args.extend(format);
        args.push(next.to_str().unwrap());
        sox(&args);
        let samples = fs::metadata(&next).unwrap().len() / 2;
        let say = self.dir.join("say.raw");
        fs::rename(next, &say).unwrap();
        wait_until("the microphone to hear the recording", || !say.exists());
        Duration::from_millis(samples * 1_000 / u64::from(RATE_HZ))
    }

    /// The same. Returns a second after the end of the recording: a command has ended by then.
    pub fn hears_all(&self, recording: &Path) {
        std::thread::sleep(self.hears(recording) + Duration::from_secs(1));
    }

    /// Everything the device has played so far, as raw S16 mono at [`RATE_HZ`].
    pub fn played(&self) -> Vec<u8> {
        fs::read(self.dir.join("out.raw")).unwrap_or_default()
    }

    /// Waits until more than `before` bytes were played and nothing more follows: the device listens again.
    pub fn wait_until_answered(&self, before: usize) {
        let mut last = before;
        let mut quiet_since = Instant::now();
        wait_until("the spoken answer to end", || {
            let now = self.played().len();
            if now != last {
                (last, quiet_since) = (now, Instant::now());
            }
            now > before && quiet_since.elapsed() > Duration::from_secs(1)
        });
    }

    /// Switches a fault of `simmic.c` on or off.
    fn fault(&self, name: &str, on: bool) {
        let path = self.dir.join(name);
        if on {
            File::create(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// Another program holds the device for itself.
    pub fn busy(&self, on: bool) {
        self.fault("busy", on);
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

    /// The stream is suspended, as by a computer that sleeps.
    pub fn suspend(&self, on: bool) {
        self.fault("suspend", on);
    }

    /// The loudspeaker takes no sound, and the call that brings it does not return.
    pub fn hang_loudspeaker(&self) {
        self.fault("hang", true);
    }

    /// From here on the microphone hears what the loudspeaker plays, this much later.
    pub fn hear_loudspeaker(&self, after_ms: u32) {
        fs::write(self.dir.join("echo"), after_ms.to_string()).unwrap();
    }
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support")
}

/// The plug-in, compiled once per source text.
fn plugin() -> PathBuf {
    let source = source_dir().join("simmic.c");
    let text = fs::read(&source).unwrap();
    // FNV-1a: enough to tell one version of the source from another.
    let mark =
        text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let dir = scratch().join("simmic");
    fs::create_dir_all(&dir).unwrap();
    let library = dir.join(format!("libasound_module_pcm_simmic-{mark:016x}.so"));
    if !library.exists() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let fresh = work.path().join("plugin.so");
        let status = Command::new("gcc")
            .args([
                "-O2",
                "-shared",
                "-fPIC",
                "-o",
                fresh.to_str().unwrap(),
                source.to_str().unwrap(),
                "-lasound",
            ])
            .status()
            .expect("gcc is installed");
        assert!(status.success(), "the ALSA test plug-in does not compile; is libasound2-dev installed?");
        fs::rename(fresh, &library).unwrap();
    }
    library
}

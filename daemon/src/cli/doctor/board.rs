//! The findings of `doctor` on the board itself: temperature, supply, and speed limits that follow from them.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use super::Finding;
use crate::board::{Pace, Throttled};

/// Longest text that is read of a file: those of the kernel and `config.txt` are shorter.
const MOST_BYTES: u64 = 1 << 18;

/// The files of the kernel about this machine.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Of this machine, or of another one below a folder: only tests set `JARVIS_TEST_BOARD`.
    pub fn here() -> Self {
        Self { root: std::env::var_os("JARVIS_TEST_BOARD").map_or_else(|| "/".into(), PathBuf::from) }
    }

    #[cfg(test)]
    pub fn below(root: &std::path::Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The begin of a file's text, without the NUL or line break at its end; `None` where there is none. A
    /// pipe or an endless device in its place does not make it wait.
    pub fn read(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(self.path(path)).ok()?;
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned())
    }

    pub fn number(&self, path: &str) -> Option<i64> {
        self.read(path)?.parse().ok()
    }
}

pub fn board(files: &Files) -> Vec<Finding> {
    let pace = Pace::below(&files.root);
    [pace.celsius.map(temperature), pace.throttled.map(power)].into_iter().flatten().collect()
}

/// A Raspberry Pi slows down from 80 °C on, and stops speeding up before that.
fn temperature(celsius: f32) -> Finding {
    const CHECK: &str = "temperature";
    const HOT_C: f32 = 75.0;
    const SLOWS_DOWN_C: f32 = 80.0;
    const FIX: &str =
        "give the board air or a cooler, and keep it out of the sun and away from the amplifier";
    let message = format!("the processor has {} °C", crate::plain::figure(celsius, 0));
    if celsius >= SLOWS_DOWN_C {
        Finding::warn(CHECK, format!("{message}, at which it slows down: answers come late"), FIX)
    } else if celsius >= HOT_C {
        Finding::warn(CHECK, format!("{message}; from 80 °C on it slows down"), FIX)
    } else {
        Finding::ok(CHECK, message)
    }
}

fn power(throttled: Throttled) -> Finding {
    const CHECK: &str = "power";
    const FIX: &str = "use the supply of the board's maker with its own cable, and a hub with a supply of \
                       its own for USB devices; the temperature is the line above";
    let (now, before) = (throttled.now(), throttled.since_start());
    if !now.is_empty() {
        Finding::warn(CHECK, format!("{}, now", now.join(", ")), FIX)
    } else if !before.is_empty() {
        Finding::warn(CHECK, format!("not now, but since the board was started: {}", before.join(", ")), FIX)
    } else {
        Finding::ok(CHECK, "enough, since the board was started")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::super::State;
    use super::*;

    /// Writes files of the kernel below `root`.
    pub fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn found(files: &[(&str, &str)]) -> Vec<Finding> {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), files);
        board(&Files::below(root.path()))
    }

    /// As a Raspberry Pi 4 has them.
    const TYPE: (&str, &str) = ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    const TEMP: &str = "sys/class/thermal/thermal_zone0/temp";
    const THROTTLED: &str = "sys/bus/platform/devices/soc:firmware/get_throttled";

    #[test]
    fn heat_is_told_before_it_slows_the_board_down() {
        for (temp, state, words) in [
            ("48200\n", State::Ok, "the processor has 48 °C"),
            ("76500\n", State::Warn, "from 80 °C on"),
            ("83000\n", State::Warn, "slows down: answers come late"),
        ] {
            let other = ("sys/class/thermal/thermal_zone1/type", "iwlwifi_1\n");
            let cooler = ("sys/class/thermal/thermal_zone1/temp", "99000\n");
            let findings = found(&[TYPE, (TEMP, temp), other, cooler]);
            assert_eq!((findings.len(), findings[0].state), (1, state), "{findings:?}");
            assert!(findings[0].message.contains(words), "{findings:?}");
        }
    }

    #[test]
    fn the_limits_of_the_firmware_are_told_with_their_time() {
        for (bits, state, words) in [
            ("0\n", State::Ok, "enough"),
            ("50005\n", State::Warn, "the supply voltage is too low, it is throttled, now"),
            ("0x80000\n", State::Warn, "not now, but since the board was started: the soft limit of"),
        ] {
            let findings = found(&[(THROTTLED, bits)]);
            assert_eq!((findings.len(), findings[0].check, findings[0].state), (1, "power", state));
            assert!(findings[0].message.contains(words), "{findings:?}");
        }
    }

    #[test]
    fn a_board_without_such_files_has_no_line() {
        assert!(found(&[("proc/device-tree/model", "x\0")]).is_empty());
    }
}

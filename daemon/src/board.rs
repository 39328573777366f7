//! The machine that this runs on: board, processor, kernel, and whether it runs at its full speed.
//!
//! Everything comes from `/proc` and `/sys`. A value that is not there is `None`: a PC has no firmware that
//! tells of throttling, a container has no frequency.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Longest text that is read of such a file; the kernel's own are shorter.
const MOST_BYTES: usize = 4096;

/// The machine: what does not change while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Board {
    /// As the board names itself: "Raspberry Pi 4 Model B Rev 1.5".
    pub model: Option<String>,
    /// "4 × Cortex-A72 r0p3" or the name that an x86 processor has.
    pub processor: Option<String>,
    /// Release and architecture: "6.12.34+rpt-rpi-v8 aarch64".
    pub kernel: String,
    pub memory_mb: Option<u64>,
}

/// The state of the processor at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pace {
    /// Governor of the frequency: "ondemand", "performance".
    pub governor: Option<String>,
    pub mhz: Option<u32>,
    pub most_mhz: Option<u32>,
    pub celsius: Option<f32>,
    /// Flags of the firmware of a Raspberry Pi; `None` on other machines.
    pub throttled: Option<Throttled>,
}

/// The flags of `vcgencmd get_throttled`, from the kernel's copy of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Throttled(pub u32);

impl Throttled {
    /// Bits of the present, each with its words; the same 16 bits higher say that it happened since the
    /// start. From Raspberry Pi's documentation of `vcgencmd`.
    const BITS: [(u32, &'static str); 4] = [
        (0, "the supply voltage is too low"),
        (1, "the frequency is capped"),
        (2, "it is throttled"),
        (3, "the soft limit of the temperature is reached"),
    ];

    /// The limits that hold the board back now.
    pub fn now(self) -> Vec<&'static str> {
        self.named(0)
    }

    /// The limits that have held it back at some time since it started.
    pub fn since_start(self) -> Vec<&'static str> {
        self.named(16)
    }

    fn named(self, shift: u32) -> Vec<&'static str> {
        Self::BITS
            .iter()
            .filter(|(bit, _)| self.0 >> (bit + shift) & 1 == 1)
            .map(|(_, words)| *words)
            .collect()
    }
}

impl Board {
    pub fn of_this_machine() -> Self {
        Self::below(Path::new("/"))
    }

    /// The machine whose `proc` and `sys` lie below `root`.
    fn below(root: &Path) -> Self {
        let system = rustix::system::uname();
        let words = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let memory_kb = text_of(&root.join("proc/meminfo")).and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
        });
        Self {
            model: ["proc/device-tree/model", "sys/class/dmi/id/product_name"]
                .iter()
                .find_map(|path| text_of(&root.join(path))),
            processor: text_of(&root.join("proc/cpuinfo")).and_then(|text| processor_of(&text)),
            kernel: format!("{} {}", words(system.release()), words(system.machine())),
            memory_mb: memory_kb.map(|kb| kb.saturating_mul(1024) / 1_000_000),
        }
    }
}

impl Pace {
    pub fn of_this_machine() -> Self {
        Self::below(Path::new("/"))
    }

    /// The state of the machine whose `proc` and `sys` lie below `root`.
    pub fn below(root: &Path) -> Self {
        let frequency = root.join("sys/devices/system/cpu/cpu0/cpufreq");
        let mhz =
            |name: &str| -> Option<u32> { Some(text_of(&frequency.join(name))?.parse::<u32>().ok()? / 1000) };
        Self {
            governor: text_of(&frequency.join("scaling_governor")),
            mhz: mhz("scaling_cur_freq"),
            most_mhz: mhz("cpuinfo_max_freq"),
            celsius: celsius(&root.join("sys/class/thermal")),
            throttled: throttled(&root.join("sys/bus/platform/devices")),
        }
    }
}

/// The temperature of the processor's zone, or of the first one that has a value.
fn celsius(zones: &Path) -> Option<f32> {
    let mut found: Vec<PathBuf> =
        folders(zones).into_iter().filter(|zone| is_called(zone, "thermal_zone")).collect();
    found.sort_by_key(|zone| {
        let kind = text_of(&zone.join("type")).unwrap_or_default();
        (!(kind.contains("cpu") || kind.contains("pkg")), zone.clone())
    });
    found.iter().find_map(|zone| {
        let thousandths: i32 = text_of(&zone.join("temp"))?.parse().ok()?;
        Some(f32::from(i16::try_from(thousandths / 100).ok()?) / 10.0)
    })
}

/// The flags of the firmware, which are an attribute of its device. The name of that device differs from
/// board to board.
fn throttled(devices: &Path) -> Option<Throttled> {
    folders(devices).iter().filter(|device| device.to_string_lossy().ends_with("firmware")).find_map(
        |device| {
            let text = text_of(&device.join("get_throttled"))?;
            u32::from_str_radix(text.trim_start_matches("0x"), 16).ok().map(Throttled)
        },
    )
}

fn folders(of: &Path) -> Vec<PathBuf> {
    fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn is_called(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// The text of a small file without blanks and the zero byte at its end; `None` if it is missing or empty.
fn text_of(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let most = if path.ends_with("cpuinfo") { 64 * MOST_BYTES } else { MOST_BYTES };
    fs::File::open(path).ok()?.take(most as u64).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

/// The processor of a `/proc/cpuinfo`: the name that x86 has there, or the core by the numbers that ARM has.
fn processor_of(text: &str) -> Option<String> {
    let value = |key: &str| {
        let of = |line: &str| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        };
        text.lines().find_map(of)
    };
    let count = text.lines().filter(|line| line.starts_with("processor")).count().max(1);
    let name = value("model name").or_else(|| {
        let (maker, part) = (value("CPU implementer")?, value("CPU part")?);
        let core = arm_core(&maker, &part).map_or_else(|| format!("{maker}/{part}"), str::to_owned);
        let revision = value("CPU variant").zip(value("CPU revision"));
        let revision =
            revision.map(|(variant, patch)| format!(" r{}p{patch}", variant.trim_start_matches("0x")));
        Some(core + revision.as_deref().unwrap_or_default())
    })?;
    Some(format!("{count} × {name}"))
}

/// The cores of the Raspberry Pi by implementer and part (Arm's technical reference manuals, MIDR_EL1).
fn arm_core(maker: &str, part: &str) -> Option<&'static str> {
    match (maker, part) {
        ("0x41", "0xb76") => Some("ARM1176"),
        ("0x41", "0xc07") => Some("Cortex-A7"),
        ("0x41", "0xd03") => Some("Cortex-A53"),
        ("0x41", "0xd05") => Some("Cortex-A55"),
        ("0x41", "0xd08") => Some("Cortex-A72"),
        ("0x41", "0xd0b") => Some("Cortex-A76"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_raspberry_pi_is_told_by_its_files() {
        let root = tempfile::tempdir().unwrap();
        let core = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n\
                    CPU revision\t: 3\n\n";
        write(root.path(), "proc/cpuinfo", &core.repeat(4));
        write(root.path(), "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\0");
        write(root.path(), "proc/meminfo", "MemTotal:        3884360 kB\nMemFree: 1 kB\n");
        let cpufreq = "sys/devices/system/cpu/cpu0/cpufreq";
        for (name, value) in [
            ("scaling_governor", "ondemand\n"),
            ("scaling_cur_freq", "600000\n"),
            ("cpuinfo_max_freq", "1800000\n"),
        ] {
            write(root.path(), &format!("{cpufreq}/{name}"), value);
        }
        write(root.path(), "sys/class/thermal/thermal_zone0/type", "gpu\n");
        write(root.path(), "sys/class/thermal/thermal_zone0/temp", "20000\n");
        write(root.path(), "sys/class/thermal/thermal_zone1/type", "cpu-thermal\n");
        write(root.path(), "sys/class/thermal/thermal_zone1/temp", "48686\n");
        write(root.path(), "sys/bus/platform/devices/soc:firmware/get_throttled", "50005\n");
        let board = Board::below(root.path());
        assert_eq!(board.model.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.5"));
        assert_eq!(board.processor.as_deref(), Some("4 × Cortex-A72 r0p3"));
        assert_eq!(board.memory_mb, Some(3977));
        let pace = Pace::below(root.path());
        assert_eq!(pace.governor.as_deref(), Some("ondemand"));
        assert_eq!((pace.mhz, pace.most_mhz, pace.celsius), (Some(600), Some(1800), Some(48.6)));
        let throttled = pace.throttled.unwrap();
        assert_eq!(throttled.now(), ["the supply voltage is too low", "it is throttled"]);
        assert_eq!(throttled.now(), throttled.since_start());
    }

    #[test]
    fn what_a_machine_does_not_tell_is_left_out_and_odd_files_are_no_panic() {
        let root = tempfile::tempdir().unwrap();
        let nothing = Pace { governor: None, mhz: None, most_mhz: None, celsius: None, throttled: None };
        assert_eq!(Pace::below(root.path()), nothing);
        assert_eq!(Board::below(root.path()).processor, None);
        write(root.path(), "sys/class/thermal/thermal_zone0/temp", "99999999999\n");
        write(root.path(), "sys/bus/platform/devices/soc:firmware/get_throttled", "no\n");
        write(root.path(), "proc/cpuinfo", "processor\nmodel name\n\u{0}:\n");
        assert_eq!(Pace::below(root.path()), nothing);
        assert_eq!(Board::below(root.path()).processor, None);
        write(root.path(), "proc/cpuinfo", "processor : 0\nmodel name : AMD EPYC\n");
        assert_eq!(Board::below(root.path()).processor.as_deref(), Some("1 × AMD EPYC"));
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_processor() {
        let board = Board::of_this_machine();
        assert!(board.kernel.contains(std::env::consts::ARCH), "{board:?}");
        assert!(board.processor.is_some() && board.memory_mb > Some(100), "{board:?}");
    }
}

//! The finding of `doctor` on the disk that holds the memory: its wear, how much is written to it, and the
//! errors that its file system has noted.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Finding;
use super::board::Files;

const CHECK: &str = "disk endurance";
const REPLACE: &str = "make a backup, and replace it soon by one made for much writing (docs/hardware.md)";
/// Bytes of a sector in the kernel's counts, whatever the disk has.
const SECTOR_BYTES: u64 = 512;
/// A disk that is filled once in fewer days wears out within a few years: cheap flash takes some 1,000
/// fillings.
const LEAST_DAYS: f64 = 3.0;
/// The writes of less time say nothing.
const LEAST_UPTIME_S: f64 = 3_600.0;

/// The disk below `folder`.
pub fn storage(files: &Files, folder: &Path) -> Option<Finding> {
    let device = std::fs::metadata(folder).ok()?.dev();
    endurance(files, &format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
}

/// `number`: major and minor number of the file system's device, as in "179:2". `None` for one that is no
/// disk, such as memory or a share.
fn endurance(files: &Files, number: &str) -> Option<Finding> {
    let link = std::fs::read_link(files.path(&format!("sys/dev/block/{number}"))).ok()?;
    let partition = link.file_name()?.to_str()?.to_owned();
    // A partition lies in the folder of its disk.
    let parent = link.parent()?.file_name()?.to_str()?.to_owned();
    let disk = if parent == "block" { partition.clone() } else { parent };
    let of_disk = |file: &str| format!("sys/block/{disk}/{file}");

    let mut parts = vec![kind(files, &disk)];
    let mut faults = Vec::new();
    if let Some(wear) = wear(files, &of_disk("device/life_time")) {
        // Tenths of the life that are used up, rounded up; 11 is more than all of it.
        parts.push(format!("{} % of its life used", wear.min(10) * 10));
        if wear >= 9 {
            faults.push("it is nearly worn out");
        }
    }
    match files.read(&of_disk("device/pre_eol_info")).and_then(|text| hex(&text)) {
        Some(2) => faults.push("four fifths of its spare blocks are used up"),
        Some(3..) => faults.push("its spare blocks are used up"),
        _ => {}
    }
    if files.number(&format!("sys/fs/ext4/{partition}/errors_count")).is_some_and(|errors| errors > 0) {
        faults.push("its file system has noted errors (`dmesg`)");
    }
    let (written, days) = writes(files, &of_disk("stat"), &of_disk("size"));
    parts.extend(written);
    if days.is_some_and(|days| days < LEAST_DAYS) {
        faults.push("at this rate it is filled once in less than three days");
    }
    if let Some(kib) = files.number(&format!("sys/fs/ext4/{partition}/lifetime_write_kbytes")) {
        parts.push(format!(
            "{} GB since it was formatted",
            crate::plain::figure(kib as f64 * 1_024.0 / 1e9, 0)
        ));
    }
    let message = parts.join(", ");
    Some(if faults.is_empty() {
        Finding::ok(CHECK, message)
    } else if faults.len() == 1 && faults.iter().all(|fault| fault.starts_with("at this rate")) {
        let fix = "`sudo iotop -ao` (package iotop) shows who writes; firmware-config/README.md, \"The SD \
                   card\", keeps the journal off the card";
        Finding::warn(CHECK, format!("{message}; {}", faults.join(", ")), fix)
    } else {
        Finding::warn(CHECK, format!("{message}; {}", faults.join(", ")), REPLACE)
    })
}

/// "SD card SC32G of 03/2021", "eMMC …", "disk sda".
fn kind(files: &Files, disk: &str) -> String {
    let of = |file: &str| files.read(&format!("sys/block/{disk}/device/{file}"));
    let kind = match of("type").as_deref() {
        Some("SD") => "SD card",
        Some("MMC") => "eMMC",
        _ => "disk",
    };
    match (of("name").or_else(|| of("model")), of("date")) {
        (Some(name), Some(date)) => format!("{kind} {name} of {date}"),
        (Some(name), None) => format!("{kind} {name}"),
        (None, _) => format!("{kind} {disk}"),
    }
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// The larger of the two estimates of an eMMC ("0x01 0x03"); 0 is "not defined".
fn wear(files: &Files, file: &str) -> Option<u32> {
    files.read(file)?.split_whitespace().filter_map(hex).max().filter(|wear| *wear > 0)
}

/// The writes since the start of the board, and the days in which the whole disk would be written once.
fn writes(files: &Files, stat: &str, size: &str) -> (Option<String>, Option<f64>) {
    // The seventh number of Documentation/block/stat.rst.
    let sectors = files.read(stat).and_then(|text| text.split_whitespace().nth(6)?.parse::<u64>().ok());
    let uptime =
        files.read("proc/uptime").and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    let (Some(sectors), Some(uptime)) = (sectors, uptime) else { return (None, None) };
    let bytes = sectors.saturating_mul(SECTOR_BYTES) as f64;
    if uptime < LEAST_UPTIME_S {
        return (Some(format!("{} MB written since the start", crate::plain::figure(bytes / 1e6, 0))), None);
    }
    let an_hour = bytes * 3_600.0 / uptime;
    let capacity = files.number(size).map(|sectors| sectors as f64 * SECTOR_BYTES as f64);
    let days = capacity.map(|capacity| capacity / (an_hour.max(1.0) * 24.0));
    (Some(format!("{} MB written an hour", crate::plain::figure(an_hour / 1e6, 0))), days)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::board::tests::write;
    use super::*;

    /// A partition of an SD card or eMMC of 32 GB with these files beside those that every one has.
    fn found(files: &[(&str, &str)]) -> Finding {
        let root = tempfile::tempdir().unwrap();
        let card = "sys/devices/platform/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0";
        write(
            root.path(),
            &[
                (&format!("{card}/mmcblk0p2/partition"), "2\n"),
                ("sys/block/mmcblk0/size", "62333952\n"),
                ("sys/block/mmcblk0/stat", " 100 0 800 10 200 0 2048000 20 0 30 30 0 0 0 0 0 0\n"),
                ("sys/block/mmcblk0/device/name", "SC32G\n"),
                ("sys/block/mmcblk0/device/date", "03/2021\n"),
                ("sys/block/mmcblk0/device/type", "SD\n"),
                ("proc/uptime", "36000.00 1000.00\n"),
                ("sys/fs/ext4/mmcblk0p2/lifetime_write_kbytes", "123456789\n"),
                ("sys/fs/ext4/mmcblk0p2/errors_count", "0\n"),
            ],
        );
        write(root.path(), files);
        std::fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
        let link = format!("../../{}/mmcblk0p2", card.trim_start_matches("sys/"));
        std::os::unix::fs::symlink(link, root.path().join("sys/dev/block/179:2")).unwrap();
        endurance(&Files::below(root.path()), "179:2").unwrap()
    }

    #[test]
    fn an_sd_card_is_named_with_its_writes() {
        let finding = found(&[]);
        assert_eq!(finding.state, State::Ok, "{finding:?}");
        assert_eq!(
            finding.message,
            "SD card SC32G of 03/2021, 105 MB written an hour, 126 GB since it was formatted"
        );
    }

    #[test]
    fn an_emmc_that_is_worn_out_is_told() {
        let emmc = ("sys/block/mmcblk0/device/type", "MMC\n");
        let life = "sys/block/mmcblk0/device/life_time";
        let spare = "sys/block/mmcblk0/device/pre_eol_info";
        let young = found(&[emmc, (life, "0x01 0x02\n"), (spare, "0x01\n")]);
        assert_eq!(young.state, State::Ok, "{young:?}");
        assert!(young.message.contains("eMMC SC32G of 03/2021, 20 % of its life used"), "{young:?}");
        let old = found(&[emmc, (life, "0x0a 0x03\n"), (spare, "0x02\n")]);
        assert_eq!(old.state, State::Warn);
        assert!(old.message.contains("100 % of its life used"), "{old:?}");
        assert!(old.message.ends_with("it is nearly worn out, four fifths of its spare blocks are used up"));
        assert_eq!(old.fix.as_deref(), Some(REPLACE));
        let odd = found(&[emmc, (life, "0xffffffff\n")]);
        assert!(odd.message.contains("100 % of its life used"), "{odd:?}");
    }

    #[test]
    fn much_writing_and_noted_errors_are_told() {
        let busy = found(&[("sys/block/mmcblk0/stat", " 1 0 8 1 2 0 30000000000 2 0 3 3\n")]);
        assert!(busy.message.ends_with("filled once in less than three days"), "{busy:?}");
        assert!(busy.fix.unwrap().contains("iotop"));
        let errors = found(&[("sys/fs/ext4/mmcblk0p2/errors_count", "3\n")]);
        assert!(errors.message.ends_with("its file system has noted errors (`dmesg`)"), "{errors:?}");
        let fresh = found(&[("proc/uptime", "60.0 50.0\n")]);
        assert!(fresh.message.contains("1049 MB written since the start"), "{fresh:?}");
    }

    #[test]
    fn memory_and_shares_have_no_line() {
        let root = tempfile::tempdir().unwrap();
        assert!(endurance(&Files::below(root.path()), "0:42").is_none());
    }
}

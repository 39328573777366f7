//! The time zone of the system: it decides the day of a backup and the time that the device tells. An unknown
//! zone would silently be UTC.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::fault::{Fault, Origin, quote};

const VARIABLE: &str = "TZ";
const LOCAL: &str = "/etc/localtime";

/// The fault of the zone that `TZ`, else the system, names. A system without any is in UTC.
pub(super) fn fault(env: &[(OsString, OsString)]) -> Option<Fault> {
    let set = env.iter().find(|(name, _)| name == VARIABLE).map(|(_, value)| value.to_string_lossy());
    match set {
        Some(zone) => (!exists(&zone)).then(|| {
            let zone = quote(&zone);
            let sentence = if counts_leap_seconds(Path::new(name_of(&zone))) {
                format!(
                    "\"{zone}\" counts leap seconds, which the clock of the system does not; write the zone \
                     as Europe/Berlin, without right/"
                )
            } else if let Some(rule) = rule_behind_a_colon(&zone) {
                format!("\"{zone}\" is a rule behind a colon, which not every program reads; write {rule}")
            } else if let Some(written) = written(&zone) {
                format!("\"{zone}\" is not how every program here calls that time zone; write {written}")
            } else if lacks_its_rule(&zone) {
                format!(
                    "\"{zone}\" does not say when summer time begins and ends; write the zone as \
                     Europe/Berlin, or with its rule, such as {zone},M3.5.0,M10.5.0/3"
                )
            } else {
                format!(
                    "\"{zone}\" is no time zone of this system; write one as Europe/Berlin, or install tzdata"
                )
            };
            Fault::new(Origin::Env(VARIABLE.to_owned()), None, sentence)
        }),
        None => {
            let local = Path::new(LOCAL);
            let sound = || std::fs::read(local).is_ok_and(|bytes| is_zone(&bytes));
            let right = || local.canonicalize().is_ok_and(|file| counts_leap_seconds(&file));
            let wrong = local.symlink_metadata().is_ok() && (!sound() || right());
            wrong.then(|| {
                let place: Arc<Path> = local.into();
                let sentence = "is no time zone without leap seconds; set one with timedatectl set-timezone, \
                                or install tzdata";
                Fault::new(Origin::file(&place, 0), None, sentence)
            })
        }
    }
}

/// `zone` without the colon that may stand before a name or a path.
fn name_of(zone: &str) -> &str {
    zone.strip_prefix(':').unwrap_or(zone)
}

/// The rule where `zone` is one with a colon before it, which some programs take for UTC.
fn rule_behind_a_colon(zone: &str) -> Option<&str> {
    zone.strip_prefix(':').filter(|rule| TimeZone::posix(rule).is_ok() && TimeZone::get(rule).is_err())
}

/// Whether a zone lies in the folder of those that count leap seconds. Without leap seconds their times would
/// be wrong by more than half a minute.
fn counts_leap_seconds(zone: &Path) -> bool {
    zone.components().any(|part| part.as_os_str() == "right")
}

/// The ways in which `TZ` names a zone: nothing for UTC, a name or a path behind an optional colon, a POSIX
/// rule without one. A rule behind a colon is UTC to some programs.
fn exists(zone: &str) -> bool {
    let name = name_of(zone);
    if written(zone).is_some() || counts_leap_seconds(Path::new(name)) {
        return false;
    }
    if name.is_empty() || TimeZone::get(name).is_ok() || TimeZone::posix(zone).is_ok() {
        return true;
    }
    name.starts_with('/') && std::fs::read(name).is_ok_and(|bytes| is_zone(&bytes))
}

/// The name of the zone's file, where `zone` writes it in another case or below `posix/`: some programs would
/// not find it and take UTC.
fn written(zone: &str) -> Option<String> {
    let name = name_of(zone);
    let below = name.strip_prefix("posix/").unwrap_or(name);
    let found = TimeZone::get(below).ok()?;
    let written = found.iana_name()?;
    (written != name && written.eq_ignore_ascii_case(below)).then(|| written.to_owned())
}

/// Whether `zone` is a POSIX rule that names a summer time and nothing more. Its meaning is up to each
/// program then (POSIX.1-2024, 8.3), so it is not guessed.
fn lacks_its_rule(zone: &str) -> bool {
    TimeZone::posix(&format!("{zone},M3.5.0,M10.5.0/3")).is_ok()
}

fn is_zone(bytes: &[u8]) -> bool {
    TimeZone::tzif("", bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{exists, lacks_its_rule, written};

    #[test]
    fn a_zone_has_a_name_a_path_or_a_rule() {
        for zone in [
            "",
            "UTC",
            ":UTC",
            "Europe/Berlin",
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "/usr/share/zoneinfo/Europe/Berlin",
        ] {
            assert!(exists(zone), "{zone}");
        }
        for zone in [
            "Europe/Atlantis",
            "Berlin",
            "/etc/passwd",
            "/no/such",
            "Mars",
            "right/Europe/Berlin",
            ":/usr/share/zoneinfo/right/Europe/Berlin",
            ":CET-1CEST,M3.5.0,M10.5.0/3",
        ] {
            assert!(!exists(zone) && !lacks_its_rule(zone), "{zone}");
        }
        for zone in ["europe/berlin", ":EUROPE/Berlin", "posix/Europe/Berlin"] {
            assert_eq!(written(zone).as_deref(), Some("Europe/Berlin"), "{zone}");
            assert!(!exists(zone), "{zone}");
        }
        assert!(!exists("CET-1CEST") && lacks_its_rule("CET-1CEST"));
    }
}

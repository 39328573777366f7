//! The light: a pattern for each state of the device.
//!
//! | the device | the light |
//! |---|---|
//! | waits for the wake word | off |
//! | listens | on |
//! | checks who speaks, thinks | blinks quickly |
//! | speaks, starts | blinks slowly |
//! | is muted | a short flash every three seconds |
//! | works with limits, does not work, or pauses | three short flashes every three seconds |
//!
//! The blinking is made here: the kernel's triggers make files that only root may write.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::TRY_AGAIN;
use super::section;
use crate::health::{Condition, Health, State};

/// Name of the light in [`Health`].
pub const COMPONENT: &str = "led";

/// On or off, each for some milliseconds, from the begin again; a single step stays.
type Pattern = &'static [(bool, u64)];

const OFF: Pattern = &[(false, 0)];
const ON: Pattern = &[(true, 0)];
const QUICK: Pattern = &[(true, 120), (false, 120)];
const SLOW: Pattern = &[(true, 500), (false, 500)];
const FLASH: Pattern = &[(true, 80), (false, 2_920)];
const FLASHES: Pattern = &[(true, 80), (false, 170), (true, 80), (false, 170), (true, 80), (false, 2_420)];

fn pattern(state: State) -> Pattern {
    match state {
        State::Idle => OFF,
        State::Listening | State::FollowUp => ON,
        State::Verifying | State::Thinking => QUICK,
        State::Starting | State::Speaking => SLOW,
        State::Muted => FLASH,
        State::Paused | State::Degraded | State::Error => FLASHES,
    }
}

/// A light of the kernel's LED class.
#[derive(Debug)]
struct Light {
    brightness: PathBuf,
    /// Brightness when it is on.
    level: u32,
    is_on: Option<bool>,
}

impl Light {
    /// Takes the light from whatever drives it.
    fn open(section: &section::Led, folder: &Path) -> io::Result<Self> {
        let most = read(&folder.join("max_brightness"))?;
        let most: u32 = most.trim().parse().map_err(|_| io::Error::other("max_brightness is no number"))?;
        let level = u64::from(most) * u64::from(section.brightness_percent) / 100;
        let trigger = folder.join("trigger");
        if trigger.exists() {
            write(&trigger, "none")?;
        }
        let level = u32::try_from(level).unwrap_or(most).max(1);
        Ok(Self { brightness: folder.join("brightness"), level, is_on: None })
    }

    fn set(&mut self, on: bool) -> io::Result<()> {
        if self.is_on != Some(on) {
            write(&self.brightness, &(if on { self.level } else { 0 }).to_string())?;
            self.is_on = Some(on);
        }
        Ok(())
    }
}

/// The begin of a small file; a pipe in its place does not make it wait.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    file.take(64).read_to_string(&mut text)?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    file.write_all(format!("{text}\n").as_bytes())
}

/// Shows the state of the device until `stop`, and goes out then. A light that is away is tried again.
pub async fn run(section: section::Led, health: Health, stop: CancellationToken) -> Result<(), Infallible> {
    let Some(folder) = section.folder.clone() else {
        stop.cancelled().await;
        return Ok(());
    };
    loop {
        match show(&section, &folder, &health, &stop).await {
            Ok(()) => return Ok(()),
            Err(error) => health.set(
                COMPONENT,
                Condition::away(format!(
                    "the light {} cannot be set ({error}) and is being tried again; everything else works",
                    folder.display()
                )),
            ),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = sleep(TRY_AGAIN) => {}
        }
    }
}

async fn show(
    section: &section::Led,
    folder: &Path,
    health: &Health,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut light = Light::open(section, folder)?;
    let mut status = health.watch();
    let mut now = pattern(status.borrow_and_update().state);
    let mut steps = now.iter().cycle();
    health.set(COMPONENT, Condition::Ok);
    loop {
        let (on, ms) = steps.next().copied().unwrap_or((false, 0));
        light.set(on)?;
        let step = async {
            match now.len() {
                1 => std::future::pending().await,
                _ => sleep(Duration::from_millis(ms)).await,
            }
        };
        tokio::pin!(step);
        // The step goes on when something else of the status changes.
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return light.set(false),
                changed = status.changed() => {
                    let wanted = pattern(status.borrow_and_update().state);
                    if changed.is_err() {
                        return light.set(false);
                    }
                    if wanted != now {
                        (now, steps) = (wanted, wanted.iter().cycle());
                        break;
                    }
                }
                () = &mut step => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn light(folder: &Path, most: &str) -> section::Led {
        fs::write(folder.join("max_brightness"), most).unwrap();
        fs::write(folder.join("brightness"), "0\n").unwrap();
        fs::write(folder.join("trigger"), "[mmc0] none\n").unwrap();
        section::Led { folder: Some(folder.to_owned()), ..section::Led::default() }
    }

    fn shown(folder: &Path) -> String {
        fs::read_to_string(folder.join("brightness")).unwrap().trim().to_owned()
    }

    #[test]
    fn states_that_a_person_must_tell_apart_look_different() {
        let groups = [
            &[State::Idle][..],
            &[State::Listening, State::FollowUp],
            &[State::Verifying, State::Thinking],
            &[State::Speaking, State::Starting],
            &[State::Muted],
            &[State::Degraded, State::Error, State::Paused],
        ];
        assert_eq!(groups.concat().len(), State::ALL.len());
        for (n, group) in groups.iter().enumerate() {
            for state in *group {
                let same: Vec<usize> = (0..groups.len())
                    .filter(|other| groups[*other].iter().any(|of| pattern(*of) == pattern(*state)))
                    .collect();
                assert_eq!(same, [n], "{state:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_light_follows_the_state_and_goes_out_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let section = light(folder.path(), "255\n");
        let (health, stop) = (Health::new(), CancellationToken::new());
        health.set_stage(State::Listening);
        let shows = run(section, health.clone(), stop.clone());
        let story = async {
            let wait_for = async |wanted: &str| {
                while shown(folder.path()) != wanted {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            wait_for("255").await;
            assert_eq!(fs::read_to_string(folder.path().join("trigger")).unwrap(), "none\n");
            health.set_stage(State::Thinking);
            for _ in 0..2 {
                wait_for("0").await;
                wait_for("255").await;
            }
            health.set_stage(State::Listening);
            health.set("mqtt", Condition::degraded("changes nothing here"));
            wait_for("255").await;
            sleep(Duration::from_millis(300)).await;
            assert_eq!(shown(folder.path()), "255");
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(shows, story);
        assert!(ended.is_ok());
        assert_eq!(shown(folder.path()), "0");
    }

    #[test]
    fn odd_files_are_errors_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        for (most, fits) in
            [("1\n", true), ("", false), ("-1", false), ("nan", false), ("4294967295\n", true)]
        {
            let section = light(folder.path(), most);
            let opened = Light::open(&section, folder.path());
            assert_eq!(opened.is_ok(), fits, "{most:?}");
        }
        let dim = section::Led { brightness_percent: 1, ..light(folder.path(), "1\n") };
        assert_eq!(Light::open(&dim, folder.path()).unwrap().level, 1, "on is never off");
        fs::write(folder.path().join("max_brightness"), [0xff; 200]).unwrap();
        assert!(Light::open(&dim, folder.path()).is_err());
        let section = light(folder.path(), "1\n");
        let mut open = Light::open(&section, folder.path()).unwrap();
        fs::remove_file(folder.path().join("brightness")).unwrap();
        assert!(open.set(true).is_err(), "an unplugged light is not made as a file");
        assert!(!folder.path().join("brightness").exists());
        assert!(Light::open(&section, Path::new("/nowhere")).is_err());
    }
}

//! The disk is full while the pipeline runs: turns are answered, reported as not stored, and stored again
//! when there is room. And a disk hangs: a reader of a file there must not hold up others.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::mic::Mic;
use crate::support::{Daemon, Root, Voice, of, wait_until};

/// The daemon with its data on a file system of `size` that goes away with it. `None`, with a line, where
/// this machine does not allow one.
fn daemon_on_small_disk(root: &Root, size: &str) -> Option<(Daemon, PathBuf)> {
    let may = Command::new("unshare")
        .args(["-r", "-m", "mount", "-t", "tmpfs", "tmpfs", root.path().to_str().unwrap()])
        .stderr(Stdio::null())
        .status();
    if !may.is_ok_and(|status| status.success()) {
        crate::support::missing::skipped("no file system can be mounted on this machine (unshare -r -m)");
        return None;
    }
    let data = root.path().join("var/lib/jarvis");
    let saved = root.path().join("saved");
    let copied = Command::new("cp").arg("-a").args([&data, &saved]).status().unwrap();
    assert!(copied.success());
    let script = "mount -t tmpfs -o size=$1 tmpfs \"$2\" && cp -a \"$3/.\" \"$2\" && shift 3 && exec \"$@\"";
    let daemon = root.command(&["run", "--events"]);
    let mut command = Command::new("unshare");
    command.args(["-r", "-m", "sh", "-c", script, "sh", size]).args([&data, &saved]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    command.envs(daemon.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let daemon = Daemon::start(command);
    let inside = Path::new("/proc").join(daemon.child.id().to_string()).join("root");
    let data = inside.join(data.strip_prefix("/").unwrap());
    Some((daemon, data))
}

/// Takes every free byte of the file system of `file`.
fn fill_up(file: &Path) {
    let mut filler = File::create(file).unwrap();
    for block in [64 * 1024, 4_096, 1] {
        while filler.write_all(&vec![0; block]).is_ok() {}
    }
}

#[test]
fn with_a_full_disk_the_answer_says_that_it_will_be_forgotten_and_afterwards_all_is_well() {
    let mut root = Root::with_config("[audio]\ndevice = \"room\"\n[speech]\nenabled = false\n");
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    let Some((mut daemon, data)) = daemon_on_small_disk(&root, "16m") else { return };
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says("hey jarvis, remember that the bicycle is in the cellar"));
    daemon.wait_event("stored");

    let filler = data.join("filler");
    fill_up(&filler);
    // The rest of the database's own room may take one more turn.
    let mut turns = 0;
    let refused = loop {
        turns += 1;
        assert!(turns < 10, "the disk is full and turns are stored: {:#?}", daemon.seen);
        mic.hears(&Voice::Rms.says("hey jarvis, what time is it"));
        let outcome = daemon.wait_for("an outcome", |e| e["event"] == "stored" || e["event"] == "error");
        if outcome["event"] == "error" {
            break outcome;
        }
    };
    assert_eq!(refused["stage"], "store", "{refused}");
    let reply = of(&daemon.seen, "reply").last().unwrap()["text"].as_str().unwrap().to_owned();
    assert!(reply.contains("I cannot store anything at the moment, so this will be forgotten"), "{reply}");
    assert!(reply.contains("It is"), "answered all the same: {reply}");
    daemon.wait_log("store: what is said cannot be stored");

    // A promise that only storage makes true is not given.
    mic.hears(&Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot"));
    let refused = daemon.wait_event("error");
    assert_eq!(refused["stage"], "store", "{refused}");
    let reply = of(&daemon.seen, "reply").last().unwrap()["text"].as_str().unwrap().to_owned();
    assert!(reply.contains("nothing can be stored") || reply.contains("will be forgotten"), "{reply}");

    std::fs::remove_file(&filler).unwrap();
    mic.hears(&Voice::Rms.says("hey jarvis, what do you remember about the bicycle"));
    daemon.wait_event("stored");
    let reply = of(&daemon.seen, "reply").last().unwrap()["text"].as_str().unwrap().to_owned();
    assert!(reply.contains("cellar"), "what was stored before is there: {reply}");
    wait_until("the store to be well", || daemon.log().contains("store works again"));
    mic.hears(&Voice::Rms.says("hey jarvis, what do you remember about the spare key"));
    daemon.wait_event("stored");
    let reply = of(&daemon.seen, "reply").last().unwrap()["text"].as_str().unwrap().to_owned();
    assert!(!reply.contains("blue pot"), "what was not stored is forgotten: {reply}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn password_files_on_a_disk_that_hangs_hold_nobody_up() {
    let mut root = Root::new();
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    let (broker, postgres) = (root.path().join("broker.password"), root.path().join("postgres.password"));
    for file in [&broker, &postgres] {
        std::fs::write(file, "secret\n").unwrap();
    }
    root.write_config(&format!(
        "[audio]\ndevice = \"room\"\n[speech]\nenabled = false\n\
         [mqtt]\nurl = \"mqtt://127.0.0.1:1\"\nusername = \"jarvis\"\npassword_file = {broker:?}\n\
         [store]\npostgres_url = \"postgres://jarvis@127.0.0.1:1/jarvis\"\n\
         postgres_password_file = {postgres:?}\n"
    ));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    // A pipe that nobody writes to is a file whose disk does not answer.
    for file in [&broker, &postgres] {
        std::fs::remove_file(file).unwrap();
        assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
    }
    // It can be opened for writing once somebody reads. These two ends keep the readers waiting: as many as
    // the runtime has workers.
    let mut held = Vec::new();
    for file in [&broker, &postgres] {
        wait_until("the password to be read", || {
            let end = OpenOptions::new()
                .write(true)
                .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
                .open(file);
            end.map(|end| held.push(end)).is_ok()
        });
    }
    mic.hears(&Voice::Rms.says("hey jarvis, what time is it"));
    daemon.wait_event("stored");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

//! `jarvis-setup` as an owner runs it: with answers from a file or typed, wrong ones among them, interrupted,
//! and taken back. The real program, the simulated card; systemd and avahi are scripts that write down what
//! they are asked.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::mic::Mic;
use crate::support::{Root, wait_until};

/// A configuration with what an editor must not lose.
const BEFORE: &str = "\
# The kitchen's own file.
[device]
name = \"Old\"      # on the shelf
id = \"kitchen\"

# Every sentence is a command.
[wake]
model = \"none\"

[endpoint]
#end_silence_ms = 800
pre_roll_ms = 310 # tried out
";
const BOOT: &str = "# For more see the manual.\ndtparam=audio=on\n\n[pi5]\ninclude jarvis-rtc-pi5.txt\n";

struct Setup {
    root: Root,
    mic: Mic,
    /// Programs that are found before those of the system.
    stubs: PathBuf,
}

impl Setup {
    fn new() -> Self {
        let mut root = Root::with_config(BEFORE);
        let mic = Mic::plug_into(&mut root);
        let stubs = root.path().join("stubs");
        let setup = Self { root, mic, stubs };
        setup.write("boot/firmware/config.txt", BOOT);
        setup.stub(
            "systemctl",
            "case $1 in\nrestart) [ ! -e \"$0.broken\" ] ;;\nshow) echo \"Listening.\" ;;\nesac",
        );
        setup
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// A script that first writes its arguments to a file beside it.
    fn stub(&self, name: &str, script: &str) {
        self.write(&format!("stubs/{name}"), &format!("#!/bin/sh\necho \"$*\" >>\"$0.calls\"\n{script}\n"));
        fs::set_permissions(self.stubs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn calls(&self, name: &str) -> String {
        fs::read_to_string(self.stubs.join(format!("{name}.calls"))).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let jarvisd = self.root.command(&[]);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/jarvis-setup");
        // A run of the tests in the background ignores the interrupt, and a shell would inherit that.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(script);
        command.args(["--root", self.root.path().to_str().unwrap()]).args(args);
        command.envs(jarvisd.get_envs().map(|(name, value)| (name, value.unwrap())));
        command.env("JARVIS_SETUP_PROGRAM", jarvisd.get_program());
        command.env("JARVIS_SETUP_SYSTEMCTL", self.stubs.join("systemctl"));
        command.env("PATH", format!("{}:{}", self.stubs.display(), std::env::var("PATH").unwrap()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A run with these answers from a file.
    fn with_answers(&self, answers: &str, args: &[&str]) -> Output {
        self.write("answers", answers);
        let answers = self.path("answers");
        self.command(&[&["--answers", answers.to_str().unwrap()], args].concat()).output().unwrap()
    }

    /// A run to which these lines are typed.
    fn typed(&self, lines: &str) -> Output {
        let mut child = self.command(&[]).stdin(Stdio::piped()).spawn().unwrap();
        // A run that ends early does not read all of them.
        let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Whether nothing of a run is left, and the files are those from before.
    fn assert_untouched(&self, why: &str) {
        assert_eq!(self.read("etc/jarvis/jarvis.toml"), BEFORE, "{why}");
        assert_eq!(self.read("boot/firmware/config.txt"), BOOT, "{why}");
        let left: Vec<_> =
            fs::read_dir(self.path("etc/jarvis")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["jarvis.toml"], "{why}");
        assert!(!self.path("etc/alsa/conf.d/50-jarvis-card.conf").exists(), "{why}");
        assert!(!self.path("boot/firmware/jarvis-voicehat.txt").exists(), "{why}");
    }
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn answers_from_a_file_change_only_their_keys_and_are_taken_back_by_undo() {
    let setup = Setup::new();
    setup.write("secret", "pass word\nsecond line\n");
    let answers = format!(
        "# Of the kitchen.\nname = \"Kitchen\"\nmicrophone = room\nloudspeaker = room\n\
         wake_word = hey-jarvis\nbroker = mqtt://broker.invalid\nbroker_user = jarvis\n\
         broker_password_file = {}\nbackup = on\n\
         wake_test = yes\n",
        setup.path("secret").display()
    );
    let trial = setup.with_answers(&answers, &["--dry-run"]);
    assert_eq!(trial.status.code(), Some(0), "{}", text(&trial));
    assert!(text(&trial).contains("+name = \"Kitchen\"      # on the shelf"), "{}", text(&trial));
    setup.assert_untouched("a trial");
    assert!(!setup.calls("systemctl").contains("restart"), "{}", setup.calls("systemctl"));

    let call = crate::guided::call(&setup.root);
    let mut run = setup.command(&["--answers", setup.path("answers").to_str().unwrap()]);
    let run = run.spawn().unwrap();
    let level = "the level is measured, and the wake word waited for";
    let stopped = || setup.calls("systemctl").contains("stop jarvisd");
    wait_until(level, || stopped() && setup.path("etc/jarvis/mqtt-password").exists());
    setup.mic.hears(&call);
    let run = run.wait_with_output().unwrap();
    let said = text(&run);
    assert_eq!(run.status.code(), Some(0), "{said}");
    assert!(said.contains("\"room\", 48000 Hz: quietest") && said.contains("Heard \"hey-jarvis\""), "{said}");
    assert!(said.contains("Listening.") && said.contains("Say: hey jarvis, what time is it"), "{said}");
    assert!(!said.contains("pass word"), "{said}");

    let after = BEFORE
        .replace("name = \"Old\"", "name = \"Kitchen\"")
        .replace("model = \"none\"", "model = \"hey-jarvis\"");
    let password = setup.path("etc/jarvis/mqtt-password");
    let added = format!(
        "\n[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n\n[mqtt]\n\
         url = \"mqtt://broker.invalid\"\nusername = \"jarvis\"\npassword_file = \"{}\"\n",
        password.display()
    );
    assert_eq!(setup.read("etc/jarvis/jarvis.toml"), after.clone() + &added);
    assert_eq!(fs::read_to_string(&password).unwrap(), "pass word\n");
    assert_eq!(fs::metadata(&password).unwrap().permissions().mode() & 0o777, 0o600);
    let calls = setup.calls("systemctl");
    assert!(calls.contains("restart jarvisd"), "{calls}");
    assert!(calls.contains("enable --now jarvis-backup.timer jarvis-backup-verify.timer"), "{calls}");

    // Again, with nothing new: every value in force is its default.
    let again = setup.with_answers("skip = sound trial voice\n", &[]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again));
    assert!(text(&again).contains("stays as it is"), "{}", text(&again));
    assert!(text(&again).contains("Name that people read: Kitchen"), "{}", text(&again));
    assert_eq!(setup.read("etc/jarvis/jarvis.toml"), after + &added);

    let undone = setup.command(&["--undo"]).output().unwrap();
    assert_eq!(undone.status.code(), Some(0), "{}", text(&undone));
    setup.assert_untouched("undone");
    let nothing = setup.command(&["--undo"]).output().unwrap();
    assert!(nothing.status.code() == Some(1) && text(&nothing).contains("nothing to bring back"));
}

#[test]
fn a_bad_answer_is_one_sentence_and_nothing_is_changed() {
    let setup = Setup::new();
    let cases = [
        ("id = The Kitchen", "lower-case letters"),
        ("microphone = nowhere", "ALSA knows no device \"nowhere\""),
        ("card = tin", "there is no card file \"tin\""),
        ("wake_word = hey-you", "hey-you"),
        ("broker = http://broker", "mqtt://"),
        ("postgres = postgres://jarvis:secret@db/jarvis", "leave the password out"),
        ("broker = mqtt://b\nbroker_user = u\nbroker_password_file = /nowhere", "there is no such file"),
        ("backup = sometimes", "on or off"),
        ("backup_folder = backups", "begins with /"),
        ("voice = --yes\nskip = device sound wake broker postgres backup", "a name, or none"),
        ("colour = blue", "there is no question \"colour\""),
        ("skip = everything", "there is no step \"everything\""),
        ("name", "is not KEY = VALUE"),
    ];
    for (answers, expected) in cases {
        // The level would take its time.
        let skip =
            if answers.contains("microphone") || answers.contains("skip") { "" } else { "\nskip = voice" };
        let output = setup.with_answers(&format!("{answers}{skip}\n"), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{answers}: {}", text(&output));
        assert!(said.contains(expected), "{answers}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "{answers}: {said}");
        setup.assert_untouched(answers);
    }
    let output = setup.typed("\n");
    assert!(output.status.code() == Some(2) && text(&output).contains("use --answers"), "{}", text(&output));
    setup.assert_untouched("the input ended");
}

#[test]
fn typed_answers_are_asked_again_where_they_are_bad_and_a_broker_is_found_by_mdns() {
    let setup = Setup::new();
    setup.stub(
        "avahi-browse",
        r#"[ "$2" != _mqtt._tcp ] ||
            printf '%s\n' '=;eth0;IPv4;The\032broker;_mqtt._tcp;local;home.local;10.0.0.2;1884;""'"#,
    );
    // Device: two bad identifiers. The sound as it is. Wake word by its number. The broker that was found.
    // Postgres and backup as they are. Write it. No trial, no voice.
    let output = setup.typed("\nParlour\nThe Parlour\nID!\nparlour\ns\n\n1\n\n\nnone\ns\ns\ny\ns\ns\n");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.matches("Identifier, once and for ever [kitchen]").count(), 3, "{said}");
    assert!(said.contains("1  mqtt://home.local:1884   The broker"), "{said}");
    let config = setup.read("etc/jarvis/jarvis.toml");
    for line in [
        "name = \"Parlour\"",
        "id = \"parlour\"",
        "url = \"mqtt://home.local:1884\"",
        "model = \"hey-jarvis\"",
    ] {
        assert!(config.contains(line), "{line}: {config}");
    }
}

#[test]
fn an_interrupted_run_leaves_every_file_as_it_was_also_one_that_is_killed() {
    let setup = Setup::new();
    for signal in ["INT", "TERM", "KILL"] {
        let mut run = setup.command(&[]).stdin(Stdio::piped()).spawn().map(running).unwrap();
        let stdin = run.child.stdin.as_mut().unwrap();
        // The files of a board, and then the question for the microphone.
        stdin.write_all(b"s\n\nvoicehat\ny\n").unwrap();
        let changed =
            || setup.read("boot/firmware/config.txt").ends_with("\n[all]\ninclude jarvis-voicehat.txt\n");
        wait_until("the files of the board", || {
            changed() && setup.path("etc/alsa/conf.d/60-jarvis.conf").exists()
        });
        run.signal(signal);
        let code = run.exit_code();
        if signal == "KILL" {
            assert!(changed(), "nobody could take it back");
            let next = setup.with_answers("skip = device sound wake broker postgres backup\n", &[]);
            assert!(text(&next).contains("An earlier run was cut off"), "{}", text(&next));
        } else {
            assert_eq!(code, Some(130), "{signal}");
        }
        setup.assert_untouched(signal);
    }
}

#[test]
fn the_files_of_a_board_are_shown_first_and_a_daemon_that_does_not_start_gets_its_old_ones_back() {
    let setup = Setup::new();
    setup.write("stubs/systemctl.broken", "");
    let answers = "card = voicehat\nskip = device wake broker postgres backup trial voice\n";
    let restarted = setup.with_answers(answers, &[]);
    let said = text(&restarted);
    assert_eq!(restarted.status.code(), Some(0), "a restart of the board comes first: {said}");
    assert!(said.contains("+include jarvis-voicehat.txt") && said.contains("sudo reboot"), "{said}");
    assert!(said.contains("+dtoverlay=googlevoicehat-soundcard"), "{said}");
    assert!(setup.read("boot/firmware/config.txt").contains("include jarvis-rtc-pi5.txt"), "the clock stays");
    assert!(setup.read("etc/jarvis/jarvis.toml").contains("device = \"jarvis_microphone\""));
    setup.command(&["--undo"]).output().unwrap();
    setup.assert_untouched("undone");

    // The board has been restarted: its card is there, and its overlay is left alone.
    setup.write("proc/asound/cards", " 0 [sndrpigooglevoi]: RPi-simple - snd_rpi_googlevoicehat_soundcar\n");
    let broken = setup.with_answers(answers, &[]);
    let said = text(&broken);
    assert_eq!(broken.status.code(), Some(1), "{said}");
    assert!(said.contains("Card: voicehat") && !said.contains("config.txt"), "{said}");
    assert!(said.contains("does not start with this configuration"), "{said}");
    assert!(setup.calls("systemctl").ends_with("start --no-block jarvisd\n"), "{}", setup.calls("systemctl"));
    setup.assert_untouched("the daemon did not start");
}

#[test]
fn a_key_that_another_file_sets_and_a_microphone_that_is_busy_are_told() {
    let setup = Setup::new();
    setup.write("etc/jarvis/conf.d/name.toml", "[device]\nname = \"Cellar\"\n");
    let output = setup.with_answers("name = Attic\nskip = sound trial voice\n", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("device.name is also set in"), "{}", text(&output));
    assert_eq!(setup.read("etc/jarvis/jarvis.toml"), BEFORE);

    setup.mic.busy(true);
    let skip = "skip = device sound wake broker postgres backup trial\n";
    let mut run = setup.command(&["--answers", setup.path("answers").to_str().unwrap()]);
    setup.write("answers", &format!("voice = Anna\n{skip}"));
    let output = run.env("JARVIS__AUDIO__DEVICE", "room").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("\"room\" is in use"), "{}", text(&output));
    assert!(text(&output).contains("Later: sudo jarvisd voice enroll --user \"Anna\""), "{}", text(&output));
}

/// A run that is killed if the test ends first.
fn running(child: std::process::Child) -> Running {
    Running { child }
}

struct Running {
    child: std::process::Child,
}

impl Running {
    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

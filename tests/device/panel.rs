//! Button, mute switch and light at the device. No pin of a board and no simulated input device is here: the
//! devices are pipes that carry the kernel's records, the light is a folder of files with the kernel's names.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::mic::Mic;
use crate::support::{Broker, Root, Voice, of, wait_until};
use serde_json::Value;

const WHO: &str = "hey jarvis, who am i";
/// A command without the wake word, long enough to identify the speaker.
const BARE: &str = "remember that the bicycle is in the cellar beside the old wooden shelf";

const EV_KEY: u16 = 1;
const EV_SW: u16 = 5;
const KEY_VOICECOMMAND: u16 = 582;
const SW_MUTE_DEVICE: u16 = 14;

/// A household with a panel and a broker.
struct Panel {
    root: Root,
    mic: Mic,
    broker: Broker,
}

impl Panel {
    fn new(more: &str) -> Self {
        let broker = Broker::start();
        let mut root = Root::new();
        let here = root.path().display().to_string();
        root.write_config(&format!(
            "[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n[device]\nid = \"kitchen\"\n\
             [mqtt]\nurl = \"{}\"\n{}",
            broker.url(),
            more.replace("HERE", &here)
        ));
        let mic = Mic::plug_into(&mut root);
        root.enrol("anna", Voice::Rms);
        Self { root, mic, broker }
    }

    /// Plugs an input device in. Nobody presses anything on it yet.
    fn plug(&self, name: &str) -> Input {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let path = self.root.path().join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Input { pipe, path }
    }

    fn light(&self) -> PathBuf {
        let folder = self.root.path().join("light");
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in [("max_brightness", "255\n"), ("brightness", "0\n"), ("trigger", "[mmc0] none\n")]
        {
            fs::write(folder.join(file), text).unwrap();
        }
        folder
    }
}

struct Input {
    pipe: File,
    path: PathBuf,
}

impl Input {
    fn sends(&mut self, kind: u16, code: u16, value: i32) {
        let mut bytes = vec![0; size_of::<libc::input_event>() - 8];
        bytes.extend([kind.to_ne_bytes(), code.to_ne_bytes()].concat());
        bytes.extend(value.to_ne_bytes());
        self.pipe.write_all(&bytes).unwrap();
    }

    fn held_for(&mut self, time: Duration) {
        self.sends(EV_KEY, KEY_VOICECOMMAND, 1);
        std::thread::sleep(time);
        self.sends(EV_KEY, KEY_VOICECOMMAND, 0);
    }

    fn unplug(self) {
        fs::remove_file(&self.path).unwrap();
    }
}

fn health(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_prefix("jarvis/kitchen/health ")?).ok()
}

#[test]
fn nothing_but_the_switch_lifts_its_mute_and_until_it_is_known_the_device_is_muted() {
    let panel = Panel::new("[button]\nmute_device = \"HERE/switch\"\nmute_code = 14\n");
    let (mic, broker) = (&panel.mic, &panel.broker);
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    let mut daemon = panel.root.daemon();
    daemon.wait_event("ready");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state muted");
    topics.wait_for("the part", |l| {
        health(l)
            .is_some_and(|h| h["problem"] == true && h["components"]["mute_switch"]["condition"] == "away")
    });
    mic.hears_all(&Voice::Rms.says(WHO));
    let refused = |topics: &mut crate::support::Subscriber| {
        broker.publish("jarvis/kitchen/mute/set", "OFF");
        let answer = topics.wait_for("the answer", |l| l.starts_with("jarvis/kitchen/answer "));
        assert!(answer.contains("refused") && answer.contains("move the switch"), "{answer}");
    };
    refused(&mut topics);

    // Plugged in; a pipe cannot be asked how it stands.
    let mut switch = panel.plug("switch");
    topics.wait_for("the part", |l| {
        health(l).is_some_and(|h| h["components"]["mute_switch"]["condition"] == "degraded")
    });
    // Another key of the same device is not the switch.
    switch.sends(EV_KEY, KEY_VOICECOMMAND, 1);
    switch.sends(EV_SW, SW_MUTE_DEVICE, 1);
    topics.wait_for("the part", |l| health(l).is_some_and(|h| h["problem"] == false && h["muted"] == true));
    refused(&mut topics);
    switch.sends(EV_SW, SW_MUTE_DEVICE, 0);
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    daemon.drain();
    assert_eq!(of(&daemon.seen, "wake").len(), 1, "what was said before is not heard: {:#?}", daemon.seen);

    // Muted by the household, then by the switch as well: the household's mute stays.
    mic.wait_until_answered(0);
    broker.publish("jarvis/kitchen/mute/set", "ON");
    topics.wait_for("the mute", |l| l == "jarvis/kitchen/mute ON");
    switch.sends(EV_SW, SW_MUTE_DEVICE, 1);
    switch.sends(EV_SW, SW_MUTE_DEVICE, 0);
    std::thread::sleep(Duration::from_millis(500));
    broker.subscribe("jarvis/kitchen/#").shows("the mute", |l| l == "jarvis/kitchen/mute ON");
    broker.publish("jarvis/kitchen/mute/set", "OFF");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");

    // Unplugged while it is on: muted until it is back and says otherwise.
    switch.sends(EV_SW, SW_MUTE_DEVICE, 1);
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state muted");
    switch.unplug();
    topics.wait_for("the part", |l| {
        health(l).is_some_and(|h| h["muted"] == true && h["components"]["mute_switch"]["condition"] == "away")
    });
    refused(&mut topics);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_press_is_heard_without_the_wake_word_a_hold_mutes_and_the_light_shows_both() {
    let panel = Panel::new(
        "[button]\ntalk_device = \"HERE/button\"\nhold_ms = 700\n[led]\nfolder = \"HERE/light\"\n",
    );
    let mut button = panel.plug("button");
    let light = panel.light().join("brightness");
    let shows =
        |wanted: &str| wait_until(wanted, || fs::read_to_string(&light).is_ok_and(|l| l.trim() == wanted));
    let mut topics = panel.broker.subscribe("jarvis/kitchen/#");
    let mut daemon = panel.root.daemon();
    daemon.wait_event("ready");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    shows("0");
    button.held_for(Duration::from_millis(100));
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state listening");
    shows("255");
    panel.mic.hears(&Voice::Rms.says(BARE));
    daemon.wait_event("stored");
    daemon.drain();
    assert!(of(&daemon.seen, "wake").is_empty(), "{:#?}", daemon.seen);
    panel.mic.wait_until_answered(0);

    button.sends(EV_KEY, KEY_VOICECOMMAND, 1);
    topics.wait_for("the mute", |l| l == "jarvis/kitchen/mute ON");
    button.sends(EV_KEY, KEY_VOICECOMMAND, 0);
    // Muted: a flash now and then.
    shows("255");
    shows("0");
    button.sends(EV_KEY, KEY_VOICECOMMAND, 1);
    topics.wait_for("the mute", |l| l == "jarvis/kitchen/mute OFF");
    button.sends(EV_KEY, KEY_VOICECOMMAND, 0);

    // Garbage on the wire, then the end of it, then another one in its place.
    button.pipe.write_all(&[0xff; 4_001]).unwrap();
    button.unplug();
    let away = |of: &Value| of["components"]["button"]["condition"] == "away";
    topics.wait_for("the part", |l| health(l).is_some_and(|h| away(&h) && h["problem"] == false));
    let mut button = panel.plug("button");
    topics
        .wait_for("the part", |l| health(l).is_some_and(|h| h["components"]["button"]["condition"] == "ok"));
    button.held_for(Duration::from_millis(100));
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state listening");
    shows("255");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    shows("0");
}

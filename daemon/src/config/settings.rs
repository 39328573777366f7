//! The sections and keys. Their comments are the reference page (`docs/configuration.md`).

use std::net::SocketAddr;
use std::path::PathBuf;

use super::address::{BrokerUrl, PostgresUrl};
use super::schema::section;
use super::value::{CommandLine, Recipients, Remote, UserThresholds, WakeModels};
use crate::audio::Channel;
use crate::backup::Level;
use crate::backup::remote::Check;
use crate::speaker::SecondVoice;
use crate::stt::Engine;

section! {
    /// What this device is called.
    Device = "device" {
        /// Identifier of this device in MQTT topics and in stored rows. Keep it once the device is in use: another
        /// identifier is another device.
        id: String = host_id(), Rule::when("1 to 64 lower-case letters, digits, \"-\" and \"_\"", id_is_plain)
            .default_is("the host name, in lower case");
        /// Name that people read.
        name: Option<String> = None, Rule::if_set(Rule::when("at most 64 characters", |s: &String| s.chars().count() <= 64))
            .default_is("`Jarvis` and the id");
    }
}

impl Device {
    /// Name that people read: that of the configuration, or one that tells the devices of a house apart.
    pub fn name(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None if self.id == "jarvis" => "Jarvis".to_owned(),
            None => format!("Jarvis {}", self.id),
        }
    }
}

section! {
    /// Sound in and out. `jarvisd doctor` tells whether the devices open and how loud the microphone is; `arecord -L`
    /// and `aplay -L` list the names.
    Audio = "audio" {
        /// ALSA name of the microphone.
        device: String = "default".to_owned(), Rule::when("an ALSA name of a microphone such as \"plughw:CARD=Device,DEV=0\"",
            |name: &String| is_alsa_name(name) && name != "null");
        /// Which channel of the microphone, and of recordings that have it, is heard: the mean of all, one side, or a channel by
        /// its number.
        channel: Channel = Channel::Mean, Rule::any();
        /// Sample rate asked of the microphone. Without it 48000 is tried first, then what the device prefers.
        rate_hz: Option<u32> = None, Rule::if_set(Rule::between(8_000, 96_000));
        /// Length of one read from the device. Longer periods cost less, shorter ones answer sooner.
        period_ms: u32 = 10, Rule::between(10, 20);
        /// ALSA name of the loudspeaker. Without a working one answers are text only.
        playback_device: String = "default".to_owned(), Rule::when("an ALSA name such as \"plughw:CARD=Device,DEV=0\"", is_alsa_name);
        /// Ask for real-time priority of the capture thread. Where that is refused the device warns once and goes on.
        realtime_priority: bool = true, Rule::any();
    }
}

section! {
    /// The wake word.
    Wake = "wake" {
        /// What to listen for: models of `jarvisd models list` by name, `.onnx` files of openWakeWord heads by path, or
        /// a list of both. With `"none"` every utterance is taken as a command.
        model: WakeModels = WakeModels::default(), Rule::any();
        /// Score from which a wake word counts as said. Lower wakes more easily, also by mistake.
        threshold: f32 = 0.5, Rule::between(0.01, 0.99);
    }
}

section! {
    /// Where a command begins and ends.
    Endpoint = "endpoint" {
        /// Sound kept from before the first speech, so that no first consonant is lost.
        pre_roll_ms: u32 = 300, Rule::between(0, 2_000);
        /// Silence that ends a command.
        end_silence_ms: u32 = 700, Rule::between(200, 5_000);
        /// Longest command; one that goes on is cut there and answered.
        max_utterance_ms: u32 = 15_000, Rule::between(1_000, 60_000);
        /// How long after the wake word a command may begin.
        no_speech_timeout_ms: u32 = 5_000, Rule::between(500, 60_000);
    }
}

section! {
    /// Who is speaking. After 5 failures in a row (a voice that is not verified, a wrong PIN) the device pauses for 30 s, and
    /// longer with each further one, up to 15 minutes; a verified voice or a right PIN ends that.
    Voice = "voice" {
        /// Answer enrolled voices only. Switched off, everyone is answered as the user "anonymous", who has a memory
        /// of their own; nobody else's is read.
        enabled: bool = true, Rule::any();
        /// Probability from which a speaker counts as verified.
        threshold: f32 = 0.85, Rule::between(UserThresholds::RANGE.0, UserThresholds::RANGE.1);
        /// People for whom another one counts: higher where voices in the house are alike, lower for one that is often
        /// refused.
        user_thresholds: UserThresholds = UserThresholds::default(), Rule::any();
        /// What becomes of what somebody else says before or behind a verified person, in one breath of sound: only the person's own
        /// part is transcribed ("cut"), the whole is not answered ("refuse"), or it is taken for theirs ("answer").
        second_voice: SecondVoice = SecondVoice::Cut, Rule::any();
        /// Do not answer a verified person while somebody else speaks at the same time (a quarter of a second or longer):
        /// words of both would be taken for theirs. Off unless wanted, because a television that is loud enough counts.
        refuse_overlap: bool = false, Rule::any();
        /// Let a person in for this long when they give their PIN over MQTT, for days when their voice fails them. Whatever
        /// voice is then heard and is not another enrolled person's counts as theirs. 0 switches it off.
        pin_valid_s: u32 = 0, Rule::between(0, 600);
        /// Let an enrolment before the microphone be begun over MQTT. Off unless wanted: whoever can publish to the broker could
        /// then enrol anybody, who would be answered from that day on.
        enrol_by_mqtt: bool = false, Rule::any();
    }
}

section! {
    /// Speech to text, on the device.
    Stt = "stt" {
        /// Which recogniser: Vosk, Whisper (English), none, or Vosk where a model of it is installed and Whisper otherwise.
        engine: Engine = Engine::Auto, Rule::any();
        /// Folder of a Vosk model.
        vosk_model: Option<PathBuf> = None, Rule::any().default_is("the first Vosk model among the models");
        /// The Vosk library. The program is linked with it and finds it beside itself or in `../lib/jarvis`.
        libvosk: Option<PathBuf> = None, Rule::any();
        /// Language spoken, as in `en` or `ko`; Whisper as shipped knows English.
        language: String = "en".to_owned(), Rule::when("a code of two or three letters such as \"en\"", language_is_code);
    }
}

section! {
    /// Conversations.
    Dialogue = "dialogue" {
        /// How long after an answer a command needs no wake word; 0 switches it off. Voices are verified all the same.
        follow_up_s: u32 = 0, Rule::between(0, 60);
        /// Silence after which a new conversation is begun instead of continuing the last.
        continue_conversation_min: u32 = 240, Rule::between(1, 10_080);
    }
}

section! {
    /// Answers out loud.
    Speech = "speech" {
        /// Speak the answers.
        enabled: bool = true, Rule::any();
        /// Program that turns text into speech: it reads the text from standard input, or gets it in place of `{text}` in
        /// an argument, and writes WAV to standard output.
        command: CommandLine = CommandLine::default(), Rule::any()
            .default_is("`espeak-ng` or `flite`, whichever is installed");
        /// How long the program may take for one answer.
        timeout_s: u32 = 20, Rule::between(1, 300);
    }
}

section! {
    /// Where memory is kept. It is always kept in SQLite on the device. With the address of a Postgres database it is also
    /// sent there, and devices that share the database see what was said to the others: [postgres.md](postgres.md).
    Store = "store" {
        /// Address of a Postgres database, as in `"postgres://jarvis@database.local/jarvis"`; for a Unix socket
        /// `"postgres://jarvis@/jarvis?host=/run/postgresql"`. `?sslmode=` says how TLS is used; without it TLS is used
        /// where the server offers it, and demanded and verified (`verify-full`) if `postgres_ca_file` is
        /// set. An IPv6 address stands in brackets; a password inside the address is percent-encoded, and
        /// shown nowhere.
        postgres_url: Option<PostgresUrl> = None, Rule::any();
        /// File whose first line is the password. Without it the systemd credential `postgres-password` is used, where
        /// there is one.
        postgres_password_file: Option<PathBuf> = None, Rule::any();
        /// Certificate authority of the server, PEM. The authorities of the system count as well.
        postgres_ca_file: Option<PathBuf> = None, Rule::any();
        /// Certificate with which this device proves itself, PEM; with its key.
        postgres_client_cert: Option<PathBuf> = None, Rule::any();
        /// Key of that certificate, PEM.
        postgres_client_key: Option<PathBuf> = None, Rule::any();
        /// Most that the database on the device may grow to, in MiB. Once it has, new turns are answered and not stored, which
        /// is said; nothing that is stored is dropped for space.
        max_mib: Option<u32> = None, Rule::if_set(Rule::between(16, 1_000_000)).default_is("as much as the disk has");
        /// How long an answer may wait, at most, for what other devices have just written. Only while Postgres answers.
        fresh_ms: u32 = 150, Rule::between(0, 2_000);
        /// Days that a row of the audit log is kept, here and in Postgres; each device deletes what it wrote
        /// itself. Nothing is deleted while the clock is not set.
        audit_days: u32 = 365, Rule::between(1, 36_500);
    }
}

section! {
    /// State and events for a home automation system.
    Mqtt = "mqtt" {
        /// Address of the broker, as in `"mqtt://broker.local:1883"`, or `mqtts://` for TLS. Without it nothing is published.
        url: Option<BrokerUrl> = None, Rule::any();
        /// User name at the broker.
        username: Option<String> = None, Rule::any();
        /// File whose first line is the password. Without it the systemd credential `mqtt-password` is used, where there
        /// is one.
        password_file: Option<PathBuf> = None, Rule::any();
        /// Certificate authority of the broker, PEM; needs `mqtts://`.
        ca_file: Option<PathBuf> = None, Rule::any().default_is("the authorities of the system");
        /// Publish what was said and answered, of verified speakers only; switched off, only that something was.
        publish_text: bool = true, Rule::any();
        /// Let the broker keep the last turn for whoever subscribes later.
        retain_last_turn: bool = false, Rule::any();
        /// Take commands (mute, listen) over MQTT.
        accept_commands: bool = true, Rule::any();
        /// Announce the device to Home Assistant, which then shows its entities without set-up.
        discovery: bool = true, Rule::any();
        /// Where Home Assistant looks for devices.
        discovery_prefix: String = "homeassistant".to_owned(), Rule::when("a topic of at most 64 bytes without \"#\", \"+\", \"$\" or an empty level", topic_is_plain);
        /// First part of every topic.
        base_topic: String = "jarvis".to_owned(), Rule::when("a topic of at most 64 bytes without \"#\", \"+\", \"$\" or an empty level", topic_is_plain);
    }
}

section! {
    /// The web page.
    Http = "http" {
        /// Address and port to listen on.
        listen: Option<SocketAddr> = None, Rule::any();
    }
}

section! {
    /// Backups of the memory: [backup-recovery.md](backup-recovery.md).
    Backup = "backup" {
        /// Folder for backups. Another disk than that of the memory is a better place.
        dir: Option<PathBuf> = None, Rule::any().default_is("`/var/backups/jarvis`");
        /// How thoroughly a backup is verified when it is made: its hashes, all of its content, or by restoring it into a
        /// scratch database, which takes as much space as the memory for a while.
        verify: Level = Level::Restore, Rule::any();
        /// Days that keep a backup, the newest of each. Days, weeks and months count only if they hold one.
        keep_daily: u32 = 30, Rule::between(1, 3_650);
        /// Weeks that keep the backup nearest to their Sunday.
        keep_weekly: u32 = 12, Rule::between(0, 520);
        /// Months that keep the backup nearest to their first day.
        keep_monthly: u32 = 12, Rule::between(0, 1_200);
        /// Encrypt backups so that only the owners of these keys can read them: public keys of `age`, which begin with
        /// `age1`. The secret keys need not be on the device.
        recipients: Recipients = Recipients::default(), Rule::any();
        /// File with a secret key of `age`, with which encrypted backups are verified and restored.
        identity_file: Option<PathBuf> = None, Rule::any();
        /// Place for a copy of every backup elsewhere: the name of a remote in the configuration of `rclone`, and a folder
        /// there, such as `"nas:jarvis"`. Give each device a folder of its own.
        remote: Option<Remote> = None, Rule::any();
        /// Configuration file of `rclone`, with the passwords in it. Without it the systemd credential `rclone.conf` is used,
        /// where there is one, else rclone looks where it always does.
        rclone_config_file: Option<PathBuf> = None, Rule::any();
        /// How a copy elsewhere is verified when it is made: the sizes of its files, or all of it read back.
        remote_verify: Check = Check::Content, Rule::any();
        /// How long nothing may happen while a copy is made or read before that is given up.
        remote_stall_s: u32 = 300, Rule::between(2, 86_400);
    }
}

impl Default for WakeModels {
    fn default() -> Self {
        Self(vec![super::value::WakeModel::Named("hey-jarvis".to_owned())])
    }
}

/// The host name as an identifier, `jarvis` where it yields none.
fn host_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let host = host.split('.').next().unwrap_or_default();
    let id: String = host.chars().filter(|c| is_id_char(*c)).take(64).collect();
    if id.is_empty() { "jarvis".to_owned() } else { id }
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')
}

#[expect(clippy::ptr_arg, reason = "the rule of a String key checks a &String")]
fn id_is_plain(id: &String) -> bool {
    (1..=64).contains(&id.len()) && id.chars().all(is_id_char)
}

/// What `snd_pcm_open` can be asked for. Files such as /dev/snd/pcmC0D0c are not; whether the device is there shows when it
/// is opened.
fn is_alsa_name(name: &String) -> bool {
    name.len() <= 255 && name.trim() == name && !name.starts_with(['/', '.', '-', ':', ','])
}

#[expect(clippy::ptr_arg, reason = "the rule of a String key checks a &String")]
fn language_is_code(code: &String) -> bool {
    (2..=3).contains(&code.len()) && code.chars().all(|c| c.is_ascii_lowercase())
}

#[expect(clippy::ptr_arg, reason = "the rule of a String key checks a &String")]
fn topic_is_plain(topic: &String) -> bool {
    topic.len() <= 64 && topic.split('/').all(|level| !level.is_empty() && !level.contains(['#', '+', '$']))
}

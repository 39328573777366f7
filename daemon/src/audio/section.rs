//! Section `[audio]` of the configuration.

use std::path::Path;

use super::Channel;
use crate::config::{Raw, Value, section, toml_text};

section! {
    /// Sound in and out. `jarvisd doctor` tells whether the devices open and how loud the microphone is;
    /// `arecord -L` and `aplay -L` list the names.
    Audio = "audio" {
        /// ALSA name of the microphone.
        device: String = "default".to_owned(), Rule::when("an ALSA name of a microphone such \
            as \"plughw:CARD=Device,DEV=0\"",
            |name: &String| is_alsa_name(name) && name != "null");
        /// Which channel of the microphone, and of recordings that have it, is heard: the mean of all, one
        /// side, or a channel by its number.
        channel: Channel = Channel::Mean, Rule::any();
        /// Sample rate asked of the microphone. Without it 48000 is tried first, then what the device
        /// prefers.
        rate_hz: Option<u32> = None, Rule::if_set(Rule::between(8_000, 96_000));
        /// Length of one read from the device. Longer periods cost less, shorter ones answer sooner.
        period_ms: u32 = 10, Rule::between(10, 20);
        /// ALSA name of the loudspeaker. Without a working one answers are text only.
        playback_device: String = "default".to_owned(), Rule::when("an ALSA name such \
            as \"plughw:CARD=Device,DEV=0\"", is_alsa_name);
        /// Ask for real-time priority of the capture thread. Where that is refused the device warns once and
        /// goes on.
        realtime_priority: bool = true, Rule::any();
    }
}

/// Whether `snd_pcm_open` takes such a name. Files such as /dev/snd/pcmC0D0c are not taken. Opening the
/// device shows whether it exists.
fn is_alsa_name(name: &String) -> bool {
    name.len() <= 255 && name.trim() == name && !name.starts_with(['/', '.', '-', ':', ','])
}

/// Highest channel number of any sound card that ALSA describes.
const MAX_CHANNEL: i64 = 63;

impl Value for Channel {
    fn type_words() -> String {
        "\"mean\", \"left\", \"right\" or a number from 0".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let number = match raw {
            Raw::Text(text) => match text.as_str() {
                "mean" => return Ok(Self::Mean),
                "left" => return Ok(Self::Nth(0)),
                "right" => return Ok(Self::Nth(1)),
                _ => None,
            },
            Raw::Int(Some(n)) if (0..=MAX_CHANNEL).contains(n) => u16::try_from(*n).ok(),
            _ => None,
        };
        number.map(Self::Nth).ok_or_else(|| {
            raw.instead_of(&format!(
                "\"mean\", \"left\", \"right\" or a channel number from 0 to {MAX_CHANNEL}"
            ))
        })
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            Self::Mean => toml_text("mean"),
            Self::Nth(0) => toml_text("left"),
            Self::Nth(1) => toml_text("right"),
            Self::Nth(n) => n.to_string(),
        })
    }
}

//! Sections `[button]` and `[led]` of the configuration.

use std::path::PathBuf;

use crate::config::section;

section! {
    /// A button and a switch at the device, as the kernel shows them: input devices, mostly of pins of the
    /// header (`firmware-config`).
    Button = "button" {
        /// Input device of a button, as `/dev/input/jarvis-talk`. Pressing it opens a listening window, as if
        /// the wake word had been said; holding it mutes and unmutes the device.
        talk_device: Option<PathBuf> = None, Rule::any();
        /// Code of the key that counts, where the input device has several (`evtest` shows them).
        talk_code: Option<u32> = None, Rule::if_set(Rule::between(0, 767)).default_is("any of its keys");
        /// How long the button is held to mute or unmute the device; with 0 holding it does nothing more.
        hold_ms: u32 = 1_500, Rule::when("0, or 300 to 10000", |ms| *ms == 0 || (300..=10_000).contains(ms));
        /// Input device of a switch, as `/dev/input/jarvis-mute`. As long as it is on, the device is muted,
        /// and nobody can unmute it in another way.
        mute_device: Option<PathBuf> = None, Rule::any();
        /// Code of the key or switch that counts, where the input device has several.
        mute_code: Option<u32> = None, Rule::if_set(Rule::between(0, 767)).default_is("any of its keys");
    }
}

section! {
    /// A light at the device that shows what it does.
    Led = "led" {
        /// Folder of the light, as `/sys/class/leds/jarvis`.
        folder: Option<PathBuf> = None, Rule::any();
        /// Brightness, for lights that have more than on and off.
        brightness_percent: u32 = 100, Rule::between(1, 100);
    }
}

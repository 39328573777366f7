//! The front panel: a button, a switch that mutes, and a light. All of it is optional.
//!
//! ```text
//!  /dev/input/event… ─▶ Input (records, state) ─┬─▶ Talk ──▶ Dispatcher: listen, mute
//!                                               └─▶ mute switch ──▶ Switches: muted, whatever others set
//!  Health ─▶ pattern ─▶ Light ─▶ /sys/class/leds/…/brightness
//! ```
//!
//! The kernel drives the pins (gpio-keys, gpio-leds) and takes out the bouncing of contacts, so a USB keypad
//! and the light of a keyboard work as well. `firmware-config` has the overlays.
//!
//! Invariants: no file of a device stops the daemon, whatever it holds; a device that is away is tried again
//! and shows in [`crate::health`]. Until it is known how the mute switch stands, the device is muted. A mute
//! switch that is unplugged counts as it stood last.

pub mod button;
pub mod input;
pub mod led;
pub mod section;

use std::time::Duration;

/// Time between two tries to open a device that is away.
const TRY_AGAIN: Duration = Duration::from_secs(2);

//! Raw statistics of sound and the one judgement on them, shared by `doctor`, the daemon and recordings.
//!
//! ```text
//!  bytes of all channels ──▶ Measure ──verdict(channel)──▶ None | SoundFault ──▶ sentence, what to do
//!                               ▲ one second at a time: Watch ──60 s of the same──▶ CaptureStats ──▶ health
//! ```
//!
//! A living microphone never stands still: its own noise moves nearly every sample. So a channel is judged by
//! its change from one sample to the next, which neither a DC offset nor the gain of a recording hides.
//! Nothing here allocates: the capture thread uses it.

use super::Channel;
use super::sample::{Encoding, visit};

/// Most channels that are measured: those of the widest recording that is read.
const MOST: usize = super::MAX_FILE_CHANNELS as usize;

/// Mean change from sample to sample below which a channel is dead: a twentieth of the last bit of 16. Noise
/// of a quarter of that bit, far below what any microphone has, changes twice as much; a last bit that
/// flickers in one sample of a hundred less than half as much.
const LEAST_CHANGE: f64 = 0.05 / 32_768.0;
/// Energy left in the mean of two channels, as a share of their own: 1 for the same sound, 0.5 for any two,
/// and less than this where one of them is the other inverted.
const LEAST_LEFT_IN_MEAN: f64 = 0.03;

/// How long a fault lasts before it is reported, in seconds of sound.
pub const REPORTED_AFTER_S: u64 = 60;
/// The rate at which [`Watch`] forgets the energies of the channels: their last half minute counts.
const KEPT_PER_S: f64 = 1.0 - 1.0 / 30.0;

/// Of one channel, or of the mean of all.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    previous: f32,
    /// Sum of the magnitudes of the changes, and of their squares.
    change: f64,
    energy: f64,
    peak: f32,
}

impl Line {
    fn add(&mut self, x: f32, first: bool) {
        if !first {
            let change = f64::from(x) - f64::from(self.previous);
            self.change += change.abs();
            self.energy += change * change;
        }
        self.peak = self.peak.max(x.abs());
        self.previous = x;
    }

    fn forget(&mut self) {
        *self = Self { previous: self.previous, ..Self::default() };
    }
}

/// Sums over a stretch of raw sound, channel by channel.
#[derive(Debug, Clone, Default)]
pub struct Measure {
    channels: u16,
    frames: u64,
    /// A sample before the first of these is known.
    begun: bool,
    each: [Line; MOST],
    mean: Line,
}

/// A fault in the sound of a microphone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoundFault {
    /// Zeros.
    Silent,
    /// One value that is not zero.
    Constant,
    /// The last bit flickers, and that is all.
    Flicker,
    /// This channel, from 0, is one of the above and another is not.
    DeadChannel(u16),
    /// The channels cancel each other in their mean; this one, from 0, is the loudest.
    Cancelling(u16),
}

impl SoundFault {
    /// The finding, without a full stop: "digital silence".
    pub fn words(self) -> String {
        match self {
            Self::Silent => "digital silence".to_owned(),
            Self::Constant => "the same value in every sample, so no sound".to_owned(),
            Self::Flicker => "nothing but a flicker of the last bit, so no sound".to_owned(),
            Self::DeadChannel(n) => format!("no sound in channel {n}, which halves what is heard"),
            Self::Cancelling(n) => {
                format!(
                    "channels that cancel each other out (one is wired the wrong way round), so channel {n} \
                     alone is heard"
                )
            }
        }
    }

    /// The way out.
    pub fn fix(self) -> String {
        match self {
            Self::Silent | Self::Constant | Self::Flicker => {
                "choose another audio.channel, switch the microphone on in `alsamixer`, or check its wiring"
                    .to_owned()
            }
            Self::DeadChannel(n) => format!(
                "set audio.channel to \"{}\", or check the wiring of the dead side",
                side(if n == 0 { 1 } else { 0 })
            ),
            Self::Cancelling(n) => format!("set audio.channel to \"{}\"", side(n)),
        }
    }

    /// As one number that is not 0, for an atomic.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Silent => 1,
            Self::Constant => 2,
            Self::Flicker => 3,
            Self::DeadChannel(n) => 4 | u32::from(n) << 8,
            Self::Cancelling(n) => 5 | u32::from(n) << 8,
        }
    }

    pub(super) fn of_code(code: u32) -> Option<Self> {
        let channel = u16::try_from(code >> 8).unwrap_or(0);
        Some(match code & 0xFF {
            1 => Self::Silent,
            2 => Self::Constant,
            3 => Self::Flicker,
            4 => Self::DeadChannel(channel),
            5 => Self::Cancelling(channel),
            _ => return None,
        })
    }
}

/// A channel as `audio.channel` names it.
fn side(channel: u16) -> String {
    match channel {
        0 => "left".to_owned(),
        1 => "right".to_owned(),
        n => n.to_string(),
    }
}

impl Measure {
    /// Adds whole frames of interleaved samples.
    pub(super) fn add(&mut self, bytes: &[u8], encoding: Encoding, channels: u16) {
        let mut n = 0;
        let mut sum = 0.0;
        visit(bytes, encoding, |x| {
            self.put(n, x);
            sum += x;
            n += 1;
            if n == channels {
                self.end_frame(sum, channels);
                (n, sum) = (0, 0.0);
            }
        });
    }

    /// Adds one frame.
    pub(super) fn add_frame(&mut self, frame: impl Iterator<Item = f32>) {
        let (mut channels, mut sum) = (0, 0.0);
        for x in frame {
            self.put(channels, x);
            sum += x;
            channels += 1;
        }
        self.end_frame(sum, channels);
    }

    fn put(&mut self, channel: u16, x: f32) {
        let first = !self.begun;
        if let Some(line) = self.each.get_mut(usize::from(channel)) {
            line.add(x, first);
        }
    }

    fn end_frame(&mut self, sum: f32, channels: u16) {
        self.mean.add(sum / f32::from(channels.max(1)), !self.begun);
        self.channels = channels;
        self.frames += 1;
        self.begun = true;
    }

    fn lines(&self) -> &[Line] {
        self.each.get(..usize::from(self.channels)).unwrap_or(&self.each)
    }

    fn join(&mut self, later: &Self) {
        self.channels = later.channels;
        self.frames += later.frames;
        for (line, later) in
            self.each.iter_mut().chain([&mut self.mean]).zip(later.each.iter().chain([&later.mean]))
        {
            line.change += later.change;
            line.energy += later.energy;
            line.peak = line.peak.max(later.peak);
        }
    }

    /// Makes room for the next stretch of the same sound.
    fn forget(&mut self) {
        self.each.iter_mut().for_each(Line::forget);
        self.mean.forget();
        self.frames = 0;
    }

    fn is_dead(&self, line: &Line) -> bool {
        line.change < LEAST_CHANGE * self.frames as f64
    }

    fn silence(line: &Line) -> SoundFault {
        if line.peak == 0.0 {
            SoundFault::Silent
        } else if line.change == 0.0 {
            SoundFault::Constant
        } else {
            SoundFault::Flicker
        }
    }

    /// The fault of this sound for a listener to `heard`. Also `None` for no sound at all.
    pub fn verdict(&self, heard: Channel) -> Option<SoundFault> {
        if self.frames == 0 {
            return None;
        }
        if let Channel::Nth(n) = heard {
            let line = self.lines().get(usize::from(n))?;
            return self.is_dead(line).then(|| Self::silence(line));
        }
        let dead = |line: &&Line| self.is_dead(line);
        if self.lines().iter().all(|line| self.is_dead(line)) {
            return self.lines().first().map(Self::silence);
        }
        if let Some(n) = self.lines().iter().position(|line| dead(&line)) {
            return u16::try_from(n).ok().map(SoundFault::DeadChannel);
        }
        let own = self.lines().iter().map(|line| line.energy).sum::<f64>() / f64::from(self.channels.max(1));
        (self.mean.energy < LEAST_LEFT_IN_MEAN * own).then(|| SoundFault::Cancelling(self.loudest()))
    }

    fn loudest(&self) -> u16 {
        let lines = self.lines().iter().enumerate().rev();
        let loudest = lines.max_by(|(_, a), (_, b)| a.energy.total_cmp(&b.energy)).map_or(0, |(n, _)| n);
        u16::try_from(loudest).unwrap_or(0)
    }
}

/// Judges the sound of a microphone second by second, for as long as it runs.
#[derive(Debug, Default)]
pub(super) struct Watch {
    second: Measure,
    /// The seconds before this one.
    earlier: Measure,
    /// Energies of the channels and of their mean, older ones less and less.
    own: f64,
    mean: f64,
    /// Frames since the last second without a fault.
    faulty_frames: u64,
}

impl Watch {
    /// Takes the next sound. At the end of a second it returns the fault to report, or that there is none.
    pub(super) fn add(
        &mut self,
        (bytes, encoding, channels): (&[u8], Encoding, u16),
        rate_hz: u32,
        heard: Channel,
    ) -> Option<Option<SoundFault>> {
        self.second.add(bytes, encoding, channels);
        if self.second.frames < u64::from(rate_hz) {
            return None;
        }
        let fault = self.judge(heard);
        self.faulty_frames = if fault.is_some() { self.faulty_frames + self.second.frames } else { 0 };
        self.earlier.join(&self.second);
        self.second.forget();
        Some(fault.filter(|_| self.faulty_frames >= REPORTED_AFTER_S * u64::from(rate_hz)))
    }

    /// All sound so far.
    pub(super) fn whole(&self) -> Measure {
        let mut whole = self.earlier.clone();
        if self.second.frames > 0 {
            whole.join(&self.second);
        }
        whole
    }

    /// Channels that cancel each other do so in loud sound, and not in their own noise in between: seconds
    /// are too short. So this fault is over when equally loud sound does not cancel.
    fn judge(&mut self, heard: Channel) -> Option<SoundFault> {
        let own = self.second.lines().iter().map(|line| line.energy).sum::<f64>();
        self.own = self.own * KEPT_PER_S + own / f64::from(self.second.channels.max(1));
        self.mean = self.mean * KEPT_PER_S + self.second.mean.energy;
        match self.second.verdict(heard) {
            None | Some(SoundFault::Cancelling(_)) => {
                let cancel = heard == Channel::Mean && self.mean < LEAST_LEFT_IN_MEAN * self.own;
                cancel.then(|| SoundFault::Cancelling(self.second.loudest()))
            }
            fault => fault,
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test signals are small numbers")]
mod tests {
    use super::*;

    const RATE: u32 = 16_000;

    /// `seconds` of S16 sound, made by `frame` of the number of the frame.
    fn sound(seconds: u32, frame: impl Fn(u32) -> Vec<i16>) -> Vec<u8> {
        (0..seconds * RATE).flat_map(frame).flat_map(i16::to_le_bytes).collect()
    }

    fn noise(n: u32, levels: i16) -> i16 {
        let x = (u64::from(n) + 1).wrapping_mul(6_364_136_223_846_793_005);
        ((x >> 40) % u64::from(levels.unsigned_abs())) as i16
    }

    fn verdict(bytes: &[u8], channels: u16, heard: Channel) -> Option<SoundFault> {
        let mut measure = Measure::default();
        measure.add(bytes, Encoding::S16, channels);
        measure.verdict(heard)
    }

    #[test]
    fn what_stands_still_is_no_sound_and_the_quietest_microphone_is_one() {
        let mono = |frame: &dyn Fn(u32) -> i16| verdict(&sound(1, |n| vec![frame(n)]), 1, Channel::Mean);
        assert_eq!(mono(&|_| 0), Some(SoundFault::Silent));
        assert_eq!(mono(&|_| -700), Some(SoundFault::Constant));
        assert_eq!(mono(&|n| i16::from(n % 100 == 0)), Some(SoundFault::Flicker));
        assert_eq!(mono(&|n| 900 + i16::from(n % 100 == 0)), Some(SoundFault::Flicker));
        // Half the samples are 0, the others 1: the noise of a very good microphone at a very low gain.
        assert_eq!(mono(&|n| noise(n, 2)), None);
        assert_eq!(mono(&|n| 2_000 + noise(n, 200)), None);
        assert_eq!(Measure::default().verdict(Channel::Mean), None);
    }

    #[test]
    fn the_channel_that_is_heard_is_judged() {
        let one_side = sound(1, |n| vec![0, noise(n, 50)]);
        assert_eq!(verdict(&one_side, 2, Channel::Mean), Some(SoundFault::DeadChannel(0)));
        assert_eq!(verdict(&one_side, 2, Channel::LEFT), Some(SoundFault::Silent));
        assert_eq!(verdict(&one_side, 2, Channel::RIGHT), None);
        let upside_down = sound(1, |n| vec![noise(n, 400) + noise(n + 7, 3), 1 - noise(n, 400)]);
        assert_eq!(verdict(&upside_down, 2, Channel::Mean), Some(SoundFault::Cancelling(0)));
        assert_eq!(verdict(&upside_down, 2, Channel::RIGHT), None);
        let apart = sound(1, |n| vec![noise(n, 400), noise(n + 9, 400)]);
        assert_eq!(verdict(&apart, 2, Channel::Mean), None);
        let same = sound(1, |n| vec![noise(n, 400); 8]);
        assert_eq!(verdict(&same, 8, Channel::Mean), None);
    }

    #[test]
    fn a_fault_is_reported_after_a_minute_of_sound_and_gone_within_a_second() {
        let mut watch = Watch::default();
        let (dead, alive) = (sound(1, |n| vec![n as i16 / 8_000; 2]), sound(1, |n| vec![noise(n, 50); 2]));
        let mut add = |bytes: &[u8]| watch.add((bytes, Encoding::S16, 2), RATE, Channel::Mean).unwrap();
        for second in 0..59 {
            assert_eq!(add(&dead), None, "{second}");
        }
        assert_eq!(add(&dead), Some(SoundFault::Flicker));
        assert_eq!(add(&alive), None);
        for _ in 0..59 {
            assert_eq!(add(&dead), None);
        }
    }

    #[test]
    fn channels_that_cancel_are_found_although_a_room_is_mostly_quiet() {
        let mut watch = Watch::default();
        // Own noise of two microphones that differs, and every third second a voice that is inverted in one
        // of them.
        let quiet = sound(1, |n| vec![noise(n, 3), noise(n + 5, 3)]);
        let voice = sound(1, |n| vec![noise(n, 900), -noise(n, 900)]);
        let mut last = None;
        for second in 0..90 {
            let bytes = if second % 3 == 0 { &voice } else { &quiet };
            last = watch.add((bytes, Encoding::S16, 2), RATE, Channel::Mean).unwrap();
        }
        assert!(matches!(last, Some(SoundFault::Cancelling(_))), "{last:?}");
    }

    #[test]
    fn a_fault_survives_an_atomic() {
        for fault in [
            SoundFault::Silent,
            SoundFault::Constant,
            SoundFault::Flicker,
            SoundFault::DeadChannel(7),
            SoundFault::Cancelling(1),
        ] {
            assert_eq!(SoundFault::of_code(fault.code()), Some(fault));
        }
        assert_eq!(SoundFault::of_code(0), None);
    }
}

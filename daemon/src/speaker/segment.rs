//! Cuts an utterance into stretches of net speech in which one person is likely to speak.
//!
//! ```text
//!  net speech   ▇▇▇▇▇▇▇▇ ▇▇▇    ▇▇▇▇▇▇▇▇▇▇▇▇▇
//!  pauses               │    ││                     people change in pauses
//!  changes                        │                 and without one, where the network hears somebody else begin
//!  units        ╰───────────╯  ╰─╯╰─────────╯       each long enough to be embedded, or bounded by changes
//! ```
//!
//! Units are rather too short than too long: their voices join those of one speaker again ([`super::hear`]),
//! and two speakers in one unit cannot be separated.

use std::ops::Range;

use super::speech::NetSpeech;
use crate::units::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// Frames of net speech that an embedding of a unit needs: half a second.
pub const LEAST_UNIT: usize = 50;
/// A shorter stretch between two pauses goes with the nearer of its neighbours.
const WANTED_UNIT: usize = 70;
/// A pause this long, in frames, always cuts: 0.25 s.
const LONG_PAUSE: usize = 25;
/// Silence kept before and behind somebody's words, in frames: 0.2 s.
const KEPT_SILENCE: usize = 20;
/// Sound given up on either side of a change without a pause, in frames: 0.1 s.
const MARGIN: usize = 10;

/// A stretch of net speech, in frames of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub frames: Range<usize>,
    /// Frames of silence in front of it.
    pause: usize,
    /// Somebody else may begin here without a pause.
    change: bool,
}

impl Unit {
    /// These frames of `net`.
    pub fn of(net: &NetSpeech, frames: Range<usize>) -> Self {
        let pause = if frames.start == 0 { usize::MAX } else { pause(net, frames.start) };
        Self { frames, pause, change: false }
    }

    pub fn net_s(&self) -> f32 {
        (self.frames.len() * FRAME_SAMPLES) as f32 / SAMPLE_RATE_HZ as f32
    }
}

/// Frames of silence in front of a frame of the net speech.
pub fn pause(net: &NetSpeech, frame: usize) -> usize {
    match (frame.checked_sub(1).and_then(|last| net.frames.get(last)), net.frames.get(frame)) {
        (Some(last), Some(next)) => next - last - 1,
        _ => 0,
    }
}

/// Cuts `net` at its pauses and at `changes`, which are frames of the net speech, rising.
pub fn units(net: &NetSpeech, changes: &[usize]) -> Vec<Unit> {
    let pause = |k: usize| pause(net, k);
    let mut cuts: Vec<(usize, bool)> =
        (1..net.frames.len()).filter(|k| pause(*k) > 0).map(|k| (k, false)).collect();
    for change in changes {
        // A change beside a pause is in the pause.
        let near =
            cuts.iter_mut().find(|(at, change_there)| !*change_there && at.abs_diff(*change) <= MARGIN);
        match near {
            Some(cut) => cut.1 = true,
            None => cuts.push((*change, true)),
        }
    }
    cuts.retain(|(at, _)| (1..net.frames.len()).contains(at));
    cuts.sort_unstable();
    cuts.dedup_by_key(|cut| cut.0);
    let mut found = vec![Unit { frames: 0..net.frames.len(), pause: usize::MAX, change: false }];
    for (at, change) in cuts {
        if let Some(last) = found.last_mut() {
            let end = last.frames.end;
            last.frames.end = at;
            found.push(Unit { frames: at..end, pause: pause(at), change });
        }
    }
    join_short(found)
}

/// Joins units that are too short to identify, across short pauses where no change was heard.
fn join_short(mut units: Vec<Unit>) -> Vec<Unit> {
    loop {
        let open =
            |unit: &Unit, shorter: usize| !unit.change && (unit.pause <= LONG_PAUSE || shorter < LEAST_UNIT);
        let shortest_pause = units
            .windows(2)
            .enumerate()
            .filter_map(|(k, pair)| {
                let [a, b] = pair else { return None };
                let shorter = a.frames.len().min(b.frames.len());
                (shorter < WANTED_UNIT && open(b, shorter)).then_some((b.pause, k + 1))
            })
            .min();
        let Some((_, k)) = shortest_pause else { return units };
        let joined = units.remove(k);
        if let Some(before) = k.checked_sub(1).and_then(|before| units.get_mut(before)) {
            before.frames.end = joined.frames.end;
        }
    }
}

/// The sound of the units that are `own`, in samples of the utterance of `samples` samples, rising. A little
/// of the silence beside them is kept. Where somebody else goes on without a pause, some of their own is
/// given up.
pub fn own_sound(net: &NetSpeech, units: &[Unit], own: &[bool], samples: usize) -> Vec<Range<usize>> {
    let frame = |k: usize| net.frames.get(k).copied().unwrap_or(samples / FRAME_SAMPLES);
    let is_own = |k: usize| own.get(k).copied().unwrap_or(false);
    let mut found: Vec<Range<usize>> = Vec::new();
    for (k, unit) in units.iter().enumerate().filter(|(k, _)| is_own(*k)) {
        let pause_behind = units.get(k + 1).map(|next| next.pause);
        let start = match k.checked_sub(1) {
            None => 0,
            Some(before) if is_own(before) => frame(unit.frames.start),
            Some(_) if unit.pause == 0 => frame(unit.frames.start) + MARGIN,
            Some(_) => frame(unit.frames.start) - (unit.pause / 2).min(KEPT_SILENCE),
        };
        let last = frame(unit.frames.end.saturating_sub(1)) + 1;
        let end = match pause_behind {
            None => samples.div_ceil(FRAME_SAMPLES),
            Some(_) if is_own(k + 1) => units.get(k + 1).map_or(last, |next| frame(next.frames.start)),
            Some(0) => last.saturating_sub(MARGIN),
            Some(pause) => last + (pause / 2).min(KEPT_SILENCE),
        };
        let (start, end) = (start * FRAME_SAMPLES, (end * FRAME_SAMPLES).min(samples));
        match found.last_mut() {
            Some(before) if before.end >= start => before.end = before.end.max(end),
            _ if start < end => found.push(start..end),
            _ => {}
        }
    }
    found
}

/// The frame of the net speech at which the sample `at` of the utterance lies, or the next one behind it.
pub fn net_frame(net: &NetSpeech, at: usize) -> usize {
    net.frames.partition_point(|frame| frame * FRAME_SAMPLES < at)
}

/// The speech of the units that are `own`.
pub fn own_speech(net: &NetSpeech, units: &[Unit], own: &[bool]) -> Vec<f32> {
    let mine = units.iter().zip(own).filter(|(_, own)| **own);
    let speech = mine.filter_map(|(unit, _)| {
        net.samples.get(unit.frames.start * FRAME_SAMPLES..unit.frames.end * FRAME_SAMPLES)
    });
    speech.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Net speech of these frames of the sound.
    fn net(frames: impl IntoIterator<Item = usize>) -> NetSpeech {
        let frames: Vec<usize> = frames.into_iter().collect();
        let samples = vec![0.1; frames.len() * FRAME_SAMPLES];
        NetSpeech { samples, frames, ..NetSpeech::of(&[], &[]) }
    }

    fn lengths(units: &[Unit]) -> Vec<usize> {
        units.iter().map(|unit| unit.frames.len()).collect()
    }

    #[test]
    fn pauses_and_changes_cut_and_what_is_short_goes_with_its_neighbour() {
        // 1 s, 0.3 s of pause, 1 s.
        let speech = net((0..100).chain(130..230));
        assert_eq!(lengths(&units(&speech, &[])), [100, 100]);
        // Without a pause only the change cuts.
        assert_eq!(lengths(&units(&net(0..200), &[])), [200]);
        assert_eq!(lengths(&units(&net(0..200), &[120])), [120, 80]);
        // A word of 0.3 s, nearer to the stretch behind it.
        let speech = net((0..100).chain(140..170).chain(185..300));
        assert_eq!(lengths(&units(&speech, &[])), [100, 145]);
        // If somebody else is heard to begin in that pause, it stays alone.
        assert_eq!(lengths(&units(&speech, &[131])), [130, 115]);
    }

    #[test]
    fn own_sound_ends_in_the_pause_or_before_the_other_begins() {
        let speech = net((20..120).chain(180..280));
        let cut = units(&speech, &[]);
        let frames = |own: &[bool]| -> Vec<Range<usize>> {
            let own = own_sound(&speech, &cut, own, 300 * FRAME_SAMPLES);
            own.into_iter().map(|r| r.start / FRAME_SAMPLES..r.end / FRAME_SAMPLES).collect()
        };
        assert_eq!(frames(&[true, false]), std::slice::from_ref(&(0..140)));
        assert_eq!(frames(&[false, true]), std::slice::from_ref(&(160..300)));
        assert_eq!(frames(&[true, true]), std::slice::from_ref(&(0..300)), "the pause between is theirs");
        assert!(frames(&[false, false]).is_empty());
        let close = net(0..200);
        let cut = units(&close, &[100]);
        let own = own_sound(&close, &cut, &[true, false], 200 * FRAME_SAMPLES);
        assert_eq!(own, std::slice::from_ref(&(0..90 * FRAME_SAMPLES)), "a margin is given up");
    }

    proptest! {
        #[test]
        fn whatever_is_cut_the_units_cover_the_speech_and_the_sounds_of_two_people_lie_apart(
            kept in prop::collection::btree_set(0usize..700, 1..600),
            changes in prop::collection::btree_set(0usize..700, 0..6),
            theirs in prop::collection::vec(any::<bool>(), 40),
        ) {
            let samples = 700 * FRAME_SAMPLES;
            let speech = net(kept);
            let cut = units(&speech, &changes.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(cut.iter().map(|unit| unit.frames.len()).sum::<usize>(), speech.frames.len());
            prop_assert!(cut.windows(2).all(|pair| pair[0].frames.end == pair[1].frames.start));
            let own: Vec<bool> = (0..cut.len()).map(|k| theirs[k % theirs.len()]).collect();
            let other: Vec<bool> = own.iter().map(|own| !own).collect();
            let own = own_sound(&speech, &cut, &own, samples);
            let other = own_sound(&speech, &cut, &other, samples);
            for range in own.iter().chain(&other) {
                prop_assert!(range.start < range.end && range.end <= samples);
            }
            for (a, b) in own.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
                prop_assert!(a.end <= b.start || b.end <= a.start, "{:?} {:?}", own, other);
            }
        }
    }
}

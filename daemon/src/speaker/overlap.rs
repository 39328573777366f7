//! Finds two people who speak at once, and the places where somebody else begins, by the segmentation network
//! of pyannote.
//!
//! ```text
//!  raw sound ─▶ windows of 10 s, shorter sound repeated ─▶ network ─▶ one of 7 classes per 16.9 ms ─▶ seconds of overlap
//!                                                                             nobody A B C │ A+B A+C B+C
//! ```
//!
//! Where somebody else goes on alone, the network misses two of five changes, and it sees one in 2 of 100
//! people who are alone (`docs/lab/speaker-verdicts.md`). So its changes only say where an utterance may be
//! cut. Voices decide whose a part is.
//!
//! Plaquet and Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization", 2023.

use super::SpeakerError;
use crate::inference::{Input, InputFact, ModelError, ModelStore, Plan};
use crate::units::SAMPLE_RATE_HZ;

/// Name of the model in `models/manifest.toml`.
pub const MODEL_NAME: &str = "pyannote-segmentation";
/// Seconds of two people at once from which an utterance does not count as one person's.
pub const LEAST_OVERLAP_S: f32 = 0.25;
const WINDOW_SAMPLES: usize = 10 * SAMPLE_RATE_HZ as usize;
/// The changes in sound up to this length are sought in a window of half the length, at half the cost.
const SHORT_WINDOW_SAMPLES: usize = WINDOW_SAMPLES / 2;
/// Sound beyond these windows (60 s) is ignored.
const MOST_WINDOWS: usize = 6;
/// Samples per frame of the network, and those that its first frame needs.
const STEP_SAMPLES: usize = 270;
const FIRST_FRAME_SAMPLES: usize = 991;
const CLASSES: usize = 7;
/// Classes from here on are two people.
const FIRST_OVERLAP: usize = 4;
/// Frames of a turn at least: 100 ms.
const LEAST_TURN: usize = 6;

/// The segmentation network. Shared between threads; each use has its own state, which is given back
/// afterwards.
#[derive(Debug)]
pub struct OverlapModel {
    plan: Plan,
    short: Plan,
}

impl OverlapModel {
    /// Checks the model's hash and prepares its plans.
    pub fn load(store: &ModelStore) -> Result<Self, ModelError> {
        let of = |window: usize| {
            let shape = [1, 1, window];
            let plan = store.load(MODEL_NAME, &[(0, InputFact::f32(&shape))])?;
            let frames = (window - FIRST_FRAME_SAMPLES) / STEP_SAMPLES + 1;
            plan.expect_shapes(&[&shape], &[&[1, frames, CLASSES]])?;
            Ok(plan)
        };
        Ok(Self { plan: of(WINDOW_SAMPLES)?, short: of(SHORT_WINDOW_SAMPLES)? })
    }

    /// Seconds in which two people speak at once: 16 kHz mono in [-1, 1], not denoised. Sound beyond 60 s is
    /// ignored.
    ///
    /// # Errors
    /// [`SpeakerError::Model`] if the model fails.
    pub fn overlap_s(&self, samples: &[f32]) -> Result<f32, SpeakerError> {
        let mut frames = 0usize;
        // Sound shorter than a window is repeated: in much silence a short noisy piece of one person too
        // easily counts as two people.
        self.windows(samples, true, |_, classes| frames += classes.iter().filter(|c| is_overlap(c)).count())?;
        Ok((frames * STEP_SAMPLES) as f32 / SAMPLE_RATE_HZ as f32)
    }

    /// The samples at which somebody else begins, rising: a change of the person, or of the pair, that
    /// speaks. In a silence its middle. The input is that of [`OverlapModel::overlap_s`].
    ///
    /// # Errors
    /// [`SpeakerError::Model`] if the model fails.
    pub fn changes(&self, samples: &[f32]) -> Result<Vec<usize>, SpeakerError> {
        let mut changes = Vec::new();
        // The letter of a speaker changes from window to window, so each window is looked at for itself.
        // Filled with silence: a false change costs an embedding, a missed one may cost words.
        self.windows(samples, false, |begin, classes| {
            let active: Vec<u8> = classes.iter().map(active).collect();
            changes.extend(turns(&active).into_iter().map(|frame| begin + frame * STEP_SAMPLES));
        })?;
        Ok(changes)
    }

    /// Runs the network over windows of the sound; the last one ends with it. `each` gets the new frames and
    /// the sample at which they begin.
    fn windows(
        &self,
        samples: &[f32],
        repeat: bool,
        mut each: impl FnMut(usize, &[[f32; CLASSES]]),
    ) -> Result<(), SpeakerError> {
        let short = !repeat && samples.len() <= SHORT_WINDOW_SAMPLES;
        let (plan, length) =
            if short { (&self.short, SHORT_WINDOW_SAMPLES) } else { (&self.plan, WINDOW_SAMPLES) };
        let mut session = plan.session().map_err(SpeakerError::Model)?;
        let mut window = vec![0f32; length];
        for begin in (0..samples.len()).step_by(length).take(MOST_WINDOWS) {
            let end = (begin + length).min(samples.len());
            let start = end.saturating_sub(length);
            let part = samples.get(start..end).unwrap_or_default();
            let times = if repeat { length } else { part.len() };
            for (to, &sample) in window.iter_mut().zip(part.iter().cycle().take(times)) {
                *to = if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 };
            }
            let output = session.run(&[Input::F32(&window)]).map_err(SpeakerError::Model)?;
            let classes = output.f32(0).map_err(SpeakerError::Model)?.as_chunks::<CLASSES>().0;
            let first = (begin - start) / STEP_SAMPLES;
            let last = (part.len() / STEP_SAMPLES).min(classes.len());
            each(begin, classes.get(first..last).unwrap_or_default());
        }
        Ok(())
    }
}

/// The speakers in a frame, a bit each for A, B and C.
fn active(classes: &[f32; CLASSES]) -> u8 {
    const WHO: [u8; CLASSES] = [0, 1, 2, 4, 3, 5, 6];
    let most = classes.iter().zip(WHO).max_by(|a, b| a.0.total_cmp(b.0));
    most.map_or(0, |(_, who)| who)
}

/// The frames at which the speaker has changed; a run shorter than [`LEAST_TURN`] is no turn.
fn turns(active: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    // The last speakers, and the end of their speech.
    let mut before: Option<(u8, usize)> = None;
    for run in active.chunk_by(|a, b| a == b) {
        let (start, end) = (at, at + run.len());
        at = end;
        let who = run.first().copied().unwrap_or(0);
        if who == 0 || run.len() < LEAST_TURN {
            continue;
        }
        if let Some((last, until)) = before
            && last != who
        {
            found.push(until.midpoint(start));
        }
        before = Some((who, end));
    }
    found
}

/// Whether the most likely class of a frame is one of two people.
fn is_overlap(classes: &[f32; CLASSES]) -> bool {
    let (one, two) = classes.split_at(FIRST_OVERLAP);
    let most = |of: &[f32]| of.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    most(two) > most(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::npy;
    use crate::speaker::testing;
    use crate::testdata::shared;

    #[test]
    fn the_network_equals_its_reference_vectors() {
        let Some(folder) = shared("models/ref") else { return };
        for n in 0..3 {
            let part = |what: &str| npy::read(&folder.join(format!("pyannote_seg30_dynN.{n}.{what}.npy")));
            let ((shape, sound), (_, expected)) = (part("in.wav"), part("out.logp"));
            let plan = testing::store().load(MODEL_NAME, &[(0, InputFact::f32(&shape))]).unwrap();
            let output = plan.session().unwrap().run(&[Input::F32(&sound)]).unwrap();
            let got = output.f32(0).unwrap();
            assert_eq!(got.len(), expected.len());
            // The order of a processor's additions shows in the logarithm of improbable classes (-16), not in
            // that of likely ones.
            for (a, b) in got.iter().zip(&expected) {
                let close = (a - b).abs() < 1e-3 * (1.0 + b.abs());
                assert!(close && (a.exp() - b.exp()).abs() < 1e-4, "vector {n}: {a} {b}");
            }
        }
    }

    #[test]
    fn two_people_at_once_are_heard_and_one_alone_is_not() {
        let Some((ann, ben)) = testing::two_speakers() else { return };
        let model = OverlapModel::load(&testing::store()).unwrap();
        let alone = &ann[..96_000];
        assert_eq!(model.overlap_s(alone).unwrap(), 0.0);
        // The second voice over the last two of six seconds.
        let mut both = alone.to_vec();
        both[64_000..].iter_mut().zip(&ben).for_each(|(a, b)| *a += b);
        let overlap_s = model.overlap_s(&both).unwrap();
        assert!((LEAST_OVERLAP_S..2.2).contains(&overlap_s), "{overlap_s}");
        assert_eq!(model.overlap_s(&both).unwrap(), overlap_s, "nothing is left from a run before");
        // Behind six seconds of silence it lies across two windows, and counts once.
        let late = [vec![0.0; 96_000], both].concat();
        assert!((LEAST_OVERLAP_S..2.2).contains(&model.overlap_s(&late).unwrap()));
    }

    #[test]
    fn no_sound_silence_and_damaged_samples_are_nobody() {
        let model = OverlapModel::load(&testing::store()).unwrap();
        for sound in [vec![], vec![0.0; 100], vec![0.0; 200_000], vec![f32::NAN; 48_000]] {
            assert_eq!(model.overlap_s(&sound).unwrap(), 0.0, "{} samples", sound.len());
        }
    }

    #[test]
    fn the_likelier_of_one_and_two_people_counts() {
        assert!(is_overlap(&[-9.0, -2.0, -9.0, -9.0, -0.1, -9.0, -9.0]));
        assert!(!is_overlap(&[-9.0, -0.1, -9.0, -9.0, -2.0, -2.0, -2.0]));
        assert!(!is_overlap(&[0.0; CLASSES]), "a tie is one person");
    }

    #[test]
    fn a_turn_begins_where_somebody_else_goes_on_and_a_blink_is_none() {
        let active = |runs: &[(u8, usize)]| -> Vec<u8> {
            runs.iter().flat_map(|(who, frames)| std::iter::repeat_n(*who, *frames)).collect()
        };
        let found = |runs: &[(u8, usize)]| turns(&active(runs));
        assert!(found(&[]).is_empty() && found(&[(0, 50), (1, 100), (0, 30), (1, 100)]).is_empty());
        assert_eq!(found(&[(1, 100), (2, 100)]), [100]);
        assert_eq!(found(&[(1, 100), (0, 20), (2, 100)]), [110], "in the middle of the silence");
        assert!(found(&[(1, 100), (2, LEAST_TURN - 1), (1, 100)]).is_empty());
        assert_eq!(found(&[(1, 100), (3, 20), (2, 100)]), [100, 120], "both at once are a turn of their own");
    }
}

//! The voices in an utterance, and the parts that belong to each.
//!
//! ```text
//!  utterance ─▶ one embedding of all, and pooled ones of its seconds, stretches and ends
//!                 ├ all like the template, or nobody enrolled is in it ─▶ one part: the verdict of the whole
//!                 └ not all ─▶ units (segment.rs) ─▶ an embedding each
//!                        ─▶ whose: like the template, and like the rest of what is theirs
//!                        ─▶ resegment: the nearer of the voices that are known, and where they change
//!                        ─▶ one verdict for all of a person ─▶ a part for each, and one for what is left
//! ```
//!
//! Invariants: the parts of an utterance do not overlap; no sound of an unassigned or unverified part leaves
//! this module; a unit that is as likely somebody else's is not assigned.

use std::collections::BTreeSet;
use std::ops::Range;

use super::SpeakerError;
use super::aside;
use super::embedding::{Embedding, Pass, Piece};
use super::resegment::{Guess, SURELY_THEIRS, resegment};
use super::segment::{self, LEAST_UNIT, Unit};
use super::short::{LEAST_SHORT_S, of_short};
use super::speech::{NetSpeech, Quality};
use super::verification::{
    Candidate, EnrolledVoice, LEAST_NET_SPEECH_S, SecondVoice, Verdict, Verifier, decide,
};
use super::whose::{Heard, LEAST_LEFT_S, UnitScore, assign, left, likeness, theirs};
use crate::units::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// The words of one person in an utterance, or of nobody known.
#[derive(Debug, Clone)]
pub struct Part {
    pub verdict: Verdict,
    /// The ranges of the part, in samples of the utterance, rising; `None`: all of it.
    pub own: Option<Vec<Range<usize>>>,
    /// Only in memory, and only for comparison with later utterances.
    pub(super) voice: Option<Embedding>,
}

impl Part {
    pub(super) fn whole(verdict: Verdict, voice: Option<Embedding>) -> Self {
        Self { verdict, own: None, voice }
    }

    /// Whether both are of one person, as far as two utterances at one microphone tell.
    pub fn same_voice(&self, other: &Self) -> bool {
        match (&self.voice, &other.voice) {
            (Some(one), Some(other)) => one.cosine(other) >= SAME_VOICE,
            _ => false,
        }
    }

    /// The voice that the next utterance may be compared with, if this one is verified by enough speech.
    pub fn just_heard(&self) -> Option<JustHeard> {
        let Verdict::Verified { user_id, net_speech_s, .. } = &self.verdict else { return None };
        let voice = self.voice.clone().filter(|_| *net_speech_s >= LEAST_NET_SPEECH_S)?;
        Some(JustHeard { user_id: user_id.clone(), voice })
    }

    /// The person's own sound of an utterance, from sample `from` on.
    pub fn sound(&self, samples: &[f32], from: usize) -> Vec<f32> {
        match &self.own {
            None => samples.get(from..).unwrap_or_default().to_vec(),
            Some(own) => {
                let parts = own.iter().filter_map(|own| samples.get(own.start.max(from)..own.end));
                parts.collect::<Vec<_>>().concat()
            }
        }
    }
}

/// A person verified just before. Only in memory.
#[derive(Debug, Clone)]
pub struct JustHeard {
    pub(super) user_id: String,
    pub(super) voice: Embedding,
}

/// Cosine from which two utterances before one microphone are taken for one person's.
const SAME_VOICE: f32 = 0.45;

/// An utterance, and the enrolled people to compare it with.
struct Uttered<'a> {
    net: &'a NetSpeech,
    pass: &'a Pass,
    samples: &'a [f32],
    enrolled: &'a [&'a EnrolledVoice],
    threshold: f32,
}

/// The units of an utterance, the margins by which they are somebody's, and the stretches with their
/// speakers.
struct Assigned {
    heard: Vec<Heard>,
    margins: Vec<f32>,
    stretches: Vec<(Unit, Option<usize>)>,
}

impl Assigned {
    /// Seconds of nobody known.
    fn left_s(&self) -> f32 {
        self.stretches.iter().filter(|(_, whose)| whose.is_none()).map(|(unit, _)| unit.net_s()).sum()
    }

    /// The number of enrolled people who speak.
    fn people(&self) -> usize {
        self.stretches.iter().filter_map(|(_, whose)| *whose).collect::<BTreeSet<_>>().len()
    }

    /// Whether one person speaks, and nobody else.
    fn one_person_alone(&self) -> bool {
        self.people() == 1 && self.left_s() < LEAST_LEFT_S
    }

    /// The same, where each unit with a voice of its own is surely that person's.
    fn one_person_surely_alone(&self) -> bool {
        let mut margins = self.heard.iter().zip(&self.margins).filter(|(h, _)| h.voice.is_some());
        self.one_person_alone() && margins.all(|(_, margin)| *margin >= SURELY_THEIRS)
    }
}

/// A part may be somebody else's if its likeness to the template is less than this share of the likeness of
/// the whole, and a little.
const SHARE_OF_WHOLE: f32 = 0.5;
const AND_A_LITTLE: f32 = 0.02;
/// Lengths of the begin and of the end that are examined besides, in frames.
const EDGES: [usize; 2] = [50, 70];
/// Least length of an examined stretch between two pauses, in frames.
const LEAST_STRETCH: usize = 40;
/// Cosine to a template, behind the compensation, from which a second may be that person's although the whole
/// is not.
const MAY_BE_KNOWN: f32 = 0.18;

impl Verifier {
    /// Finds the voices in `samples`: 16 kHz mono in [-1, 1], raw, with a VAD probability per 10 ms frame in
    /// `speech`. `threshold` applies to users without their own, `just` is the person verified just before.
    /// Parts come in the order in which they begin; there is always one.
    ///
    /// # Errors
    /// As [`Verifier::verify`].
    pub fn hear(
        &self,
        samples: &[f32],
        speech: &[f32],
        enrolled: &[EnrolledVoice],
        threshold: f32,
        just: Option<&JustHeard>,
    ) -> Result<Vec<Part>, SpeakerError> {
        let usable = self.usable(enrolled)?;
        if usable.is_empty() {
            return Ok(vec![Part::whole(Verdict::NotEnrolled, None)]);
        }
        let net = NetSpeech::of(samples, speech);
        let net_speech_s = net.quality.net_speech_s;
        if net_speech_s < LEAST_NET_SPEECH_S {
            return Ok(vec![self.short(&net, &usable, threshold, just)?]);
        }
        let (test, pass) = self.model().embed_pass(&net.samples)?;
        let candidates = self.candidates(&test, net.quality, &usable);
        let verdict = decide(&candidates, threshold, net_speech_s);
        let mut parts = None;
        if self.second != SecondVoice::Answer
            && let Some(best) = candidates.first()
            && self.several(&candidates, &test, &net, &pass)?
        {
            let seconds = self.scored(&best.voice.template, &self.seconds(&pass)?);
            let changes = aside::crossings(&seconds, &net);
            let uttered = Uttered { net: &net, pass: &pass, samples, enrolled: &usable, threshold };
            parts = self.parts(&uttered, &verdict, changes)?;
        }
        let parts = parts.unwrap_or_else(|| vec![Part::whole(verdict, Some(test))]);
        self.refused(parts, samples)
    }

    /// `parts`, unless somebody is verified and the owner wants no second voice beside them.
    fn refused(&self, parts: Vec<Part>, samples: &[f32]) -> Result<Vec<Part>, SpeakerError> {
        let verified = |part: &&Part| matches!(part.verdict, Verdict::Verified { .. });
        let Some(part) = parts.iter().find(verified) else { return Ok(parts) };
        let confidence = part.verdict.confidence().unwrap_or_default();
        let mut other_s = part.verdict.other_s().filter(|_| self.second == SecondVoice::Refuse);
        if other_s.is_none() {
            other_s = self.overlap_s(samples)?;
        }
        let Some(other_s) = other_s else { return Ok(parts) };
        let net_speech_s = parts.iter().map(|part| part.verdict.net_speech_s()).sum();
        let verdict = Verdict::MultipleSpeakers { confidence, net_speech_s, other_s };
        Ok(vec![Part::whole(verdict, None)])
    }

    /// Whether an utterance may hold more than one voice, or a voice other than its main one; in doubt,
    /// `true`.
    pub(super) fn several(
        &self,
        candidates: &[Candidate<'_>],
        test: &Embedding,
        net: &NetSpeech,
        pass: &Pass,
    ) -> Result<bool, SpeakerError> {
        let Some(best) = candidates.first() else { return Ok(false) };
        if best.log_odds < 0.0 {
            // Nobody is verified by all of it: a part of it may still be somebody's.
            return self.holds_somebody_known(candidates, net, pass);
        }
        let template = self.calibration.without_channel(best.voice.template.centroid());
        let cosine = |voice: &Embedding| self.calibration.without_channel(voice).cosine(&template);
        let bar = SHARE_OF_WHOLE * cosine(test) + AND_A_LITTLE;
        let unlike = |(frames, voice): &Piece| likeness(cosine(voice), frames.len()) < bar;
        // A short second voice is mostly at one of the ends, perhaps without a pause before it.
        let frames = net.frames.len();
        let ends =
            EDGES.into_iter().flat_map(|edge| [0..edge.min(frames), frames.saturating_sub(edge)..frames]);
        let stretches: Vec<Range<usize>> =
            segment::units(net, &[]).into_iter().map(|unit| unit.frames).chain(ends).collect();
        let inside = |window: &Range<usize>| {
            let clipped = stretches.iter().map(|s| s.start.max(window.start)..s.end.min(window.end));
            let long = clipped.filter(|s| s.end >= s.start + LEAST_STRETCH);
            long.map(|s| s.start - window.start..s.end - window.start).collect()
        };
        Ok(self.model().pieces(pass, inside)?.iter().chain(&self.seconds(pass)?).any(unlike))
    }

    /// Whether a second of an utterance that is nobody's as a whole is an enrolled person's. In the pass over
    /// the whole a person beside a longer stranger sounds less like themselves, so the likeliest second is
    /// embedded alone.
    fn holds_somebody_known(
        &self,
        candidates: &[Candidate<'_>],
        net: &NetSpeech,
        pass: &Pass,
    ) -> Result<bool, SpeakerError> {
        let without_channel = |voice: &Embedding| self.calibration.without_channel(voice);
        let templates: Vec<_> =
            candidates.iter().map(|one| without_channel(one.voice.template.centroid())).collect();
        let mut likest: Option<(f32, Range<usize>, &Embedding)> = None;
        for (frames, voice) in self.seconds(pass)? {
            let voice = without_channel(&voice);
            for template in &templates {
                let cosine = voice.cosine(template);
                if likest.as_ref().is_none_or(|(most, ..)| cosine > *most) {
                    likest = Some((cosine, frames.clone(), template));
                }
            }
        }
        let Some((_, frames, template)) = likest.filter(|(cosine, ..)| *cosine >= MAY_BE_KNOWN) else {
            return Ok(false);
        };
        let sound = net.samples.get(frames.start * FRAME_SAMPLES..frames.end * FRAME_SAMPLES);
        let alone = without_channel(&self.model().embed_exact(sound.unwrap_or_default())?);
        Ok(theirs(alone.cosine(template), None, Unit::of(net, frames).net_s()) >= 0.0)
    }

    /// The voice of each second.
    fn seconds(&self, pass: &Pass) -> Result<Vec<Piece>, SpeakerError> {
        self.model().pieces(pass, |window| {
            // The last second, of which the others may miss a quarter.
            let last =
                window.len().checked_sub(aside::PIECE).filter(|start| !start.is_multiple_of(aside::HOP));
            let last = last.map(|start| start..window.len());
            aside::pieces(window.len()).into_iter().chain(last).collect()
        })
    }

    /// The parts of an utterance that may hold more than one voice; `None` if all of it is one.
    fn parts(
        &self,
        uttered: &Uttered<'_>,
        whole: &Verdict,
        mut changes: Vec<usize>,
    ) -> Result<Option<Vec<Part>>, SpeakerError> {
        let mut assigned = self.assigned(uttered, &changes, Vec::new())?;
        // The segmentation network costs half a check, and is not asked where all is surely one person's.
        if let Some(turns) = self.turns.as_ref().filter(|_| !assigned.one_person_surely_alone()) {
            changes.extend(turns.changes(uttered.samples)?);
            assigned = self.assigned(uttered, &changes, assigned.heard)?;
        }
        if assigned.people() == 0 || assigned.one_person_alone() {
            // One voice, or nobody's: the whole is embedded already.
            return Ok(None);
        }
        let left_s = assigned.left_s();
        let Assigned { heard, margins, stretches } = assigned;
        let (units, whose): (Vec<Unit>, Vec<Option<usize>>) = stretches.iter().cloned().unzip();
        let mut parts = Vec::new();
        for person in 0..uttered.enrolled.len() {
            let own: Vec<bool> = whose.iter().map(|who| *who == Some(person)).collect();
            if own.iter().any(|own| *own)
                && let Some(part) = self.part(uttered, &units, &own)?
            {
                parts.push(part);
            }
        }
        let verified = |part: &Part| matches!(part.verdict, Verdict::Verified { .. });
        let alone = parts.len() == 1 && left_s < LEAST_LEFT_S;
        let surely_other = heard.iter().zip(&margins).any(|(h, margin)| h.voice.is_some() && *margin < -0.5);
        let told_apart = parts.iter().any(verified)
            || (matches!(whole, Verdict::Verified { .. }) && !parts.is_empty() && surely_other);
        if alone || !told_apart {
            return Ok(None);
        }
        parts.extend(left(&heard, &stretches, uttered.net));
        let first = |part: &Part| part.own.as_ref().and_then(|own| own.first()).map_or(0, |own| own.start);
        parts.sort_by_key(first);
        let all_s: f32 = parts.iter().map(|part| part.verdict.net_speech_s()).sum();
        for part in &mut parts {
            let others_s = all_s - part.verdict.net_speech_s();
            if let Verdict::Verified { other_s, .. } = &mut part.verdict
                && others_s > 0.0
            {
                *other_s = Some(others_s);
            }
        }
        Ok(Some(parts))
    }

    /// The part of one person: the units that are `own`.
    fn part(
        &self,
        uttered: &Uttered<'_>,
        units: &[Unit],
        own: &[bool],
    ) -> Result<Option<Part>, SpeakerError> {
        let Uttered { net, samples, enrolled, threshold, .. } = *uttered;
        let speech = segment::own_speech(net, units, own);
        let net_speech_s = speech.len() as f32 / SAMPLE_RATE_HZ as f32;
        let sound = segment::own_sound(net, units, own, samples.len());
        if sound.is_empty() || net_speech_s < LEAST_SHORT_S {
            return Ok(None);
        }
        let quality = Quality { net_speech_s, ..net.quality };
        let voice = self.model().embed(&speech)?;
        let candidates = self.candidates(&voice, quality, enrolled);
        let verdict = if net_speech_s < LEAST_NET_SPEECH_S {
            of_short(&candidates, threshold, net_speech_s)
        } else {
            decide(&candidates, threshold, net_speech_s)
        };
        Ok(Some(Part { verdict, own: Some(sound), voice: Some(voice) }))
    }

    /// Cuts an utterance at its pauses and at `changes`, which are samples of it, and finds the speaker of
    /// each stretch. Units that are already `known` are not embedded again.
    fn assigned(
        &self,
        uttered: &Uttered<'_>,
        changes: &[usize],
        mut known: Vec<Heard>,
    ) -> Result<Assigned, SpeakerError> {
        let Uttered { net, pass, enrolled, .. } = *uttered;
        let mut changes: Vec<usize> = changes.iter().map(|at| segment::net_frame(net, *at)).collect();
        changes.sort_unstable();
        let mut heard = Vec::new();
        for unit in segment::units(net, &changes) {
            let same = known.iter().position(|known| known.unit.frames == unit.frames);
            heard.push(match same {
                Some(same) => Heard { unit, ..known.swap_remove(same) },
                None => self.embedded(unit, net, enrolled)?,
            });
        }
        let (whose, margins) = assign(&heard, enrolled.len());
        let without_channel = |voice: &Embedding| self.calibration.without_channel(voice);
        let templates: Vec<_> = enrolled.iter().map(|one| without_channel(one.template.centroid())).collect();
        let guess = Guess { heard: &heard, whose: &whose, margins: &margins, templates: &templates };
        let pooled = |frames: &Range<usize>| Some(without_channel(&self.model().pooled(pass, frames)?));
        let stretches = resegment(&guess, net, &pooled);
        Ok(Assigned { heard, margins, stretches })
    }

    fn embedded(
        &self,
        unit: Unit,
        net: &NetSpeech,
        enrolled: &[&EnrolledVoice],
    ) -> Result<Heard, SpeakerError> {
        let net_s = unit.net_s();
        if unit.frames.len() < LEAST_UNIT {
            return Ok(Heard { unit, voice: None, net_s, scores: Vec::new() });
        }
        let sound = net.samples.get(unit.frames.start * FRAME_SAMPLES..unit.frames.end * FRAME_SAMPLES);
        let voice = self.model().embed_exact(sound.unwrap_or_default())?;
        let quality = Quality { net_speech_s: net_s, ..net.quality };
        let impostors = self.calibration.impostors(&voice);
        let of = |person: &&EnrolledVoice| {
            let (score, log_odds) = self.odds(&voice, impostors, quality, &person.template);
            UnitScore { log_odds, cosine: score.compensated }
        };
        let scores = enrolled.iter().map(of).collect();
        Ok(Heard { unit, voice: Some(self.calibration.without_channel(&voice)), net_s, scores })
    }
}

#[cfg(test)]
impl Part {
    /// A voice made of `seed`, refused.
    pub(crate) fn rejected_of(seed: u8) -> Self {
        let verdict = Verdict::Rejected { confidence: 0.1, score: 0.0, net_speech_s: 2.0 };
        Self::whole(verdict, Some(voice_of(seed)))
    }

    /// The same, verified by so much speech.
    pub(crate) fn verified_of(seed: u8, net_speech_s: f32) -> Self {
        let name = seed.to_string();
        let verdict = Verdict::Verified {
            user_id: name.clone(),
            user_name: name,
            confidence: 0.99,
            score: 8.0,
            net_speech_s,
            other_s: None,
        };
        Self::whole(verdict, Some(voice_of(seed)))
    }
}

#[cfg(test)]
fn voice_of(seed: u8) -> Embedding {
    let at = |k: usize| if k % 7 == usize::from(seed) { 1.0 } else { 0.0 };
    Embedding::normalised(&(0..super::embedding::DIMENSIONS).map(at).collect::<Vec<f32>>())
        .unwrap_or_else(|| unreachable!())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::testing;
    use crate::speaker::verification::DEFAULT_THRESHOLD;

    fn verifier(second: SecondVoice) -> Verifier {
        let verifier = Verifier::new(testing::model(), testing::calibration()).unwrap();
        verifier.with_second_voice(second).hearing_turns(testing::overlap())
    }

    /// The verified people, with the frames of speech that each got of each of `said`; and the number of
    /// dropped parts.
    fn heard(said: &[&testing::Said], enrolled: &[EnrolledVoice]) -> (Vec<(String, Vec<usize>)>, usize) {
        let samples = said.iter().flat_map(|said| said.samples.clone()).collect::<Vec<_>>();
        let speech = said.iter().flat_map(|said| said.speech.clone()).collect::<Vec<_>>();
        let parts =
            verifier(SecondVoice::Cut).hear(&samples, &speech, enrolled, DEFAULT_THRESHOLD, None).unwrap();
        let (known, dropped): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|part| matches!(part.verdict, Verdict::Verified { .. }));
        let given = |own: &[Range<usize>]| {
            let mut from = 0;
            let frames = |said: &&testing::Said| {
                let first = from;
                from += said.speech.len();
                let spoken = (0..said.speech.len()).filter(|k| said.speech[*k] >= 0.5).map(|k| first + k);
                spoken.filter(|k| own.iter().any(|own| own.contains(&(k * FRAME_SAMPLES + 80)))).count()
            };
            said.iter().map(frames).collect()
        };
        let known = known.into_iter().map(|part| {
            let own = part.own.unwrap_or_else(|| std::iter::once(0..samples.len()).collect());
            let Verdict::Verified { user_id, .. } = part.verdict else { unreachable!() };
            (user_id, given(&own))
        });
        (known.collect(), dropped.len())
    }

    fn spoken(said: &testing::Said) -> usize {
        said.speech.iter().filter(|p| **p >= 0.5).count()
    }

    #[test]
    fn a_stranger_before_or_behind_is_dropped_and_the_owner_is_answered() {
        let Some([ann, _, other]) = testing::three_people() else { return };
        let enrolled = [ann.enrolled("ann")];
        let (hers, theirs) = (ann.says(0, 300), other.says(0, 200));
        for (said, hers_at) in [([&theirs, &hers], 1), ([&hers, &theirs], 0)] {
            let (known, dropped) = heard(&said, &enrolled);
            let [(_, given)] = &known[..] else { panic!("{known:?}") };
            assert!(dropped >= 1 && given[hers_at] * 10 >= spoken(&hers) * 8, "{known:?} {dropped}");
            assert!(given[1 - hers_at] * 100 <= spoken(&theirs) * 5, "of the stranger: {known:?}");
        }
        let (known, dropped) = heard(&[&hers], &enrolled);
        assert!(known.len() == 1 && known[0].1[0] == spoken(&hers) && dropped == 0, "{known:?}");
        assert!(heard(&[&theirs], &enrolled).0.is_empty());
    }

    #[test]
    fn two_enrolled_people_are_both_known_in_the_order_in_which_they_speak() {
        let Some([ann, ben, _]) = testing::three_people() else { return };
        let enrolled = [ann.enrolled("ann"), ben.enrolled("ben")];
        let (hers, his) = (ann.says(0, 250), ben.says(0, 250));
        for (said, names) in [([&hers, &his], ["ann", "ben"]), ([&his, &hers], ["ben", "ann"])] {
            let (known, _) = heard(&said, &enrolled);
            assert_eq!(known.iter().map(|known| known.0.as_str()).collect::<Vec<_>>(), names, "{known:?}");
            for (k, (_, given)) in known.iter().enumerate() {
                assert!(given[k] * 10 >= spoken(said[k]) * 8, "{known:?}");
                assert!(given[1 - k] * 100 <= spoken(said[1 - k]) * 5, "{known:?}");
            }
        }
    }

    #[test]
    fn a_second_voice_is_refused_or_taken_for_theirs_where_the_owner_wants_that() {
        let Some([ann, _, other]) = testing::three_people() else { return };
        let enrolled = [ann.enrolled("ann")];
        let (hers, theirs) = (ann.says(0, 300), other.says(0, 150));
        let both =
            ([hers.samples.clone(), theirs.samples].concat(), [hers.speech.clone(), theirs.speech].concat());
        let hear = |second, samples: &[f32], speech: &[f32]| {
            let parts = verifier(second).hear(samples, speech, &enrolled, DEFAULT_THRESHOLD, None).unwrap();
            assert_eq!(parts.len(), 1, "{parts:?}");
            parts[0].clone()
        };
        let refused = hear(SecondVoice::Refuse, &both.0, &both.1);
        assert!(
            matches!(refused.verdict, Verdict::MultipleSpeakers { other_s, .. } if other_s > 0.8),
            "{refused:?}"
        );
        let all = hear(SecondVoice::Answer, &both.0, &both.1);
        assert!(all.own.is_none() && matches!(all.verdict, Verdict::Verified { .. }), "{all:?}");
        let alone = hear(SecondVoice::Refuse, &hers.samples, &hers.speech);
        assert!(matches!(alone.verdict, Verdict::Verified { other_s: None, .. }), "{alone:?}");
    }

    #[test]
    fn little_speech_is_known_by_a_higher_bar_and_a_strangers_never() {
        let Some([ann, _, other]) = testing::three_people() else { return };
        let enrolled = [ann.enrolled("ann")];
        let hear = |said: &testing::Said| {
            let parts = verifier(SecondVoice::Cut).hear(
                &said.samples,
                &said.speech,
                &enrolled,
                DEFAULT_THRESHOLD,
                None,
            );
            parts.unwrap().remove(0).verdict
        };
        let known = (0..6).filter(|n| matches!(hear(&ann.says(90 * *n, 90)), Verdict::Verified { .. }));
        assert!(known.count() >= 3);
        for n in 0..6 {
            let verdict = hear(&other.says(90 * n, 90));
            assert!(matches!(verdict, Verdict::TooShort { .. }), "{verdict:?}");
        }
        assert!(matches!(hear(&ann.says(0, 30)), Verdict::TooShort { .. }));
    }
}

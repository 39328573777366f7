//! Tables for somebody else who goes on alone (`calibrate --audio DIR --second yes`). Nothing is fitted and
//! nothing is written.
//!
//! Of every reader that is not in the cohort: utterances of one person, and the same person with another
//! reader before, behind or between, joined without a pause, both through the same condition. Enrolled with
//! three samples, as the tests of `calibrate`.

use jarvisd::speaker::aside::least_likeness;

use super::choices::samples;
use super::*;

const CONDITIONS: [&str; 5] = ["clean", "noise 10 dB", "noise 5 dB", "other room", "one device A"];
/// The last condition is enrolled through its device as well.
const ONE_DEVICE: usize = 4;
const ALONE_S: [f32; 5] = [2.0, 3.0, 4.0, 5.0, 6.0];
/// Own speech and that of the other, seconds.
const JOINED_S: [(f32, f32); 7] =
    [(2.0, 1.0), (2.0, 1.5), (3.0, 0.5), (3.0, 1.0), (3.0, 1.5), (3.0, 2.0), (3.0, 3.0)];
const PLACES: [&str; 3] = ["behind", "before", "between"];
/// Normalised scores of a second.
const BARS: [f32; 5] = [0.0, 1.0, 2.0, 3.0, 4.0];
const LIKENESSES: [f32; 6] = [0.1, 0.15, 0.2, 0.25, 0.3, 0.4];

struct Reader {
    held_out: bool,
    enrolled: Embedding,
    enrolled_on_device: Embedding,
    /// Net speech of the rest in each condition.
    rest: Vec<Vec<f32>>,
}

/// What came of one utterance.
struct Heard {
    held_out: bool,
    condition: usize,
    /// Index into [`ALONE_S`], or of [`JOINED_S`] and [`PLACES`].
    alone: Option<usize>,
    joined: Option<(usize, usize)>,
    verified: bool,
    least: f32,
    /// Least cosine of two pieces that do not overlap.
    likeness: f32,
}

fn reader(tools: &mut Tools, path: &Path, index: usize) -> Result<Option<Reader>, Failure> {
    let (sound, _) = read_all(path, Channel::Mean, 60)?;
    let (enrol, rest) = parts_of(&sound);
    let least = samples(LEAST_PART_S);
    let mut voices = Vec::new();
    for device in [None, Some(0)] {
        let (net, _) = tools.net(&enrolled_through(device, enrol, index))?;
        if net.len() < least {
            return Ok(None);
        }
        voices.push(Embedding::mean(&tools.thirds(&net)?).ok_or("no voice")?);
    }
    let mut heard = Vec::new();
    for condition in 0..CONDITIONS.len() {
        let seed = (index * 10 + condition) as u64;
        let sound = match condition {
            1 => with_noise(rest, 10.0, seed),
            2 => with_noise(rest, 5.0, seed),
            // One room for both, as they speak in one.
            3 => other_room(rest, 4242, seed),
            4 => other_room(rest, DEVICES[0], seed),
            _ => rest.to_vec(),
        };
        let (net, _) = tools.net(&sound)?;
        if net.len() < least {
            return Ok(None);
        }
        heard.push(net);
    }
    let [enrolled, enrolled_on_device] = <[Embedding; 2]>::try_from(voices).map_err(|_| "two voices")?;
    Ok(Some(Reader { held_out: index % 10 >= 7, enrolled, enrolled_on_device, rest: heard }))
}

/// `own` with `other` in one of [`PLACES`].
fn join(own: &[f32], other: &[f32], place: usize) -> Vec<f32> {
    let at = match place {
        0 => own.len(),
        1 => 0,
        _ => own.len() / 2,
    };
    let (before, behind) = own.split_at(at);
    [before, other, behind].concat()
}

struct Bench<'a> {
    model: &'a SpeakerModel,
    cohort: &'a Cohort,
    constants: &'a Constants,
}

impl Bench<'_> {
    fn hear(&self, reader: &Reader, condition: usize, sound: &[f32]) -> Result<Heard, Failure> {
        let template = if condition == ONE_DEVICE { &reader.enrolled_on_device } else { &reader.enrolled };
        let enrolled = Known::of(template, self.cohort, TOP);
        let score = |voice: &Embedding| Known::of(voice, self.cohort, TOP).score(&enrolled);
        let (whole, pieces) = self.model.embed_pieces(sound)?;
        let log_odds = self.constants.log_odds(score(&whole), sound.len() as f32 / RATE_HZ as f32);
        let scores = pieces.iter().map(|(_, voice)| score(voice).normalised);
        Ok(Heard {
            held_out: reader.held_out,
            condition,
            alone: None,
            joined: None,
            verified: sigmoid(log_odds) >= THRESHOLD,
            least: scores.fold(f32::INFINITY, f32::min),
            likeness: least_likeness(&pieces),
        })
    }

    fn of_reader(&self, readers: &[Reader], k: usize) -> Result<Vec<Heard>, Failure> {
        let reader = &readers[k];
        // Somebody else of the same part.
        let mut others = readers.iter().cycle().skip(k + 1).take(readers.len());
        let other = others.find(|other| other.held_out == reader.held_out).ok_or("one reader alone")?;
        let mut heard = Vec::new();
        for condition in 0..CONDITIONS.len() {
            let (own, other) = (&reader.rest[condition], &other.rest[condition]);
            for (index, seconds) in ALONE_S.into_iter().enumerate() {
                if let Some(sound) = own.get(..samples(seconds)) {
                    heard.push(Heard { alone: Some(index), ..self.hear(reader, condition, sound)? });
                }
            }
            for (index, (own_s, other_s)) in JOINED_S.into_iter().enumerate() {
                if condition > 0 && own_s < 3.0 {
                    continue;
                }
                let (Some(own), Some(other)) = (own.get(..samples(own_s)), other.get(..samples(other_s)))
                else {
                    continue;
                };
                for place in 0..if condition == 0 { PLACES.len() } else { 1 } {
                    let sound = join(own, other, place);
                    let joined = Some((index, place));
                    heard.push(Heard { joined, ..self.hear(reader, condition, &sound)? });
                }
            }
        }
        Ok(heard)
    }
}

pub fn run(audio: &Path, models: &Path, store: &ModelStore, choice: &Choice) -> Result<(), Failure> {
    let (cohort, constants) = shipped(models)?;
    let files = recordings(audio)?;
    let tools = || Ok(Tools { denoised: false, ..choice.tools(store)? });
    let readers = on_all_cores(files.len(), tools, |tools, index| {
        if index % 10 < 4 { Ok(None) } else { reader(tools, &files[index], index) }
    })?;
    let readers: Vec<Reader> = readers.into_iter().flatten().collect();
    let model = choice.model(store)?;
    let bench = Bench { model: &model, cohort: &cohort, constants: &constants };
    let heard = on_all_cores(readers.len(), || Ok(()), |(), k| bench.of_reader(&readers, k))?;
    let heard: Vec<Heard> = heard.into_iter().flatten().collect();
    say(&format!("readers: {}", readers.len()))?;
    alone(&heard)?;
    joined(&heard)?;
    samples_of_an_enrolment(&heard)
}

fn part(heard: &[Heard], held_out: bool, of: impl Fn(&Heard) -> bool) -> Vec<&Heard> {
    heard.iter().filter(|h| h.held_out == held_out && h.verified && of(h)).collect()
}

fn alone(heard: &[Heard]) -> Result<(), Failure> {
    say("\n### One person, verified: taken for two (held out / fit)\n")?;
    let heads: Vec<String> = BARS.iter().map(|bar| format!("a second below {bar}")).collect();
    say(&format!("| condition | utterances | {} | least |", heads.join(" | ")))?;
    say(&format!("|---|---|{}---|", "---|".repeat(BARS.len())))?;
    for (condition, name) in CONDITIONS.iter().enumerate() {
        let parts =
            [true, false].map(|held| part(heard, held, |h| h.condition == condition && h.alone.is_some()));
        let cells: Vec<String> = BARS
            .iter()
            .map(|bar| {
                let below = |part: &Vec<&Heard>| part.iter().filter(|h| h.least < *bar).count();
                format!("{} / {}", below(&parts[0]), below(&parts[1]))
            })
            .collect();
        let least = |part: &Vec<&Heard>| part.iter().map(|h| h.least).fold(f32::INFINITY, f32::min);
        say(&format!(
            "| {name} | {} / {} | {} | {:.2} / {:.2} |",
            parts[0].len(),
            parts[1].len(),
            cells.join(" | "),
            least(&parts[0]),
            least(&parts[1])
        ))?;
    }
    Ok(())
}

fn joined(heard: &[Heard]) -> Result<(), Failure> {
    say("\n### Two people, one behind the other, verified as the first (held out)\n")?;
    say("| own + other | place | condition | verified of all | found, a second below 1 | below 2 |")?;
    say("|---|---|---|---|---|---|")?;
    for (condition, name) in CONDITIONS.iter().enumerate() {
        for (index, (own_s, other_s)) in JOINED_S.into_iter().enumerate() {
            for (place, where_) in PLACES.iter().enumerate() {
                let of_it = |h: &Heard| h.condition == condition && h.joined == Some((index, place));
                let all = heard.iter().filter(|h| h.held_out && of_it(h)).count();
                let verified = part(heard, true, of_it);
                if verified.is_empty() {
                    continue;
                }
                let share = |bar: f32| {
                    100.0 * verified.iter().filter(|h| h.least < bar).count() as f64 / verified.len() as f64
                };
                say(&format!(
                    "| {own_s} + {other_s} s | {where_} | {name} | {} of {all} | {:.0} % | {:.0} % |",
                    verified.len(),
                    share(1.0),
                    share(2.0)
                ))?;
            }
        }
    }
    Ok(())
}

fn samples_of_an_enrolment(heard: &[Heard]) -> Result<(), Failure> {
    say("\n### Two seconds of one sample less alike than a cosine (held out and fit)\n")?;
    let heads: Vec<String> = LIKENESSES.iter().map(|bar| format!("below {bar}")).collect();
    say(&format!("| sample | samples | {} | least |", heads.join(" | ")))?;
    say(&format!("|---|---|{}---|", "---|".repeat(LIKENESSES.len())))?;
    let row = |label: String, of: &dyn Fn(&Heard) -> bool| {
        let all: Vec<f32> = heard.iter().filter(|h| of(h)).map(|h| h.likeness).collect();
        if all.is_empty() {
            return Ok(());
        }
        let cells: Vec<String> = LIKENESSES
            .iter()
            .map(|bar| {
                let below = all.iter().filter(|l| **l < *bar).count();
                format!("{:.1} %", 100.0 * below as f64 / all.len() as f64)
            })
            .collect();
        let least = all.iter().copied().fold(f32::INFINITY, f32::min);
        say(&format!("| {label} | {} | {} | {least:.2} |", all.len(), cells.join(" | ")))
    };
    for (condition, name) in CONDITIONS.iter().enumerate() {
        for (index, seconds) in ALONE_S.into_iter().enumerate().skip(1) {
            row(format!("one person, {seconds} s, {name}"), &|h| {
                h.condition == condition && h.alone == Some(index)
            })?;
        }
        for (index, (own_s, other_s)) in JOINED_S.into_iter().enumerate() {
            row(format!("{own_s} s and {other_s} s of another, {name}"), &|h| {
                h.condition == condition
                    && h.joined.is_some_and(|(which, place)| which == index && place == 0)
            })?;
        }
    }
    Ok(())
}

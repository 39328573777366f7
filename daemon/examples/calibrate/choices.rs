//! Tables for choices that need material of their own (`calibrate --audio DIR --choices yes`). Nothing is
//! fitted anew for the device and nothing is written.
//!
//! * Early verdict: of every piece of 1, 1.5 and 2 s, how many owners and how many strangers lie below a
//!   probability.
//! * Mean or prototypes: a test against the mean of three samples, the nearest of them, or the average over
//!   them.
//! * Wake phrase in or out: a command alone, or with as much speech in front of it as a wake phrase has.

use super::*;

/// Pieces of the tests, seconds of net speech.
const PIECES_S: [f32; 4] = [1.0, 1.5, 2.0, 3.0];
/// Speech of "hey jarvis", and the commands that it stands in front of.
const PHRASE_S: f32 = 0.65;
const COMMANDS_S: [f32; 2] = [1.0, 2.0];
const BARS: [f32; 9] = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
const HEAD: &str =
    "| | same / different | EER | FAR | FRR | Cllr | ECE | minDCF(0.01) |\n|---|---|---|---|---|---|---|---|";

struct Piece {
    condition: usize,
    /// Index into the lengths of its table.
    length: usize,
    net_s: f32,
    voice: Embedding,
}

struct Reader {
    held_out: bool,
    /// Three samples each: as they are, then through each device.
    enrolled: Vec<Vec<Embedding>>,
    pieces: Vec<Piece>,
    /// Commands alone, and the same with a phrase in front.
    bare: Vec<Piece>,
    led: Vec<Piece>,
}

pub fn samples(seconds: f32) -> usize {
    (seconds * RATE_HZ as f32) as usize
}

fn reader(tools: &mut Tools, path: &Path, index: usize) -> Result<Option<Reader>, Failure> {
    let (sound, rate_hz) = read_all(path, Channel::Mean, 60)?;
    if rate_hz as usize != RATE_HZ {
        return Err(format!("{} is not 16 kHz", path.display()).into());
    }
    let (enrol, rest) = parts_of(&sound);
    let least = samples(LEAST_PART_S);
    let mut reader = Reader {
        held_out: index % 10 >= 7,
        enrolled: Vec::new(),
        pieces: Vec::new(),
        bare: Vec::new(),
        led: Vec::new(),
    };
    for device in [None, Some(0), Some(1)] {
        let (net, _) = tools.net(&enrolled_through(device, enrol, index))?;
        if net.len() < least || rest.len() < least {
            return Ok(None);
        }
        reader.enrolled.push(tools.thirds(&net)?);
    }
    for condition in 0..CONDITIONS.len() {
        let (net, _) = tools.net(&heard_in(condition, rest, index))?;
        for (length, net_s) in PIECES_S.into_iter().enumerate() {
            for part in net.chunks_exact(samples(net_s)) {
                reader.pieces.push(Piece { condition, length, net_s, voice: tools.model.embed(part)? });
            }
        }
        for (length, command_s) in COMMANDS_S.into_iter().enumerate() {
            for part in net.chunks_exact(samples(PHRASE_S) + samples(command_s)) {
                let command = part.get(samples(PHRASE_S)..).unwrap_or_default();
                let piece = |net_s, voice| Piece { condition, length, net_s, voice };
                reader.bare.push(piece(command_s, tools.model.embed(command)?));
                reader.led.push(piece(command_s + PHRASE_S, tools.model.embed(part)?));
            }
        }
    }
    Ok(Some(reader))
}

/// Everyone who is not in the cohort, in file order.
fn readers(files: &[PathBuf], store: &ModelStore, choice: &Choice) -> Result<Vec<Reader>, Failure> {
    let tools = || Ok(Tools { denoised: false, ..choice.tools(store)? });
    let readers = on_all_cores(files.len(), tools, |tools, index| {
        if index % 10 < 4 { Ok(None) } else { reader(tools, &files[index], index) }
    })?;
    Ok(readers.into_iter().flatten().collect())
}

/// How a test is compared with the samples of an enrolment.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    Mean,
    Nearest,
    Average,
}

struct Against<'a> {
    cohort: &'a Cohort,
    method: Method,
    /// The enrolment of a reader: three samples.
    enrolment: &'a dyn Fn(&Reader) -> Vec<Embedding>,
}

impl Against<'_> {
    /// Every piece of every reader against every reader's enrolment; `None`s where there is no voice are left
    /// out.
    fn compare(&self, readers: &[&Reader], pieces: impl Fn(&Reader) -> &[Piece]) -> Vec<Vec<Scored>> {
        let enrolled: Vec<Vec<_>> = readers
            .iter()
            .map(|reader| {
                let samples = (self.enrolment)(reader);
                let voices = match self.method {
                    Method::Mean => Embedding::mean(&samples).into_iter().collect(),
                    _ => samples,
                };
                voices.iter().map(|v| Known::of(v, self.cohort, TOP)).collect()
            })
            .collect();
        let mut scored = Vec::new();
        for (i, reader) in readers.iter().enumerate() {
            for piece in pieces(reader) {
                let known = Known::of(&piece.voice, self.cohort, TOP);
                let all = enrolled.iter().enumerate().map(|(j, voices)| {
                    let scores: Vec<Score> = voices.iter().map(|voice| known.score(voice)).collect();
                    let Piece { condition, length, net_s, .. } = *piece;
                    Scored { same: i == j, condition, length, net_s, score: self.pooled(&scores) }
                });
                scored.push(all.collect());
            }
        }
        scored
    }

    fn pooled(&self, scores: &[Score]) -> Score {
        let count = scores.len().max(1) as f32;
        let pool = |of: &dyn Fn(&Score) -> f32| match self.method {
            Method::Average => scores.iter().map(of).sum::<f32>() / count,
            _ => scores.iter().map(of).fold(f32::NEG_INFINITY, f32::max),
        };
        Score {
            cosine: pool(&|s| s.cosine),
            normalised: pool(&|s| s.normalised),
            compensated: pool(&|s| s.compensated),
            differs: scores.first().map_or_else(Differs::default, |s| s.differs),
        }
    }
}

fn one_room(reader: &Reader) -> Vec<Embedding> {
    reader.enrolled.first().cloned().unwrap_or_default()
}

/// One sample as it is, one through each device.
fn three_rooms(reader: &Reader) -> Vec<Embedding> {
    reader.enrolled.iter().enumerate().filter_map(|(n, samples)| samples.get(n).cloned()).collect()
}

pub fn run(audio: &Path, models: &Path, store: &ModelStore, choice: &Choice) -> Result<(), Failure> {
    let (cohort, constants) = shipped(models)?;
    let readers = readers(&recordings(audio)?, store, choice)?;
    let held: Vec<&Reader> = readers.iter().filter(|r| r.held_out).collect();
    let fitted: Vec<&Reader> = readers.iter().filter(|r| !r.held_out).collect();
    say(&format!("readers: {} fit, {} held out", fitted.len(), held.len()))?;
    early(&cohort, &constants, &held, &fitted)?;
    prototypes(&cohort, &held, &fitted)?;
    phrase(&cohort, &constants, &held)
}

/// A trial of a household: the probability of the true owner (`None`: a stranger came), and of the likeliest
/// enrolled.
struct Door {
    condition: usize,
    length: usize,
    own: f32,
    /// Likeliest of one and of four other people.
    one: f32,
    four: f32,
}

fn doors(cohort: &Cohort, constants: &Constants, readers: &[&Reader]) -> Vec<Door> {
    let against = Against { cohort, method: Method::Mean, enrolment: &one_room };
    let confidence = |t: &Scored| sigmoid(constants.log_odds(t.score, t.net_s));
    let rows = against.compare(readers, |reader| &reader.pieces);
    rows.iter()
        .filter_map(|row| {
            let me = row.iter().position(|t| t.same)?;
            let own = row.get(me)?;
            let others: Vec<f32> = row.iter().cycle().skip(me + 1).take(4).map(confidence).collect();
            Some(Door {
                condition: own.condition,
                length: own.length,
                own: confidence(own),
                one: *others.first()?,
                four: others.iter().copied().fold(0.0, f32::max),
            })
        })
        .collect()
}

fn early(
    cohort: &Cohort,
    constants: &Constants,
    held: &[&Reader],
    fitted: &[&Reader],
) -> Result<(), Failure> {
    let held = doors(cohort, constants, held);
    let fitted = doors(cohort, constants, fitted);
    say("\n### Early verdict: shares below a probability, all seven conditions\n")?;
    say(
        "| speech | P below | owners, held out | owners, fit | strangers, one enrolled | strangers, four enrolled |",
    )?;
    say("|---|---|---|---|---|---|")?;
    for (length, seconds) in PIECES_S.into_iter().enumerate().take(3) {
        let of = |doors: &[Door], bar: f32, p: fn(&Door) -> f32| {
            let all: Vec<f32> = doors.iter().filter(|d| d.length == length).map(p).collect();
            (all.iter().filter(|p| **p < bar).count(), all.len())
        };
        for bar in BARS {
            let (a, n) = of(&held, bar, |d| d.own);
            let (b, m) = of(&fitted, bar, |d| d.own);
            let (one, _) = of(&held, bar, |d| d.one);
            let (four, _) = of(&held, bar, |d| d.four);
            let share = |count: usize| 100.0 * count as f64 / n.max(1) as f64;
            say(&format!(
                "| {seconds} s | {bar} | {a} of {n} | {b} of {m} | {:.1} % | {:.1} % |",
                share(one),
                share(four)
            ))?;
        }
    }
    say("\n| least probability of an owner | 1 s | 1.5 s | 2 s |\n|---|---|---|---|")?;
    for (condition, name) in CONDITIONS.iter().enumerate() {
        let cells: Vec<String> = (0..3)
            .map(|length| {
                let of = |doors: &[Door]| {
                    let here = doors.iter().filter(|d| d.condition == condition && d.length == length);
                    here.map(|d| d.own).fold(1.0, f32::min)
                };
                format!("{:.4} / {:.4}", of(&held), of(&fitted))
            })
            .collect();
        say(&format!("| {name} (held out / fit) | {} |", cells.join(" | ")))?;
    }
    Ok(())
}

fn prototypes(cohort: &Cohort, held: &[&Reader], fitted: &[&Reader]) -> Result<(), Failure> {
    say(&format!("\n### Mean or several prototypes (held out; each row fitted anew)\n\n{HEAD}"))?;
    type Enrolment = fn(&Reader) -> Vec<Embedding>;
    let enrolments: [(&str, Enrolment); 2] = [("one room", one_room), ("three rooms", three_rooms)];
    for (where_from, enrolment) in enrolments {
        for (how, method) in
            [("mean", Method::Mean), ("nearest", Method::Nearest), ("average", Method::Average)]
        {
            let against = Against { cohort, method, enrolment: &enrolment };
            let flat = |readers: &[&Reader]| -> Vec<Scored> {
                let all = against.compare(readers, |reader| &reader.pieces).into_iter().flatten();
                all.filter(|t| t.condition < UNSEEN).collect()
            };
            let constants = fit_weights(&flat(fitted), USED);
            let scored = flat(held);
            let label = format!("{where_from}, {how}");
            say(&row(&label, &trials(&scored, &constants, |_| true)))?;
            for (condition, name) in CONDITIONS.iter().enumerate().take(UNSEEN) {
                let of_it = trials(&scored, &constants, |t| t.condition == condition);
                say(&row(&format!("{label}; tests: {name}"), &of_it))?;
            }
        }
    }
    Ok(())
}

fn phrase(cohort: &Cohort, constants: &Constants, held: &[&Reader]) -> Result<(), Failure> {
    say(&format!("\n### Wake phrase in or out (held out, shipped constants)\n\n{HEAD}"))?;
    let against = Against { cohort, method: Method::Mean, enrolment: &one_room };
    type Pieces = fn(&Reader) -> &[Piece];
    let kinds: [(&str, Pieces); 2] = [("out", |reader| &reader.bare), ("in", |reader| &reader.led)];
    for (length, seconds) in COMMANDS_S.into_iter().enumerate() {
        for (label, pieces) in kinds {
            let scored: Vec<Scored> = against.compare(held, pieces).into_iter().flatten().collect();
            let of_it = |t: &Scored| t.condition < UNSEEN && t.length == length;
            say(&row(
                &format!("{seconds} s of command, phrase {label}"),
                &trials(&scored, constants, of_it),
            ))?;
        }
    }
    Ok(())
}

//! CPU time of a check of one voice, with and without looking for others.
//!
//! Another program takes processor time away and pushes data out of the caches, so each trial is heard in
//! turns: without, with, with, without, and so on. Its cost is the median of the rounds in CPU time of the
//! thread; a row is the sum of its trials.

use std::time::Duration;

use jarvisd::speaker::{EnrolledVoice, SecondVoice, Verifier};

use super::{Bench, CONDITIONS, Failure, Sound, THRESHOLD, say};

/// Trials that take more than this multiple of a check without looking for others are counted: most of them
/// were cut and embedded in units.
const FURTHER: f64 = 1.6;

#[derive(Default)]
struct Row {
    with: Vec<Duration>,
    without: Vec<Duration>,
}

impl Bench<'_> {
    pub fn cost(&mut self, rounds: usize) -> Result<(), Failure> {
        let answering = self.verifier.clone().with_second_voice(SecondVoice::Answer);
        let alone: Vec<_> = self.cases().filter(|case| case.said.len() == 1).collect();
        for (condition, name) in CONDITIONS.into_iter().enumerate() {
            say(&format!("\n{name}\n"))?;
            say("| | trials | ratio | trials above 1.6 | CPU ms with, without |")?;
            say("|---|---|---|---|---|")?;
            for case in &alone {
                let mut row = Row::default();
                for owner in self.owners.clone() {
                    let (sound, enrolled) = self.trial(case, condition, owner)?;
                    row.add(&answering, self.verifier, &sound, &enrolled, rounds)?;
                }
                say(&row.line(case.name))?;
            }
        }
        Ok(())
    }
}

impl Row {
    fn add(
        &mut self,
        answering: &Verifier,
        verifier: &Verifier,
        sound: &Sound,
        enrolled: &[EnrolledVoice],
        rounds: usize,
    ) -> Result<(), Failure> {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let mut in_turn = [(answering, &mut without), (verifier, &mut with)];
            if round % 2 == 1 {
                in_turn.reverse();
            }
            for (verifier, took) in in_turn {
                let started = cpu();
                verifier.hear(&sound.samples, &sound.speech, enrolled, THRESHOLD, None)?;
                took.push(cpu().saturating_sub(started));
            }
        }
        self.with.push(median(with));
        self.without.push(median(without));
        Ok(())
    }

    fn line(&self, name: &str) -> String {
        let ms =
            |of: &[Duration]| 1000.0 * of.iter().sum::<Duration>().as_secs_f64() / of.len().max(1) as f64;
        let (with, without) = (ms(&self.with), ms(&self.without));
        let further =
            self.with.iter().zip(&self.without).filter(|(a, b)| a.as_secs_f64() > FURTHER * b.as_secs_f64());
        format!(
            "| {name} | {} | {:.3} | {} | {with:.1}, {without:.1} |",
            self.with.len(),
            with / without,
            further.count()
        )
    }
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of.get(of.len() / 2).copied().unwrap_or_default()
}

/// CPU time of this thread, which does not depend on what else runs.
fn cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

//! The findings of `doctor` on speed: each installed model on this board, beside its budget.

use super::Finding;
use crate::app::Settings;
use crate::inference::ModelStore;
use crate::plain::figure;
use crate::speed::{self, Stage, Timing};

const CHECK: &str = "speed";

/// Times every stage whose model is installed and in use; the checks of the models tell of the others.
pub fn speed(settings: &Settings) -> Vec<Finding> {
    let Ok(store) = ModelStore::open(&settings.paths.models) else { return Vec::new() };
    let sound = speed::speech_like();
    let used = (&settings.wake, &settings.stt);
    Stage::ALL
        .into_iter()
        .filter_map(|stage| speed::time(stage, &store, &settings.paths.models, used, &sound))
        .map(|timing| finding(&timing))
        .collect()
}

fn finding(timing: &Timing) -> Finding {
    let Timing { stage, model, ms, budget_ms, .. } = timing;
    let message = format!(
        "{} ({model}): {} ms for {}, budget {} ms",
        stage.words(),
        figure(*ms, 1),
        stage.unit(),
        figure(*budget_ms, 0)
    );
    if timing.is_within_budget() {
        return Finding::ok(CHECK, message);
    }
    let fix = match stage {
        Stage::SpeechToText => {
            "answers come late: a smaller Vosk model, or a faster board (docs/hardware.md)"
        }
        _ => {
            "the board is busy, hot, short of power or too slow: look at temperature and power, stop what \
              else runs, or take a faster board (docs/hardware.md)"
        }
    };
    Finding::warn(CHECK, message, fix)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_time_stands_beside_its_budget() {
        let mut timing = Timing {
            stage: Stage::SpeakerCheck,
            model: "campplus".into(),
            ms: 44.04,
            wall_ms: 50.0,
            budget_ms: 150.0,
            load_ms: 30.0,
            resident_mb: None,
        };
        let fast = finding(&timing);
        assert_eq!(fast.state, State::Ok);
        assert_eq!(fast.message, "speaker check (campplus): 44.0 ms for 3 s of speech, budget 150 ms");
        timing.ms = 150.1;
        assert_eq!(finding(&timing).state, State::Warn);
    }
}

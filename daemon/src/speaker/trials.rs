//! Trial lists: the pairs to compare, and the figures of a set of results.
//!
//! A line is `label enrol[,enrol…] test`: label 1 for the same speaker, 0 for another. Empty lines and lines
//! that begin with `#` are skipped. It is the form of the VoxCeleb lists, with several enrolment recordings
//! allowed.

use serde::Serialize;

use super::metrics::{self, Trial};

/// Target prior of the detection cost that is reported, as in NIST's evaluations.
const DCF_PRIOR: f64 = 0.01;
/// Bounds of the reported bins of the test's net speech, in seconds.
const BINS_S: [(f32, f32); 6] =
    [(0.0, 1.0), (1.0, 1.5), (1.5, 2.0), (2.0, 3.0), (3.0, 5.0), (5.0, f32::INFINITY)];

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1, for messages.
    pub number: usize,
    pub same: bool,
    /// Paths of the recordings that make the voiceprint; at least one.
    pub enrol: Vec<String>,
    pub test: String,
}

/// Why a list cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error(
        "line {number}: {reason}; a line is \"label enrol.wav[,enrol.wav] test.wav\", label 1 (same speaker) \
         or 0"
    )]
    Line { number: usize, reason: &'static str },
    #[error("it has no trial")]
    Empty,
}

/// Reads a list. File names cannot contain white space or commas.
///
/// # Errors
/// The first line that is not a trial.
pub fn parse(text: &str) -> Result<Vec<Line>, ListError> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let wrong = |reason| Err(ListError::Line { number, reason });
        let mut fields = line.split_whitespace();
        let (Some(label), Some(enrol), Some(test)) = (fields.next(), fields.next(), fields.next()) else {
            return wrong("it has fewer than three fields");
        };
        if fields.next().is_some() {
            return wrong("it has more than three fields");
        }
        let same = match label {
            "1" => true,
            "0" => false,
            _ => return wrong("the label is neither 1 nor 0"),
        };
        let enrol: Vec<String> = enrol.split(',').map(str::to_owned).collect();
        if enrol.iter().any(String::is_empty) {
            return wrong("an enrolment file has no name");
        }
        lines.push(Line { number, same, enrol, test: test.to_owned() });
    }
    if lines.is_empty() { Err(ListError::Empty) } else { Ok(lines) }
}

/// A trial that was run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    pub same: bool,
    /// Net speech of the test, seconds.
    pub net_speech_s: f32,
    /// `None`: the device gives no verdict on so little speech, so it lets nobody in.
    pub compared: Option<Compared>,
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Cosine normalised against the impostor cohort, in standard deviations.
    pub score: f32,
    /// Calibrated probability at equal priors, and its log odds.
    pub confidence: f32,
    pub log_odds: f64,
}

/// Figures of a set of trials. Error rates are shares, 0 to 1; those that need both classes are `null`
/// without them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub trials: usize,
    pub same: usize,
    pub different: usize,
    /// Trials without a comparison. They count as refused (FRR, FAR) and stay out of the other figures.
    pub too_short: usize,
    pub threshold: f32,
    /// Of the calibrated log odds, which take the length of the test into account.
    pub eer: Option<f64>,
    /// Least detection cost at a target prior of 0.01, both errors costing 1.
    pub min_dcf: Option<f64>,
    /// Bits; 0 is perfect, 1 says nothing.
    pub cllr: Option<f64>,
    /// Expected calibration error, both classes weighing the same.
    pub ece: Option<f64>,
    /// Different speakers let in at the threshold, and same speakers not let in.
    pub far: Option<f64>,
    pub frr: Option<f64>,
    /// The same by net speech of the test; empty within a bin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bins: Vec<Bin>,
}

/// The trials whose test has this much net speech.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bin {
    pub from_s: f32,
    /// `null`: no upper bound.
    pub to_s: Option<f32>,
    #[serde(flatten)]
    pub report: Report,
}

impl Report {
    /// Of all of them, and by net speech.
    pub fn of(outcomes: &[Outcome], threshold: f32) -> Self {
        let bins = BINS_S.iter().filter_map(|&(from_s, to_s)| {
            let within: Vec<Outcome> =
                outcomes.iter().filter(|o| (from_s..to_s).contains(&o.net_speech_s)).copied().collect();
            let report = Self::without_bins(&within, threshold);
            let to_s = to_s.is_finite().then_some(to_s);
            (!within.is_empty()).then_some(Bin { from_s, to_s, report })
        });
        Self { bins: bins.collect(), ..Self::without_bins(outcomes, threshold) }
    }

    fn without_bins(outcomes: &[Outcome], threshold: f32) -> Self {
        let compared: Vec<Trial> = outcomes
            .iter()
            .filter_map(|o| {
                #[expect(clippy::cast_possible_truncation, reason = "log odds are within a few hundred")]
                o.compared.map(|c| Trial { same: o.same, score: c.log_odds as f32, confidence: c.confidence })
            })
            .collect();
        // Without a verdict nobody is let in.
        let decided: Vec<Trial> = outcomes
            .iter()
            .map(|o| {
                let confidence = o.compared.map_or(f32::NEG_INFINITY, |c| c.confidence);
                Trial { same: o.same, score: 0.0, confidence }
            })
            .collect();
        let count = |trials: &[Trial], same| trials.iter().filter(|t| t.same == same).count();
        let (same, different) = (count(&decided, true), count(&decided, false));
        let both = count(&compared, true) > 0 && count(&compared, false) > 0;
        let of_both = |metric: &dyn Fn(&[Trial]) -> f64| both.then(|| metric(&compared));
        let (far, frr) = metrics::error_rates(&decided, threshold);
        Self {
            trials: outcomes.len(),
            same,
            different,
            too_short: outcomes.len() - compared.len(),
            threshold,
            eer: of_both(&metrics::eer),
            min_dcf: of_both(&|trials| metrics::min_dcf(trials, DCF_PRIOR)),
            cllr: of_both(&metrics::cllr),
            ece: of_both(&metrics::ece),
            far: (different > 0).then_some(far),
            frr: (same > 0).then_some(frr),
            bins: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_line_by_line() {
        let lines = parse("# trials\n1 a.wav,b.flac c.wav\n\n0  a.wav   d.wav\n").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].number, lines[0].same), (2, true));
        assert_eq!(lines[0].enrol, ["a.wav", "b.flac"]);
        assert_eq!((lines[1].same, lines[1].test.as_str()), (false, "d.wav"));
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for (text, reason) in [
            ("1 a.wav", "fewer"),
            ("1 a.wav b.wav c.wav", "more"),
            ("yes a.wav b.wav", "label"),
            ("1 a.wav,,b.wav c.wav", "no name"),
        ] {
            let error = parse(&format!("0 x y\n{text}")).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(reason), "{error}");
        }
        assert_eq!(parse("# nothing\n\n"), Err(ListError::Empty));
    }

    fn outcome(same: bool, net_speech_s: f32, log_odds: Option<f64>) -> Outcome {
        let compared = log_odds.map(|log_odds| Compared {
            score: 0.0,
            confidence: crate::speaker::calibration::sigmoid(log_odds),
            log_odds,
        });
        Outcome { same, net_speech_s, compared }
    }

    #[test]
    fn a_test_too_short_for_a_verdict_lets_nobody_in() {
        let outcomes = [
            outcome(true, 0.4, None),
            outcome(true, 2.5, Some(8.0)),
            outcome(false, 0.5, None),
            outcome(false, 2.5, Some(-8.0)),
        ];
        let report = Report::of(&outcomes, 0.85);
        assert_eq!((report.trials, report.same, report.different, report.too_short), (4, 2, 2, 2));
        assert_eq!((report.far, report.frr), (Some(0.0), Some(0.5)));
        assert_eq!(report.eer, Some(0.0));
        let bins: Vec<(f32, usize)> = report.bins.iter().map(|bin| (bin.from_s, bin.report.trials)).collect();
        assert_eq!(bins, [(0.0, 2), (2.0, 2)]);
        assert_eq!(report.bins[0].report.eer, None);
    }

    #[test]
    fn figures_that_need_both_classes_are_not_made_up() {
        let report = Report::of(&[outcome(true, 3.0, Some(2.0))], 0.85);
        assert_eq!(
            (report.eer, report.cllr, report.ece, report.min_dcf, report.far),
            (None, None, None, None, None)
        );
        assert_eq!(report.frr, Some(0.0));
    }
}

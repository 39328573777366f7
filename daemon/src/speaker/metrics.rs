//! Quality of a set of verification trials: EER, FAR/FRR, Cllr, ECE, minDCF.
//!
//! Definitions as in the NIST speaker recognition evaluations and in Brümmer and du Preez,
//! "Application-independent evaluation of speaker detection" (2006).

/// One comparison: whether the speakers are the same, and the result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    pub same: bool,
    /// Anything that grows with likeness.
    pub score: f32,
    /// Calibrated probability that the speakers are the same, at equal priors.
    pub confidence: f32,
}

/// Equal error rate of the scores, 0 to 1; 0.5 where one of the classes has no trial.
pub fn eer(trials: &[Trial]) -> f64 {
    let (mut best_gap, mut best) = (f64::INFINITY, 0.5);
    for (miss, false_alarm) in operating_points(trials) {
        let gap = (miss - false_alarm).abs();
        if gap < best_gap {
            (best_gap, best) = (gap, f64::midpoint(miss, false_alarm));
        }
    }
    best
}

/// Least normalised detection cost at the target prior `prior`, both errors costing 1.
pub fn min_dcf(trials: &[Trial], prior: f64) -> f64 {
    operating_points(trials)
        .into_iter()
        .map(|(miss, false_alarm)| prior * miss + (1.0 - prior) * false_alarm)
        .fold(f64::INFINITY, f64::min)
        / prior.min(1.0 - prior)
}

/// Shares of different-speaker trials accepted and of same-speaker trials refused at `confidence ≥
/// threshold`.
pub fn error_rates(trials: &[Trial], threshold: f32) -> (f64, f64) {
    let share = |same: bool, wrong: &dyn Fn(&Trial) -> bool| {
        let class: Vec<&Trial> = trials.iter().filter(|t| t.same == same).collect();
        ratio(class.iter().filter(|t| wrong(t)).count(), class.len())
    };
    (share(false, &|t| t.confidence >= threshold), share(true, &|t| t.confidence < threshold))
}

/// Cost of the log-likelihood ratio, in bits: 0 is perfect, 1 says nothing.
pub fn cllr(trials: &[Trial]) -> f64 {
    let cost = |same: bool| {
        let sign = if same { -1.0 } else { 1.0 };
        let costs: Vec<f64> = trials
            .iter()
            .filter(|t| t.same == same)
            .map(|t| (1.0 + (sign * logit(f64::from(t.confidence))).exp()).log2())
            .collect();
        if costs.is_empty() { 0.0 } else { costs.iter().sum::<f64>() / costs.len() as f64 }
    };
    f64::midpoint(cost(true), cost(false))
}

/// Expected calibration error over ten equal bins of confidence, both classes weighing the same.
pub fn ece(trials: &[Trial]) -> f64 {
    const BINS: usize = 10;
    let same = trials.iter().filter(|t| t.same).count();
    let different = trials.len() - same;
    if same == 0 || different == 0 {
        return 0.0;
    }
    let mut bins = [(0f64, 0f64, 0f64); BINS];
    for trial in trials {
        let weight = 0.5 / if trial.same { same } else { different } as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10, capped below")]
        let index = ((trial.confidence * BINS as f32) as usize).min(BINS - 1);
        if let Some((total, confidence, hits)) = bins.get_mut(index) {
            *total += weight;
            *confidence += weight * f64::from(trial.confidence);
            *hits += if trial.same { weight } else { 0.0 };
        }
    }
    bins.iter().map(|(_, confidence, hits)| (confidence - hits).abs()).sum()
}

/// `(miss rate, false alarm rate)` at each threshold between two scores.
fn operating_points(trials: &[Trial]) -> Vec<(f64, f64)> {
    let mut sorted = trials.to_vec();
    sorted.sort_by(|a, b| a.score.total_cmp(&b.score));
    let same = sorted.iter().filter(|t| t.same).count();
    let different = sorted.len() - same;
    if same == 0 || different == 0 {
        return Vec::new();
    }
    let (mut missed, mut alarms) = (0, different);
    let mut points = vec![(0.0, 1.0)];
    let mut trials = sorted.iter().peekable();
    while let Some(trial) = trials.next() {
        if trial.same {
            missed += 1;
        } else {
            alarms -= 1;
        }
        // Equal scores fall on the same side of every threshold.
        if trials.peek().is_none_or(|next| next.score > trial.score) {
            points.push((ratio(missed, same), ratio(alarms, different)));
        }
    }
    points
}

fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-12, 1.0 - 1e-12);
    (p / (1.0 - p)).ln()
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trials(same: &[f32], different: &[f32]) -> Vec<Trial> {
        let make = |same, values: &[f32]| -> Vec<Trial> {
            values.iter().map(|&v| Trial { same, score: v, confidence: v }).collect()
        };
        [make(true, same), make(false, different)].concat()
    }

    #[test]
    fn separated_classes_have_no_errors() {
        let t = trials(&[0.9, 0.95, 0.99], &[0.1, 0.2, 0.0]);
        assert_eq!(eer(&t), 0.0);
        assert_eq!(min_dcf(&t, 0.01), 0.0);
        assert_eq!(error_rates(&t, 0.85), (0.0, 0.0));
    }

    #[test]
    fn one_swapped_pair_in_four_is_a_quarter_of_errors() {
        let t = trials(&[0.9, 0.8, 0.7, 0.2], &[0.1, 0.15, 0.05, 0.75]);
        assert!((eer(&t) - 0.25).abs() < 1e-9);
        assert_eq!(error_rates(&t, 0.5), (0.25, 0.25));
    }

    #[test]
    fn a_coin_says_nothing_and_is_calibrated() {
        let t = trials(&[0.5; 10], &[0.5; 90]);
        assert!((cllr(&t) - 1.0).abs() < 1e-9);
        assert!(ece(&t) < 1e-9);
        assert!((eer(&t) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn certainty_that_is_wrong_is_not_calibrated() {
        assert!((ece(&trials(&[0.05; 10], &[0.95; 10])) - 0.95).abs() < 1e-3);
    }

    #[test]
    fn no_trials_are_no_panic() {
        for t in [trials(&[], &[]), trials(&[0.5], &[]), trials(&[], &[0.5])] {
            let _ = (eer(&t), cllr(&t), ece(&t), error_rates(&t, 0.85), min_dcf(&t, 0.01));
        }
    }
}

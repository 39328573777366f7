//! Metrics of the backups, in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Moments are Unix times in seconds, so
//! that a collector can compute their age at any time.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::watch::Report;

/// The metrics of `report`; `None` if nothing is backed up and no backup was requested. Unknown values are
/// left out.
pub fn text(report: Option<&Report>) -> String {
    let seconds = |of: fn(&Report) -> Option<Timestamp>| report.and_then(of).map(Timestamp::as_second);
    let count = report.map_or(0, |report| i64::try_from(report.count).unwrap_or(i64::MAX));
    let bytes = report
        .filter(|report| report.newest.is_some())
        .map(|report| i64::try_from(report.bytes).unwrap_or(i64::MAX));
    let problem = report.is_some_and(|report| report.problem);
    let gauges = [
        ("jarvis_backups", "Backups in the folder of this device.", Some(count)),
        ("jarvis_backup_problem", "1 while the health shows a problem of the backups.", Some(problem.into())),
        ("jarvis_backup_newest_timestamp_seconds", "When the newest was taken.", seconds(|r| r.newest)),
        (
            "jarvis_backup_newest_proven_timestamp_seconds",
            "When the newest was taken that was found good.",
            seconds(|r| r.newest_proven),
        ),
        ("jarvis_backup_last_proof_timestamp_seconds", "When that was found.", seconds(|r| r.last_proof)),
        (
            "jarvis_backup_newest_copied_timestamp_seconds",
            "When the newest was taken that was copied elsewhere.",
            seconds(|r| r.newest_copied),
        ),
        ("jarvis_backup_newest_size_bytes", "Size of the newest.", bytes),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        if let Some(value) = value {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn what_is_known_is_a_gauge_and_what_is_not_is_left_out() {
        let at = |at: &str| Some(at.parse().unwrap());
        let report = Report {
            count: 3,
            newest: at("2026-11-23T02:00:00Z"),
            newest_proven: at("2026-11-22T02:00:00Z"),
            last_proof: at("2026-11-22T02:00:30.9Z"),
            newest_copied: None,
            bytes: 4_096,
            problem: true,
            sentence: Some("a sentence\nof two lines".into()),
        };
        let told = text(Some(&report));
        assert_eq!(
            samples(&told),
            [
                "jarvis_backups 3",
                "jarvis_backup_problem 1",
                "jarvis_backup_newest_timestamp_seconds 1795399200",
                "jarvis_backup_newest_proven_timestamp_seconds 1795312800",
                "jarvis_backup_last_proof_timestamp_seconds 1795312830",
                "jarvis_backup_newest_size_bytes 4096",
            ]
        );
        assert_eq!(told.matches("# TYPE ").count(), 6);
        assert!(told.ends_with('\n'));
        assert_eq!(samples(&text(None)), ["jarvis_backups 0", "jarvis_backup_problem 0"]);
    }
}

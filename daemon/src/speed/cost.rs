//! Time that a piece of work takes, by two clocks.

use std::time::Instant;

use serde::Serialize;

/// Time of one piece of work, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// Processor time of the thread that does it. Other programs on the machine change it little.
    pub cpu_ms: f64,
    /// Time that passed, which is what a person waits for.
    pub wall_ms: f64,
}

impl Cost {
    /// The lesser of the two, by each clock.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        Self { cpu_ms: self.cpu_ms.min(other.cpu_ms), wall_ms: self.wall_ms.min(other.wall_ms) }
    }

    /// This cost for each of `units`.
    #[must_use]
    pub fn for_each_of(self, units: f64) -> Self {
        Self { cpu_ms: self.cpu_ms / units, wall_ms: self.wall_ms / units }
    }
}

/// Does `work` once and measures it.
pub fn once<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (started, before_ms) = (Instant::now(), thread_cpu_ms());
    let done = work();
    let cost =
        Cost { cpu_ms: thread_cpu_ms() - before_ms, wall_ms: started.elapsed().as_secs_f64() * 1000.0 };
    (done, cost)
}

/// Does `work` `rounds` times, at least once, and gives the least of each clock: what disturbs a run only
/// makes it longer.
///
/// # Errors
/// The first error of `work`.
pub fn least<E>(rounds: usize, mut work: impl FnMut() -> Result<(), E>) -> Result<Cost, E> {
    let mut least = Cost { cpu_ms: f64::INFINITY, wall_ms: f64::INFINITY };
    for _ in 0..rounds.max(1) {
        let (done, cost) = once(&mut work);
        done?;
        least = least.least(cost);
    }
    Ok(least)
}

fn thread_cpu_ms() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1000.0 + now.tv_nsec as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wait_takes_time_and_no_processor() {
        let ((), waited) = once(|| std::thread::sleep(Duration::from_millis(30)));
        assert!(waited.wall_ms >= 30.0 && waited.cpu_ms < 20.0, "{waited:?}");
        let mut sum = 0_u64;
        let ((), worked) = once(|| {
            while sum % 1_000_003 != 1_000_002 {
                sum = std::hint::black_box(sum + 1);
            }
        });
        assert!(worked.cpu_ms > 0.0 && worked.cpu_ms <= worked.wall_ms + 1.0, "{worked:?}");
    }

    #[test]
    fn a_slow_round_does_not_count_and_an_error_ends_it() {
        let mut round = 0;
        let cost = least(3, || {
            round += 1;
            if round != 2 {
                std::thread::sleep(Duration::from_millis(60));
            }
            Ok::<_, Infallible>(())
        });
        assert!(cost.unwrap().wall_ms < 50.0 && round == 3);
        assert_eq!(least(5, || Err("broken")).unwrap_err(), "broken");
        assert_eq!(Cost { cpu_ms: 6.0, wall_ms: 9.0 }.for_each_of(3.0), Cost { cpu_ms: 2.0, wall_ms: 3.0 });
    }
}

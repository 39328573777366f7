//! Real-time priority for the calling thread. The only unsafe code of the audio path: no crate of ours wraps
//! `sched_setscheduler` (rustix has no such call).

use std::io;

/// Above the ordinary threads, below the kernel's own audio interrupt threads (which run at 50).
const PRIORITY: libc::c_int = 20;

/// Puts the calling thread into `SCHED_FIFO`, so that a busy machine does not make the microphone overrun.
///
/// Threads that this one starts do not inherit the priority.
///
/// # Errors
/// The kernel's, usually EPERM: the unit needs `LimitRTPRIO=` or the user `CAP_SYS_NICE`. The caller warns
/// and goes on; capture works without it.
pub fn raise_priority() -> io::Result<()> {
    #[expect(unsafe_code, reason = "no safe wrapper of sched_setscheduler in our crates")]
    // SAFETY: `sched_param` is plain data for which zeroes are a valid value, it outlives the call, and
    // thread id 0 means the calling thread.
    let result = unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = PRIORITY;
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_is_raised_or_refused_with_a_plain_error() {
        #[expect(
            clippy::disallowed_methods,
            reason = "a thread of its own, so that no other test runs at this priority"
        )]
        let outcome = std::thread::spawn(raise_priority).join().expect("thread");
        if let Err(refused) = outcome {
            assert!(refused.raw_os_error().is_some(), "{refused}");
        }
    }
}

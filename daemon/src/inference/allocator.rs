//! Memory that models leave behind. A model is read, parsed and rewritten several times before it is a plan,
//! and a turn fills buffers for some hundred milliseconds. That memory is free afterwards, but glibc keeps it
//! in its arenas for a next use that never comes (models are loaded once) or comes after hours. The savings
//! are in `docs/design/performance.md`.

use std::fs;

/// Resident memory before and after giving memory back, in the kernel's kB of 1,024 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    pub before_kb: u64,
    pub after_kb: u64,
}

/// Gives unused memory that the allocator keeps back to the system. Takes some milliseconds; does nothing
/// with another C library than glibc. `None` where `/proc` does not tell the resident memory.
pub fn give_back() -> Option<Resident> {
    let before_kb = resident_kb();
    trim();
    Some(Resident { before_kb: before_kb?, after_kb: resident_kb()? })
}

#[cfg(target_env = "gnu")]
fn trim() {
    #[expect(unsafe_code, reason = "no crate of ours wraps malloc_trim")]
    // SAFETY: any thread may call it at any time; it takes the locks of the arenas and touches only free
    // memory. The result (whether it gave something back) is not needed.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

fn resident_kb() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

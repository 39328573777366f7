//! A panic is a bug and ends the process at once. The exception is foreign code that runs in [`guarded`].
//!
//! The hook runs before anything unwinds, so a plain `catch_unwind` never sees a panic in this program. So
//! the hook must know whether a guard will catch it: [`guarded`] counts the guards of each thread, and inside
//! one the hook notes the message and returns.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

thread_local! {
    /// Guards that this thread is in.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
    /// The hook's account of a panic inside a guard.
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Foreign code panicked inside [`guarded`].
#[derive(Debug, thiserror::Error)]
#[error("the library panicked {account}")]
pub struct Caught {
    account: String,
}

/// Runs `work`, foreign code on foreign data, and turns a panic in it into an error. The caller throws away
/// everything that `work` may have left half changed.
///
/// # Errors
/// [`Caught`] if it panicked. An abort inside (no memory, no stack) is not caught.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Caught> {
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            GUARDS.set(GUARDS.get() - 1);
        }
    }
    GUARDS.set(GUARDS.get() + 1);
    let inside = Inside;
    let done = catch_unwind(AssertUnwindSafe(work));
    drop(inside);
    done.map_err(|payload| {
        // Without the hook (a library test) no message was noted.
        let account = HEARD.take().unwrap_or_else(|| format!("with {:?}", words(&*payload)));
        Caught { account }
    })
}

/// Whether this thread is in a guard, so that a panic in it is caught.
#[cfg(any(test, fuzzing))]
pub(crate) fn is_guarded() -> bool {
    GUARDS.get() > 0
}

/// Makes every panic outside a guard, on any thread, one log line followed by an abort: half-changed state is
/// never worked on.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        // A thread that is being torn down has no guard any more.
        if GUARDS.try_with(Cell::get).is_ok_and(|guards| guards > 0) {
            let _ = HEARD.try_with(|heard| heard.replace(Some(account(panic))));
            return;
        }
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let trace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        log::error!(
            "bug: the thread {} panicked {}; the process ends so that it can be restarted{trace}",
            thread.name().unwrap_or("without a name"),
            account(panic)
        );
        log::logger().flush();
        std::process::abort();
    }));
}

/// Where a panic was, and its message.
fn account(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(String::new, |at| format!("at {}:{}: ", at.file(), at.line()));
    format!("{place}{}", words(panic.payload()))
}

fn words(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

//! What a panic does to the daemon: it is a bug, so the process ends at once.

/// Makes every panic, on any thread, one log line followed by an abort: half-changed state is never worked on.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let what = panic
            .payload()
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let place =
            panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        let backtrace = std::backtrace::Backtrace::capture();
        let trace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        log::error!(
            "bug: the thread {} panicked{place}: {what}; the process ends so that it can be restarted{trace}",
            thread.name().unwrap_or("without a name")
        );
        log::logger().flush();
        std::process::abort();
    }));
}

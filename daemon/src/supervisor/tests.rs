use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use super::*;

async fn until(token: CancellationToken) -> Result<(), Infallible> {
    token.cancelled().await;
    Ok(())
}

#[tokio::test]
async fn a_task_that_fails_is_a_fault_with_its_whole_chain() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the device")]
    struct Open(#[source] std::io::Error);

    let mut supervisor = Supervisor::new();
    supervisor.task("other", until(supervisor.token())).unwrap();
    supervisor
        .task("capture", async { Err::<(), _>(Open(std::io::Error::other("no such device"))) })
        .unwrap();
    let Ended::Fault(fault) = supervisor.wait().await else { panic!("no fault") };
    assert_eq!(chain(&fault), "capture failed: cannot open the device: no such device");
    let drained = supervisor.drain(Duration::from_secs(5)).await;
    assert!(drained.late.is_empty() && drained.faults.is_empty(), "{drained:?}");
}

#[tokio::test]
async fn a_task_or_thread_that_ends_early_is_a_fault_even_without_an_error() {
    let mut supervisor = Supervisor::new();
    supervisor.task("quiet", async { Ok::<_, Infallible>(()) }).unwrap();
    let Ended::Fault(fault) = supervisor.wait().await else { panic!("no fault") };
    assert_eq!(chain(&fault), "quiet ended although nothing had asked it to stop");

    let mut supervisor = Supervisor::new();
    supervisor.thread("quiet", || Ok::<_, Infallible>(())).unwrap();
    assert!(matches!(supervisor.wait().await, Ended::Fault(_)));
}

#[tokio::test]
async fn a_thread_has_its_name_and_its_error_is_a_fault() {
    let mut supervisor = Supervisor::new();
    supervisor
        .thread("frontend", || match std::thread::current().name() {
            Some("frontend") => Err("bad model"),
            _ => Err("no name"),
        })
        .unwrap();
    let Ended::Fault(fault) = supervisor.wait().await else { panic!("no fault") };
    assert_eq!(chain(&fault), "frontend failed: bad model");
}

#[tokio::test]
async fn a_panic_is_a_fault_where_no_hook_aborts() {
    let mut supervisor = Supervisor::new();
    supervisor.thread("panics", || -> Result<(), Infallible> { panic!("boom") }).unwrap();
    assert!(matches!(supervisor.wait().await, Ended::Fault(fault) if fault.name == "panics"));
    let mut supervisor = Supervisor::new();
    supervisor.task("panics", async { if true { panic!("boom") } else { Ok::<_, Infallible>(()) } }).unwrap();
    assert!(matches!(supervisor.wait().await, Ended::Fault(fault) if fault.name == "panics"));
}

#[tokio::test]
async fn jobs_may_end_and_a_stop_is_no_fault() {
    let mut supervisor = Supervisor::new();
    supervisor.job("migrate", async { Ok::<_, Infallible>(()) }).unwrap();
    supervisor.job_thread("file", || Ok::<_, Infallible>(())).unwrap();
    assert!(matches!(supervisor.wait().await, Ended::AllDone));

    let mut supervisor = Supervisor::new();
    supervisor.task("capture", until(supervisor.token())).unwrap();
    supervisor.job("once", async { Ok::<_, Infallible>(()) }).unwrap();
    let stop = supervisor.token();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(supervisor.wait(), cancel);
    assert!(matches!(ended, Ended::Asked));
}

#[tokio::test]
async fn a_drain_works_off_what_flows_and_lets_the_reporters_speak_last() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut supervisor = Supervisor::new();
    let (sound, mut heard) = tokio::sync::mpsc::channel::<u8>(8);
    let (stop, last, log) = (supervisor.token(), supervisor.last_words(), Arc::clone(&order));
    supervisor
        .task("capture", async move {
            sound.send(1).await.unwrap();
            sound.send(2).await.unwrap();
            until(stop).await
        })
        .unwrap();
    let turns = Arc::clone(&order);
    supervisor
        .task("turns", async move {
            while let Some(n) = heard.recv().await {
                tokio::time::sleep(Duration::from_millis(30)).await;
                turns.lock().unwrap().push(format!("turn {n}"));
            }
            Ok::<_, Infallible>(())
        })
        .unwrap();
    supervisor
        .reporter("mqtt", async move {
            last.cancelled().await;
            log.lock().unwrap().push("offline".to_owned());
            Ok::<_, Infallible>(())
        })
        .unwrap();
    let drained = supervisor.drain(Duration::from_secs(10)).await;
    assert!(drained.late.is_empty());
    assert!(drained.took < Duration::from_secs(3));
    assert_eq!(*order.lock().unwrap(), ["turn 1", "turn 2", "offline"]);
}

#[tokio::test]
async fn a_drain_names_what_did_not_stop_and_returns_at_its_deadline() {
    let mut supervisor = Supervisor::new();
    supervisor.task("stuck", std::future::pending::<Result<(), Infallible>>()).unwrap();
    supervisor
        .thread("stuck-thread", || {
            std::thread::sleep(Duration::from_secs(3));
            Ok::<_, Infallible>(())
        })
        .unwrap();
    supervisor.task("good", until(supervisor.token())).unwrap();
    supervisor.reporter("mqtt", until(supervisor.last_words())).unwrap();
    let drained = supervisor.drain(Duration::from_millis(400)).await;
    assert_eq!(drained.late, ["stuck", "stuck-thread"]);
    assert!(
        (Duration::from_millis(300)..Duration::from_secs(2)).contains(&drained.took),
        "{:?}",
        drained.took
    );
}

#[tokio::test]
async fn a_thread_that_a_device_holds_is_not_waited_for_once_it_is_given_up() {
    let mut supervisor = Supervisor::new();
    let given_up = CancellationToken::new();
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    supervisor
        .device_thread("speaker", given_up.clone(), move || {
            let _ = held.recv();
            Ok::<_, Infallible>(())
        })
        .unwrap();
    supervisor.task("good", until(supervisor.token())).unwrap();
    given_up.cancel();
    let asked = supervisor.token();
    let waited = tokio::join!(supervisor.wait(), async {
        tokio::task::yield_now().await;
        asked.cancel();
    });
    assert!(matches!(waited.0, Ended::Asked), "it is no fault: {:?}", waited.0);
    assert!(supervisor.drain(Duration::from_secs(60)).await.late.is_empty());
    drop(release);
}

#[tokio::test]
async fn an_error_while_stopping_is_kept() {
    let mut supervisor = Supervisor::new();
    let stop = supervisor.token();
    supervisor
        .task("forward", async move {
            stop.cancelled().await;
            Err::<(), _>("the database is gone")
        })
        .unwrap();
    let drained = supervisor.drain(Duration::from_secs(5)).await;
    assert_eq!(chain(&drained.faults[0]), "forward failed: the database is gone");
}

#[test]
fn a_name_that_the_kernel_would_cut_is_refused() {
    let mut supervisor = Supervisor::new();
    assert!(matches!(
        supervisor.thread("sixteen-bytes-xx", || Ok::<_, Infallible>(())),
        Err(SpawnError::Name("sixteen-bytes-xx"))
    ));
}

#[test]
#[ignore = "the process that dies in the next test"]
fn process_panics() {
    if std::env::var_os("JARVIS_TEST_CHILD").is_none() {
        return;
    }
    crate::logging::init();
    install_panic_hook();
    let _ = std::thread::Builder::new()
        .name("turn".into())
        .spawn(|| panic!("index out of\nrange"))
        .unwrap()
        .join();
    std::process::exit(0);
}

#[test]
fn with_the_hook_a_panic_on_any_thread_is_logged_and_aborts_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["supervisor::tests::process_panics", "--exact", "--ignored", "--nocapture"])
        .env_remove("JOURNAL_STREAM")
        .env("JARVIS_TEST_CHILD", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("bug: the thread turn panicked at ") && log.contains("range"), "{log}");
}

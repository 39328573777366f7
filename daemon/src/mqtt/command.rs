//! Commands that arrive over MQTT, and their answers. Nothing here waits.
//!
//! Every message on a command topic is answered, except in a flood: answers are limited per minute, and more
//! strictly for messages that are no command.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::Topics;
use crate::control::{Authority, Outcome, Refused, RequestId};
use crate::pipeline::dispatch::{Dispatcher, Given};
use crate::speaker::section::Voice;

/// The payload by which `jarvisd doctor` sees that commands arrive; it means nothing.
pub(super) const PROBE: &[u8] = b"DOCTOR";
/// A client that may publish to the broker.
const FROM: Authority = Authority::Broker;

/// Reads messages, gives commands to the dispatcher, and words the answers.
#[derive(Debug)]
pub(super) struct Intake {
    dispatcher: Dispatcher,
    /// Which commands are switched on.
    voice: Voice,
    waiting: Vec<Waiting>,
    ignored: u64,
    journal: Journal,
    /// Answers to commands, and to messages that were none.
    answers: Budget,
    answers_to_garbage: Budget,
}

/// A task whose outcome has not come yet.
#[derive(Debug)]
struct Waiting {
    command: &'static str,
    id: Option<RequestId>,
    outcome: oneshot::Receiver<Outcome>,
}

/// Over how long a budget lasts.
const WINDOW: Duration = Duration::from_secs(60);
/// Lines of the journal in that time.
const JOURNAL_LINES: u32 = 10;
/// Answers to commands in that time.
const ANSWERS: u32 = 60;
/// Answers to messages that were no command.
const ANSWERS_TO_GARBAGE: u32 = 10;

/// A budget per [`WINDOW`]; messages above it are counted.
#[derive(Debug)]
struct Budget {
    most: u32,
    since: Instant,
    used: u32,
    more: u64,
}

impl Budget {
    fn new(most: u32) -> Self {
        Self { most, since: Instant::now(), used: 0, more: 0 }
    }

    /// Begins a new window if this one is over. Returns the number above the budget in the old one.
    fn renew(&mut self, now: Instant) -> u64 {
        if now.saturating_duration_since(self.since) < WINDOW {
            return 0;
        }
        let more = self.more;
        *self = Self { since: now, used: 0, more: 0, ..*self };
        more
    }

    fn allows(&mut self) -> bool {
        let allowed = self.used < self.most;
        if allowed {
            self.used += 1;
        } else {
            self.more += 1;
        }
        allowed
    }
}

/// One line for each accepted command, but for a flood: then one line with the number of the others.
#[derive(Debug)]
struct Journal(Budget);

impl Journal {
    fn accepted(&mut self, now: Instant, what: &str) {
        self.summarise(now);
        if self.0.allows() {
            log::info!("told over MQTT: {what}");
        }
    }

    fn summarise(&mut self, now: Instant) {
        let more = self.0.renew(now);
        Self::tell(more);
    }

    fn end(&mut self) {
        Self::tell(std::mem::take(&mut self.0.more));
    }

    fn tell(more: u64) {
        if more > 0 {
            log::warn!("told over MQTT {more} more times within {} s", WINDOW.as_secs());
        }
    }
}

impl Intake {
    pub(super) fn new(dispatcher: Dispatcher, voice: Voice) -> Self {
        Self {
            dispatcher,
            voice,
            waiting: Vec::new(),
            ignored: 0,
            journal: Journal(Budget::new(JOURNAL_LINES)),
            answers: Budget::new(ANSWERS),
            answers_to_garbage: Budget::new(ANSWERS_TO_GARBAGE),
        }
    }

    /// Messages that were no command, or came faster than commands are carried out.
    pub(super) fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Logs the number of messages in a flood, when it is over.
    pub(super) fn summarise(&mut self) {
        self.journal.summarise(Instant::now());
    }

    /// Tells the rest before the device stops.
    pub(super) fn end(&mut self) {
        self.journal.end();
    }

    /// Carries out a message; returns the answer to publish, if any. `retained` messages are old: a kept
    /// `PRESS` would open the microphone at every reconnect.
    pub(super) fn message(
        &mut self,
        topics: &Topics,
        topic: &[u8],
        payload: &[u8],
        retained: bool,
    ) -> Option<Map<String, Value>> {
        // Removing a retained command is no command.
        if payload == PROBE || (retained && payload.is_empty()) {
            return None;
        }
        let Some(command) = topics.command(topic) else {
            self.ignore(topic, payload, retained);
            return None;
        };
        let read = if retained { Err(Outcome::Retained) } else { command.read(payload, FROM, &self.voice) };
        let id = if payload.len() <= command.payload.max_bytes { RequestId::of(payload) } else { None };
        let outcome = match read {
            Ok(told) => {
                let what = format!("{told:?}");
                let outcome = match self.dispatcher.give(told, FROM) {
                    Given::Now(outcome) => outcome,
                    Given::Later(outcome) => {
                        self.waiting.push(Waiting { command: command.name, id: id.clone(), outcome });
                        Outcome::Accepted
                    }
                };
                if outcome.is_taken() {
                    self.journal.accepted(Instant::now(), &what);
                }
                outcome
            }
            Err(outcome) => outcome,
        };
        if matches!(outcome, Outcome::Busy) || !outcome.is_understood() {
            self.ignore(topic, payload, retained);
        }
        self.answer(command.name, &outcome, id)
    }

    fn ignore(&mut self, topic: &[u8], payload: &[u8], retained: bool) {
        self.ignored = self.ignored.saturating_add(1);
        // The count grows without limit, the journal must not.
        if self.ignored.is_power_of_two() {
            log::warn!(
                "ignored a message on {} of {} bytes{}; {} ignored since start",
                String::from_utf8_lossy(topic.get(..topic.len().min(100)).unwrap_or_default()),
                payload.len(),
                if retained { ", retained (publish commands without the retain flag)" } else { "" },
                self.ignored
            );
        }
    }

    /// Waits until a queued task is done; returns its answer, if any. Cancel safe.
    pub(super) async fn next_answer(&mut self) -> Option<Map<String, Value>> {
        let (n, outcome) = poll_fn(|context| {
            for (n, waiting) in self.waiting.iter_mut().enumerate() {
                if let Poll::Ready(outcome) = Pin::new(&mut waiting.outcome).poll(context) {
                    return Poll::Ready((n, outcome.unwrap_or(Outcome::Refused(Refused::Stopping))));
                }
            }
            Poll::Pending
        })
        .await;
        let Waiting { command, id, .. } = self.waiting.remove(n);
        self.answer(command, &outcome, id)
    }

    /// An answer as JSON; `None` where there were too many. Of the payload it holds only the `id`.
    fn answer(
        &mut self,
        command: &str,
        outcome: &Outcome,
        id: Option<RequestId>,
    ) -> Option<Map<String, Value>> {
        let budget = if outcome.is_understood() { &mut self.answers } else { &mut self.answers_to_garbage };
        budget.renew(Instant::now());
        if !budget.allows() {
            return None;
        }
        let mut answer = Map::new();
        answer.insert("command".to_owned(), command.into());
        answer.insert("outcome".to_owned(), outcome.word().into());
        if !outcome.is_taken() {
            answer.insert("reason".to_owned(), outcome.sentence(FROM.face()).into());
        }
        if let Some(id) = id {
            answer.insert("id".to_owned(), id.as_str().into());
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::control::{COMMANDS, Request, Task};
    use crate::pipeline::dispatch::TASKS;
    use crate::pipeline::hearing::HearingControl;
    use crate::pipeline::switches::Switches;

    struct Rig {
        intake: Intake,
        requests: mpsc::Receiver<Request>,
        control: Arc<HearingControl>,
        topics: Topics,
    }

    impl Rig {
        fn new() -> Self {
            let control = Arc::new(HearingControl::default());
            let (dispatcher, requests) = Dispatcher::new(Switches::new(control.clone()));
            let voice = Voice { pin_valid_s: 60, enrol_by_mqtt: true, ..Voice::default() };
            let topics = Topics::new("jarvis", "k").unwrap();
            Self { intake: Intake::new(dispatcher, voice), requests, control, topics }
        }

        fn tell(&mut self, last: &str, payload: impl AsRef<[u8]>, retained: bool) -> Option<Value> {
            let topic = format!("jarvis/k/{last}");
            let answer = self.intake.message(&self.topics, topic.as_bytes(), payload.as_ref(), retained);
            answer.map(Value::Object)
        }

        /// The outcome of a message that is not retained.
        fn outcome(&mut self, last: &str, payload: impl AsRef<[u8]>) -> String {
            self.tell(last, payload, false).unwrap()["outcome"].as_str().unwrap().to_owned()
        }
    }

    const A_PIN: &str = r#"{"user":"Anna","pin":"274913"}"#;

    #[test]
    fn a_mute_is_in_force_at_once_and_the_last_of_many_wins() {
        let mut rig = Rig::new();
        for n in 0..1_001 {
            rig.tell("mute/set", if n % 2 == 0 { "ON" } else { "OFF\n" }, false);
            assert_eq!(rig.control.is_muted(), n % 2 == 0);
        }
        rig.tell("listen", "PRESS", false);
        assert_eq!(rig.intake.ignored(), 0);
        assert!(rig.requests.try_recv().is_err(), "none of it waits in a queue");
    }

    #[tokio::test]
    async fn a_task_is_accepted_and_answered_again_when_its_turn_has_come() {
        let mut rig = Rig::new();
        let (first, second) = (A_PIN.replace('}', r#","id":"1"}"#), A_PIN.replace('}', r#","id":"2"}"#));
        let accepted = serde_json::json!({ "command": "pin", "outcome": "accepted", "id": "1" });
        assert_eq!(rig.tell("pin", &first, false), Some(accepted));
        rig.tell("pin", second, false);
        let request = rig.requests.recv().await.unwrap();
        assert!(matches!(&request.task, Task::Pin { user, .. } if user == "Anna"));
        request.answer.send(Outcome::Done).unwrap();
        let done = serde_json::json!({ "command": "pin", "outcome": "done", "id": "1" });
        assert_eq!(rig.intake.next_answer().await.map(Value::Object), Some(done));
        // Nobody carries the other one out any more.
        drop(rig.requests);
        let stopping = Value::Object(rig.intake.next_answer().await.unwrap());
        assert_eq!((&stopping["outcome"], &stopping["id"]), (&"refused".into(), &"2".into()));
        assert_eq!(rig.intake.answer("pin", &Outcome::Done, None).unwrap().get("id"), None);
    }

    #[test]
    fn whatever_is_no_command_is_answered_with_its_word_counted_and_not_echoed() {
        let mut rig = Rig::new();
        let long = "O".repeat(600);
        let cases = [
            ("mute/set", "", false, "not_understood"),
            ("mute/set", "maybe", false, "not_understood"),
            ("mute/set", long.as_str(), false, "too_long"),
            ("pin", long.as_str(), false, "too_long"),
            ("pin", r#"{"user":"maybe","pin":"27491"}"#, false, "not_understood"),
            ("listen", "PRESS", true, "retained"),
            ("enrolment/set", r#"{"start":"maybe"}"#, true, "retained"),
        ];
        for (n, (last, payload, retained, word)) in cases.iter().enumerate() {
            let answer = rig.tell(last, payload, *retained).unwrap();
            assert_eq!(answer["outcome"], *word, "{answer}");
            let reason = answer["reason"].as_str().unwrap();
            assert!(!reason.contains("maybe") && !reason.contains("OOO") && reason.len() > 20, "{reason}");
            assert_eq!(rig.intake.ignored(), n as u64 + 1);
        }
        assert!(rig.requests.try_recv().is_err());
        // Messages on other topics and the probe of doctor are not answered.
        assert_eq!(rig.tell("mute", "ON", false), None);
        assert_eq!(rig.intake.message(&rig.topics, b"\xff", b"ON", false), None);
        for command in &COMMANDS {
            assert_eq!(rig.tell(command.topic, PROBE, false), None);
            assert_eq!(rig.tell(command.topic, "", true), None, "a retained message is deleted");
        }
        assert_eq!(rig.intake.ignored(), cases.len() as u64 + 2);
    }

    #[test]
    fn a_command_that_is_switched_off_is_not_even_read() {
        let mut rig = Rig::new();
        rig.intake.voice = Voice::default();
        assert_eq!(rig.outcome("pin", A_PIN), "switched_off");
        let answer = rig.tell("enrolment/set", "garbage", false).unwrap();
        assert_eq!(answer["outcome"], "switched_off");
        assert!(answer["reason"].as_str().unwrap().contains("voice.enrol_by_mqtt"), "{answer}");
        assert!(rig.requests.try_recv().is_err());
    }

    #[test]
    fn tasks_that_nobody_takes_are_answered_as_busy_and_a_muted_device_refuses_to_listen() {
        let mut rig = Rig::new();
        let outcomes: Vec<String> = (0..TASKS + 3).map(|_| rig.outcome("pin", A_PIN)).collect();
        assert!(outcomes[..TASKS].iter().all(|outcome| outcome == "accepted"), "{outcomes:?}");
        assert!(outcomes[TASKS..].iter().all(|outcome| outcome == "busy"), "{outcomes:?}");
        assert_eq!(rig.intake.ignored(), 3);
        assert_eq!(rig.outcome("listen", "PRESS"), "done");
        assert_eq!(rig.outcome("mute/set", "ON"), "done");
        let answer = rig.tell("listen", "PRESS", false).unwrap();
        assert_eq!((&answer["outcome"], &answer["command"]), (&"refused".into(), &"listen".into()));
    }

    #[test]
    fn a_flood_of_garbage_gives_few_answers_and_leaves_room_for_those_to_commands() {
        let mut rig = Rig::new();
        let answers = (0..5_000).filter(|_| rig.tell("mute/set", "maybe", false).is_some()).count();
        assert_eq!(answers, ANSWERS_TO_GARBAGE as usize);
        let answers = (0..5_000).filter(|_| rig.tell("mute/set", "ON", false).is_some()).count();
        assert_eq!(answers, ANSWERS as usize);
        assert!(rig.control.is_muted(), "what is not answered is carried out");
        let minute_later = Instant::now() + WINDOW;
        assert_eq!(rig.intake.answers.renew(minute_later), 5_000 - u64::from(ANSWERS));
        assert!(rig.intake.answers.allows());
    }
}

//! The condition of each part of the device, and the one state shown for all of it.
//!
//! Parts call [`Health::set`]; the pipeline calls [`Health::set_stage`]; the faces that show the state (MQTT,
//! `STATUS=`, the page) watch it. Rules of the state shown:
//!
//! 1. A turn in progress is shown by its stage (`listening` … `follow_up`), and so are `starting` and
//!    `muted`: a person who muted the device must be able to trust the word.
//! 2. Else, with a required part that has failed for good, `error`.
//! 3. Else, with a required part that is degraded or away, `degraded`.
//! 4. Else, after too many failed attempts in a row, `paused`.
//! 5. Else `idle`. Optional parts (the broker, the loudspeaker) never change the state; they show in the
//!    list.
//!
//! The state hides faults by rule 1. So [`Status::problem`] is a second value, made from the required parts
//! alone: a turn, the mute and the pause never switch it off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tokio::sync::watch;

/// Name of the part that hears.
pub const MICROPHONE: &str = "microphone";

/// The states of the device, shown everywhere under these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Starting,
    Idle,
    Listening,
    Verifying,
    Thinking,
    Speaking,
    FollowUp,
    Muted,
    /// Too many attempts failed in a row.
    Paused,
    Degraded,
    Error,
}

impl State {
    pub const ALL: [Self; 11] = [
        Self::Starting,
        Self::Idle,
        Self::Listening,
        Self::Verifying,
        Self::Thinking,
        Self::Speaking,
        Self::FollowUp,
        Self::Muted,
        Self::Paused,
        Self::Degraded,
        Self::Error,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Listening => "listening",
            Self::Verifying => "verifying",
            Self::Thinking => "thinking",
            Self::Speaking => "speaking",
            Self::FollowUp => "follow_up",
            Self::Muted => "muted",
            Self::Paused => "paused",
            Self::Degraded => "degraded",
            Self::Error => "error",
        }
    }
}

/// Condition of one part. The sentence names the fault, the parts that still work and the remedy, without a
/// final full stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "condition", rename_all = "snake_case")]
pub enum Condition {
    Ok,
    /// Not configured, or switched off: nothing to worry about.
    Off {
        sentence: String,
    },
    /// Not there yet, for the first time.
    Starting,
    /// Works with limits.
    Degraded {
        sentence: String,
    },
    /// Does not work now and is being retried.
    Away {
        sentence: String,
    },
    /// Does not work until somebody does something.
    Failed {
        sentence: String,
    },
}

impl Condition {
    pub fn off(sentence: impl Into<String>) -> Self {
        Self::Off { sentence: sentence.into() }
    }

    pub fn degraded(sentence: impl Into<String>) -> Self {
        Self::Degraded { sentence: sentence.into() }
    }

    pub fn away(sentence: impl Into<String>) -> Self {
        Self::Away { sentence: sentence.into() }
    }

    pub fn failed(sentence: impl Into<String>) -> Self {
        Self::Failed { sentence: sentence.into() }
    }

    pub fn sentence(&self) -> Option<&str> {
        match self {
            Self::Ok | Self::Starting => None,
            Self::Off { sentence }
            | Self::Degraded { sentence }
            | Self::Away { sentence }
            | Self::Failed { sentence } => Some(sentence),
        }
    }

    /// 0 = as it should be; higher is worse.
    fn severity(&self) -> u8 {
        match self {
            Self::Ok | Self::Off { .. } | Self::Starting => 0,
            Self::Degraded { .. } => 1,
            Self::Away { .. } => 2,
            Self::Failed { .. } => 3,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Off { .. } => "off",
            Self::Starting => "starting",
            Self::Degraded { .. } => "degraded",
            Self::Away { .. } => "away",
            Self::Failed { .. } => "failed",
        }
    }
}

/// Whether the device can do its main job without this part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    Required,
    Optional,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    pub need: Need,
    #[serde(flatten)]
    pub condition: Condition,
    /// When the kind of condition last changed.
    #[serde(skip)]
    since: Instant,
}

/// The state shown and its sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The state to show, after the rules at the top of this module.
    pub state: State,
    /// A required part is not as it should be; independent of `state`.
    pub problem: bool,
    /// The household muted the device.
    pub muted: bool,
    /// The sound card is open, also while the device is muted: its sound is dropped before any detection.
    pub microphone_open: bool,
    /// After too many failed attempts: the time until which unsure voices are refused. Milliseconds since
    /// 1970 UTC; RFC 3339 in JSON.
    #[serde(serialize_with = "as_rfc3339")]
    pub paused_until: Option<i64>,
    pub components: BTreeMap<&'static str, Component>,
    /// The stage of the pipeline, before the rules.
    #[serde(skip)]
    stage: State,
}

#[expect(clippy::ref_option, reason = "serde passes a reference")]
fn as_rfc3339<S: serde::Serializer>(unix_ms: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    unix_ms.and_then(rfc3339).serialize(serializer)
}

impl Status {
    fn new() -> Self {
        Self {
            state: State::Starting,
            problem: false,
            muted: false,
            microphone_open: false,
            paused_until: None,
            components: BTreeMap::new(),
            stage: State::Starting,
        }
    }

    fn judge(&mut self) {
        let worst = self
            .components
            .values()
            .filter(|c| c.need == Need::Required)
            .map(|c| c.condition.severity())
            .max()
            .unwrap_or(0);
        self.problem = worst > 0;
        let microphone = self.components.get(MICROPHONE).map(|c| &c.condition);
        self.microphone_open = matches!(microphone, Some(Condition::Ok | Condition::Degraded { .. }));
        self.state = match (self.stage, worst) {
            _ if self.muted => State::Muted,
            (State::Idle, 3) => State::Error,
            (State::Idle, 1 | 2) => State::Degraded,
            (State::Idle, _) if self.paused_until.is_some() => State::Paused,
            (stage, _) => stage,
        };
    }

    /// The worst required part, if any is not as it should be: the reason why [`Status::problem`] is set.
    pub fn worst(&self) -> Option<(&'static str, &Component)> {
        self.problems().into_iter().next().filter(|(_, component)| component.need == Need::Required)
    }

    /// The parts that are not as they should be, the worst first, required ones before optional ones.
    pub fn problems(&self) -> Vec<(&'static str, &Component)> {
        let mut list: Vec<_> = self
            .components
            .iter()
            .filter(|(_, c)| c.condition.severity() > 0)
            .map(|(n, c)| (*n, c))
            .collect();
        list.sort_by_key(|(_, c)| (c.need == Need::Optional, std::cmp::Reverse(c.condition.severity())));
        list
    }

    /// One line for a person: the device's activity, then its problems.
    pub fn words(&self) -> String {
        let mut line = match self.state {
            State::Starting => "starting",
            State::Idle => "waiting for the wake word",
            State::Listening => "listening",
            State::Verifying => "checking who speaks",
            State::Thinking => "thinking",
            State::Speaking => "speaking",
            State::FollowUp => "listening for a follow-up",
            State::Muted if self.microphone_open => {
                "muted (the microphone stays open, what it hears is dropped)"
            }
            State::Muted => "muted",
            State::Paused => "pausing",
            State::Degraded => "working with limits",
            State::Error => "not working",
        }
        .to_owned();
        if let Some(until) = self.paused_until.and_then(rfc3339) {
            line.push_str(
                "; too many attempts failed, so only a voice that is surely known is answered until ",
            );
            line.push_str(&until);
        }
        for (name, component) in self.problems() {
            line.push_str("; ");
            line.push_str(component.condition.sentence().unwrap_or(name));
        }
        line
    }
}

/// UTC to the second, as Home Assistant reads it; `None` for a time outside the calendar.
pub fn rfc3339(unix_ms: i64) -> Option<String> {
    jiff::Timestamp::from_second(unix_ms.div_euclid(1000)).ok().map(|time| time.to_string())
}

/// The registry. Clones share it. Not for the capture thread: it takes a lock.
#[derive(Debug, Clone)]
pub struct Health {
    status: Arc<watch::Sender<Status>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    pub fn new() -> Self {
        Self { status: Arc::new(watch::Sender::new(Status::new())) }
    }

    /// Names a part before it has reported its condition, so that it shows from the start.
    pub fn register(&self, name: &'static str, need: Need) {
        self.status.send_if_modified(|status| {
            let component = Component { need, condition: Condition::Starting, since: Instant::now() };
            status.components.insert(name, component);
            status.judge();
            true
        });
    }

    /// Sets the condition of a part. A change of kind is logged once; a change of the sentence alone only
    /// shows. An unregistered part is optional.
    pub fn set(&self, name: &'static str, condition: Condition) {
        let mut change = None;
        self.status.send_if_modified(|status| {
            let now = Instant::now();
            let component = status.components.entry(name).or_insert_with(|| Component {
                need: Need::Optional,
                condition: Condition::Starting,
                since: now,
            });
            if component.condition == condition {
                return false;
            }
            if component.condition.name() != condition.name() {
                change = Some((component.condition.severity(), now.duration_since(component.since)));
                component.since = now;
            }
            component.condition = condition.clone();
            status.judge();
            true
        });
        let Some((before, lasted)) = change else { return };
        let kind = condition.name();
        match (&condition, condition.sentence()) {
            (Condition::Off { sentence }, _) => {
                log::info!(component = name, condition = kind; "{name}: {sentence}");
            }
            (_, Some(sentence)) => log::warn!(component = name, condition = kind; "{name}: {sentence}"),
            (_, None) if before > 0 => {
                log::info!(component = name, condition = kind; "{name} works again after {} \
                    s", lasted.as_secs());
            }
            (_, None) => log::debug!(component = name, condition = kind; "{name} works"),
        }
    }

    /// Sets the stage of the pipeline.
    pub fn set_stage(&self, stage: State) {
        self.status.send_if_modified(|status| {
            if status.stage == stage {
                return false;
            }
            status.stage = stage;
            status.judge();
            true
        });
    }

    /// Sets whether the household muted the device: shown at all times until it is unmuted.
    pub fn set_muted(&self, muted: bool) {
        self.status.send_if_modified(|status| {
            let changed = status.muted != muted;
            status.muted = muted;
            status.judge();
            changed
        });
    }

    /// Sets the time until which unsure voices are refused after too many failures; `None`: no longer.
    pub fn set_paused_until(&self, unix_ms: Option<i64>) {
        self.status.send_if_modified(|status| {
            let changed = status.paused_until != unix_ms;
            status.paused_until = unix_ms;
            status.judge();
            changed
        });
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Health {
        let health = Health::new();
        health.register("microphone", Need::Required);
        health.register("mqtt", Need::Optional);
        health.set("microphone", Condition::Ok);
        health.set_stage(State::Idle);
        health
    }

    #[test]
    fn a_required_part_that_is_away_makes_an_idle_device_degraded() {
        let health = idle();
        assert_eq!(health.status().state, State::Idle);
        health.set("microphone", Condition::away("the microphone is unplugged"));
        assert_eq!(health.status().state, State::Degraded);
        health.set("microphone", Condition::failed("the model is damaged"));
        assert_eq!(health.status().state, State::Error);
        health.set("microphone", Condition::Ok);
        assert_eq!(health.status().state, State::Idle);
    }

    #[test]
    fn an_optional_part_only_shows_in_the_list() {
        let health = idle();
        health.set("mqtt", Condition::away("the broker is away"));
        health.set("unheard of", Condition::degraded("odd"));
        let status = health.status();
        assert_eq!(status.state, State::Idle);
        assert_eq!(status.words(), "waiting for the wake word; the broker is away; odd");
    }

    #[test]
    fn a_turn_in_progress_and_muted_are_shown_as_they_are() {
        let health = idle();
        health.set("microphone", Condition::away("gone"));
        for stage in [State::Starting, State::Listening, State::Speaking, State::FollowUp, State::Muted] {
            health.set_stage(stage);
            assert_eq!(health.status().state, stage);
        }
    }

    #[test]
    fn a_problem_is_on_whatever_the_device_does_and_whether_it_is_muted() {
        let health = idle();
        assert!(!health.status().problem);
        health.set("microphone", Condition::away("the microphone is unplugged"));
        for stage in [State::Idle, State::Listening, State::Verifying, State::Speaking, State::FollowUp] {
            health.set_stage(stage);
            assert!(health.status().problem, "{stage:?}");
        }
        health.set_muted(true);
        let status = health.status();
        assert!(status.problem && status.muted);
        assert_eq!(status.worst().unwrap().0, "microphone");
        assert_eq!(status.words(), "muted; the microphone is unplugged");
        health.set("microphone", Condition::Ok);
        health.set("mqtt", Condition::failed("gone"));
        let status = health.status();
        assert!(!status.problem && status.worst().is_none(), "an optional part is no problem of the device");
    }

    #[test]
    fn a_pause_shows_until_when_and_a_fault_shows_before_it() {
        let health = idle();
        health.set_paused_until(Some(1_700_000_000_999));
        let status = health.status();
        assert_eq!(status.state, State::Paused);
        assert!(status.words().ends_with("until 2023-11-14T22:13:20Z"), "{}", status.words());
        assert_eq!(serde_json::to_value(&status).unwrap()["paused_until"], "2023-11-14T22:13:20Z");
        health.set("microphone", Condition::away("gone"));
        assert_eq!(health.status().state, State::Degraded);
        health.set_paused_until(None);
        health.set("microphone", Condition::Ok);
        assert_eq!(health.status().state, State::Idle);
    }

    #[tokio::test]
    async fn watchers_wake_for_changes_and_for_nothing_else() {
        let health = idle();
        let mut watch = health.watch();
        watch.mark_unchanged();
        health.set("microphone", Condition::Ok);
        health.set_stage(State::Idle);
        assert!(!watch.has_changed().unwrap());
        health.clone().set("microphone", Condition::degraded("noisy"));
        assert!(watch.has_changed().unwrap());
    }

    #[test]
    fn the_json_has_the_state_and_every_part_with_its_sentence() {
        let health = idle();
        health.set("mqtt", Condition::away("no broker"));
        let json = serde_json::to_value(health.status()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "state": "idle",
                "problem": false,
                "muted": false,
                "microphone_open": true,
                "paused_until": null,
                "components": {
                    "microphone": { "need": "required", "condition": "ok" },
                    "mqtt": { "need": "optional", "condition": "away", "sentence": "no broker" },
                }
            })
        );
    }
}

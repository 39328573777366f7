//! Messages that wait to be sent: the latest value of each retained topic, and a bounded queue of events.
//!
//! ```text
//!  keep ─▶ latest ─┐  next            numbered           acked
//!                  ├─────▶ submitted ─────────▶ in flight ────▶ gone
//!  push ─▶ queue ──┘          └──── connection_lost ──┘
//!            ▲                            │ events, in their old order
//!            └────────────────────────────┘
//! ```
//!
//! Pure: no I/O, no packet ids of its own, time passed in where it matters.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

/// Events kept while the broker is away; the oldest goes first.
pub(super) const MAX_EVENTS: usize = 256;
/// An event older than this helps nobody and may start an automation at the wrong time.
pub(super) const MAX_AGE: Duration = Duration::from_secs(600);
/// An event that is sent later than this states the delay, as `delay_ms`.
const LATE: Duration = Duration::from_secs(1);
/// Messages without PubAck at one time.
pub(super) const WINDOW: usize = 16;
/// Longest payload, regardless of the broker's limit.
const MAX_PAYLOAD: usize = 60_000;

#[derive(Debug, Clone)]
struct Queued {
    /// Order of arrival; also the order in which a lost connection puts events back.
    number: u64,
    topic: String,
    body: Map<String, Value>,
    retain: bool,
    since: Instant,
}

#[derive(Debug)]
struct Latest {
    payload: String,
    /// Whether the broker has it, or is about to.
    sent: bool,
}

/// The content of a packet, remembered until its PubAck.
#[derive(Debug)]
enum Carried {
    Latest(String),
    Event(Box<Queued>),
}

#[derive(Debug)]
struct Sent {
    carried: Carried,
    at: Instant,
}

/// One message for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) retain: bool,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    latest: BTreeMap<String, Latest>,
    queue: VecDeque<Queued>,
    submitted: VecDeque<Sent>,
    in_flight: BTreeMap<u16, Sent>,
    next_number: u64,
    dropped: u64,
    /// Topics whose value the broker would not take on this connection, with its size.
    too_large: BTreeMap<String, usize>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Sets a retained topic; sent if it differs from the broker's value.
    pub(super) fn keep(&mut self, topic: &str, payload: &str) {
        match self.latest.get_mut(topic) {
            Some(latest) if latest.payload == payload => {}
            Some(latest) => *latest = Latest { payload: payload.to_owned(), sent: false },
            None => {
                self.latest.insert(topic.to_owned(), Latest { payload: payload.to_owned(), sent: false });
            }
        }
    }

    /// Sends a retained topic again although it has not changed.
    pub(super) fn keep_again(&mut self, topic: &str) {
        if let Some(latest) = self.latest.get_mut(topic) {
            latest.sent = false;
        }
    }

    /// Sends every retained topic again: for a broker that retains nothing.
    pub(super) fn keep_all_again(&mut self) {
        self.latest.values_mut().for_each(|latest| latest.sent = false);
    }

    /// Takes a retained topic out that the broker has deleted.
    pub(super) fn forget(&mut self, topic: &str) {
        self.latest.remove(topic);
    }

    pub(super) fn too_large(&self) -> &BTreeMap<String, usize> {
        &self.too_large
    }

    /// Queues an event. A full queue loses its oldest.
    pub(super) fn push(&mut self, topic: &str, body: Map<String, Value>, retain: bool) {
        if self.queue.len() >= MAX_EVENTS && self.queue.pop_front().is_some() {
            self.missed(1);
        }
        self.next_number += 1;
        let number = self.next_number;
        self.queue.push_back(Queued { number, topic: topic.to_owned(), body, retain, since: Instant::now() });
    }

    /// Counts events that never came here, or that were dropped.
    pub(super) fn missed(&mut self, events: u64) {
        if self.dropped == 0 && events > 0 {
            log::warn!(
                "MQTT events are dropped because the broker does not take them; the newest {MAX_EVENTS} are \
                 kept"
            );
        }
        self.dropped = self.dropped.saturating_add(events);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Messages handed out whose PubAck is still missing.
    pub(super) fn outstanding(&self) -> usize {
        self.submitted.len() + self.in_flight.len()
    }

    /// Nothing to send and nothing to wait for.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding() == 0 && self.queue.is_empty() && self.latest.values().all(|latest| latest.sent)
    }

    /// The time at which the oldest message without a PubAck was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.in_flight.values().chain(&self.submitted).map(|sent| sent.at).min()
    }

    /// Takes the next message out: retained values first, as a late subscriber sees them. `None` while
    /// `window` messages wait for their PubAck, or when there is nothing to send.
    pub(super) fn next(&mut self, now: Instant, window: usize, max_packet: usize) -> Option<Message> {
        if self.outstanding() >= window {
            return None;
        }
        let fits = |topic: &str, payload: &str| {
            payload.len() <= MAX_PAYLOAD && payload.len() + topic.len() + 32 <= max_packet
        };
        for (topic, latest) in self.latest.iter_mut().filter(|(_, latest)| !latest.sent) {
            latest.sent = true;
            if !fits(topic, &latest.payload) {
                self.too_large.insert(topic.clone(), latest.payload.len());
                continue;
            }
            self.too_large.remove(topic);
            let message = Message { topic: topic.clone(), payload: latest.payload.clone(), retain: true };
            self.submitted.push_back(Sent { carried: Carried::Latest(topic.clone()), at: now });
            return Some(message);
        }
        while let Some(queued) = self.queue.pop_front() {
            let age = now.saturating_duration_since(queued.since);
            let payload = if age > LATE {
                let mut body = queued.body.clone();
                body.insert("delay_ms".to_owned(), u64::try_from(age.as_millis()).unwrap_or(u64::MAX).into());
                Value::Object(body).to_string()
            } else {
                Value::Object(queued.body.clone()).to_string()
            };
            if age > MAX_AGE || !fits(&queued.topic, &payload) {
                self.missed(1);
                continue;
            }
            let message = Message { topic: queued.topic.clone(), payload, retain: queued.retain };
            self.submitted.push_back(Sent { carried: Carried::Event(Box::new(queued)), at: now });
            return Some(message);
        }
        None
    }

    /// The client has given the oldest submitted message this packet id.
    pub(super) fn numbered(&mut self, packet_id: u16) {
        if let Some(sent) = self.submitted.pop_front() {
            self.in_flight.insert(packet_id, sent);
        }
    }

    /// The broker has taken the message; returns its topic.
    pub(super) fn acked(&mut self, packet_id: u16) -> Option<String> {
        self.in_flight.remove(&packet_id).map(|sent| match sent.carried {
            Carried::Latest(topic) => topic,
            Carried::Event(queued) => queued.topic,
        })
    }

    /// Takes back the unacknowledged messages. Events keep their order and go before newer ones; every
    /// retained topic is sent anew, because nobody knows what the next broker remembers.
    pub(super) fn connection_lost(&mut self) {
        let mut back: Vec<Queued> = std::mem::take(&mut self.in_flight)
            .into_values()
            .chain(std::mem::take(&mut self.submitted))
            .filter_map(|sent| match sent.carried {
                Carried::Event(queued) => Some(*queued),
                Carried::Latest(_) => None,
            })
            .collect();
        back.sort_by_key(|queued| std::cmp::Reverse(queued.number));
        for queued in back {
            if self.queue.len() >= MAX_EVENTS {
                self.missed(1);
            } else {
                self.queue.push_front(queued);
            }
        }
        self.too_large.clear();
        self.keep_all_again();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(n: usize) -> Map<String, Value> {
        json!({ "n": n }).as_object().unwrap().clone()
    }

    fn drain(outbox: &mut Outbox) -> Vec<Message> {
        std::iter::from_fn(|| outbox.next(Instant::now(), usize::MAX, usize::MAX)).collect()
    }

    fn payloads(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|m| m.payload.as_str()).collect()
    }

    #[test]
    fn a_retained_topic_is_sent_when_it_changes_and_only_its_latest_value() {
        let mut outbox = Outbox::new();
        outbox.keep("s", "idle");
        outbox.keep("s", "listening");
        assert_eq!(payloads(&drain(&mut outbox)), ["listening"]);
        outbox.keep("s", "listening");
        assert!(drain(&mut outbox).is_empty());
        outbox.keep_again("s");
        assert_eq!(payloads(&drain(&mut outbox)), ["listening"]);
    }

    #[test]
    fn a_full_queue_loses_its_oldest_events_and_counts_them() {
        let mut outbox = Outbox::new();
        for n in 0..MAX_EVENTS + 3 {
            outbox.push("e", body(n), false);
        }
        assert_eq!(outbox.dropped(), 3);
        let sent = drain(&mut outbox);
        assert_eq!(sent.len(), MAX_EVENTS);
        assert_eq!(sent[0].payload, r#"{"n":3}"#);
    }

    #[test]
    fn unacknowledged_events_come_back_in_order_before_newer_ones() {
        let mut outbox = Outbox::new();
        outbox.keep("s", "idle");
        for n in 0..4 {
            outbox.push("e", body(n), false);
        }
        assert_eq!(drain(&mut outbox).len(), 5);
        // Packet ids wrap, so a later event may have the smaller one.
        for id in [100, 101, 1, 2] {
            outbox.numbered(id);
        }
        assert_eq!(outbox.acked(101).as_deref(), Some("e"));
        outbox.push("e", body(4), false);
        outbox.connection_lost();
        assert_eq!(outbox.outstanding(), 0);
        assert_eq!(
            payloads(&drain(&mut outbox)),
            ["idle", r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#, r#"{"n":4}"#]
        );
    }

    #[test]
    fn taking_back_into_a_full_queue_drops_the_oldest() {
        let mut outbox = Outbox::new();
        outbox.push("e", body(0), false);
        outbox.push("e", body(1), false);
        assert_eq!(drain(&mut outbox).len(), 2);
        for n in 2..MAX_EVENTS + 1 {
            outbox.push("e", body(n), false);
        }
        outbox.connection_lost();
        assert_eq!(outbox.dropped(), 1);
        assert_eq!(drain(&mut outbox)[0].payload, r#"{"n":1}"#);
    }

    #[test]
    fn the_window_holds_messages_back_until_pubacks_arrive() {
        let mut outbox = Outbox::new();
        for n in 0..WINDOW + 1 {
            outbox.push("e", body(n), false);
        }
        let now = Instant::now();
        let sent = std::iter::from_fn(|| outbox.next(now, WINDOW, usize::MAX)).count();
        assert_eq!(sent, WINDOW);
        outbox.numbered(1);
        assert!(outbox.next(now, WINDOW, usize::MAX).is_none());
        assert!(outbox.acked(7).is_none(), "an id that was never given out");
        outbox.acked(1);
        assert!(outbox.next(now, WINDOW, usize::MAX).is_some());
    }

    #[test]
    fn a_late_event_says_how_late_it_is_and_a_very_late_one_is_dropped() {
        let mut outbox = Outbox::new();
        outbox.push("e", body(0), false);
        let later = Instant::now() + Duration::from_secs(5);
        let message = outbox.next(later, 1, usize::MAX).unwrap();
        let delay = serde_json::from_str::<Value>(&message.payload).unwrap()["delay_ms"].as_u64().unwrap();
        assert!((4_900..=5_100).contains(&delay), "{delay}");

        let mut outbox = Outbox::new();
        outbox.push("e", body(0), false);
        assert!(outbox.next(Instant::now() + MAX_AGE + LATE, 1, usize::MAX).is_none());
        assert_eq!(outbox.dropped(), 1);
    }

    #[test]
    fn what_the_broker_does_not_take_does_not_block_the_rest() {
        let mut outbox = Outbox::new();
        outbox.keep("s", &"x".repeat(1_000));
        outbox.push("e", json!({ "text": "y".repeat(1_000) }).as_object().unwrap().clone(), false);
        outbox.push("e", body(1), false);
        let message = outbox.next(Instant::now(), WINDOW, 500).unwrap();
        assert_eq!(message.payload, r#"{"n":1}"#);
        assert_eq!(outbox.dropped(), 1);
    }
}

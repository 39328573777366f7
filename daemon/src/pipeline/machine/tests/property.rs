//! For any input in any order: no unknown person is answered, turns come one at a time, and a way back always
//! exists.

use proptest::prelude::*;

use super::*;
use crate::dialogue::{DialogueError, NOBODY_IS_KNOWN};
use crate::events::What;
use crate::identity::pins::PinsError;
use crate::memory::MemoryError;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Happens {
    Wake,
    Asked,
    Begins,
    Piece {
        whole: bool,
    },
    SoFar,
    Ends {
        frames: usize,
    },
    Nothing,
    Lost,
    Dropped,
    Pin,
    Enrol,
    Cancel,
    Mute(bool),
    /// One of the jobs ends, in one of several ways.
    Done {
        which: usize,
        how: usize,
    },
    /// The answer that is being made hands over a sentence.
    Sentence,
    /// A result comes that nobody waits for.
    Late {
        ticket: u64,
        how: usize,
    },
    Deadline,
    Time {
        s: u64,
    },
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        2 => Just(Happens::Wake),
        1 => Just(Happens::Asked),
        3 => Just(Happens::Begins),
        3 => prop::bool::weighted(0.9).prop_map(|whole| Happens::Piece { whole }),
        2 => Just(Happens::SoFar),
        4 => (1_usize..400).prop_map(|frames| Happens::Ends { frames }),
        1 => Just(Happens::Nothing),
        1 => Just(Happens::Lost),
        1 => Just(Happens::Dropped),
        1 => Just(Happens::Pin),
        1 => Just(Happens::Enrol),
        1 => Just(Happens::Cancel),
        1 => any::<bool>().prop_map(Happens::Mute),
        16 => (0_usize..3, 0_usize..8).prop_map(|(which, how)| Happens::Done { which, how }),
        4 => Just(Happens::Sentence),
        1 => (0_u64..40, 0_usize..8).prop_map(|(ticket, how)| Happens::Late { ticket, how }),
        1 => Just(Happens::Deadline),
        1 => (0_u64..30).prop_map(|s| Happens::Time { s }),
    ]
}

/// One of the results that a job may have.
fn result_of(job: &Job, how: usize, rig: &Rig) -> Done {
    let broken = || "it is broken".to_owned();
    match (job, how) {
        (Job::Gate, 0) => pausing(rig),
        (Job::Gate, 1) => granted("anna"),
        (Job::Chance, 0) => Done::Chance(false),
        (Job::EarlyVerdict { .. }, 0..3) => Done::EarlyVerdict(Some(Box::new(Part::rejected_of(3)))),
        (Job::Voices { .. }, 0) => Done::Voices(Err(broken())),
        (Job::Voices { .. }, 1) => rejected(),
        (Job::Voices { .. }, 2) => Done::Voices(Ok(vec![
            part(Part::verified_of(1, 1.0), 0, 20_000),
            part(Part::verified_of(2, 1.0), 20_000, 32_000),
            part(uncertain(), 32_000, 40_000),
        ])),
        (Job::Voices { .. }, 3) => Done::Voices(Ok(vec![part(Part::verified_of(1, 1.0), 0, 900)])),
        (Job::Voices { .. }, 4) => Done::Voices(Ok(Vec::new())),
        (Job::Person { .. } | Job::Anonymous, 0) => Done::Person(Err(broken())),
        (Job::Person { .. }, 1) => Done::Person(Ok(user("somebody else"))),
        (Job::Words | Job::OwnWords(_), 0) => Done::Words(Err(broken())),
        (Job::Words | Job::OwnWords(_), 1) => words(""),
        (Job::Answer { .. }, 0) => {
            let source = MemoryError::NotFound { what: "conversation", which: String::new() };
            let error = DialogueError::NotStored { reply: "It is noon.".to_owned(), acts: false, source };
            Done::Answered { result: Err(error), took: Duration::ZERO }
        }
        (Job::Answer { .. }, 1) => streamed(),
        (Job::Say(_), 0) => Done::Spoken(Err(broken())),
        (Job::Apart, 0) => Done::Apart(true),
        (Job::Pin { .. }, 0) => Done::Pin(Err(PinsError::NoVoice)),
        (Job::Pin { .. }, 1) => Done::Pin(Ok((PinOutcome::Refused, None))),
        (Job::Enrol { .. }, 0) => Done::Begun(Err(Refused::NameLength)),
        (Job::Sample { .. } | Job::Silence, 0..5) => {
            Done::Sampled { progress: progress("ben", Step::Kept), over: false }
        }
        (job, _) => usual(job),
    }
}

/// A result of any kind.
fn any_result(how: usize) -> Done {
    match how {
        0 => stored(),
        1 => words("open the door"),
        2 => Done::Voices(Ok(vec![Part::verified_of(1, 2.0)])),
        3 => Done::Person(Ok(user("1"))),
        4 => Done::Spoken(Ok(())),
        5 => Done::EarlyVerdict(None),
        6 => Done::Gate { gate: FailureGate::default(), granted: None },
        _ => Done::Sampled { progress: progress("ben", Step::Kept), over: false },
    }
}

fn happen(rig: &mut Rig, what: &Happens, cancels: &mut u64) {
    match what {
        Happens::Wake => drop(rig.wake()),
        Happens::Asked => drop(rig.hears(Detection::Asked { pos: FramePos(5) })),
        Happens::Begins => drop(rig.hears(Detection::SpeechStart { pos: FramePos(110) })),
        Happens::Piece { whole } => {
            rig.whole = *whole;
            rig.hears(Detection::Speech { raw: vec![0.1; 1_600] });
        }
        Happens::SoFar => drop(rig.so_far()),
        Happens::Ends { frames } => drop(rig.hears(Detection::SpeechEnd { utterance: utterance(*frames) })),
        Happens::Nothing => drop(rig.hears(Detection::NoSpeech { pos: FramePos(900) })),
        Happens::Lost => drop(rig.hears(Detection::Lost { pos: FramePos(900) })),
        Happens::Dropped => drop(rig.hears(Detection::Dropped { pos: FramePos(900) })),
        Happens::Pin if rig.machine.takes_request() => drop(rig.pin()),
        Happens::Enrol if rig.machine.takes_request() => drop(rig.enrol(*cancels)),
        Happens::Pin | Happens::Enrol => {}
        Happens::Cancel => {
            *cancels += 1;
            rig.step(Input::Cancelled(*cancels));
        }
        Happens::Mute(muted) => drop(rig.step(Input::Muted(*muted))),
        Happens::Done { which, how } => {
            if rig.jobs.is_empty() {
                return;
            }
            let (ticket, job) = rig.jobs.remove(which % rig.jobs.len());
            let done = result_of(&job, *how, rig);
            rig.step(Input::Done(ticket, done));
        }
        Happens::Sentence if rig.running().contains(&"answer") => drop(rig.sentence()),
        Happens::Sentence => {}
        Happens::Late { ticket, how } => {
            if rig.jobs.iter().all(|(running, _)| running.0 != *ticket) {
                rig.step(Input::Done(Ticket(*ticket), any_result(*how)));
            }
        }
        Happens::Deadline => {
            if let Some(due) = rig.machine.next_deadline() {
                rig.now.at = rig.now.at.max(due);
                rig.step(Input::Deadline);
            }
        }
        Happens::Time { s } => {
            rig.pass(Duration::from_secs(*s));
            rig.step(Input::Deadline);
        }
    }
}

/// No word of an unknown person is shown: each text has, in the same turn, an event that its person was
/// verified or accepted.
fn texts_have_owners(events: &[Event], verify: bool) {
    let mut known = Vec::new();
    for event in events {
        match &event.what {
            What::Verified { .. } | What::Accepted { .. } => known.push(event.turn),
            What::Reply { text, .. } if text.as_deref() == Some(NOBODY_IS_KNOWN) => {}
            What::Transcript { .. } | What::Reply { .. } | What::Stored { .. } if verify => {
                assert!(known.contains(&event.turn), "nobody is known in {events:#?}");
            }
            _ => {}
        }
    }
}

/// One turn at a time: the events of two do not mix.
fn turns_do_not_mix(events: &[Event]) {
    let mut over = Vec::new();
    let mut now = None;
    for event in events.iter().filter(|event| event.turn.is_some()) {
        if event.turn != now {
            over.extend(now);
            now = event.turn;
        }
        assert!(!over.iter().any(|turn| event.turn == Some(*turn)), "two turns at once: {events:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_unknown_is_answered_turns_do_not_mix_and_there_is_always_a_way_back(
        verify in prop::bool::weighted(0.8),
        story in prop::collection::vec(happens(), 1..120),
    ) {
        let mut rig = Rig::with(Policy { verify, ..POLICY });
        let mut cancels = 0;
        for what in &story {
            happen(&mut rig, what, &mut cancels);
            // Each job has a deadline, and the machine waits only for running jobs.
            assert!(rig.jobs.is_empty() || rig.machine.next_deadline().is_some());
            assert!(rig.jobs.len() <= 2, "{:?}", rig.running());
            assert!(rig.machine.is_at_rest() || !rig.jobs.is_empty(), "stuck behind {story:?}");
            let answers = |name: &&str| ["answer", "say", "sample", "pin", "enrol"].contains(name);
            let mut busy: Vec<&str> = rig.running().into_iter().filter(|name| answers(name)).collect();
            busy.sort_unstable();
            // An answer in sentences is said while it is made.
            assert!(busy.len() <= 1 || busy == ["answer", "say"], "{:?}", rig.running());
        }
        // Nothing comes any more: deadlines alone lead back.
        rig.step(Input::Cancelled(cancels + 1));
        rig.step(Input::Muted(true));
        let started = rig.now.at;
        while let Some(due) = rig.machine.next_deadline() {
            rig.now.at = rig.now.at.max(due);
            rig.step(Input::Deadline);
        }
        assert!(rig.machine.is_settled(), "{:?}", rig.running());
        assert!(rig.now.at - started < Duration::from_secs(24 * 3_600));
        assert_eq!(rig.answered, rig.asked, "every request is answered");
        texts_have_owners(&rig.events, verify);
        turns_do_not_mix(&rig.events);
        rig.step(Input::Muted(false));
        rig.whole = true;
        rig.is_well_afterwards();
    }

    #[test]
    fn a_stop_comes_to_an_end_from_everywhere(story in prop::collection::vec(happens(), 1..60)) {
        let mut rig = Rig::new();
        let mut cancels = 0;
        for what in &story {
            happen(&mut rig, what, &mut cancels);
        }
        rig.step(Input::Stop);
        rig.settle();
        assert!(rig.machine.is_over());
        texts_have_owners(&rig.events, true);
    }
}

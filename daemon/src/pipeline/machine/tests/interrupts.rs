//! The mute and the stop, in every state.

use super::*;

/// The steps that bring a rig into each state with a job, and that job.
const STATES: [(&[&str], &str); 6] = [
    (&[], "voices"),
    (&["voices"], "person"),
    (&["voices", "person"], "words"),
    (&["voices", "person", "words"], "answer"),
    (&["voices", "person", "words", "answer"], "say"),
    (&["words"], "voices"),
];

#[test]
fn a_mute_drops_a_command_that_is_being_said() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.so_far();
    assert_eq!(rig.step(Input::Muted(true)), "-gate forget [idle]");
    assert_eq!(rig.ends(), "forget [idle]", "it was heard before, and waited");
    rig.step(Input::Muted(false));
    assert_eq!(rig.count("speech_end"), 0);
    rig.is_well_afterwards();
}

#[test]
fn a_mute_ends_what_is_spoken_and_a_turn_whose_answer_is_not_being_made() {
    for (before, job) in STATES {
        for unmuted_at_once in [false, true] {
            let mut rig = Rig::new();
            rig.until(before);
            // A turn is answered or not at all; once asked for, an answer is stored.
            let answered = ["answer", "say"].contains(&job);
            let told = rig.count("transcript");
            let cut = rig.step(Input::Muted(true));
            assert_eq!(cut == "cut", job == "say", "{job}: {cut}");
            assert_eq!(rig.count("rejected"), usize::from(!answered), "{job}: {cut}");
            if unmuted_at_once {
                rig.step(Input::Muted(false));
            }
            let on = rig.settle();
            assert!(!on.contains("transcript"), "{job}: {on}");
            assert_eq!(rig.count("transcript"), told, "{job}: {on}");
            assert_eq!(rig.count("stored"), usize::from(answered), "{job}");
            if !unmuted_at_once {
                assert!(!on.contains("?say") && !on.contains("window"), "{job}: {on}");
                rig.step(Input::Muted(false));
            }
            rig.is_well_afterwards();
        }
    }
}

#[test]
fn a_mute_during_the_first_look_leaves_the_turn_unanswered() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.so_far();
    rig.well("gate");
    rig.ends();
    rig.step(Input::Muted(true));
    rig.settle();
    assert_eq!((rig.count("rejected"), rig.count("reply")), (1, 0));
}

#[test]
fn what_waits_when_the_device_is_muted_is_not_heard() {
    let mut rig = Rig::new();
    rig.until(&["voices", "person", "words"]);
    rig.wake();
    rig.begins();
    rig.ends();
    rig.step(Input::Muted(true));
    rig.settle();
    assert_eq!(rig.count("wake"), 1);
}

#[test]
fn a_muted_device_that_starts_hears_nothing_until_it_is_unmuted() {
    let mut rig = Rig::new();
    rig.machine = TurnMachine::new(POLICY, rig.now, true);
    assert_eq!(rig.wake(), "forget [idle]");
    assert_eq!(rig.step(Input::Muted(false)), "");
    rig.is_well_afterwards();
}

#[test]
fn a_pin_that_is_checked_survives_a_mute_and_the_command_before_it_does_not() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.pin();
    rig.step(Input::Muted(true));
    assert_eq!(rig.well("pin"), "pin =done");
    rig.step(Input::Muted(false));
    rig.is_well_afterwards();
}

#[test]
fn a_stop_while_nobody_is_answered_ends_the_machine_at_once() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    assert!(!rig.machine.is_over());
    assert_eq!(rig.step(Input::Stop), "");
    assert!(rig.machine.is_over());
}

#[test]
fn a_turn_that_has_begun_when_the_device_stops_is_stored_without_a_spoken_word() {
    for (before, job) in STATES {
        let mut rig = Rig::new();
        rig.until(before);
        rig.wake();
        let cut = rig.step(Input::Stop);
        assert_eq!(cut, if job == "say" { "cut" } else { "" }, "{job}");
        assert!(!rig.machine.is_over(), "{job}");
        let on = rig.settle();
        assert!(!on.contains("?say") && !on.contains("window"), "{job}: {on}");
        assert_eq!(rig.count("stored"), 1, "{job}");
        assert!(rig.machine.is_over(), "{job}");
        assert_eq!(rig.count("wake"), 1, "what waits is not heard any more");
    }
}

//! Every stage ends: by itself, or by its deadline.

use super::*;

/// Lets the next deadline pass.
fn overdue(rig: &mut Rig) -> String {
    rig.now.at = rig.machine.next_deadline().expect("something is waited for");
    let acts = rig.machine.step(rig.now, Input::Deadline);
    rig.perform(acts).join(" ")
}

#[test]
fn each_stage_that_does_not_end_is_given_up_and_told_and_the_next_command_is_heard() {
    let stages: [(&[&str], &str); 8] = [
        (&["words"], "-voices forget voice! audit:failed error [speaking] ?say"),
        (&["voices", "words"], "-person audit:failed forget error [speaking] ?say"),
        (&["voices", "person"], "-words forget stt! error [speaking] ?say"),
        (&["voices", "person", "words"], "-answer error [speaking] ?say"),
        (&["voices", "person", "words", "answer"], "-say error window:FollowUp [follow_up]"),
        (&["voices", "person", "words", "answer", "say"], ""),
        (&["words", "voices"], "-person audit:failed forget error [speaking] ?say"),
        (&["voices", "words", "person"], "-answer error [speaking] ?say"),
    ];
    for (before, expected) in stages {
        let mut rig = Rig::new();
        rig.until(before);
        if rig.machine.next_deadline().is_none() {
            assert_eq!(expected, "", "{before:?}");
            continue;
        }
        assert_eq!(overdue(&mut rig), expected, "{before:?}");
        rig.settle();
        rig.is_well_afterwards();
    }
}

#[test]
fn the_count_of_failures_that_cannot_be_read_grants_nothing() {
    let mut rig = Rig::new();
    // A PIN counted a moment ago.
    rig.wake();
    rig.begins();
    rig.so_far();
    rig.done("gate", granted("anna"));
    rig.ends();
    assert_eq!(overdue(&mut rig), "-gate ?voices ?words");
    assert!(rig.done("voices", rejected()).contains("rejected"));
    rig.settle();
    assert_eq!(rig.count("accepted"), 0);
}

#[test]
fn a_first_look_that_does_not_end_decides_nothing() {
    for stage in ["gate", "early"] {
        let mut rig = Rig::new();
        rig.wake();
        rig.begins();
        rig.so_far();
        if stage == "early" {
            rig.well("gate");
        }
        assert_eq!(rig.ends(), "", "it is waited for");
        assert_eq!(overdue(&mut rig), format!("-{stage} [verifying] speech_end ?gate"));
        rig.settle();
        assert_eq!(rig.count("stored"), 1);
    }
}

#[test]
fn an_attempt_during_the_pause_that_cannot_be_counted_is_refused() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.ends();
    let pause = pausing(&rig);
    rig.done("gate", pause);
    assert_eq!(overdue(&mut rig), "-chance forget audit:paused rejected [speaking] ?say");
}

#[test]
fn the_anonymous_person_who_is_not_found_is_told() {
    let mut rig = Rig::with(Policy { verify: false, ..POLICY });
    rig.wake();
    rig.begins();
    rig.ends();
    assert_eq!(overdue(&mut rig), "-anonymous -words forget error [speaking] ?say");
    rig.settle();
    assert_eq!(rig.count("transcript"), 0);
}

#[test]
fn a_memory_that_does_not_say_whether_it_is_missing_ends_the_turn() {
    let mut rig = Rig::new();
    rig.says();
    rig.done("voices", rejected());
    assert_eq!(overdue(&mut rig), "-apart [idle]");
    rig.is_well_afterwards();
}

#[test]
fn a_pin_that_is_not_checked_in_time_is_told() {
    let mut rig = Rig::new();
    rig.pin();
    assert_eq!(overdue(&mut rig), "-pin error =refused");
    rig.is_well_afterwards();
}

#[test]
fn a_result_of_an_earlier_turn_or_stage_is_dropped() {
    let mut rig = Rig::new();
    rig.until(&["voices", "person", "words"]);
    let (late, _) = rig.jobs[0];
    overdue(&mut rig);
    assert_eq!(rig.step(Input::Done(late, stored())), "", "it was given up");
    rig.settle();
    rig.until(&["voices", "person", "words"]);
    assert_eq!(rig.step(Input::Done(late, stored())), "", "another answer is waited for");
    assert_eq!(rig.count("reply"), 0);
    rig.settle();
    assert_eq!(rig.count("reply"), 1);
}

#[test]
fn a_recording_has_no_deadlines() {
    let mut rig = Rig::with(Policy { patient: true, ..POLICY });
    rig.says();
    assert!(rig.machine.next_deadline().is_none());
    rig.pass(Duration::from_secs(3_600));
    assert_eq!(rig.step(Input::Deadline), "");
    rig.settle();
    assert_eq!(rig.count("stored"), 1);
}

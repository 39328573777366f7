//! An enrolment before the microphone: an utterance is a sample and nothing else.

use super::*;

fn kept() -> Done {
    Done::Sampled { progress: progress("ben", Step::Kept), over: false }
}

/// An enrolment that listens for its first phrase.
fn begun() -> Rig {
    let mut rig = Rig::new();
    assert_eq!(rig.enrol(0), "forget ?enrol");
    assert_eq!(rig.well("enrol"), "=done enrolment [speaking] ?say");
    assert_eq!(rig.well("say"), "window:Phrase [listening]");
    rig
}

#[test]
fn phrases_are_asked_for_until_the_voice_is_enrolled() {
    let mut rig = begun();
    assert_eq!(rig.begins(), "[listening] forget speech_start ", "a sample is not transcribed");
    assert_eq!(rig.so_far(), "", "and not compared");
    assert_eq!(rig.ends(), "forget [verifying] ?sample");
    assert_eq!(rig.done("sample", kept()), "enrolment [speaking] ?say");
    rig.well("say");
    assert_eq!(rig.hears(Detection::NoSpeech { pos: FramePos(900) }), "?silence");
    assert_eq!(rig.done("silence", kept()), "enrolment [speaking] ?say");
    rig.well("say");
    rig.begins();
    rig.ends();
    assert_eq!(rig.well("sample"), "end enrolment [speaking] ?say");
    assert_eq!(rig.well("say"), "[idle]");
    rig.is_well_afterwards();
}

#[test]
fn sound_that_is_torn_is_a_phrase_that_was_not_said() {
    let mut rig = begun();
    rig.begins();
    assert_eq!(rig.hears(Detection::Lost { pos: FramePos(300) }), "forget ?silence");
}

#[test]
fn a_person_is_told_first_that_recordings_are_kept() {
    let mut rig = Rig::new();
    let wanted = EnrolmentRequest { keep_recordings: true, ..EnrolmentRequest::default() };
    rig.asks(Task::Enrol { user: "ben".to_owned(), wanted }, 0);
    assert_eq!(rig.well("enrol"), "=done [speaking] ?say");
    assert_eq!(rig.well("say"), "enrolment [speaking] ?say");
    assert_eq!(rig.well("say"), "window:Phrase [listening]");
}

#[test]
fn an_enrolment_that_is_refused_or_does_not_begin_in_time_leaves_nothing_behind() {
    let mut rig = Rig::new();
    rig.enrol(0);
    let refused = Done::Begun(Err(Refused::NameLength));
    assert_eq!(rig.done("enrol", refused), "end enrolment =refused [idle]");
    rig.is_well_afterwards();

    for job in ["enrol", "sample"] {
        let mut rig = Rig::new();
        rig.enrol(0);
        if job == "sample" {
            rig = begun();
            rig.begins();
            rig.ends();
        }
        rig.now.at = rig.machine.next_deadline().unwrap();
        let acts = rig.machine.step(rig.now, Input::Deadline);
        let told = rig.perform(acts).join(" ");
        assert!(told.starts_with(&format!("-{job} end enrolment")), "{told}");
        rig.settle();
        rig.is_well_afterwards();
    }
}

#[test]
fn a_second_enrolment_is_refused_and_one_of_a_muted_device_too() {
    let mut rig = begun();
    assert_eq!(rig.enrol(0), "busy =refused");
    let mut rig = Rig::new();
    rig.step(Input::Muted(true));
    assert_eq!(rig.enrol(0), "enrolment =refused");
}

#[test]
fn an_enrolment_that_was_cancelled_before_its_turn_does_not_begin() {
    let mut rig = Rig::new();
    rig.until(&["voices"]);
    rig.enrol(0);
    rig.step(Input::Cancelled(1));
    rig.settle();
    assert_eq!(rig.count("enrolment"), 0);
    assert_eq!(rig.enrol(1), "forget ?enrol");
}

#[test]
fn a_cancelled_enrolment_ends_as_soon_as_what_goes_on_for_it() {
    // While it begins, the device asks, listens, and looks at a sample.
    let mut rig = Rig::new();
    rig.enrol(0);
    assert_eq!(rig.step(Input::Cancelled(1)), "");
    assert_eq!(rig.well("enrol"), "=done enrolment cancel [idle]");
    rig.is_well_afterwards();

    let mut rig = Rig::new();
    rig.enrol(0);
    rig.well("enrol");
    assert_eq!(rig.step(Input::Cancelled(1)), "cut");
    assert_eq!(rig.well("say"), "cancel [idle]");
    rig.is_well_afterwards();

    let mut rig = begun();
    assert_eq!(rig.step(Input::Cancelled(1)), "[idle] cancel");
    rig.is_well_afterwards();

    let mut rig = begun();
    rig.begins();
    rig.ends();
    assert_eq!(rig.step(Input::Cancelled(1)), "");
    assert_eq!(rig.done("sample", kept()), "enrolment cancel [idle]");
    rig.is_well_afterwards();

    // The last sample: the voice is stored.
    let mut rig = begun();
    rig.begins();
    rig.ends();
    rig.step(Input::Cancelled(1));
    assert_eq!(rig.well("sample"), "end enrolment [speaking] ?say");
    rig.settle();
    rig.is_well_afterwards();
}

#[test]
fn a_mute_cancels_an_enrolment() {
    let mut rig = begun();
    assert_eq!(rig.step(Input::Muted(true)), "forget [idle] [idle] cancel");
    rig.step(Input::Muted(false));
    rig.is_well_afterwards();

    let mut rig = Rig::new();
    rig.enrol(0);
    rig.well("enrol");
    assert_eq!(rig.step(Input::Muted(true)), "cut");
    assert_eq!(rig.well("say"), "cancel [idle]");
    rig.step(Input::Muted(false));
    rig.is_well_afterwards();
}

#[test]
fn cancelling_where_no_enrolment_goes_on_ends_nothing() {
    let mut rig = Rig::new();
    rig.until(&["voices", "person", "words", "answer"]);
    assert_eq!(rig.step(Input::Cancelled(1)), "", "the answer goes on");
}

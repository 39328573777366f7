//! An answer that is said while it is still being made.

use super::*;
use crate::dialogue::{DialogueError, RespondError};

/// A turn whose answer has so many sentences so far.
fn answering(sentences: usize) -> Rig {
    let mut rig = Rig::new();
    rig.until(&["voices", "person", "words"]);
    for n in 0..sentences {
        assert_eq!(rig.sentence(), if n == 0 { "[speaking] ?say" } else { "+say" });
    }
    rig
}

fn broken_off() -> Done {
    let error = DialogueError::BrokeOff(RespondError::BrokeOff);
    Done::Answered { result: Err(error), took: Duration::ZERO }
}

#[test]
fn it_is_said_sentence_by_sentence_and_told_as_a_whole() {
    let mut rig = answering(3);
    assert_eq!(rig.done("answer", streamed()), "reply stored");
    assert_eq!(rig.well("say"), "window:FollowUp [follow_up]");
    rig.is_well_afterwards();
}

#[test]
fn what_was_heard_before_the_next_sentence_is_there_is_no_end_of_the_answer() {
    let mut rig = answering(2);
    assert_eq!(rig.well("say"), "");
    assert_eq!(rig.sentence(), "[speaking] ?say");
    assert_eq!(rig.well("say"), "");
    assert_eq!(rig.done("answer", streamed()), "reply stored window:FollowUp [follow_up]");
    rig.is_well_afterwards();
}

#[test]
fn a_mute_or_a_stop_cuts_it_and_it_is_stored_all_the_same() {
    for input in [Input::Muted(true), Input::Stop] {
        let mut rig = answering(1);
        let stops = matches!(input, Input::Stop);
        assert_eq!(rig.step(input), "cut");
        assert_eq!(rig.sentence(), "", "nothing more is said");
        assert_eq!(rig.well("say"), "");
        let end = rig.done("answer", streamed());
        assert!(end.starts_with("reply stored") && !end.contains("window"), "{end}");
        rig.settle();
        if stops {
            assert!(rig.machine.is_over());
        } else {
            rig.step(Input::Muted(false));
            rig.is_well_afterwards();
        }
    }
}

#[test]
fn an_answer_that_breaks_off_or_takes_too_long_ends_with_a_sentence_behind_what_was_said() {
    let mut rig = answering(2);
    assert_eq!(rig.done("answer", broken_off()), "reply error +say");
    rig.settle();
    rig.is_well_afterwards();

    let mut rig = answering(2);
    let ticket = rig.jobs[0].0;
    rig.pass(Duration::from_secs(61));
    assert_eq!(rig.step(Input::Deadline), "-answer error +say");
    assert_eq!(rig.step(Input::Sentence(ticket, Durable::of_test("late"))), "", "it was given up");
    rig.settle();
    rig.is_well_afterwards();
}

#[test]
fn a_sentence_that_cannot_be_said_is_told_and_the_answer_goes_on() {
    let mut rig = answering(1);
    assert_eq!(rig.done("say", Done::Spoken(Err("the loudspeaker is gone".to_owned()))), "error");
    assert_eq!(rig.sentence(), "[speaking] ?say");
    rig.pass(Duration::from_secs(30));
    rig.sentence();
    assert_eq!(rig.done("answer", streamed()), "reply stored");
    rig.settle();
    rig.is_well_afterwards();
}

#[test]
fn without_a_loudspeaker_it_is_told_and_not_said() {
    let mut rig = Rig::with(Policy { speaks: false, ..POLICY });
    rig.until(&["voices", "person", "words"]);
    assert_eq!(rig.sentence(), "");
    assert_eq!(rig.done("answer", streamed()), "reply stored window:FollowUp [follow_up]");
}

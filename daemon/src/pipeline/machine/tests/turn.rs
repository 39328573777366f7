//! From the wake word to the answer, in every course of a turn.

use super::*;
use crate::events::What;

#[test]
fn a_verified_person_is_answered_once_the_turn_is_stored() {
    let mut rig = Rig::new();
    assert_eq!(rig.wake(), "[listening] wake");
    assert_eq!(rig.begins(), "[listening] forget speech_start feed");
    assert_eq!(rig.ends(), "[verifying] speech_end ?gate");
    assert_eq!(rig.well("gate"), "?voices ?words");
    assert_eq!(rig.well("voices"), "?person", "the verdict waits for nobody");
    assert_eq!(rig.well("person"), "uncount audit:verified verified");
    assert_eq!(rig.well("words"), "transcript [thinking] ?answer");
    assert_eq!(rig.well("answer"), "reply stored [speaking] ?say");
    assert_eq!(rig.well("say"), "window:FollowUp [follow_up]");
    assert!(rig.machine.is_settled());
    let turn = rig.events[0].turn;
    assert!(turn.is_some() && rig.events.iter().all(|event| event.turn == turn), "{:?}", rig.events);
    rig.is_well_afterwards();
    assert_ne!(rig.events.last().unwrap().turn, turn);
}

#[test]
fn words_before_the_verdict_wait_for_it() {
    let mut rig = Rig::new();
    rig.says();
    assert_eq!(rig.well("words"), "");
    assert_eq!(rig.well("voices"), "?person");
    assert_eq!(rig.well("person"), "uncount audit:verified verified transcript [thinking] ?answer");

    let mut rig = Rig::new();
    rig.says();
    rig.well("words");
    assert_eq!(rig.done("voices", rejected()), "forget count audit:rejected rejected ?apart");
    assert_eq!(rig.well("apart"), "[idle]");
    assert_eq!(rig.count("transcript"), 0);
}

#[test]
fn a_stranger_is_told_while_the_recogniser_is_still_at_work_and_its_words_are_dropped() {
    let mut rig = Rig::new();
    rig.says();
    let words = rig.jobs.iter().find(|(_, job)| name_of(job) == "words").unwrap().0;
    let told = rig.done("voices", rejected());
    assert_eq!(told, "-words forget count audit:rejected rejected ?apart");
    rig.settle();
    // Late.
    let Done::Words(late) = super::words("open the door") else { unreachable!() };
    assert_eq!(rig.step(Input::Done(words, Done::Words(late))), "");
    rig.is_well_afterwards();
}

#[test]
fn after_a_wake_word_and_nothing_the_device_rests_and_an_unused_follow_up_is_no_attempt() {
    let mut rig = Rig::new();
    rig.wake();
    assert_eq!(rig.hears(Detection::NoSpeech { pos: FramePos(600) }), "rejected [idle]");
    let What::Rejected { reason, .. } = &rig.events[1].what else { panic!("{:?}", rig.events) };
    assert_eq!(*reason, crate::events::Reason::NoSpeech);
    assert_eq!(rig.hears(Detection::NoSpeech { pos: FramePos(900) }), "[idle]");
    rig.is_well_afterwards();
}

#[test]
fn a_window_that_was_asked_for_and_not_used_is_told_as_a_wake_word_is() {
    let mut rig = Rig::new();
    assert_eq!(rig.hears(Detection::Asked { pos: FramePos(5) }), "[listening]");
    assert_eq!(rig.hears(Detection::NoSpeech { pos: FramePos(600) }), "rejected [idle]");
}

#[test]
fn a_stranger_is_recognised_early_and_nothing_more_of_them_is_transcribed() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    assert_eq!(rig.so_far(), "?gate");
    assert_eq!(rig.well("gate"), "?early");
    let piece = || Detection::Speech { raw: vec![0.1; 1_600] };
    assert_eq!(rig.hears(piece()), "feed", "it is not known yet");
    assert_eq!(rig.done("early", Done::EarlyVerdict(Some(Box::new(Part::rejected_of(3))))), "forget");
    assert_eq!(rig.hears(piece()), "");
    assert_eq!(rig.ends(), "[verifying] speech_end ?gate");
    assert_eq!(rig.well("gate"), "forget count audit:rejected rejected ?apart", "nothing is compared again");
    let What::Rejected { early, .. } = rig.events.last().unwrap().what else { panic!() };
    assert!(early);
    rig.settle();
    rig.is_well_afterwards();
}

#[test]
fn the_owner_behind_a_stranger_is_heard_and_transcribed_alone() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.so_far();
    rig.well("gate");
    rig.done("early", Done::EarlyVerdict(Some(Box::new(Part::rejected_of(3)))));
    // A second of speech behind the early verdict.
    rig.hears(Detection::SpeechEnd { utterance: utterance(300) });
    assert_eq!(rig.well("gate"), "?voices", "the recogniser has nothing of it");
    let parts = vec![part(Part::rejected_of(3), 0, 32_000), part(Part::verified_of(1, 1.0), 32_000, 48_000)];
    rig.done("voices", Done::Voices(Ok(parts)));
    assert_eq!(rig.well("person"), "uncount audit:verified verified ?own");
    let Job::OwnWords(own) = &rig.jobs[0].1 else { panic!() };
    assert_eq!(own.len(), 16_000);
    assert_eq!(rig.well("own"), "transcript [thinking] ?answer");
    rig.well("answer");
    assert_eq!(rig.well("say"), "audit:dropped dropped window:FollowUp [follow_up]");
}

#[test]
fn where_nobody_is_enrolled_a_first_look_stands_whatever_is_said_behind_it() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.so_far();
    rig.well("gate");
    let mut nobody = Part::rejected_of(3);
    nobody.verdict = Verdict::NotEnrolled;
    rig.done("early", Done::EarlyVerdict(Some(Box::new(nobody))));
    rig.hears(Detection::SpeechEnd { utterance: utterance(300) });
    assert_eq!(rig.well("gate"), "forget audit:not_enrolled rejected ?apart", "nobody could have followed");
}

#[test]
fn the_end_of_a_command_waits_for_the_first_look_and_a_new_command_does_not() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.so_far();
    rig.well("gate");
    assert_eq!(rig.ends(), "");
    assert!(!rig.machine.is_settled());
    assert_eq!(rig.well("early"), "[verifying] speech_end ?gate");
    rig.settle();
    rig.wake();
    rig.begins();
    rig.so_far();
    // The wake word again: earlier sound is not examined any more.
    assert_eq!(rig.begins(), "-gate [listening] forget speech_start feed");
}

#[test]
fn a_device_that_pauses_takes_no_first_look_and_compares_a_few_attempts() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.so_far();
    let pause = pausing(&rig);
    assert_eq!(rig.done("gate", pause), "");
    rig.ends();
    let pause = pausing(&rig);
    assert_eq!(rig.done("gate", pause), "?chance");
    assert_eq!(rig.well("chance"), "?voices ?words");
    let mut likely = Part::verified_of(1, 2.0);
    if let Verdict::Verified { confidence, .. } = &mut likely.verdict {
        *confidence = 0.9;
    }
    let refused = rig.done("voices", Done::Voices(Ok(vec![likely])));
    assert_eq!(refused, "-words forget audit:paused rejected [speaking] ?say", "likely is not sure");
    rig.settle();
    assert_eq!(rig.count("verified"), 0);

    // None is left; and a speaker told within ten seconds is not told again.
    rig.wake();
    rig.begins();
    rig.ends();
    let pause = pausing(&rig);
    rig.done("gate", pause);
    assert_eq!(rig.done("chance", Done::Chance(false)), "forget audit:paused rejected ?apart");
    rig.settle();

    // A surely known voice ends the pause.
    rig.wake();
    rig.begins();
    rig.ends();
    let pause = pausing(&rig);
    rig.done("gate", pause);
    rig.well("chance");
    rig.well("voices");
    assert_eq!(rig.well("person"), "uncount audit:verified verified");
}

#[test]
fn a_stranger_of_the_first_look_is_not_compared_when_the_pause_has_begun_since() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.so_far();
    rig.well("gate");
    rig.done("early", Done::EarlyVerdict(Some(Box::new(Part::rejected_of(3)))));
    rig.ends();
    let pause = pausing(&rig);
    assert_eq!(rig.done("gate", pause), "forget audit:paused rejected [speaking] ?say");
}

#[test]
fn sound_that_is_torn_ends_a_command_and_says_so() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    assert_eq!(rig.hears(Detection::Lost { pos: FramePos(300) }), "forget [idle] error");
    // Nobody had begun to speak.
    assert_eq!(rig.hears(Detection::Lost { pos: FramePos(300) }), "forget [idle]");
    rig.is_well_afterwards();
}

#[test]
fn words_with_a_hole_in_them_are_not_answered() {
    let mut rig = Rig::new();
    rig.wake();
    rig.whole = false;
    rig.begins();
    rig.ends();
    assert_eq!(rig.well("gate"), "forget error [speaking] ?say");
    rig.settle();
    rig.whole = true;
    rig.is_well_afterwards();
}

#[test]
fn two_people_in_one_utterance_are_answered_one_after_the_other_and_a_third_hears_why_not() {
    let mut rig = Rig::new();
    rig.says();
    let parts = vec![
        part(Part::verified_of(1, 1.0), 8_000, 16_000),
        part(Part::verified_of(2, 1.0), 16_000, 32_000),
        part(uncertain(), 0, 8_000),
    ];
    rig.done("voices", Done::Voices(Ok(parts)));
    assert_eq!(rig.well("person"), "uncount audit:verified verified -words ?own");
    assert_eq!(rig.well("own"), "transcript [thinking] ?answer");
    rig.well("answer");
    assert_eq!(rig.well("say"), "?person");
    assert_eq!(rig.well("person"), "uncount audit:verified verified ?own");
    rig.well("own");
    rig.well("answer");
    assert_eq!(rig.well("say"), "audit:dropped dropped [speaking] ?say");
    assert_eq!(rig.well("say"), "window:FollowUp [follow_up]");
    let spoken = |name: &str| {
        rig.events.iter().any(|e| matches!(&e.what, What::Verified { user, .. } if user == name))
    };
    assert!(spoken("1") && spoken("2"));
}

#[test]
fn a_person_whose_own_sound_is_too_short_is_not_transcribed() {
    let mut rig = Rig::new();
    rig.says();
    let parts = vec![part(Part::verified_of(1, 1.0), 0, 12_000), part(Part::rejected_of(3), 12_000, 32_000)];
    rig.done("voices", Done::Voices(Ok(parts)));
    let told = rig.well("person");
    assert_eq!(told, "uncount audit:verified verified -words rejected audit:dropped dropped ?apart");
}

#[test]
fn a_pin_stands_in_for_a_voice_that_is_nobodys_and_not_for_two_at_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.pin(), "?pin");
    assert_eq!(rig.well("pin"), "pin =done");
    rig.wake();
    rig.begins();
    rig.ends();
    rig.done("gate", granted("anna"));
    assert_eq!(rig.done("voices", rejected()), "audit:pin accepted");
    assert_eq!(rig.well("words"), "transcript [thinking] ?answer");
    let Job::Answer { user, confidence: None, .. } = &rig.jobs[0].1 else { panic!() };
    assert_eq!(user.name, "anna");
    rig.settle();

    rig.wake();
    rig.begins();
    rig.ends();
    rig.done("gate", granted("anna"));
    let mut two = Part::rejected_of(3);
    two.verdict = Verdict::MultipleSpeakers { confidence: 0.9, net_speech_s: 2.0, other_s: 1.0 };
    let refused = rig.done("voices", Done::Voices(Ok(vec![two])));
    assert!(refused.starts_with("-words forget") && refused.contains("rejected"), "{refused}");
}

#[test]
fn no_first_look_is_taken_while_a_pin_counts() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    rig.so_far();
    assert_eq!(rig.done("gate", granted("anna")), "");
}

#[test]
fn a_pin_that_is_given_in_the_middle_of_a_command_holds_the_command_up_and_not_down() {
    let mut rig = Rig::new();
    rig.wake();
    rig.begins();
    assert_eq!(rig.pin(), "?pin");
    assert_eq!(rig.ends(), "", "the PIN may count for it");
    assert_eq!(rig.well("pin"), "pin =done [verifying] speech_end ?gate");
    rig.settle();
    assert_eq!(rig.count("stored"), 1);
}

#[test]
fn a_pin_is_not_looked_at_where_none_are_taken() {
    for policy in [Policy { pin_valid_s: 0, ..POLICY }, Policy { verify: false, ..POLICY }] {
        assert_eq!(Rig::with(policy).pin(), "=switched_off");
    }
}

#[test]
fn everyone_is_answered_where_voices_are_not_verified() {
    let mut rig = Rig::with(Policy { verify: false, ..POLICY });
    rig.wake();
    rig.begins();
    assert_eq!(rig.so_far(), "");
    assert_eq!(rig.ends(), "[verifying] speech_end ?anonymous ?words");
    assert_eq!(rig.well("anonymous"), "");
    assert_eq!(rig.well("words"), "transcript [thinking] ?answer");
    rig.settle();
    assert_eq!(rig.count("stored"), 1);
}

#[test]
fn without_a_recogniser_voices_are_told_apart_and_nothing_is_said() {
    let mut rig = Rig::with(Policy { transcribes: false, ..POLICY });
    rig.wake();
    assert_eq!(rig.begins(), "[listening] forget speech_start ");
    rig.ends();
    assert_eq!(rig.well("gate"), "?voices");
    rig.well("voices");
    assert_eq!(rig.well("person"), "uncount audit:verified verified ?apart");
}

#[test]
fn speech_without_words_is_no_command() {
    let mut rig = Rig::new();
    rig.until(&["voices", "person"]);
    assert_eq!(rig.done("words", super::words(" ")), "rejected ?apart");
}

#[test]
fn failures_of_each_stage_are_told_and_the_next_command_is_heard() {
    let broken = || "it is broken".to_owned();
    let stages: [(&[&str], &str, Done, &str); 4] = [
        (
            &[],
            "voices",
            Done::Voices(Err(broken())),
            "-words forget voice! audit:failed error [speaking] ?say",
        ),
        (
            &["voices"],
            "person",
            Done::Person(Err(broken())),
            "audit:failed -words forget error [speaking] ?say",
        ),
        (&["voices", "person"], "words", Done::Words(Err(broken())), "error [speaking] ?say"),
        (
            &["voices", "person", "words", "answer"],
            "say",
            Done::Spoken(Err(broken())),
            "error window:FollowUp [follow_up]",
        ),
    ];
    for (before, job, done, expected) in stages {
        let mut rig = Rig::new();
        rig.until(before);
        assert_eq!(rig.done(job, done), expected, "{job}");
        rig.settle();
        rig.is_well_afterwards();
    }
}

#[test]
fn an_answer_that_is_not_stored_is_no_stored_turn() {
    use crate::dialogue::DialogueError;
    use crate::memory::MemoryError;
    use crate::pipeline::answer::Sentence;
    for acts in [false, true] {
        let mut rig = Rig::new();
        rig.until(&["voices", "person", "words"]);
        let source = MemoryError::NotFound { what: "conversation", which: String::new() };
        let error = DialogueError::NotStored { reply: "It is noon.".to_owned(), acts, source };
        let answered = Done::Answered { result: Err(error), took: Duration::ZERO };
        assert_eq!(rig.done("answer", answered), "reply error [speaking] ?say");
        let Job::Say(sentence) = &rig.jobs[0].1 else { panic!() };
        assert!(matches!(sentence, Sentence::Notice(_)), "nothing is stored");
        assert_eq!(sentence.as_str().contains("It is noon."), !acts, "{sentence:?}");
        rig.settle();
        assert_eq!(rig.count("stored"), 0);
    }
}

#[test]
fn while_the_memory_is_missing_whoever_is_not_answered_hears_why() {
    let mut rig = Rig::new();
    rig.says();
    rig.done("voices", rejected());
    assert_eq!(rig.done("apart", Done::Apart(true)), "reply [speaking] ?say");
    assert_eq!(rig.well("say"), "[idle]");
}

#[test]
fn detections_and_commands_of_a_turn_wait_for_its_end_in_their_order() {
    let mut rig = Rig::new();
    rig.until(&["voices"]);
    assert_eq!(rig.wake(), "");
    assert_eq!(rig.begins(), " ");
    assert_eq!(rig.pin(), "");
    assert!(!rig.machine.takes_request(), "one waits");
    rig.well("person");
    rig.well("words");
    rig.well("answer");
    assert_eq!(rig.well("say"), "window:FollowUp [follow_up] ?pin");
    assert_eq!(rig.well("pin"), "pin =done [listening] wake [listening] forget speech_start feed");
}

#[test]
fn sound_that_waits_is_bounded() {
    let mut rig = Rig::new();
    rig.until(&[]);
    let mut taken = 0;
    while rig.machine.takes_sound() {
        rig.hears(Detection::Speech { raw: vec![0.1; 160] });
        taken += 1;
    }
    assert_eq!(taken, super::super::MOST_WAITING);
}

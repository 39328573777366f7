//! Whole turns on a real memory, in the words that recognisers make of people.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use jiff::tz::TimeZone;

use super::*;
use crate::clock::Clock;
use crate::config::Live;
use crate::memory::{Device, Kind, Role, UserId};
use crate::store::StoreOptions;

struct Home {
    dialogue: Dialogue,
    folder: tempfile::TempDir,
    anna: User,
}

impl Home {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let memory = open(folder.path()).await;
        let anna = memory.add_user("Anna").await.unwrap();
        Self { dialogue: dialogue(memory), folder, anna }
    }

    async fn turn(&self, user: &User, select: Select, text: &str) -> TurnOutcome {
        self.dialogue.turn(user, select, text, TurnMeta::default()).await.unwrap()
    }

    async fn say(&self, text: &str) -> String {
        self.turn(&self.anna, Select::Continue, text).await.reply
    }

    async fn restart(&mut self) {
        self.dialogue.memory().close().await;
        self.dialogue = dialogue(open(self.folder.path()).await);
    }

    fn on_disk(&self, word: &str) -> bool {
        std::fs::read_dir(self.folder.path()).unwrap().any(|entry| {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap().to_ascii_lowercase();
            String::from_utf8_lossy(&bytes).contains(word)
        })
    }
}

/// Sunday 2026-11-22, 12:00 UTC.
fn clock() -> Clock {
    Clock::Fixed(Arc::new(AtomicI64::new(1_795_348_800_000)))
}

async fn open(folder: &std::path::Path) -> Memory {
    Memory::open(&folder.join("jarvis.db"), &Device { id: "kitchen".into() }, clock()).await.unwrap()
}

fn dialogue(memory: Memory) -> Dialogue {
    let builtin = Builtin { time_zone: Some(TimeZone::UTC) };
    Dialogue::new(memory, Responder::Builtin(builtin), Live::default())
}

const POT: &str = "You told me that the spare key is under the blue pot.";

#[tokio::test]
async fn what_one_person_told_is_recalled_after_a_restart_and_by_nobody_else() {
    let mut home = Home::new().await;
    let bob = home.dialogue.memory().add_user("Bob").await.unwrap();
    let told =
        home.turn(&home.anna, Select::Continue, ", remember that the spare key is under the blue pot.").await;
    assert_eq!(told.reply, "I will remember that the spare key is under the blue pot.");
    assert_eq!(told.effects, [Effect::NewConversation]);
    home.restart().await;
    let recalled = home.turn(&home.anna, Select::Continue, "What do you remember about the spare key?").await;
    assert_eq!(recalled.reply, POT);
    assert_eq!((recalled.conversation_id, recalled.seq), (told.conversation_id, 3));
    let refused = home.turn(&bob, Select::Continue, "what do you remember about the spare key").await;
    assert_eq!(refused.reply, "You have not told me anything about the spare key that I remember.");
}

#[tokio::test]
async fn recall_understands_what_recognisers_make_of_the_question() {
    let home = Home::new().await;
    home.say("remember that the spare key is under the blue pot").await;
    for question in [
        "what do you remember about the spare key",
        "What do you remember about the spare key?",
        ", what do you remember about the spare key.",
        "uh what do you uh remember about um the spare key please",
        "jarvis what do you remember about the spare key",
        "service what do you remember about the spare key",
        "what you remember about the spare key",
        "what to you remember about the spare keys",
        "what did you remember about spare key",
        "what do you remembered about the spare key",
        "what do you remember bout the spare key",
        "What did I tell you about the spare key?",
        "what did i told you about the spare key",
        "what have I told you about the spare key",
        "what did i say about the key",
        "do you remember the spare key",
        "Do you remember where the spare key is?",
        "do you know where the spare key is",
        "can you tell me what you remember about the spare key",
        "tell me what you know about the spare key",
        "where did I put the spare key",
        "where is the spare key?",
        "remind me about the spare key",
        "what do you remember about the bear key",
        "what did I ask you to remember?",
        "what do you remember",
    ] {
        assert_eq!(home.say(question).await, POT, "{question}");
    }
    for question in ["what do you remember about the car", "where is my passport"] {
        let reply = home.say(question).await;
        assert!(!reply.contains("pot"), "{question}: {reply}");
    }
}

#[tokio::test]
async fn remembering_understands_many_ways_to_ask_for_it() {
    for (text, reply) in [
        (
            "Remember that my sister's birthday is on the 3rd of May.",
            "that your sister's birthday is on the 3rd of May",
        ),
        ("remember my pin is 4711", "that your pin is 4711"),
        ("rember that i am allergic to nuts", "that you are allergic to nuts"),
        ("member that the bins go out on tuesday", "that the bins go out on tuesday"),
        ("hey charvis, remember that it rains", "that it rains"),
        ("please don't forget that I've parked on level 3", "that you have parked on level 3"),
        ("make a note that the code is 7:30", "that the code is 7:30"),
        ("could you remember, um, the milk please", "the milk"),
        ("REMEMBER THAT YOU ARE CALLED JARVIS", "that I am CALLED JARVIS"),
        ("keep in mind that Bob hates cheese!", "that Bob hates cheese!"),
        ("do not forget the milk", "the milk"),
        ("Do not forget that the oven is on", "that the oven is on"),
        ("never forget my birthday", "your birthday"),
        ("don't let me forget that the bins go out", "that the bins go out"),
        ("remember that Anna likes 🍓", "that Anna likes 🍓"),
    ] {
        let home = Home::new().await;
        let end = if reply.ends_with('!') { "" } else { "." };
        assert_eq!(home.say(text).await, format!("I will remember {reply}{end}"), "{text}");
        let notes = home.dialogue.memory().notes(home.anna.id, 5).await.unwrap();
        assert_eq!(notes.len(), 1, "{text}");
        assert_eq!(notes[0].text, text);
    }
    for text in [
        "I remember that day well",
        "she said I must remember that song",
        "do you remember that song",
        "remember",
    ] {
        let home = Home::new().await;
        home.say(text).await;
        assert!(home.dialogue.memory().notes(home.anna.id, 5).await.unwrap().is_empty(), "{text}");
    }
}

#[tokio::test]
async fn the_newest_statement_comes_first_and_plain_talk_is_recalled_too() {
    let home = Home::new().await;
    home.say("remember that the key is in the drawer").await;
    home.say("remember that the key is in the car").await;
    home.say("my dentist appointment is on friday").await;
    assert_eq!(
        home.say("what do you remember about the key").await,
        "You told me that the key is in the car. You also told me that the key is in the drawer."
    );
    assert_eq!(
        home.say("when is my dentist appointment").await,
        "You told me that your dentist appointment is on friday."
    );
    home.say("remind me to call mum").await;
    assert_eq!(home.say("what did i tell you about mum").await, "You asked me to remember to call mum.");
}

#[tokio::test]
async fn small_talk_time_and_help_are_answered() {
    let home = Home::new().await;
    for (text, reply) in [
        ("What time is it?", "It is 12:00 PM."),
        ("what's the time please", "It is 12:00 PM."),
        ("tell me the time", "It is 12:00 PM."),
        ("uh, what time is it now", "It is 12:00 PM."),
        ("what time is it, Jarvis?", "It is 12:00 PM."),
        ("do you know what time it is", "It is 12:00 PM."),
        ("what day is it", "It is Sunday, the 22nd of November 2026."),
        ("What is today's date?", "It is Sunday, the 22nd of November 2026."),
        ("what's the date today", "It is Sunday, the 22nd of November 2026."),
        ("which day is it today", "It is Sunday, the 22nd of November 2026."),
        ("what is the time and date", "It is 12:00 PM on Sunday, the 22nd of November 2026."),
        ("Who am I?", "You are Anna."),
        ("what's my name", "You are Anna."),
        ("do you know who i am", "You are Anna."),
        ("hello", "Hello Anna."),
        ("good morning jarvis", "Hello Anna."),
        ("thank you very much", "You are welcome."),
        ("thanks", "You are welcome."),
        ("good night", "Goodbye Anna."),
        ("never mind", "All right."),
        (
            "remember that",
            "Please say what I should remember, such as: remember that the key is under the pot.",
        ),
        ("forget both", "Please say what I should forget."),
        ("forget them all", "Please say what I should forget."),
        ("", "I did not hear any words."),
        ("...", "I did not hear any words."),
        (
            "forget everything about me",
            "That would delete everything you ever told me, so a voice is not enough. Whoever looks after \
             me can do it for you.",
        ),
        ("what is the capital of france", "I do not know that. If you tell me to remember it, I will."),
        ("the weather is nice", "I heard you. Say help to hear what I can do."),
        ("what did we talk about", "You told me that the weather is nice."),
    ] {
        assert_eq!(home.say(text).await, reply, "{text}");
    }
    assert!(home.say("help").await.starts_with("You can say: remember that"));
    assert!(home.say("what can you do").await.starts_with("You can say: remember that"));
}

#[tokio::test]
async fn what_we_talked_about_reaches_back_to_the_conversation_before() {
    let home = Home::new().await;
    assert_eq!(home.say("what did we talk about").await, "We have not talked about anything yet.");
    home.say("remember that the roof leaks").await;
    home.turn(&home.anna, Select::New, "hello").await;
    for question in
        ["what did we talk about last time", "what were we talking about", "What have we discussed?"]
    {
        assert_eq!(home.say(question).await, "You told me that the roof leaks.", "{question}");
    }
}

#[tokio::test]
async fn forget_that_removes_the_last_statement_and_what_was_made_from_it() {
    for order in ["forget that", "Forget that.", "please forget it", "delete that", "forget what I just said"]
    {
        let home = Home::new().await;
        home.say("remember that the milk is sour").await;
        home.say("remember that the qwkey is under the pot").await;
        home.say("where is the qwkey").await;
        home.say("what time is it").await;
        assert!(home.on_disk("qwkey"));
        let forgot = home.turn(&home.anna, Select::Continue, order).await;
        assert_eq!(
            forgot.reply,
            "I have forgotten that the qwkey is under the pot. For 10 minutes, while we go on talking, undo \
             that brings it back.",
            "{order}"
        );
        assert_eq!(forgot.effects, [Effect::Forgot { messages: 4 }], "{order}");
        assert!(!home.on_disk("qwkey"), "{order}");
        assert_eq!(home.say("what do you remember").await, "You told me that the milk is sour.");
    }
    let home = Home::new().await;
    assert_eq!(home.say("forget that").await, "There is nothing in this conversation to forget.");
}

#[tokio::test]
async fn forget_that_after_an_answer_with_several_statements_asks_which() {
    let home = Home::new().await;
    home.say("remember that the key is in the drawer").await;
    home.say("remember that the key is in the car").await;
    home.say("what do you remember about the key").await;
    let asked = home.turn(&home.anna, Select::Continue, "forget that").await;
    assert_eq!((asked.effects.as_slice(), asked.reply.contains("which one")), ([].as_slice(), true));
    let forgot = home.turn(&home.anna, Select::Continue, "the second one").await;
    assert!(forgot.reply.starts_with("I have forgotten that the key is in the "), "{}", forgot.reply);
    assert!(
        home.say("what do you remember about the key")
            .await
            .starts_with("You told me that the key is in the ")
    );
}

/// Two keys, and the question which of them to forget.
async fn asked_which(order: &str) -> Home {
    let home = Home::new().await;
    home.say("remember that the qwbike key is in the drawer").await;
    home.say("remember that the qwcar key is under the pot").await;
    home.say("remember that the milk is sour").await;
    let asked = home.turn(&home.anna, Select::Continue, order).await;
    assert_eq!(
        asked.reply,
        "I know two things about the key: that the qwcar key is under the pot, and that the qwbike key is in \
         the drawer. Tell me which one I shall forget, or both."
    );
    assert!(asked.effects.is_empty());
    home
}

#[tokio::test]
async fn what_could_mean_several_things_is_asked_about_and_the_next_turn_answers() {
    for (order, answer, gone, kept) in [
        ("forget the key", "the first one", "qwcar", "qwbike"),
        ("forget about the key", "the second", "qwbike", "qwcar"),
        ("please delete the key", "the one in the drawer", "qwbike", "qwcar"),
        ("forget what I told you about the key", "forget the one under the pot", "qwcar", "qwbike"),
    ] {
        let home = asked_which(order).await;
        let forgot = home.turn(&home.anna, Select::Continue, answer).await;
        assert!(
            forgot.reply.starts_with(&format!("I have forgotten that the {gone} key is ")),
            "{}",
            forgot.reply
        );
        assert!(!home.on_disk(gone) && home.on_disk(kept), "{order}, {answer}");
        assert!(home.say("what do you remember about the key").await.contains(kept));
    }
    let home = asked_which("forget the key").await;
    let both = home.turn(&home.anna, Select::Continue, "both of them").await;
    assert!(both.reply.starts_with("I have forgotten two things: "), "{}", both.reply);
    assert!(!home.on_disk("qwcar") && !home.on_disk("qwbike"));
    assert_eq!(home.say("what do you remember").await, "You told me that the milk is sour.");
    let home = asked_which("forget the key").await;
    assert_eq!(home.say("neither").await, "All right, I forget nothing.");
    assert!(home.on_disk("qwcar") && home.on_disk("qwbike"));
    // Agreement chooses nothing: the question stays.
    for (answer, then) in [("yes", "both"), ("yeah", "all"), ("Yes, please.", "the first one")] {
        let home = asked_which("forget the key").await;
        for _ in 0..2 {
            let again = home.turn(&home.anna, Select::Continue, answer).await;
            assert!(again.reply.contains("Tell me which one I shall forget, or both."), "{}", again.reply);
            assert!(again.effects.is_empty() && home.on_disk("qwcar"), "{answer}");
        }
        home.say(then).await;
        assert!(!home.on_disk("qwcar"), "{answer}, {then}");
        assert_eq!(home.on_disk("qwbike"), then == "the first one", "{answer}, {then}");
    }
    // Another subject is no answer, and afterwards nothing is asked any more.
    let home = asked_which("forget the key").await;
    assert_eq!(home.say("what time is it").await, "It is 12:00 PM.");
    assert_eq!(home.say("both").await, "I heard you. Say help to hear what I can do.");
    assert!(home.on_disk("qwcar") && home.on_disk("qwbike"));
}

#[tokio::test]
async fn a_forgetting_is_undone_within_its_conversation_and_its_time() {
    let clock = crate::clock::DrivenClock::new("boot", 1_795_348_800_000, true);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let open = async || {
        let device = Device { id: "kitchen".into() };
        dialogue(Memory::open(&path, &device, Clock::Driven(clock.clone())).await.unwrap())
    };
    let home =
        Home { anna: open().await.memory().add_user("Anna").await.unwrap(), dialogue: open().await, folder };
    home.say("remember that the milk is sour").await;
    home.say("remember that the qwkey is under the pot").await;
    let recalled = home.say("what do you remember about the qwkey").await;
    assert_eq!(
        home.turn(&home.anna, Select::Continue, "forget the qwkey").await.effects,
        [Effect::Forgot { messages: 4 }]
    );
    assert!(!home.on_disk("qwkey"));
    clock.pass(9 * 60_000);
    let back = home.turn(&home.anna, Select::Continue, "undo that").await;
    assert_eq!(back.reply, "I remember it again: that the qwkey is under the pot.");
    assert_eq!(back.effects, [Effect::BroughtBack { messages: 4 }]);
    assert_eq!(home.say("what do you remember about the qwkey").await, recalled);
    let search = home.dialogue.memory().search(home.anna.id, "qwkey", None, None, 50).await.unwrap();
    assert!(search.items.len() >= 4, "{search:?}");
    // Only once.
    assert!(home.say("bring it back").await.starts_with("There is nothing that I can bring back."));
    // The answer that told of it goes with it.
    home.say("forget the qwkey").await;
    clock.pass(11 * 60_000);
    assert!(home.say("undo that").await.starts_with("There is nothing that I can bring back."));
    assert!(!home.on_disk("qwkey"));
    assert_eq!(keys_of(&home), 0);
    // Another conversation ends it.
    home.say("remember that the qwkey is gone").await;
    home.say("forget that").await;
    assert_eq!(keys_of(&home), 1);
    let first = home.turn(&home.anna, Select::New, "hello").await;
    assert_eq!(first.seq, 1);
    assert_eq!(keys_of(&home), 0);
    assert!(home.say("undo the last forgetting").await.starts_with("There is nothing"));
    // A restart within the time does not, another boot does.
    home.say("remember that the qwkey is back").await;
    home.say("forget that").await;
    let mut home = Home { dialogue: open().await, ..home };
    assert_eq!(home.say("undo").await, "I remember it again: that the qwkey is back.");
    home.say("forget the qwkey").await;
    let later = crate::clock::DrivenClock::new("another boot", 1_795_348_900_000, true);
    let device = Device { id: "kitchen".into() };
    home.dialogue = dialogue(Memory::open(&path, &device, Clock::Driven(later)).await.unwrap());
    assert_eq!(keys_of(&home), 0);
    assert!(home.say("undo").await.starts_with("There is nothing"));
    assert!(!home.on_disk("qwkey"));
}

/// Key files of the things that can still be undone.
fn keys_of(home: &Home) -> usize {
    let names = std::fs::read_dir(home.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().contains(".undo-")).count()
}

#[tokio::test]
async fn names_of_conversations_come_back_too_and_a_person_takes_what_could_be_undone_along() {
    let home = Home::new().await;
    let memory = home.dialogue.memory();
    let talk =
        home.turn(&home.anna, Select::Continue, "remember that the qwboat is blue").await.conversation_id;
    memory.rename_conversation(home.anna.id, talk, "My qwboat").await.unwrap();
    home.say("forget everything about the qwboat").await;
    assert_ne!(memory.conversation(home.anna.id, talk).await.unwrap().title, "My qwboat");
    home.say("undo that").await;
    let back = memory.conversation(home.anna.id, talk).await.unwrap();
    assert_eq!((back.title.as_str(), back.messages), ("My qwboat", 6));
    home.say("forget everything about the qwboat").await;
    memory.delete_user(home.anna.id).await.unwrap();
    assert_eq!(keys_of(&home), 0);
    assert!(!home.on_disk("qwboat"));
}

#[tokio::test]
async fn nothing_is_said_to_be_forgotten_that_was_not_there() {
    let home = Home::new().await;
    home.say("what do you remember about the qwboat").await;
    let forgot = home.turn(&home.anna, Select::Continue, "forget the qwboat").await;
    assert!(forgot.reply.starts_with("You have told me nothing about the qwboat."), "{}", forgot.reply);
    assert_eq!(forgot.effects, [Effect::Forgot { messages: 2 }]);
    assert!(!home.on_disk("qwboat"));
    home.say("remember that the conversation was long").await;
    for order in ["delete this conversation", "forget our conversation", "forget everything we talked about"]
    {
        let refused = home.turn(&home.anna, Select::Continue, order).await;
        assert!(
            refused.effects.is_empty() && refused.reply.contains("jarvisd conversation delete"),
            "{order}"
        );
    }
}

#[tokio::test]
async fn forget_everything_about_a_topic_leaves_no_trace_of_it_not_even_in_the_order() {
    for order in [
        "forget everything about the qwkey",
        "Forget everything I told you about the qwkey.",
        "delete all you know about the qwkey",
        "jarvis please forget whatever you remember about my qwkey",
    ] {
        let home = Home::new().await;
        let bob = home.dialogue.memory().add_user("Bob").await.unwrap();
        home.say("remember that the qwkey is under the pot").await;
        home.turn(&home.anna, Select::New, "the qwkey is rusty by the way").await;
        home.say("what do you remember about the qwkey").await;
        home.say("remember that the milk is sour").await;
        home.turn(&bob, Select::New, "remember that qw is my initial").await;
        let forgot = home.turn(&home.anna, Select::Continue, order).await;
        assert!(
            forgot.reply.starts_with(
                "I have forgotten two things: that the qwkey is rusty by the way, and that the qwkey is \
                 under the pot. For 10"
            ),
            "{order}: {}",
            forgot.reply
        );
        assert_eq!(forgot.effects, [Effect::Forgot { messages: 6 }], "{order}");
        assert!(!home.on_disk("qwkey"), "{order}");
        assert_eq!(home.say("what do you remember").await, "You told me that the milk is sour.");
        let again = home.turn(&home.anna, Select::Continue, order).await;
        assert_eq!((again.reply.as_str(), again.effects), ("I remember nothing about that.", vec![]));
    }
}

#[tokio::test]
async fn conversations_continue_end_and_are_chosen_by_id() {
    let home = Home::new().await;
    let first = home.turn(&home.anna, Select::Continue, "hello").await;
    let same = home.turn(&home.anna, Select::Continue, "hello").await;
    assert_eq!((same.conversation_id, same.effects.len()), (first.conversation_id, 0));
    for order in
        ["new conversation", "start a new conversation please", "let's start over", "Begin a fresh chat."]
    {
        let new = home.turn(&home.anna, Select::Continue, order).await;
        assert_eq!((new.seq, new.effects.as_slice()), (1, [Effect::NewConversation].as_slice()), "{order}");
        assert_eq!(
            home.turn(&home.anna, Select::Continue, "hello").await.conversation_id,
            new.conversation_id
        );
    }
    let back = home.turn(&home.anna, Select::Id(first.conversation_id), "hello").await;
    assert_eq!((back.conversation_id, back.seq), (first.conversation_id, 5));
    let bob = home.dialogue.memory().add_user("Bob").await.unwrap();
    let stolen =
        home.dialogue.turn(&bob, Select::Id(first.conversation_id), "hello", TurnMeta::default()).await;
    assert!(matches!(stolen, Err(DialogueError::Memory(MemoryError::NotFound { .. }))), "{stolen:?}");
}

#[tokio::test]
async fn a_clock_that_was_never_set_is_admitted() {
    let home = Home::new().await;
    let at = crate::clock::Stamp { wall_unix_ms: 5, synced: false, boot_id: "b".into(), monotonic_ns: 1 };
    let meta = TurnMeta { at: Some(at), ..TurnMeta::default() };
    let turn = home.dialogue.turn(&home.anna, Select::Continue, "what time is it", meta).await.unwrap();
    assert_eq!(turn.reply, "I do not know the time yet: my clock has not been set.");
}

#[tokio::test]
async fn with_a_full_disk_the_answer_is_there_and_said_not_to_be_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jarvis.db");
    let device = Device { id: "kitchen".into() };
    let small = StoreOptions { max_bytes: Some(90 * 4096), ..StoreOptions::default() };
    let memory = Memory::open_with(&path, &device, clock(), &small).await.unwrap();
    let anna = memory.add_user("Anna").await.unwrap();
    let dialogue = dialogue(memory);
    let long = format!("remember that {}", "the wall is very long ".repeat(100));
    let error = loop {
        if let Err(e) = dialogue.turn(&anna, Select::Continue, &long, TurnMeta::default()).await {
            break e;
        }
    };
    let DialogueError::NotStored { reply, source, .. } = &error else { panic!("{error:?}") };
    assert!(reply.starts_with("I will remember") && source.is_disk_full());
    assert!(!format!("{error:?} {error}").contains("wall"), "an error must not carry what was said");
    let read = dialogue.memory().notes(anna.id, 1).await.unwrap();
    assert_eq!(read.len(), 1);
}

#[tokio::test]
async fn any_text_gets_an_answer_without_markup() {
    let home = Home::new().await;
    let mut texts: Vec<String> = vec![
        "\0".into(),
        "remember that \u{202e}🙂\u{0}".into(),
        "forget everything about \"*\"".into(),
        "what do you remember about ' OR 1=1 --".into(),
        "what do you remember about it".into(),
        "열쇠는 화분 아래에 있다고 기억해".into(),
        "remember that".into(),
        "forget".into(),
        "'’'’".into(),
        "do you".into(),
        "a ".repeat(20_000),
    ];
    // Every beginning of a sentence that has an effect, as a cut-off recording gives it.
    for sentence in [
        "remember that the key is here",
        "what do you remember about the key",
        "forget everything about the key",
    ] {
        texts.extend((0..sentence.len()).map(|end| sentence[..end].to_owned()));
    }
    for text in texts {
        let reply = home.say(&text).await;
        assert!(!reply.is_empty() && !reply.contains(['*', '_', '<', '#', '`', '\n']), "{text:?}: {reply}");
    }
}

#[tokio::test]
async fn questions_to_the_memory_are_stored_as_such() {
    let home = Home::new().await;
    let turn = home.turn(&home.anna, Select::Continue, "what do you remember about the key").await;
    let history = home.dialogue.memory().history(home.anna.id, turn.conversation_id, None, 2).await.unwrap();
    assert_eq!((history[0].role, history[0].kind), (Role::User, Kind::Ask));
    assert!(
        home.dialogue
            .memory()
            .history(UserId(uuid::Uuid::nil()), turn.conversation_id, None, 2)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn turns_and_memory_can_run_in_tasks_of_the_supervisor() {
    fn can_be_spawned<F: Future + Send>(future: F) -> F {
        future
    }
    let home = Home::new().await;
    let memory = home.dialogue.memory();
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    can_be_spawned(memory.maintain(stop, 365)).await;
    can_be_spawned(memory.export_user(home.anna.id)).await.unwrap();
    can_be_spawned(memory.delete_voiceprint(home.anna.id)).await.unwrap_err();
    can_be_spawned(home.dialogue.turn(&home.anna, Select::Continue, "hello", TurnMeta::default()))
        .await
        .unwrap();
    let other = home.folder.path().join("other.db");
    can_be_spawned(Memory::open(&other, &Device { id: "k".into() }, clock())).await.unwrap();
}

#[tokio::test]
async fn what_we_talked_about_reaches_behind_the_window_of_a_long_conversation() {
    let home = Home::new().await;
    let first = home.say("remember that the roof leaks").await;
    for n in 0..150 {
        home.say(&format!("what do you remember about number {n} of the list that I gave you")).await;
    }
    assert_eq!(first, "I will remember that the roof leaks.");
    let window = {
        let id = home.turn(&home.anna, Select::Continue, "hello").await.conversation_id;
        home.dialogue.memory().window(home.anna.id, id, crate::memory::WINDOW_TOKENS).await.unwrap()
    };
    assert!(window.messages.iter().all(|m| m.seq > 1) && window.summary.contains("the roof leaks"));
    assert_eq!(home.say("what did we talk about").await, "You told me that the roof leaks.");
    // The answer was made from the note, so forgetting the note takes it along.
    home.say("forget everything about the roof").await;
    assert!(!home.on_disk("the roof leaks"));
}

#[tokio::test]
async fn a_session_stays_one_conversation() {
    let home = Home::new().await;
    let session = || Select::Session(crate::memory::SessionId::new("tablet").unwrap());
    let first = home.turn(&home.anna, session(), "remember that the roof leaks").await;
    assert_eq!(first.effects, [Effect::NewConversation]);
    home.turn(&home.anna, Select::New, "hello").await;
    let second = home.turn(&home.anna, session(), "what did we talk about").await;
    assert_eq!(
        (second.conversation_id, second.reply.as_str()),
        (first.conversation_id, "You told me that the roof leaks.")
    );
    let third = home.turn(&home.anna, session(), "new conversation").await;
    assert_eq!((third.conversation_id, third.effects.len()), (first.conversation_id, 0));
    assert!(third.reply.contains("stays one conversation"));
}

#[tokio::test]
async fn a_conversation_of_another_device_is_refused_before_anything_is_thought_about() {
    let home = Home::new().await;
    let here = home.turn(&home.anna, Select::Continue, "hello").await.conversation_id;
    let path = home.folder.path().join("jarvis.db");
    let other = Memory::open(&path, &Device { id: "bedroom".into() }, clock()).await.unwrap();
    let other = dialogue(other);
    let refused = other.turn(&home.anna, Select::Id(here), "hello", TurnMeta::default()).await;
    assert!(matches!(refused, Err(DialogueError::Memory(MemoryError::OtherHome { .. }))), "{refused:?}");
    let turn = other.turn(&home.anna, Select::Continue, "hello", TurnMeta::default()).await.unwrap();
    assert_ne!(turn.conversation_id, here);
}

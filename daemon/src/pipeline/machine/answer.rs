//! From the known speaker to the end of a turn: the words, the answer, the next person, and the people not
//! answered.

use std::time::Duration;

use serde_json::json;

use super::judge::{Turn, reason_of};
use super::{Act, Doing, Job, Then, TurnMachine};
use crate::dialogue::{DialogueError, NOBODY_IS_KNOWN, TurnOutcome};
use crate::error::chain;
use crate::events::{Attribution, Event, Moment, Reason, What};
use crate::health::{Condition, State};
use crate::memory::{MemoryError, User};
use crate::pipeline::deadline::Stage;
use crate::pipeline::hearing::Window;
use crate::speaker::{Part, Verdict};
use crate::stt::Transcript;
use crate::units::SAMPLE_RATE_HZ;

/// The least length of a command, 0.3 s, that must remain when somebody else is cut out.
const LEAST_OWN_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 3 / 10;

/// The person who is answered: verified, accepted, or anyone where voices are not verified.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) user: User,
    pub(super) whose: Attribution,
    pub(super) confidence: Option<f32>,
}

/// The words of the utterance.
#[derive(Debug)]
pub(super) enum Words {
    /// Nothing is transcribed.
    None,
    Coming,
    Came(Recognised, Duration),
}

/// The result of the recogniser, or the reason why it was given up.
type Recognised = Result<Result<Transcript, String>, String>;

impl TurnMachine {
    /// Words may come before the verdict; then they wait for it.
    pub(super) fn keep_words(&mut self, turn: &mut Turn, words: Recognised) {
        turn.words = Words::Came(words, self.now.at.duration_since(turn.asked));
    }

    /// Waits for the words of the speaker and tells them.
    pub(super) fn transcribe(&mut self, mut turn: Turn, speaker: Speaker) -> Doing {
        match std::mem::replace(&mut turn.words, Words::None) {
            Words::None => self.next_person(turn),
            Words::Coming => {
                turn.words = Words::Coming;
                Doing::Transcribing(turn, speaker)
            }
            Words::Came(words, took) => self.understood(turn, speaker, words, took),
        }
    }

    /// Transcribes the person's own part: words of somebody else are dropped.
    pub(super) fn transcribe_own(&mut self, mut turn: Turn, speaker: Speaker, part: &Part) -> Doing {
        self.give_up_all();
        turn.words = Words::None;
        if !self.policy.transcribes {
            return self.next_person(turn);
        }
        let own = part.sound(&turn.raw, turn.command_start);
        if own.len() < LEAST_OWN_SAMPLES {
            self.reject(turn.moment(), Reason::MultipleSpeakers, None);
            return self.next_person(turn);
        }
        turn.words = Words::Coming;
        turn.asked = self.now.at;
        self.start(Job::OwnWords(own));
        Doing::Transcribing(turn, speaker)
    }

    fn understood(&mut self, turn: Turn, speaker: Speaker, words: Recognised, took: Duration) -> Doing {
        let transcript = match words {
            Ok(Ok(transcript)) => transcript,
            Ok(Err(why)) => return self.not_understood(turn, why),
            Err(why) => {
                self.acts.push(Act::Forget);
                let sentence =
                    format!("what is said is not understood: {why}; if this goes on, restart the service");
                self.acts.push(Act::Health("stt", Condition::degraded(sentence)));
                return self.not_understood(turn, why);
            }
        };
        self.acts.push(Act::Health("stt", Condition::Ok));
        let Transcript { text, engine, .. } = transcript;
        if text.trim().is_empty() {
            self.reject(turn.moment(), Reason::NoWords, Some(took));
            return self.next_person(turn);
        }
        self.emit_after(Some(took), turn.moment(), What::transcript(speaker.whose, &text, engine));
        self.acts.push(Act::Show(State::Thinking));
        let (user, confidence) = (speaker.user.clone(), speaker.confidence);
        self.start(Job::Answer { user, text, engine, confidence });
        Doing::Answering(turn, speaker)
    }

    fn not_understood(&mut self, turn: Turn, why: String) -> Doing {
        self.trouble(turn.moment(), Stage::Transcribe.name(), why);
        let sentence = "I could not understand that. Please say it again.";
        self.say(turn.moment().turn, sentence, Then::NextPerson(turn))
    }

    /// The answer is stored, or is not.
    pub(super) fn answered(
        &mut self,
        turn: Turn,
        speaker: &Speaker,
        result: Result<TurnOutcome, DialogueError>,
        took: Duration,
    ) -> Doing {
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => return self.not_stored(turn, speaker.whose, error),
        };
        self.acts.push(Act::Health("store", Condition::Ok));
        let (moment, whose) = (turn.moment(), speaker.whose);
        self.emit_after(Some(took), moment, What::reply(whose, &outcome.reply));
        let stored = What::Stored {
            whose,
            conversation_id: outcome.conversation_id.to_string(),
            message_ids: vec![outcome.user_message_id.to_string(), outcome.assistant_message_id.to_string()],
        };
        self.emit_after(Some(took), moment, stored);
        match outcome.unspoken {
            Some(words) => self.say(moment.turn, words, Then::Answered(turn)),
            None => self.said(moment.turn, Then::Answered(turn)),
        }
    }

    /// The answer did not come in time.
    pub(super) fn unanswered(&mut self, turn: Turn, why: String) -> Doing {
        self.trouble(turn.moment(), Stage::Answer.name(), why);
        let sentence = "That took too long. I do not know whether it is remembered, so please ask me again.";
        self.say(turn.moment().turn, sentence, Then::NextPerson(turn))
    }

    /// The disk is full or damaged, or the answer has no end: the person is answered, but not as if the turn
    /// were stored.
    fn not_stored(&mut self, turn: Turn, whose: Attribution, error: DialogueError) -> Doing {
        let why = chain(&error);
        if let DialogueError::Memory(MemoryError::Store(_))
        | DialogueError::NotStored { source: MemoryError::Store(_), .. } = &error
        {
            let sentence =
                format!("what is said cannot be stored ({why}); free some space or check the disk");
            self.acts.push(Act::Health("store", Condition::degraded(sentence)));
        }
        let stage = match error {
            DialogueError::BrokeOff(_) => Stage::Answer,
            _ => Stage::Memory,
        };
        let text = error.answer();
        let moment = turn.moment();
        self.emit(moment, What::reply(whose, &text));
        self.emit(moment, What::Error { stage: stage.name().to_owned(), message: why });
        self.say(moment.turn, text, Then::NextPerson(turn))
    }

    /// The next person to answer, or the report of those who are not.
    pub(super) fn next_person(&mut self, mut turn: Turn) -> Doing {
        if turn.muted && !turn.next.is_empty() {
            turn.next.clear();
            self.reject(turn.moment(), Reason::Muted, None);
        }
        match turn.next.pop_front() {
            Some(part) => self.find(turn, part),
            None => self.tell_dropped(turn),
        }
    }

    /// Reports the parts that were not answered beside a person who was. This is no failure. A likely
    /// enrolled person is asked to say it again.
    fn tell_dropped(&mut self, mut turn: Turn) -> Doing {
        let moment = turn.moment();
        let mut likely = false;
        for part in std::mem::take(&mut turn.dropped) {
            let (reason, confidence) = (reason_of(&part.verdict), part.verdict.confidence());
            let speech_s = part.verdict.net_speech_s();
            let figures =
                json!({ "verdict": part.verdict.name(), "speech_s": speech_s, "confidence": confidence });
            self.audit("dropped", None, Some(figures));
            self.emit(moment, What::Dropped { reason, speech_s, confidence });
            likely |= matches!(part.verdict, Verdict::Uncertain { .. } | Verdict::Ambiguous { .. });
        }
        if !likely {
            return self.finish(turn);
        }
        let sentence = "Somebody else spoke as well, and I am not sure who. Please say that again.";
        self.say(moment.turn, sentence, Then::Close(turn))
    }

    /// Ends a turn: listens for a follow-up, or asks whether the memory is missing. With the memory the
    /// voices are missing, so that nobody can be verified.
    pub(super) fn finish(&mut self, turn: Turn) -> Doing {
        let doing = if turn.follow_up && !self.muted && !self.stopping {
            self.acts.push(Act::OpenWindow(Window::FollowUp, self.policy.follow_up_ms));
            self.acts.push(Act::Show(State::FollowUp));
            Doing::default()
        } else if turn.follow_up || !self.policy.verify {
            self.rest()
        } else {
            self.start(Job::Apart);
            Doing::Closing(turn.moment())
        };
        self.acts.extend([Act::Counted, Act::GiveBack]);
        doing
    }

    /// A speaker hears why nobody is answered while the memory is missing.
    pub(super) fn close(&mut self, moment: Moment, missing: bool) -> Doing {
        if !missing {
            return self.rest();
        }
        self.acts.push(Act::Emit(Event::at(moment, What::reply(Attribution::NOBODY, NOBODY_IS_KNOWN))));
        self.say(moment.turn, NOBODY_IS_KNOWN, Then::Rest)
    }
}

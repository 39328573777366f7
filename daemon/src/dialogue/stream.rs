//! An answer that comes in sentences. The person's words are on the disk before the responder is asked, and
//! each sentence before anybody hears it.

use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::responder::{Piece, RespondError};
use super::{Dialogue, DialogueError, MISSING, Select, TurnContext, TurnOutcome, outcome};
use crate::memory::{Durable, Effects, Ended, MemoryError, OpenTurn, Said, TurnMeta, User};

impl Dialogue {
    /// Answers a turn and passes each sentence on to `aloud`. Of an answer that breaks off the part received
    /// is stored. Dropping the future leaves the turn open; it is closed as cut before the next one.
    pub(super) async fn stream(
        &self,
        user: &User,
        select: &Select,
        text: &str,
        meta: &TurnMeta,
        aloud: Option<&mpsc::Sender<Durable>>,
    ) -> Result<TurnOutcome, DialogueError> {
        let placed = match self.place(user, select, meta).await {
            Err(e) if self.is_mended(&e).await => self.place(user, select, meta).await,
            placed => placed,
        };
        let place = placed.map_err(DialogueError::Memory)?;
        let said = Said { text, responder: self.responder.name(), sources: &[], meta };
        let target = place.target(select, false);
        let opened = self.memory.open_turn(user.id, target, &said).await;
        let mut turn = opened.map_err(DialogueError::Memory)?;
        let context = self.context(user, text, &place);
        let answered = self.pass_on(&context, &mut turn, place.missing, aloud).await;
        // Sentences on the disk stay there, in an open turn; nobody hears more of it.
        let answered = answered.map_err(DialogueError::Memory)?;
        let (ended, effects, failure) = match answered {
            Ok(effects) => (Ended::Complete, effects, None),
            Err(error) => (Ended::Failed, Box::default(), Some(error)),
        };
        let closed = self.memory.close_turn(turn, ended, &effects).await.map_err(DialogueError::Memory)?;
        match failure {
            None => Ok(outcome(closed)),
            Some(error) => Err(error.into()),
        }
    }

    /// Stores the sentences as they come, and passes them on. Returns the effects, or the reason why there
    /// are none.
    async fn pass_on(
        &self,
        context: &TurnContext<'_>,
        turn: &mut OpenTurn,
        missing: bool,
        aloud: Option<&mpsc::Sender<Durable>>,
    ) -> Result<Result<Box<Effects>, RespondError>, MemoryError> {
        let mut pieces = self.responder.respond(context);
        let mut preface = missing;
        while let Some(piece) = pieces.next().await {
            let mut sentence = match piece {
                Ok(Piece::Sentence(sentence)) => sentence,
                Ok(Piece::Done(effects)) => return Ok(Ok(effects)),
                Err(error) => return Ok(Err(error)),
            };
            if std::mem::take(&mut preface) {
                sentence = format!("{MISSING} {sentence}");
            }
            let durable = self.memory.add_sentence(turn, &sentence).await?;
            if let Some(aloud) = aloud {
                // Nobody may listen any more; the answer is stored anyway.
                let _ = aloud.send(durable).await;
            }
        }
        Ok(Err(RespondError::BrokeOff))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::Live;
    use crate::dialogue::Responder;
    use crate::memory::{Device, Kind, Memory, Role};

    const ANSWER: [&str; 3] = ["It is noon.", "The sun stands high.", "Lunch is ready."];

    fn script(sentences: usize, effects: Option<Effects>) -> Vec<Piece> {
        let said = ANSWER[..sentences].iter().map(|sentence| Piece::Sentence((*sentence).to_owned()));
        said.chain(effects.map(|effects| Piece::Done(Box::new(effects)))).collect()
    }

    async fn home(script: Vec<Piece>) -> (tempfile::TempDir, Dialogue, User) {
        let folder = tempfile::tempdir().unwrap();
        let device = Device { id: "kitchen".into() };
        let memory = Memory::open(&folder.path().join("jarvis.db"), &device, Clock::System).await.unwrap();
        let anna = memory.add_user("Anna").await.unwrap();
        let dialogue = Dialogue::new(memory, Responder::Scripted(script), Live::default());
        (folder, dialogue, anna)
    }

    /// The texts of the newest turn, and how its answer ended.
    async fn newest(dialogue: &Dialogue, user: &User) -> (Vec<String>, Option<String>) {
        let memory = dialogue.memory();
        let Some(here) = memory.list_conversations(user.id, None, 1).await.unwrap().items.pop() else {
            return (Vec::new(), None);
        };
        let turn = memory.history(user.id, here.id, None, 2).await.unwrap();
        let meta = turn.iter().find(|m| m.role == Role::Assistant).and_then(|m| m.meta.clone());
        let ended = meta.and_then(|meta| meta.get("ended")?.as_str().map(str::to_owned));
        (turn.into_iter().map(|message| message.text).collect(), ended)
    }

    #[tokio::test]
    async fn each_sentence_is_on_the_disk_before_it_is_passed_on() {
        let effects = Effects { kind: Kind::Ask, ..Effects::default() };
        let (_folder, dialogue, anna) = home(script(3, Some(effects))).await;
        let (aloud, mut heard) = mpsc::channel(1);
        let turn = dialogue.turn_aloud(
            &anna,
            Select::Continue,
            "what time is it",
            TurnMeta::default(),
            Some(&aloud),
        );
        let listen = async {
            for (n, expected) in ANSWER.iter().enumerate() {
                assert_eq!(heard.recv().await.unwrap().as_str(), *expected);
                // At this moment a power cut leaves at least this much.
                let open = dialogue.memory().store().reader().await.unwrap();
                let stored = stored_open(open).await;
                assert!(stored.len() > n && stored[..=n] == ANSWER[..=n], "{n}: {stored:?}");
            }
        };
        let (turn, ()) = tokio::join!(turn, listen);
        let turn = turn.unwrap();
        assert_eq!((turn.reply.as_str(), turn.unspoken), (ANSWER.join(" ").as_str(), None));
        let (texts, ended) = newest(&dialogue, &anna).await;
        assert_eq!((texts, ended), (vec!["what time is it".to_owned(), ANSWER.join(" ")], None));
        let conversation = dialogue.memory().history(anna.id, turn.conversation_id, None, 9).await.unwrap();
        assert_eq!(conversation[0].kind, Kind::Ask);
    }

    /// The sentences of the open turn; if it was closed meanwhile, all of them.
    async fn stored_open(mut reader: sqlx::pool::PoolConnection<sqlx::Sqlite>) -> Vec<String> {
        let sql = "SELECT coalesce((SELECT turn ->> '$.sentences' FROM open_turns),
            (SELECT json_array(text) FROM messages WHERE role = 'assistant'))";
        let json: String = sqlx::query_scalar(sql).fetch_one(&mut *reader).await.unwrap();
        let stored: Vec<String> = serde_json::from_str(&json).unwrap();
        if stored.len() == 1 && stored[0] == ANSWER.join(" ") {
            return ANSWER.map(str::to_owned).to_vec();
        }
        stored
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_stored_as_far_as_it_came_and_said_to_be_broken() {
        for sentences in [0, 2] {
            let (_folder, dialogue, anna) = home(script(sentences, None)).await;
            let broken =
                dialogue.turn(&anna, Select::Continue, "hello", TurnMeta::default()).await.unwrap_err();
            assert!(matches!(broken, DialogueError::BrokeOff(_)), "{broken:?}");
            let (texts, ended) = newest(&dialogue, &anna).await;
            assert_eq!(texts, ["hello".to_owned(), ANSWER[..sentences].join(" ")]);
            assert_eq!(ended.as_deref(), Some("failed"));
        }
    }

    #[tokio::test]
    async fn a_turn_that_is_dropped_in_the_middle_comes_before_the_next_one() {
        let (_folder, mut dialogue, anna) = home(script(3, Some(Effects::default()))).await;
        let (aloud, mut heard) = mpsc::channel(1);
        tokio::select! {
            biased;
            _ = heard.recv() => {}
            _ = dialogue.turn_aloud(&anna, Select::Continue, "first", TurnMeta::default(), Some(&aloud)) => {
                panic!("it is dropped behind its first sentence")
            }
        }
        dialogue.responder = Responder::Scripted(script(1, Some(Effects::default())));
        let next = dialogue.turn(&anna, Select::Continue, "second", TurnMeta::default()).await.unwrap();
        let all = dialogue.memory().history(anna.id, next.conversation_id, None, 9).await.unwrap();
        let words: Vec<&str> = all.iter().map(|message| message.text.as_str()).collect();
        assert_eq!((words[0], words[2], words[3]), ("first", "second", ANSWER[0]));
        assert!(words[1].starts_with(ANSWER[0]), "{words:?}");
        assert_eq!(all[1].meta.as_ref().unwrap()["ended"], "cut");
        assert_eq!(next.seq, 3);
    }

    #[tokio::test]
    async fn a_turn_that_is_forgotten_while_it_is_answered_is_not_spoken_to_its_end() {
        let (_folder, dialogue, anna) = home(script(3, Some(Effects::default()))).await;
        let (aloud, mut heard) = mpsc::channel(ANSWER.len());
        let turn = dialogue.turn_aloud(&anna, Select::New, "hello", TurnMeta::default(), Some(&aloud));
        let forget = async {
            heard.recv().await.unwrap();
            dialogue.memory().delete_user(anna.id).await.unwrap();
        };
        let (turn, ()) = tokio::join!(turn, forget);
        assert!(matches!(turn, Err(DialogueError::Memory(MemoryError::NotFound { .. }))), "{turn:?}");
        let mut more = 0;
        while heard.try_recv().is_ok() {
            more += 1;
        }
        assert!(more < ANSWER.len() - 1, "{more} sentences behind the first one");
    }
}

//! Responders, and the pieces in which an answer comes.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};

use super::builtin::{self, Builtin};
use super::context::{Reply, TurnContext};
use crate::memory::{Effects, MemoryError};

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// To be spoken: no markup.
    Sentence(String),
    /// The end of the answer, and its effects.
    Done(Box<Effects>),
}

/// An answer in its pieces, [`Piece::Done`] last. Dropping it ends the work behind it.
pub type Pieces<'a> = Pin<Box<dyn Stream<Item = Result<Piece, RespondError>> + Send + 'a>>;

/// Why an answer has no end.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
    #[error("the memory could not be read")]
    Memory(#[source] MemoryError),
    #[error("the answer ended before it was whole")]
    BrokeOff,
}

/// The responder that answers. An enum, not a trait: the set is closed, and a language model falls back on
/// the built-in one.
#[derive(Debug, Clone)]
pub enum Responder {
    Builtin(Builtin),
    /// Gives these pieces one by one.
    #[cfg(test)]
    Scripted(Vec<Piece>),
}

impl Responder {
    /// The name under which its answers are stored.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Builtin(_) => builtin::NAME,
            #[cfg(test)]
            Self::Scripted(_) => "scripted",
        }
    }

    /// Whether answers take a while. If so, the words are stored before it is asked, and each sentence by
    /// itself. Otherwise words and answer are one commit.
    pub(super) fn streams(&self) -> bool {
        match self {
            Self::Builtin(_) => false,
            #[cfg(test)]
            Self::Scripted(_) => true,
        }
    }

    /// Answers one turn. Nothing is written here.
    pub(super) fn respond<'a>(&'a self, context: &'a TurnContext<'a>) -> Pieces<'a> {
        match self {
            Self::Builtin(builtin) => {
                Box::pin(stream::once(builtin.respond(context)).flat_map(|reply| stream::iter(pieces(reply))))
            }
            #[cfg(test)]
            Self::Scripted(script) => {
                Box::pin(stream::iter(script.iter().cloned()).then(|piece| async move {
                    tokio::task::yield_now().await;
                    Ok(piece)
                }))
            }
        }
    }

    /// Answers one turn, as a whole.
    pub(super) async fn whole(&self, context: &TurnContext<'_>) -> Result<Reply, RespondError> {
        let mut pieces = self.respond(context);
        let mut sentences = Vec::new();
        while let Some(piece) = pieces.next().await {
            match piece? {
                Piece::Sentence(sentence) => sentences.push(sentence),
                Piece::Done(effects) => return Ok(Reply { text: sentences.join(" "), effects: *effects }),
            }
        }
        Err(RespondError::BrokeOff)
    }
}

fn pieces(reply: Result<Reply, MemoryError>) -> Vec<Result<Piece, RespondError>> {
    match reply {
        Ok(Reply { text, effects }) => vec![Ok(Piece::Sentence(text)), Ok(Piece::Done(Box::new(effects)))],
        Err(error) => vec![Err(RespondError::Memory(error))],
    }
}

//! `jarvisd backup export` and `import`: everybody's conversations, as JSON Lines, one conversation a line.
//!
//! ```text
//!  {"type":"jarvis-export","format":1}
//!  {"type":"person","name":"Anna"}
//!  {"type":"conversation","person":"Anna","id":…,"title":…,"messages":[…]}      the newest first
//!  {"type":"end","people":1,"conversations":1,"messages":2}
//! ```
//!
//! Memory is that of the largest conversation. Besides it only the links of answers made from messages of
//! another conversation are held.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::app::Settings;
use crate::cli::{output, shared_ids_are_known, user_named};
use crate::durable;
use crate::error::{Exit, Failure};
use crate::memory::{ExportedConversation, Imported, Memory, MemoryError, User, UserId};
use crate::plain::without_mark;
use crate::privilege;

const FORMAT: u32 = 1;
/// A conversation of a million messages is below this.
const MAX_LINE_BYTES: u64 = 512 << 20;

#[derive(Debug, clap::Args)]
pub struct Export {
    /// Only this person.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File to write; standard output without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Import {
    /// File that `backup export` wrote; "-" is standard input.
    file: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Written<'a> {
    #[serde(rename = "jarvis-export")]
    Head {
        format: u32,
    },
    Person {
        name: &'a str,
    },
    Conversation {
        person: &'a str,
        #[serde(flatten)]
        conversation: &'a ExportedConversation,
    },
    End(Counts),
}

/// The counts in the last line of an export, of the lines before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Counts {
    people: usize,
    conversations: usize,
    messages: usize,
}

/// A line as it is read first; the conversation itself is read by the memory.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    #[serde(rename = "jarvis-export")]
    Head {
        format: u32,
    },
    Person {
        name: String,
    },
    Conversation {
        person: String,
    },
    End(Counts),
}

#[derive(Debug, Default, Serialize)]
struct Done {
    people_added: usize,
    #[serde(flatten)]
    imported: Imported,
}

pub async fn export(memory: &Memory, args: &Export) -> Result<(), Failure> {
    let people = match &args.user {
        Some(name) => vec![user_named(memory, name).await?],
        None => memory.list_users().await?,
    };
    let Some(path) = &args.out else {
        let written = write_all(memory, &people, BufWriter::new(io::stdout().lock())).await;
        return match written {
            Err(e) if e.broken_pipe => Ok(()),
            written => written.map(drop).map_err(|e| e.failure),
        };
    };
    let made = durable::create_file(path).and_then(|file| privilege::hand_over(&file).map(|()| file));
    let file = made.map_err(|e| {
        let message = format!("{} could not be written; name a file that does not exist yet", path.display());
        Failure::because(Exit::Failed, message, e)
    })?;
    let synced = write_all(memory, &people, BufWriter::new(file)).await.and_then(|written| {
        let file = written.into_inner().map_err(|e| NotWritten::of(e.into_error()))?;
        file.sync_all().and_then(|()| durable::sync_name(path)).map_err(NotWritten::of)
    });
    synced.map_err(|e| {
        // Half an export is none.
        let _ = fs::remove_file(path);
        e.failure
    })
}

#[derive(Debug)]
struct NotWritten {
    failure: Failure,
    broken_pipe: bool,
}

impl NotWritten {
    fn of(error: io::Error) -> Self {
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self {
            failure: Failure::because(Exit::Failed, "the export could not be written", error),
            broken_pipe,
        }
    }
}

impl From<MemoryError> for NotWritten {
    fn from(error: MemoryError) -> Self {
        Self { failure: error.into(), broken_pipe: false }
    }
}

async fn write_all<W: Write>(memory: &Memory, people: &[User], mut to: W) -> Result<W, NotWritten> {
    let mut counts = Counts::default();
    line(&mut to, &Written::Head { format: FORMAT })?;
    for User { id, name, .. } in people {
        line(&mut to, &Written::Person { name })?;
        counts.people += 1;
        memory
            .each_conversation(*id, |conversation| {
                counts.conversations += 1;
                counts.messages += conversation.messages.len();
                line(&mut to, &Written::Conversation { person: name, conversation: &conversation })
            })
            .await?;
    }
    line(&mut to, &Written::End(counts))?;
    to.flush().map_err(NotWritten::of)?;
    Ok(to)
}

fn line(to: &mut impl Write, written: &Written<'_>) -> Result<(), NotWritten> {
    crate::plain::json_to(&mut *to, written).map_err(|e| NotWritten::of(e.into()))?;
    to.write_all(b"\n").map_err(NotWritten::of)
}

pub async fn import(settings: &Settings, memory: &Memory, args: &Import) -> Result<(), Failure> {
    shared_ids_are_known(settings, memory).await?;
    let name = if args.file == Path::new("-") { Path::new("/dev/stdin") } else { &args.file };
    let shown = args.file.display();
    let open =
        File::open(name).map_err(|e| Failure::because(Exit::Data, format!("{shown} cannot be read"), e))?;
    let mut lines =
        Lines { from: BufReader::new(open), number: 0, text: String::new(), shown: shown.to_string() };
    let mut done = Done::default();
    let read = read_all(memory, &mut lines, &mut done).await;
    let Imported { conversations, messages, skipped } = done.imported;
    if let Err(mut failure) = read {
        if conversations > 0 {
            failure.message.push_str(&format!(
                "; {conversations} conversations before that were imported, and are left as they are by \
                 another try"
            ));
        }
        return Err(failure);
    }
    if args.json {
        return output::json(&done);
    }
    output::line(format!(
        "Imported {conversations} conversations with {messages} messages; {} people were added, {skipped} \
         conversations were there already and were left as they are.",
        done.people_added
    ))
}

/// A file read line by line.
struct Lines {
    from: BufReader<File>,
    number: usize,
    text: String,
    shown: String,
}

impl Lines {
    fn wrong(&self, why: &str) -> Failure {
        Failure::new(Exit::Data, format!("{}: line {} {why}", self.shown, self.number))
    }

    /// The next line, `None` at the end.
    fn next(&mut self) -> Result<Option<Line>, Failure> {
        self.number += 1;
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        bytes.clear();
        let read = self.from.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes);
        read.map_err(|e| self.wrong(&format!("cannot be read: {e}")))?;
        self.text = String::from_utf8(bytes).map_err(|_| self.wrong("is not UTF-8 text"))?;
        if self.text.is_empty() {
            return Ok(None);
        }
        if self.number == 1 {
            self.text = without_mark(&self.text).to_owned();
        }
        let read: Result<Line, _> = serde_json::from_str(&self.text);
        read.map(Some).map_err(|_| self.wrong("is not what `backup export` writes"))
    }
}

/// People of the file who are known here, and the links to make when all is there.
#[derive(Default)]
struct People(Vec<(String, UserId, Vec<crate::memory::Link>)>);

async fn read_all(memory: &Memory, lines: &mut Lines, done: &mut Done) -> Result<(), Failure> {
    match lines.next()? {
        Some(Line::Head { format }) if format <= FORMAT => {}
        Some(Line::Head { format }) => {
            let why = format!(
                "says format {format}, and this program knows up to {FORMAT}: install the newer jarvisd"
            );
            return Err(Failure::new(Exit::Config, lines.wrong(&why).message));
        }
        _ => return Err(lines.wrong("is not the beginning of an export")),
    }
    let (mut people, mut counts) = (People::default(), Counts::default());
    let end = loop {
        match lines.next()? {
            Some(Line::Person { name }) => {
                let user = match memory.user_by_name(&name).await {
                    Ok(user) => user,
                    Err(MemoryError::NotFound { .. }) => {
                        done.people_added += 1;
                        memory.add_person(&name).await?
                    }
                    Err(e) => return Err(e.into()),
                };
                counts.people += 1;
                people.0.push((name, user.id, Vec::new()));
            }
            Some(Line::Conversation { person }) => {
                // Conversations follow their person.
                let Some((_, id, links)) = people.0.last_mut().filter(|(name, ..)| *name == person) else {
                    return Err(lines.wrong("is a conversation of somebody else than the person before it"));
                };
                let read = memory.import_conversation(*id, &lines.text).await;
                let (imported, elsewhere) = read.map_err(|e| match e {
                    MemoryError::Unreadable { reason, .. } => {
                        lines.wrong(&format!("cannot be stored: {reason}"))
                    }
                    e => e.into(),
                })?;
                counts.conversations += 1;
                counts.messages += imported.messages;
                done.imported += imported;
                links.extend(elsewhere);
            }
            Some(Line::End(end)) => break end,
            Some(Line::Head { .. }) => return Err(lines.wrong("begins another export")),
            None => return Err(lines.wrong("is missing: the file was cut off")),
        }
    };
    for (_, id, links) in &people.0 {
        memory.link_sources(*id, links).await?;
    }
    if (end.people, end.conversations) != (counts.people, counts.conversations) {
        return Err(lines.wrong("counts other conversations than came before it"));
    }
    Ok(())
}

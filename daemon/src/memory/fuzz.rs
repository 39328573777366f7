//! Any bytes as a file of conversations.

use super::*;
use crate::clock::Clock;
use crate::fuzzing::{Folder, run, sure};

struct Home {
    memory: Memory,
    anna: UserId,
    ben: UserId,
    _folder: Folder,
}

fn home() -> Home {
    let folder = Folder::new();
    run(async {
        let device = Device { id: "kitchen".into() };
        let memory =
            sure(Memory::open(&folder.0.join("jarvis.db"), &device, Clock::System).await, "a memory");
        let anna = sure(memory.add_user("Anna").await, "Anna").id;
        let ben = sure(memory.add_user("Ben").await, "Ben").id;
        Home { memory, anna, ben, _folder: folder }
    })
}

/// Checks that an imported conversation exists afterwards, comes back unchanged from its own export, and is
/// imported only once.
pub fn import(bytes: &[u8]) -> bool {
    thread_local! { static HOME: Home = home(); }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    HOME.with(|home| run(into(home, text)))
}

async fn into(Home { memory, anna, ben, .. }: &Home, text: &str) -> bool {
    let done = match memory.import_conversations(*anna, crate::plain::without_mark(text)).await {
        Ok(done) => done,
        Err(error) => {
            let known = matches!(
                error,
                MemoryError::Unreadable { .. }
                    | MemoryError::InvalidSession { .. }
                    | MemoryError::TooLong { .. }
            );
            assert!(known, "{error:?}");
            let page = sure(memory.list_conversations(*anna, None, 1).await, "the list");
            assert!(page.items.is_empty(), "part of a refused file is stored");
            return false;
        }
    };
    let of_anna = sure(memory.export_conversations(*anna).await, "an export");
    assert_eq!(of_anna.len(), done.conversations);
    let messages = |all: &[ExportedConversation]| all.iter().map(|one| one.messages.len()).sum::<usize>();
    assert_eq!(messages(&of_anna), done.messages);
    let file = sure(serde_json::to_string(&of_anna), "JSON");

    let again = sure(memory.import_conversations(*anna, &file).await, "its own export");
    assert_eq!((again.conversations, again.skipped), (0, done.conversations));

    let other = sure(memory.import_conversations(*ben, &file).await, "the export of another");
    assert_eq!((other.conversations, other.messages), (done.conversations, done.messages));
    let of_ben = sure(memory.export_conversations(*ben).await, "an export");
    let said = |all: &[ExportedConversation]| {
        let one = |one: &ExportedConversation| {
            let messages = one.messages.iter().map(|m| {
                let Message { seq, role, kind, text, meta, wall_unix_ms, .. } = &m.message;
                let meta = meta.as_ref().map(|meta| serde_json::json!(meta).to_string());
                (*seq, *role, *kind, text.clone(), meta, *wall_unix_ms)
            });
            let times = (one.created_unix_ms, one.updated_unix_ms);
            (one.title.clone(), times, messages.collect::<Vec<_>>())
        };
        all.iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(said(&of_anna), said(&of_ben));

    // Resets the memory: otherwise a deleted conversation would come back under another id the next time.
    let (mut tx, _) = sure(memory.begin().await, "a transaction");
    for sql in ["DELETE FROM conversations", "DELETE FROM tombstones", "DELETE FROM queue"] {
        sure(tx.execute(sqlx::query(sql)).await, sql);
    }
    sure(tx.commit().await, "a commit");
    done.messages > 0
}

-- 0007: an answer that is given sentence by sentence.
--
-- A turn whose answer is still being given (daemon/src/memory/open_turn.rs). Written before the responder is asked and after
-- each sentence; deleted when the turn is closed, in the transaction that writes its two messages. A row whose process has
-- died is closed as cut. Nothing else reads it: the messages, the index, the queue and Postgres get the turn when it is closed.
CREATE TABLE open_turns (
    rid           INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE CHECK (length(id) = 16),                -- the id that the answer gets
    owner         INTEGER NOT NULL REFERENCES users (rid) ON DELETE CASCADE,
    conversation  INTEGER REFERENCES conversations (rid) ON DELETE CASCADE,    -- NULL: the turn begins a new one
    turn          TEXT NOT NULL CHECK (json_valid(turn))                       -- the words, the sentences so far, the sources
) STRICT;

-- An answer that repeats a message is forgotten with it, also before it is closed.
CREATE TRIGGER open_turns_source_delete AFTER DELETE ON messages BEGIN
    DELETE FROM open_turns WHERE owner = old.owner AND EXISTS (
        SELECT 1 FROM json_each(turn, '$.sources') WHERE replace(value, '-', '') = lower(hex(old.id)));
END;

PRAGMA user_version = 7;

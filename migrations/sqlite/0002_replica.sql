-- 0002: what a device needs to be one of several that share a Postgres, and what long conversations need.
--
-- A conversation has one writer: the device on which it began ("home"). Only that device appends to it, so `seq` never
-- collides, whatever is offline. Other devices hold a replica of it: they read, search and forget in it.

-- Home of the conversation. NULL: written before this column existed, by a device that is not known any more.
ALTER TABLE conversations ADD COLUMN device INTEGER REFERENCES devices (rid);

UPDATE conversations SET device = coalesce(
    (SELECT m.device FROM messages m WHERE m.conversation = conversations.rid ORDER BY m.seq LIMIT 1),
    (SELECT min(d.rid) FROM devices d));

-- A client's own name for a conversation: given again, it finds the same one, on the same device.
ALTER TABLE conversations ADD COLUMN session_id TEXT CHECK (session_id IS NULL OR length(session_id) BETWEEN 1 AND 128);

CREATE UNIQUE INDEX conversations_by_session ON conversations (owner, device, session_id) WHERE session_id IS NOT NULL;

-- What the messages up to and including `summary_seq` came to, for responders with a bounded context. Made from the rows,
-- so it can be made again; emptied when anything that it covers is forgotten.
ALTER TABLE conversations ADD COLUMN summary TEXT NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN summary_seq INTEGER NOT NULL DEFAULT 0 CHECK (summary_seq >= 0);

CREATE TRIGGER messages_summary_delete AFTER DELETE ON messages BEGIN
    UPDATE conversations SET summary = '', summary_seq = 0 WHERE rid = old.conversation AND summary_seq >= old.seq;
END;

-- The latest conversation of a person on one device, without looking at those of the others.
CREATE INDEX conversations_by_device ON conversations (owner, device, activity);

-- Rows that were written before the clock was set, to be re-stamped once it is.
CREATE INDEX messages_unsynced ON messages (boot) WHERE clock_synced = 0;

-- Owner, role and kind become words of the index (column filters `owner:`, `role:`, `kind:`), so that a search meets only
-- the messages that it may return, newest first, and stops after a few: it costs the same however much was said, by
-- whomever. Ranking does not use the lengths that FTS5 would keep of every row, so they are not kept (columnsize).
DROP TRIGGER messages_fts_insert;
DROP TRIGGER messages_fts_delete;
DROP TABLE messages_fts;

CREATE VIRTUAL TABLE messages_fts USING fts5 (
    text,
    owner,
    role,
    kind,
    content = 'messages',
    content_rowid = 'rid',
    columnsize = 0,
    tokenize = 'porter unicode61 remove_diacritics 2'
);

INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 1);
INSERT INTO messages_fts (messages_fts) VALUES ('rebuild');

CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages BEGIN
    INSERT INTO messages_fts (rowid, text, owner, role, kind) VALUES (new.rid, new.text, new.owner, new.role, new.kind);
END;

CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, text, owner, role, kind)
    VALUES ('delete', old.rid, old.text, old.owner, old.role, old.kind);
END;

PRAGMA user_version = 2;

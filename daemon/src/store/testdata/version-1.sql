-- A database of schema version 1 as that version wrote it, rows included: what an upgrade finds. Never changed again.
-- Two people, two devices, three conversations (one begun on the other device, one empty), voiceprint, audit, queue.

-- 0001: the journal of this device.
--
-- One file, `jarvis.db`, holds what this device must not lose. It is the whole store when no Postgres is configured, and
-- replica + queue when one is. Every connection sets WAL, synchronous=FULL, foreign_keys=ON and secure_delete=ON (see
-- daemon/src/store/sqlite.rs). Invariants are in docs/design/store.md.
--
-- Conventions
--   rid      local row number: joins and indexes only, never leaves this file
--   id       UUIDv7, 16 bytes, the same on every device and in Postgres
--   owner    the user whose row it is; no statement reads or writes a row without naming its owner
--   stamp    four columns: *_unix_ms wall clock, *_synced whether NTP had set it, boot the boot during which it was taken,
--            *_monotonic_ns CLOCK_BOOTTIME of that boot. A wall clock that was not synced is a guess and is corrected
--            later from boot + monotonic; nothing is ordered by it.

PRAGMA application_id = 0x4A525653; -- "JRVS": other programs' databases are refused

-- Boots during which rows were written. Monotonic times compare only within one of them.
CREATE TABLE boots (
    rid      INTEGER PRIMARY KEY,
    boot_id  TEXT NOT NULL UNIQUE CHECK (length(boot_id) BETWEEN 1 AND 64) -- /proc/sys/kernel/random/boot_id
) STRICT;

-- Devices whose rows are here: this one, and (through Postgres) the others of the house.
CREATE TABLE devices (
    rid              INTEGER PRIMARY KEY,
    id               TEXT NOT NULL UNIQUE CHECK (length(id) BETWEEN 1 AND 64), -- configuration: [device] id
    created_unix_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    rid              INTEGER PRIMARY KEY,
    id               BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    name             TEXT NOT NULL CHECK (name <> ''),         -- as the person writes it
    name_key         TEXT NOT NULL UNIQUE,                     -- lower case, single spaces: names differ by more than case
    consent_unix_ms  INTEGER,                                  -- when the person agreed to a stored voiceprint; set by `voice enroll`
    created_unix_ms  INTEGER NOT NULL,
    created_synced   INTEGER NOT NULL CHECK (created_synced IN (0, 1))
) STRICT;

-- At most one voiceprint a person. The template is sealed before it comes here; this table can be read by anyone who
-- holds the file without learning anything about a voice.
CREATE TABLE voiceprints (
    owner             INTEGER PRIMARY KEY REFERENCES users (rid) ON DELETE CASCADE,
    id                BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    wrapped_key       BLOB NOT NULL,                           -- the person's key, sealed under the master key; deleting it erases the template
    blob              BLOB NOT NULL,                           -- the template, sealed under that key
    model_sha256      TEXT NOT NULL CHECK (length(model_sha256) = 64),
    front_end_sha256  TEXT NOT NULL CHECK (length(front_end_sha256) = 64),
    samples           INTEGER NOT NULL CHECK (samples >= 0),   -- accepted enrolment samples
    net_speech_s      REAL NOT NULL CHECK (net_speech_s >= 0),
    quality           TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(quality)), -- figures per sample (SNR, clipping …), nothing of the template
    created_unix_ms   INTEGER NOT NULL,
    created_synced    INTEGER NOT NULL CHECK (created_synced IN (0, 1))
) STRICT;

CREATE TABLE conversations (
    rid                   INTEGER PRIMARY KEY,
    id                    BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    owner                 INTEGER NOT NULL REFERENCES users (rid) ON DELETE CASCADE,
    title                 TEXT NOT NULL DEFAULT '',            -- '' until something worth a title was said
    title_by_user         INTEGER NOT NULL DEFAULT 0 CHECK (title_by_user IN (0, 1)), -- 1: never replaced automatically
    next_seq              INTEGER NOT NULL DEFAULT 1 CHECK (next_seq >= 1), -- seq of the next message; never goes back, also after a deletion
    messages              INTEGER NOT NULL DEFAULT 0 CHECK (messages >= 0), -- rows of `messages` that are there now
    activity              INTEGER NOT NULL,                    -- grows with every change within one owner: "latest first" without a clock
    created_unix_ms       INTEGER NOT NULL,
    created_synced        INTEGER NOT NULL CHECK (created_synced IN (0, 1)),
    updated_unix_ms       INTEGER NOT NULL,                    -- stamp of the last turn: decides whether to continue
    updated_synced        INTEGER NOT NULL CHECK (updated_synced IN (0, 1)),
    updated_monotonic_ns  INTEGER NOT NULL,
    boot                  INTEGER NOT NULL REFERENCES boots (rid),
    UNIQUE (rid, owner)                                        -- parent key of messages (conversation, owner)
) STRICT;

CREATE UNIQUE INDEX conversations_by_activity ON conversations (owner, activity);

-- A message belongs to the owner of its conversation: the composite foreign key makes any other row impossible.
-- Messages are written in turns: the user's words have seq n, the answer to them n + 1. Rows are never updated.
CREATE TABLE messages (
    rid           INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    conversation  INTEGER NOT NULL,
    owner         INTEGER NOT NULL,
    seq           INTEGER NOT NULL CHECK (seq >= 1),           -- order within the conversation, assigned in the inserting transaction
    role          TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    kind          TEXT NOT NULL,                               -- say: plain; note: the person asked to remember it; ask: a question to the memory, never recalled itself
    text          TEXT NOT NULL,
    meta          TEXT CHECK (meta IS NULL OR json_valid(meta)), -- {"confidence": 0…1 of the speaker check, "engine": recogniser or responder}
    wall_unix_ms  INTEGER NOT NULL,
    clock_synced  INTEGER NOT NULL CHECK (clock_synced IN (0, 1)),
    monotonic_ns  INTEGER NOT NULL,
    boot          INTEGER NOT NULL REFERENCES boots (rid),
    device        INTEGER NOT NULL REFERENCES devices (rid),
    FOREIGN KEY (conversation, owner) REFERENCES conversations (rid, owner) ON DELETE CASCADE,
    UNIQUE (conversation, seq)
) STRICT;

-- What a person asked to remember, newest first.
CREATE INDEX messages_notes ON messages (owner, rid) WHERE kind = 'note';

-- Which messages an answer was made from. Forgetting a message also forgets the answers that repeat it.
CREATE TABLE message_sources (
    source   INTEGER NOT NULL REFERENCES messages (rid) ON DELETE CASCADE,
    message  INTEGER NOT NULL REFERENCES messages (rid) ON DELETE CASCADE,
    PRIMARY KEY (source, message)
) STRICT, WITHOUT ROWID;

CREATE INDEX message_sources_by_message ON message_sources (message);

-- Words of every message. The text itself stays in `messages` (external content), so it exists once in the file.
-- secure-delete makes a deletion remove the words from the index at once instead of marking them.
CREATE VIRTUAL TABLE messages_fts USING fts5 (
    text,
    content = 'messages',
    content_rowid = 'rid',
    tokenize = 'porter unicode61 remove_diacritics 2'
);

INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 1);

CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages BEGIN
    INSERT INTO messages_fts (rowid, text) VALUES (new.rid, new.text);
END;

CREATE TRIGGER messages_fts_delete AFTER DELETE ON messages BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, text) VALUES ('delete', old.rid, old.text);
END;

-- Who was heard, let in, enrolled, deleted. Numbers and names of outcomes only: no text, no sound.
CREATE TABLE audit (
    rid           INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    owner         INTEGER REFERENCES users (rid) ON DELETE SET NULL, -- NULL: nobody known, or a person since deleted
    action        TEXT NOT NULL,                               -- verify, enrol, user_delete, …
    outcome       TEXT NOT NULL,                               -- verified, rejected, done, …
    detail        TEXT CHECK (detail IS NULL OR json_valid(detail)), -- figures: confidence, score, net_speech_s
    wall_unix_ms  INTEGER NOT NULL,
    clock_synced  INTEGER NOT NULL CHECK (clock_synced IN (0, 1)),
    monotonic_ns  INTEGER NOT NULL,
    boot          INTEGER NOT NULL REFERENCES boots (rid),
    device        INTEGER NOT NULL REFERENCES devices (rid)
) STRICT;

CREATE INDEX audit_by_owner ON audit (owner, rid);

-- What Postgres does not have yet, oldest first. Written in the transaction that changes the row; deleted by the
-- forwarder after Postgres has committed. An entry names a row and never copies it: the text of a message exists once,
-- forgetting needs no search here, and an upsert always sends the row as it is when it is sent.
-- Only deletions carry what the missing row can no longer say, in `payload`.
CREATE TABLE queue (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,        -- never reused, also after the queue was empty
    op               TEXT NOT NULL,                            -- the operations of daemon/src/store/queue.rs
    entity_id        BLOB NOT NULL CHECK (length(entity_id) = 16), -- id of the row that it is about
    user_id          BLOB CHECK (user_id IS NULL OR length(user_id) = 16), -- whose it is, also after that row is gone
    payload          TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(payload)),
    created_unix_ms  INTEGER NOT NULL                          -- for people; order is seq
) STRICT;

CREATE INDEX queue_by_entity ON queue (entity_id);

-- Entries that Postgres rejected for good. Written by the forwarder, emptied by a person.
CREATE TABLE dead_letter (
    seq              INTEGER PRIMARY KEY,                      -- as it was in the queue
    op               TEXT NOT NULL,
    entity_id        BLOB NOT NULL CHECK (length(entity_id) = 16),
    user_id          BLOB CHECK (user_id IS NULL OR length(user_id) = 16),
    payload          TEXT NOT NULL CHECK (json_valid(payload)),
    created_unix_ms  INTEGER NOT NULL,
    failed_unix_ms   INTEGER NOT NULL,
    attempts         INTEGER NOT NULL CHECK (attempts >= 1),
    sqlstate         TEXT,
    error            TEXT NOT NULL                             -- message without DETAIL, which would repeat the row
) STRICT;

CREATE INDEX dead_letter_by_entity ON dead_letter (entity_id);

-- Ids that were deleted: a late insert (another device, a repeated batch) must not bring them back.
CREATE TABLE tombstones (
    kind             TEXT NOT NULL CHECK (kind IN ('user', 'conversation', 'message', 'voiceprint')),
    id               BLOB NOT NULL CHECK (length(id) = 16),
    user_id          BLOB NOT NULL CHECK (length(user_id) = 16),
    deleted_unix_ms  INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX tombstones_by_user ON tombstones (user_id);

-- Small state that must survive a restart (for example the pause after failed speaker checks). Not configuration.
CREATE TABLE settings (
    key              TEXT PRIMARY KEY CHECK (key <> ''),
    value            TEXT NOT NULL CHECK (json_valid(value)),
    updated_unix_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 1;

-- Rows -------------------------------------------------------------------------------------------------------------
INSERT INTO boots (rid, boot_id) VALUES (1, '11111111-1111-4111-8111-111111111111'), (2, '22222222-2222-4222-8222-222222222222');
INSERT INTO devices (rid, id, created_unix_ms) VALUES (1, 'kitchen', 1795000000000), (2, 'bedroom', 1795000000500);
INSERT INTO users (rid, id, name, name_key, consent_unix_ms, created_unix_ms, created_synced) VALUES
    (1, x'0193a000000070008000000000000001', 'Anna', 'anna', 1795000001000, 1795000000000, 1),
    -- Written before names were compared in their composed form: "José" with a combining accent.
    (2, x'0193a000000070008000000000000002', 'José', 'josé', NULL, 1795000000000, 0);
INSERT INTO voiceprints VALUES (1, x'0193a000000070008000000000000003', zeroblob(60), zeroblob(900),
    '0000000000000000000000000000000000000000000000000000000000000000',
    '1111111111111111111111111111111111111111111111111111111111111111', 3, 12.5, '[{"snr_db":21.0}]', 1795000001000, 1);
INSERT INTO conversations (rid, id, owner, title, title_by_user, next_seq, messages, activity, created_unix_ms,
    created_synced, updated_unix_ms, updated_synced, updated_monotonic_ns, boot) VALUES
    (1, x'0193a000000070008000000000000011', 1, 'remember that the spare key is under the', 0, 5, 4, 2, 1795000010000, 1, 1795000020000, 1, 20000000000, 1),
    (2, x'0193a000000070008000000000000012', 1, 'Holiday', 1, 3, 2, 3, 1795000030000, 1, 1795000030000, 1, 30000000000, 2),
    (3, x'0193a000000070008000000000000013', 2, '', 0, 1, 0, 1, 1795000040000, 0, 1795000040000, 0, 40000000000, 2);
INSERT INTO messages (rid, id, conversation, owner, seq, role, kind, text, meta, wall_unix_ms, clock_synced, monotonic_ns, boot, device) VALUES
    (1, x'0193a000000070008000000000000021', 1, 1, 1, 'user', 'note', 'remember that the spare key is under the blue pot', '{"confidence":0.97,"engine":"vosk"}', 1795000010000, 1, 10000000000, 1, 1),
    (2, x'0193a000000070008000000000000022', 1, 1, 2, 'assistant', 'say', 'I will remember that the spare key is under the blue pot.', '{"engine":"builtin"}', 1795000010100, 1, 10100000000, 1, 1),
    (3, x'0193a000000070008000000000000023', 1, 1, 3, 'user', 'ask', 'where is the spare key', NULL, 1795000020000, 1, 20000000000, 1, 1),
    (4, x'0193a000000070008000000000000024', 1, 1, 4, 'assistant', 'say', 'You told me that the spare key is under the blue pot.', '{"engine":"builtin"}', 1795000020100, 1, 20100000000, 1, 1),
    (5, x'0193a000000070008000000000000025', 2, 1, 1, 'user', 'say', 'Schöne Ferien 열쇠 🙂', NULL, 1795000030000, 0, 30000000000, 2, 2),
    (6, x'0193a000000070008000000000000026', 2, 1, 2, 'assistant', 'say', 'I heard you.', '{"engine":"builtin"}', 1795000030100, 0, 30100000000, 2, 2);
INSERT INTO message_sources (source, message) VALUES (1, 4);
INSERT INTO audit VALUES (1, x'0193a000000070008000000000000031', 1, 'verify', 'verified', '{"confidence":0.97}', 1795000010000, 1, 10000000000, 1, 1);
INSERT INTO queue (seq, op, entity_id, user_id, created_unix_ms) VALUES
    (7, 'upsert_conversation', x'0193a000000070008000000000000012', x'0193a000000070008000000000000001', 1795000030000),
    (8, 'insert_message', x'0193a000000070008000000000000025', x'0193a000000070008000000000000001', 1795000030000),
    (9, 'insert_message', x'0193a000000070008000000000000026', x'0193a000000070008000000000000001', 1795000030000);
INSERT INTO dead_letter VALUES (3, 'append_audit', x'0193a000000070008000000000000031', NULL, '{}', 1795000010000, 1795000015000, 1, '23514', 'a check failed');
INSERT INTO tombstones VALUES ('message', x'0193a000000070008000000000000041', x'0193a000000070008000000000000001', 1795000012000);
INSERT INTO settings VALUES ('gate', '{"failures":2}', 1795000012000);

-- Frozen dump of what the migrations produce, schema version 7. Not applied by anything: a test compares it.
-- After adding a migration: JARVIS_BLESS=1 cargo test --lib migrations_produce

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

CREATE TABLE boots (
    rid      INTEGER PRIMARY KEY,
    boot_id  TEXT NOT NULL UNIQUE CHECK (length(boot_id) BETWEEN 1 AND 64) -- /proc/sys/kernel/random/boot_id
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
    boot                  INTEGER NOT NULL REFERENCES boots (rid), device INTEGER REFERENCES devices (rid), session_id TEXT CHECK (session_id IS NULL OR length(session_id) BETWEEN 1 AND 128), summary TEXT NOT NULL DEFAULT '', summary_seq INTEGER NOT NULL DEFAULT 0 CHECK (summary_seq >= 0), named BLOB NOT NULL DEFAULT x'00000000000000000000000000000000' CHECK (length(named) = 16),
    UNIQUE (rid, owner)                                        -- parent key of messages (conversation, owner)
) STRICT;

CREATE UNIQUE INDEX conversations_by_activity ON conversations (owner, activity);

CREATE INDEX conversations_by_device ON conversations (owner, device, activity);

CREATE UNIQUE INDEX conversations_by_session ON conversations (owner, device, session_id) WHERE session_id IS NOT NULL;

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

CREATE TABLE devices (
    rid              INTEGER PRIMARY KEY,
    id               TEXT NOT NULL UNIQUE CHECK (length(id) BETWEEN 1 AND 64), -- configuration: [device] id
    created_unix_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE forgotten (
    rid           INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    owner         INTEGER NOT NULL REFERENCES users (rid) ON DELETE CASCADE,
    conversation  INTEGER NOT NULL REFERENCES conversations (rid) ON DELETE CASCADE, -- in which it was asked for
    monotonic_ns  INTEGER NOT NULL,                                                   -- when, within `boot`
    boot          INTEGER NOT NULL REFERENCES boots (rid),
    sealed        BLOB NOT NULL
) STRICT;

CREATE TABLE message_sources (
    source   INTEGER NOT NULL REFERENCES messages (rid) ON DELETE CASCADE,
    message  INTEGER NOT NULL REFERENCES messages (rid) ON DELETE CASCADE,
    PRIMARY KEY (source, message)
) STRICT, WITHOUT ROWID;

CREATE INDEX message_sources_by_message ON message_sources (message);

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

CREATE VIRTUAL TABLE messages_fts USING fts5 (
    text,
    grams,
    owner,
    role,
    kind,
    content = 'messages_words',
    content_rowid = 'rid',
    columnsize = 0,
    tokenize = 'porter unicode61 remove_diacritics 2'
);

CREATE TABLE 'messages_fts_config'(k PRIMARY KEY, v) WITHOUT ROWID;

CREATE TABLE 'messages_fts_data'(id INTEGER PRIMARY KEY, block BLOB);

CREATE TRIGGER messages_fts_delete BEFORE DELETE ON messages BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, text, grams, owner, role, kind)
    SELECT 'delete', rid, text, grams, owner, role, kind FROM messages_words WHERE rid = old.rid;
END;

CREATE TABLE 'messages_fts_idx'(segid, term, pgno, PRIMARY KEY(segid, term)) WITHOUT ROWID;

CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages BEGIN
    INSERT INTO messages_fts (rowid, text, grams, owner, role, kind)
    SELECT rid, text, grams, owner, role, kind FROM messages_words WHERE rid = new.rid;
END;

CREATE INDEX messages_notes ON messages (owner, rid) WHERE kind = 'note';

CREATE TRIGGER messages_summary_delete AFTER DELETE ON messages BEGIN
    UPDATE conversations SET summary = '', summary_seq = 0 WHERE rid = old.conversation AND summary_seq >= old.seq;
END;

CREATE INDEX messages_unsynced ON messages (boot) WHERE clock_synced = 0;

CREATE VIEW messages_words AS SELECT
    m.rid,
    m.text,
    CASE WHEN length(CAST(m.text AS BLOB)) > length(m.text)
        AND m.text GLOB '*[ก-ໟက-႟ក-៹々-〇ぁ-ㄯㆠ-ㆿㇰ-ㇿ㐀-䶿一-鿿가-힣ｦ-ﾟ𠀀-𲎯]*' THEN (
        WITH RECURSIVE
            piece (start, letters) AS (
                SELECT 0, substr(m.text, 1, 257)
                UNION ALL
                SELECT start + 256, substr(m.text, start + 257, 257) FROM piece WHERE start + 256 < length(m.text)
            ),
            pair (start, letters, n, a, b) AS (
                SELECT start, letters, 1, unicode(letters), unicode(substr(letters, 2, 1)) FROM piece
                UNION ALL
                SELECT start, letters, n + 1, b, unicode(substr(letters, n + 2, 1)) FROM pair
                WHERE n < min(256, length(letters))
                ORDER BY 1, 3
            )
        SELECT group_concat(
            CASE WHEN (b BETWEEN 0x0E01 AND 0x0EDF OR b BETWEEN 0x1000 AND 0x109F OR b BETWEEN 0x1780 AND 0x17F9
                OR b BETWEEN 0x3005 AND 0x3007 OR b BETWEEN 0x3041 AND 0x312F OR b BETWEEN 0x31A0 AND 0x31BF
                OR b BETWEEN 0x31F0 AND 0x31FF OR b BETWEEN 0x3400 AND 0x4DBF OR b BETWEEN 0x4E00 AND 0x9FFF
                OR b BETWEEN 0xAC00 AND 0xD7A3 OR b BETWEEN 0xFF66 AND 0xFF9F OR b BETWEEN 0x20000 AND 0x323AF)
                THEN printf('%06d%06d', a, b) ELSE printf('%06d', a) END, ' ')
        FROM pair WHERE (a BETWEEN 0x0E01 AND 0x0EDF OR a BETWEEN 0x1000 AND 0x109F OR a BETWEEN 0x1780 AND 0x17F9
                OR a BETWEEN 0x3005 AND 0x3007 OR a BETWEEN 0x3041 AND 0x312F OR a BETWEEN 0x31A0 AND 0x31BF
                OR a BETWEEN 0x31F0 AND 0x31FF OR a BETWEEN 0x3400 AND 0x4DBF OR a BETWEEN 0x4E00 AND 0x9FFF
                OR a BETWEEN 0xAC00 AND 0xD7A3 OR a BETWEEN 0xFF66 AND 0xFF9F OR a BETWEEN 0x20000 AND 0x323AF)
    ) END AS grams,
    m.owner,
    m.role,
    m.kind
FROM messages m;

CREATE TABLE open_turns (
    rid           INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE CHECK (length(id) = 16),                -- the id that the answer gets
    owner         INTEGER NOT NULL REFERENCES users (rid) ON DELETE CASCADE,
    conversation  INTEGER REFERENCES conversations (rid) ON DELETE CASCADE,    -- NULL: the turn begins a new one
    turn          TEXT NOT NULL CHECK (json_valid(turn))                       -- the words, the sentences so far, the sources
) STRICT;

CREATE TRIGGER open_turns_source_delete AFTER DELETE ON messages BEGIN
    DELETE FROM open_turns WHERE owner = old.owner AND EXISTS (
        SELECT 1 FROM json_each(turn, '$.sources') WHERE replace(value, '-', '') = lower(hex(old.id)));
END;

CREATE TABLE queue (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,        -- never reused, also after the queue was empty
    op               TEXT NOT NULL,                            -- the operations of daemon/src/store/queue.rs
    entity_id        BLOB NOT NULL CHECK (length(entity_id) = 16), -- id of the row that it is about
    user_id          BLOB CHECK (user_id IS NULL OR length(user_id) = 16), -- whose it is, also after that row is gone
    payload          TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(payload)),
    created_unix_ms  INTEGER NOT NULL                          -- for people; order is seq
) STRICT;

CREATE INDEX queue_by_entity ON queue (entity_id);

CREATE TABLE settings (
    key              TEXT PRIMARY KEY CHECK (key <> ''),
    value            TEXT NOT NULL CHECK (json_valid(value)),
    updated_unix_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tombstones (
    kind             TEXT NOT NULL CHECK (kind IN ('user', 'conversation', 'message', 'voiceprint')),
    id               BLOB NOT NULL CHECK (length(id) = 16),
    user_id          BLOB NOT NULL CHECK (length(user_id) = 16),
    deleted_unix_ms  INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX tombstones_by_user ON tombstones (user_id);

CREATE TABLE users (
    rid              INTEGER PRIMARY KEY,
    id               BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    name             TEXT NOT NULL CHECK (name <> ''),         -- as the person writes it
    name_key         TEXT NOT NULL UNIQUE,                     -- lower case, single spaces: names differ by more than case
    consent_unix_ms  INTEGER,                                  -- when the person agreed to a stored voiceprint; set by `voice enroll`
    created_unix_ms  INTEGER NOT NULL,
    created_synced   INTEGER NOT NULL CHECK (created_synced IN (0, 1))
, named BLOB NOT NULL DEFAULT x'00000000000000000000000000000000' CHECK (length(named) = 16), house_name TEXT CHECK (house_name <> '')) STRICT;

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

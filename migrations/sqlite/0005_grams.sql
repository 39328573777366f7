-- 0005: words inside a run of letters are found; what was forgotten can be brought back for a while.
--
-- Chinese, Japanese, Thai, Lao, Burmese and Khmer are written without spaces, so the tokenizer takes a whole clause for one
-- word. `grams` holds every two neighbouring letters of such a run as one word of twelve digits (two code points of six), and
-- the last letter alone. A query for a run is a phrase of such words (daemon/src/memory/terms.rs). Digits, because the stemmer
-- leaves them alone and because vowel signs of Thai would else be separators. Text in other scripts has no grams.
--
-- A view makes them when a row is written or read, so no row keeps them. Plain ASCII is told by its length in bytes. Long
-- texts are taken apart in pieces of 256 letters, because `substr` counts from the beginning each time. The letters are
-- U+0E01–0EDF, 1000–109F, 1780–17F9, 3005–3007, 3041–312F, 31A0–31BF, 31F0–31FF, 3400–4DBF, 4E00–9FFF, FF66–FF9F, 20000–323AF.
CREATE VIEW messages_words AS SELECT
    m.rid,
    m.text,
    CASE WHEN length(CAST(m.text AS BLOB)) > length(m.text)
        AND m.text GLOB '*[ก-ໟက-႟ក-៹々-〇ぁ-ㄯㆠ-ㆿㇰ-ㇿ㐀-䶿一-鿿ｦ-ﾟ𠀀-𲎯]*' THEN (
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
                OR b BETWEEN 0xFF66 AND 0xFF9F OR b BETWEEN 0x20000 AND 0x323AF)
                THEN printf('%06d%06d', a, b) ELSE printf('%06d', a) END, ' ')
        FROM pair WHERE (a BETWEEN 0x0E01 AND 0x0EDF OR a BETWEEN 0x1000 AND 0x109F OR a BETWEEN 0x1780 AND 0x17F9
                OR a BETWEEN 0x3005 AND 0x3007 OR a BETWEEN 0x3041 AND 0x312F OR a BETWEEN 0x31A0 AND 0x31BF
                OR a BETWEEN 0x31F0 AND 0x31FF OR a BETWEEN 0x3400 AND 0x4DBF OR a BETWEEN 0x4E00 AND 0x9FFF
                OR a BETWEEN 0xFF66 AND 0xFF9F OR a BETWEEN 0x20000 AND 0x323AF)
    ) END AS grams,
    m.owner,
    m.role,
    m.kind
FROM messages m;

DROP TRIGGER messages_fts_insert;
DROP TRIGGER messages_fts_delete;
DROP TABLE messages_fts;

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

INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 1);
INSERT INTO messages_fts (messages_fts, rank) VALUES ('pgsz', 960);
INSERT INTO messages_fts (messages_fts) VALUES ('rebuild');

CREATE TRIGGER messages_fts_insert AFTER INSERT ON messages BEGIN
    INSERT INTO messages_fts (rowid, text, grams, owner, role, kind)
    SELECT rid, text, grams, owner, role, kind FROM messages_words WHERE rid = new.rid;
END;

-- Before, because the view still has to see the row.
CREATE TRIGGER messages_fts_delete BEFORE DELETE ON messages BEGIN
    INSERT INTO messages_fts (messages_fts, rowid, text, grams, owner, role, kind)
    SELECT 'delete', rid, text, grams, owner, role, kind FROM messages_words WHERE rid = old.rid;
END;

-- What a person has just forgotten, sealed; the key is a file beside this one (daemon/src/memory/undo.rs). The rows
-- themselves are gone. Written by the turn that forgets; deleted when it is undone, after ten minutes, when the person begins
-- another conversation, after a new boot, and with the person or the conversation.
CREATE TABLE forgotten (
    rid           INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    owner         INTEGER NOT NULL REFERENCES users (rid) ON DELETE CASCADE,
    conversation  INTEGER NOT NULL REFERENCES conversations (rid) ON DELETE CASCADE, -- in which it was asked for
    monotonic_ns  INTEGER NOT NULL,                                                   -- when, within `boot`
    boot          INTEGER NOT NULL REFERENCES boots (rid),
    sealed        BLOB NOT NULL
) STRICT;

PRAGMA user_version = 5;

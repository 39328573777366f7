-- 0006: Korean words inside a run of letters are found.
--
-- Korean has spaces, and many people leave them out; compounds have none. Its syllables (U+AC00–D7A3) have `grams` now, as the
-- letters of 0005. The view is that of 0005 with this range. The index is made anew where a message has such a letter.
DROP VIEW messages_words;

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

INSERT INTO messages_fts (messages_fts)
SELECT 'rebuild' WHERE EXISTS (SELECT 1 FROM messages WHERE text GLOB '*[가-힣]*');

PRAGMA user_version = 6;

-- 0003: which of two names is the later one.
--
-- A person and a conversation can be renamed on several devices, also while these do not reach each other. `named` is the
-- moment at which the names of the row (a person's name; a conversation's title and session id) were last given, as a UUIDv7:
-- its first 48 bits are milliseconds, at least one more than those of the name that was replaced, the rest is random, so no two
-- are the same. Everywhere the greater one wins (daemon/src/memory/named.rs). All zero: before this column existed.
ALTER TABLE users ADD COLUMN named BLOB NOT NULL DEFAULT x'00000000000000000000000000000000' CHECK (length(named) = 16);

-- What the other devices call a person who has another name here, because somebody else here has that one: "Anna" of an
-- "Anna (2)". NULL: the same. It is what is sent.
ALTER TABLE users ADD COLUMN house_name TEXT CHECK (house_name <> '');

ALTER TABLE conversations
    ADD COLUMN named BLOB NOT NULL DEFAULT x'00000000000000000000000000000000' CHECK (length(named) = 16);

-- Names that were given and not sent yet: when they were queued.
UPDATE users SET named = (
    SELECT unhex(printf('%012x', min(max(max(q.created_unix_ms), 1), 281474976710655)) || '70008000' || hex(randomblob(6)))
    FROM queue q WHERE q.entity_id = users.id AND q.op = 'upsert_user')
WHERE id IN (SELECT entity_id FROM queue WHERE op = 'upsert_user');

UPDATE conversations SET named = (
    SELECT unhex(printf('%012x', min(max(max(q.created_unix_ms), 1), 281474976710655)) || '70008000' || hex(randomblob(6)))
    FROM queue q WHERE q.entity_id = conversations.id AND q.op = 'upsert_conversation')
WHERE id IN (SELECT entity_id FROM queue WHERE op = 'upsert_conversation');

PRAGMA user_version = 3;

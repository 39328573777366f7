-- 0001: what the devices of one house share.
--
-- Several Jarvis devices may use one database. Everything lies in the schema `jarvis`, which the program makes where it is
-- missing and owns; nothing outside of it is touched. The documents are applied in order, each in one transaction, under the
-- advisory lock that every writer takes (daemon/src/store/postgres/schema.rs). The local half is migrations/sqlite.
--
-- Conventions
--   id       UUIDv7 made by a device, the same there and here
--   owner    the person whose row it is
--   change   position of the row's last change among all changes of this database. Writers take one advisory lock, so numbers
--            become visible in their order, and a reader that has seen everything up to n never misses one below n.
--   origin   `[device] id` of the device that made that change: it need not read it back
--   stamp    wall_time as the device saw it, clock_synced whether NTP had set its clock, boot_id and monotonic_ns to correct
--            it by later. Nothing is ordered by it.
--
-- Row-level security shows a person's rows to whoever has set `jarvis.user` to that person, and all rows to a session whose
-- `jarvis.role` is 'forwarder'. The program sets both itself, so this guards against its own mistakes (a statement that forgot
-- to name the owner), not against somebody who can log in as its role.

CREATE SEQUENCE jarvis.changes AS bigint;

-- Documents that were applied.
CREATE TABLE jarvis.schema_version (
    version     integer PRIMARY KEY CHECK (version >= 1),
    applied_at  timestamptz NOT NULL DEFAULT now(),
    program     text NOT NULL
);

-- One row. A device that finds another id than last time stands before another, perhaps empty, database: it uploads
-- everything again and reads everything from the beginning.
CREATE TABLE jarvis.house (
    single      boolean PRIMARY KEY DEFAULT true CHECK (single),
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at  timestamptz NOT NULL DEFAULT now()
);

INSERT INTO jarvis.house DEFAULT VALUES;

CREATE TABLE jarvis.devices (
    id          text PRIMARY KEY CHECK (char_length(id) BETWEEN 1 AND 64),
    first_seen  timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz NOT NULL DEFAULT now()  -- last connection of its forwarder
);

-- People. Names are not unique here: two devices may have added an Anna each, and only the id tells whether she is the same.
CREATE TABLE jarvis.users (
    id            uuid PRIMARY KEY,
    name          text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 64),
    consent_at    timestamptz CHECK (isfinite(consent_at)),  -- when the person agreed to a stored voiceprint
    created_at    timestamptz NOT NULL CHECK (isfinite(created_at)),
    clock_synced  boolean NOT NULL,                          -- of created_at
    origin        text NOT NULL REFERENCES jarvis.devices,
    change        bigint NOT NULL
);

-- Sealed before they leave the device. A device whose master key is another one cannot open them and leaves them alone, so
-- one person may have several.
CREATE TABLE jarvis.voiceprints (
    id                uuid PRIMARY KEY,
    owner             uuid NOT NULL REFERENCES jarvis.users ON DELETE CASCADE,
    wrapped_key       bytea NOT NULL CHECK (octet_length(wrapped_key) <= 4096),
    blob              bytea NOT NULL CHECK (octet_length(blob) <= 262144),
    model_sha256      text NOT NULL CHECK (char_length(model_sha256) = 64),
    front_end_sha256  text NOT NULL CHECK (char_length(front_end_sha256) = 64),
    samples           integer NOT NULL CHECK (samples >= 0),
    net_speech_s      double precision NOT NULL CHECK (net_speech_s >= 0),
    quality           jsonb NOT NULL,
    created_at        timestamptz NOT NULL CHECK (isfinite(created_at)),
    clock_synced      boolean NOT NULL,
    origin            text NOT NULL REFERENCES jarvis.devices,
    change            bigint NOT NULL
);

-- A conversation has one writer: the device on which it began. Others read it, rename it, forget in it.
CREATE TABLE jarvis.conversations (
    id             uuid PRIMARY KEY,
    owner          uuid NOT NULL REFERENCES jarvis.users ON DELETE CASCADE,
    device         text NOT NULL REFERENCES jarvis.devices,  -- its home
    session_id     text CHECK (char_length(session_id) BETWEEN 1 AND 128), -- a client's own name for it
    title          text NOT NULL CHECK (char_length(title) <= 400),
    title_by_user  boolean NOT NULL,
    next_seq       bigint NOT NULL CHECK (next_seq >= 1),    -- only grows: the logical clock of the row
    created_at     timestamptz NOT NULL CHECK (isfinite(created_at)),
    created_synced boolean NOT NULL,
    updated_at     timestamptz NOT NULL CHECK (isfinite(updated_at)), -- stamp of the last turn
    updated_synced boolean NOT NULL,
    updated_monotonic_ns bigint NOT NULL,
    boot_id        text NOT NULL CHECK (char_length(boot_id) BETWEEN 1 AND 64),
    origin         text NOT NULL REFERENCES jarvis.devices,
    change         bigint NOT NULL,
    UNIQUE (id, owner)                                       -- parent key of messages (conversation, owner)
);

-- Rows are inserted, and re-stamped once when the clock of their device was set; never changed otherwise.
CREATE TABLE jarvis.messages (
    id            uuid PRIMARY KEY,
    conversation  uuid NOT NULL,
    owner         uuid NOT NULL,
    seq           bigint NOT NULL CHECK (seq >= 1),          -- order within the conversation, assigned by its home
    role          text NOT NULL CHECK (role IN ('user', 'assistant')),
    kind          text NOT NULL CHECK (char_length(kind) BETWEEN 1 AND 32),
    text          text NOT NULL CHECK (octet_length(text) <= 786432), -- replacing NULs may triple the 256 KiB of a device
    meta          jsonb,
    wall_time     timestamptz NOT NULL CHECK (isfinite(wall_time)),
    clock_synced  boolean NOT NULL,
    monotonic_ns  bigint NOT NULL,
    boot_id       text NOT NULL CHECK (char_length(boot_id) BETWEEN 1 AND 64),
    device        text NOT NULL REFERENCES jarvis.devices,   -- the one that heard it
    origin        text NOT NULL REFERENCES jarvis.devices,
    change        bigint NOT NULL,
    FOREIGN KEY (conversation, owner) REFERENCES jarvis.conversations (id, owner) ON DELETE CASCADE,
    UNIQUE (conversation, seq)
);

-- Which messages an answer was made from: forgetting one also forgets the answers that repeat it. Rows come with the answer
-- and go with either end, so they need no change number of their own.
CREATE TABLE jarvis.message_sources (
    message  uuid NOT NULL REFERENCES jarvis.messages ON DELETE CASCADE,
    source   uuid NOT NULL REFERENCES jarvis.messages ON DELETE CASCADE,
    owner    uuid NOT NULL,
    PRIMARY KEY (message, source)
);

-- Who was heard, let in, enrolled, deleted: figures, never text. No device reads it back.
CREATE TABLE jarvis.audit (
    id            uuid PRIMARY KEY,
    owner         uuid REFERENCES jarvis.users ON DELETE SET NULL,
    action        text NOT NULL CHECK (char_length(action) <= 64),
    outcome       text NOT NULL CHECK (char_length(outcome) <= 64),
    detail        jsonb,
    wall_time     timestamptz NOT NULL CHECK (isfinite(wall_time)),
    clock_synced  boolean NOT NULL,
    monotonic_ns  bigint NOT NULL,
    boot_id       text NOT NULL CHECK (char_length(boot_id) BETWEEN 1 AND 64),
    device        text NOT NULL REFERENCES jarvis.devices
);

-- What was deleted: a late insert of it does nothing, and other devices learn of it. A deleted person leaves one row, their own.
CREATE TABLE jarvis.tombstones (
    kind        text NOT NULL CHECK (kind IN ('user', 'conversation', 'message', 'voiceprint')),
    id          uuid NOT NULL,
    owner       uuid NOT NULL,
    deleted_at  timestamptz NOT NULL DEFAULT now(),
    origin      text NOT NULL REFERENCES jarvis.devices,
    change      bigint NOT NULL,
    PRIMARY KEY (kind, id)
);

-- What is new since n.
CREATE UNIQUE INDEX users_by_change ON jarvis.users (change);
CREATE UNIQUE INDEX voiceprints_by_change ON jarvis.voiceprints (change);
CREATE UNIQUE INDEX conversations_by_change ON jarvis.conversations (change);
CREATE UNIQUE INDEX messages_by_change ON jarvis.messages (change);
CREATE UNIQUE INDEX tombstones_by_change ON jarvis.tombstones (change);
-- What is one person's.
CREATE INDEX voiceprints_by_owner ON jarvis.voiceprints (owner);
CREATE INDEX conversations_by_owner ON jarvis.conversations (owner);
CREATE INDEX audit_by_owner ON jarvis.audit (owner);
CREATE INDEX tombstones_by_owner ON jarvis.tombstones (owner);
-- The other end, for deletions.
CREATE INDEX message_sources_by_source ON jarvis.message_sources (source);

ALTER TABLE jarvis.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE jarvis.users FORCE ROW LEVEL SECURITY;
ALTER TABLE jarvis.voiceprints ENABLE ROW LEVEL SECURITY;
ALTER TABLE jarvis.voiceprints FORCE ROW LEVEL SECURITY;
ALTER TABLE jarvis.conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE jarvis.conversations FORCE ROW LEVEL SECURITY;
ALTER TABLE jarvis.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE jarvis.messages FORCE ROW LEVEL SECURITY;
ALTER TABLE jarvis.message_sources ENABLE ROW LEVEL SECURITY;
ALTER TABLE jarvis.message_sources FORCE ROW LEVEL SECURITY;
ALTER TABLE jarvis.audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE jarvis.audit FORCE ROW LEVEL SECURITY;
ALTER TABLE jarvis.tombstones ENABLE ROW LEVEL SECURITY;
ALTER TABLE jarvis.tombstones FORCE ROW LEVEL SECURITY;

-- The sub-selects make the settings be read once a statement, not once a row.
CREATE POLICY own_row ON jarvis.users USING (
    (SELECT current_setting('jarvis.role', true)) = 'forwarder'
    OR id = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
CREATE POLICY own_rows ON jarvis.voiceprints USING (
    (SELECT current_setting('jarvis.role', true)) = 'forwarder'
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
CREATE POLICY own_rows ON jarvis.conversations USING (
    (SELECT current_setting('jarvis.role', true)) = 'forwarder'
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
CREATE POLICY own_rows ON jarvis.messages USING (
    (SELECT current_setting('jarvis.role', true)) = 'forwarder'
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
CREATE POLICY own_rows ON jarvis.message_sources USING (
    (SELECT current_setting('jarvis.role', true)) = 'forwarder'
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
CREATE POLICY own_rows ON jarvis.audit USING (
    (SELECT current_setting('jarvis.role', true)) = 'forwarder'
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
CREATE POLICY own_rows ON jarvis.tombstones USING (
    (SELECT current_setting('jarvis.role', true)) = 'forwarder'
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));

COMMENT ON SCHEMA jarvis IS 'Memory of the Jarvis devices of one house. Written by jarvisd alone.';
COMMENT ON TABLE jarvis.schema_version IS 'Documents of migrations/postgres that were applied';
COMMENT ON TABLE jarvis.house IS 'One row: which database this is';
COMMENT ON TABLE jarvis.devices IS 'Devices that have written here';
COMMENT ON TABLE jarvis.users IS 'People; names are not unique, ids are';
COMMENT ON TABLE jarvis.voiceprints IS 'Sealed voiceprints; opaque without the master key of their device';
COMMENT ON TABLE jarvis.conversations IS 'Conversations; each is written by its home device only';
COMMENT ON TABLE jarvis.messages IS 'Messages in the order of seq within their conversation';
COMMENT ON TABLE jarvis.message_sources IS 'Which messages an answer was made from';
COMMENT ON TABLE jarvis.audit IS 'Who was heard, let in, enrolled, deleted; never what was said';
COMMENT ON TABLE jarvis.tombstones IS 'Ids that were deleted and must not come back';

INSERT INTO jarvis.schema_version (version, program) VALUES (1, 'jarvisd');

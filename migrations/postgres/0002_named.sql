-- 0002: which of two names is the later one.
--
-- named   the moment at which the names of the row were last given, as a UUIDv7 that grows with every name and is never the same
--         for two. The greater one wins, whoever sends it and whenever. All zero: before this column existed.
-- origin  may be NULL now: the row holds what several devices changed, and none of them is known to know all of it, so each
--         reads it, also the one that sent the last change.

ALTER TABLE jarvis.users ADD COLUMN named uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
ALTER TABLE jarvis.conversations ADD COLUMN named uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
ALTER TABLE jarvis.users ALTER COLUMN origin DROP NOT NULL;
ALTER TABLE jarvis.conversations ALTER COLUMN origin DROP NOT NULL;

INSERT INTO jarvis.schema_version (version, program) VALUES (2, 'jarvisd');

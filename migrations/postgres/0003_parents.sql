-- 0003: the index of a person's conversations is unique in both columns.
--
-- The server plans once a session how it looks for the parent of a message (conversation, owner). On tables that were never
-- analysed it took the index of the owner alone, and then read all of a person's conversations for every message.

DROP INDEX jarvis.conversations_by_owner;
CREATE UNIQUE INDEX conversations_by_owner ON jarvis.conversations (owner, id);

INSERT INTO jarvis.schema_version (version, program) VALUES (3, 'jarvisd');

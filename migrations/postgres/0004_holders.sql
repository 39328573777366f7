-- 0004: which memory sends under the id of a device, and how a backup says who it is.
--
-- Two cards with one `[device] id` continue the same conversations and read nothing of one another. So the file of a memory
-- has an identity of its own, and at each connection of its forwarder a new token, which is in the file before it is here. A
-- memory that does not know the token that is here is another one, or a copy that was left behind: it sends nothing, unless
-- the holder was silent for ten minutes or a person lets it take over (daemon/src/store/holder.rs).

ALTER TABLE jarvis.devices ADD COLUMN memory uuid;  -- identity of the file; NULL until its forwarder was here
ALTER TABLE jarvis.devices ADD COLUMN token uuid;   -- of its last connection
COMMENT ON COLUMN jarvis.devices.last_seen IS 'Last time that the holder of the id sent something or looked';

-- `pg_dump` makes a connection of its own, and a pooler refuses the option by which it said who it is; the name of the program
-- gets through. This guards against mistakes of Jarvis itself, as before.
ALTER POLICY own_row ON jarvis.users USING (
    (SELECT current_setting('jarvis.role', true) = 'forwarder' OR current_setting('application_name') = 'jarvisd backup')
    OR id = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
ALTER POLICY own_rows ON jarvis.voiceprints USING (
    (SELECT current_setting('jarvis.role', true) = 'forwarder' OR current_setting('application_name') = 'jarvisd backup')
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
ALTER POLICY own_rows ON jarvis.conversations USING (
    (SELECT current_setting('jarvis.role', true) = 'forwarder' OR current_setting('application_name') = 'jarvisd backup')
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
ALTER POLICY own_rows ON jarvis.messages USING (
    (SELECT current_setting('jarvis.role', true) = 'forwarder' OR current_setting('application_name') = 'jarvisd backup')
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
ALTER POLICY own_rows ON jarvis.message_sources USING (
    (SELECT current_setting('jarvis.role', true) = 'forwarder' OR current_setting('application_name') = 'jarvisd backup')
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
ALTER POLICY own_rows ON jarvis.audit USING (
    (SELECT current_setting('jarvis.role', true) = 'forwarder' OR current_setting('application_name') = 'jarvisd backup')
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));
ALTER POLICY own_rows ON jarvis.tombstones USING (
    (SELECT current_setting('jarvis.role', true) = 'forwarder' OR current_setting('application_name') = 'jarvisd backup')
    OR owner = (SELECT nullif(current_setting('jarvis.user', true), '')::uuid));

INSERT INTO jarvis.schema_version (version, program) VALUES (4, 'jarvisd');

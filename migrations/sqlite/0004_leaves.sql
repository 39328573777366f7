-- 0004: a leaf of the index of words fits on a page.
--
-- A file that this version makes has pages of 1 KiB (daemon/src/store/open.rs), and the leaves of the index, 1,000 bytes by default,
-- would each go on on a second one. In an older file, whose pages are larger, it makes no difference.
INSERT INTO messages_fts (messages_fts, rank) VALUES ('pgsz', 960);

PRAGMA user_version = 4;

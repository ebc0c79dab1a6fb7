-- Turns the tables of format 1 into those of format 2.

ALTER TABLE search_files RENAME COLUMN sha256 TO sent_sha256;
ALTER TABLE search_files ADD COLUMN sha256 BLOB;

-- Turns the tables of format 1 into those of format 2.

ALTER TABLE crops RENAME COLUMN sha256 TO sent_sha256;
ALTER TABLE crops ADD COLUMN sha256 BLOB;

-- Turns the tables of format 1 into those of format 2.

ALTER TABLE search_files RENAME COLUMN sha256 TO sent_sha256;
ALTER TABLE search_files ADD COLUMN sha256 BLOB;
CREATE TABLE visit_crops (
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    PRIMARY KEY (query_id, crop_id)
) WITHOUT ROWID;
CREATE INDEX visit_crops_0 ON visit_crops (crop_id);

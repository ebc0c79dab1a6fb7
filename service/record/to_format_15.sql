-- From format 11, of version 0.5, to format 15. Formats 12 to 14 were never released.

-- Six tables keep their checksums.
ALTER TABLE record DROP COLUMN crc;
ALTER TABLE checksums DROP COLUMN crc;
ALTER TABLE tombstones DROP COLUMN crc;
ALTER TABLE requests DROP COLUMN crc;
ALTER TABLE merges DROP COLUMN crc;
ALTER TABLE merged_crops DROP COLUMN crc;
ALTER TABLE groups DROP COLUMN crc;
ALTER TABLE searches DROP COLUMN crc;
ALTER TABLE search_pictures DROP COLUMN crc;
ALTER TABLE shown DROP COLUMN crc;
ALTER TABLE reviews DROP COLUMN crc;
ALTER TABLE cases DROP COLUMN crc;
ALTER TABLE case_searches DROP COLUMN crc;
ALTER TABLE case_deletions DROP COLUMN crc;
ALTER TABLE jobs DROP COLUMN crc;
ALTER TABLE job_problems DROP COLUMN crc;
ALTER TABLE calibrations DROP COLUMN crc;
ALTER TABLE calibration_searches DROP COLUMN crc;
ALTER TABLE runtimes DROP COLUMN crc;
ALTER TABLE unneeded_files DROP COLUMN crc;
ALTER TABLE stray_pictures DROP COLUMN crc;
ALTER TABLE remote_indexes DROP COLUMN crc;
ALTER TABLE watches DROP COLUMN crc;
ALTER TABLE watch_traffic DROP COLUMN crc;
ALTER TABLE alerts DROP COLUMN crc;
ALTER TABLE alert_pictures DROP COLUMN crc;
ALTER TABLE webhooks DROP COLUMN crc;
ALTER TABLE deliveries DROP COLUMN crc;

DROP TABLE snapshots;
DROP TABLE changes;
DROP TABLE feeds;

-- Every process reads all galleries when it starts, so that its commits can be counted anew.
UPDATE record SET value = 1 WHERE name = 'commit';
ALTER TABLE crops ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX crops_6 ON crops (gallery_id, changed);
ALTER TABLE tombstones ADD COLUMN slot INTEGER;
ALTER TABLE tombstones ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tombstones_1 ON tombstones (gallery_id, changed);

-- A checksum cannot be changed or added. Foreign keys are off, so that dropping the table deletes
-- no row of others.
CREATE TABLE former_galleries AS SELECT * FROM galleries;
DROP TABLE galleries;
CREATE TABLE galleries (
    gallery_id INTEGER PRIMARY KEY,
    name TEXT UNIQUE,
    embedder TEXT NOT NULL,
    settings TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    next_slot INTEGER NOT NULL,
    next_side INTEGER NOT NULL,
    side INTEGER NOT NULL,
    dimension INTEGER,
    staged_embedder TEXT,
    staged_side INTEGER,
    staged_dimension INTEGER,
    staged_slot INTEGER NOT NULL,
    staged_crops INTEGER NOT NULL,
    crops INTEGER NOT NULL,
    people INTEGER NOT NULL,
    unnamed INTEGER NOT NULL,
    image_bytes INTEGER NOT NULL,
    removals INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    calibrated INTEGER NOT NULL,
    crc INTEGER GENERATED ALWAYS AS (row_crc(
        gallery_id, name, embedder, settings, created_at, version, next_slot, next_side,
        side, dimension, staged_embedder, staged_side, staged_dimension, staged_slot,
        staged_crops, crops, people, unnamed, image_bytes, removals, changed, calibrated
    )) STORED
) WITHOUT ROWID;
INSERT INTO galleries (
    gallery_id, name, embedder, settings, created_at, version, next_slot, next_side,
    side, dimension, staged_embedder, staged_side, staged_dimension, staged_slot,
    staged_crops, crops, people, unnamed, image_bytes, removals, changed, calibrated
) SELECT
    gallery_id, name, embedder, settings, created_at, version, next_slot, next_side,
    side, dimension, staged_embedder, staged_side, staged_dimension, staged_slot,
    staged_crops, crops, people, unnamed, image_bytes, removals, 1, 1
FROM former_galleries;
DROP TABLE former_galleries;
ALTER TABLE watches DROP COLUMN restores;

-- Searches were in the order of their rows.
ALTER TABLE searches ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
UPDATE searches SET number = rowid;
CREATE INDEX searches_2 ON searches (gallery_id, number);

-- What changed since such a collection was written is not known any more.
UPDATE remote_indexes SET wanted = 1 WHERE version IS NOT (
    SELECT version FROM galleries WHERE galleries.gallery_id = remote_indexes.gallery_id
);
ALTER TABLE remote_indexes DROP COLUMN at;
ALTER TABLE remote_indexes DROP COLUMN sequence;
ALTER TABLE remote_indexes DROP COLUMN token;

CREATE TABLE search_results (
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    rank INTEGER NOT NULL,
    crop_id TEXT NOT NULL,
    cosine REAL NOT NULL,
    pair_logit REAL,
    probability REAL,
    verdict TEXT,
    PRIMARY KEY (query_id, rank)
) WITHOUT ROWID;
INSERT INTO search_results (query_id, rank, crop_id, cosine, pair_logit, probability, verdict)
SELECT query_id, result.key + 1, result.value ->> 0, result.value ->> 1, result.value ->> 2,
    result.value ->> 3, result.value ->> 4
FROM searches JOIN json_each(searches.results) AS result;
ALTER TABLE searches DROP COLUMN results;

CREATE TABLE imported_crops (
    gallery_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    renamed INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX imported_crops_0 ON imported_crops (job_id, slot);

CREATE TABLE camera_traffic (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    subject TEXT NOT NULL,
    histogram BLOB NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, key_id, camera)
) WITHOUT ROWID;

CREATE TABLE counted_tracks (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    name BLOB NOT NULL,
    began INTEGER NOT NULL,
    until INTEGER NOT NULL,
    bin INTEGER NOT NULL,
    counted_at INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, name, began)
) WITHOUT ROWID;
CREATE INDEX counted_tracks_0 ON counted_tracks (counted_at);

CREATE TABLE cameras (
    key_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    heard_at INTEGER NOT NULL,
    crop_at INTEGER,
    heartbeat_at INTEGER,
    state TEXT,
    fps REAL,
    lag REAL,
    silent_at INTEGER,
    clock_ahead REAL,
    PRIMARY KEY (key_id, camera)
) WITHOUT ROWID;
CREATE INDEX cameras_0 ON cameras (heard_at);

CREATE TABLE camera_hours (
    key_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    hour INTEGER NOT NULL,
    crops INTEGER NOT NULL,
    tracks INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    PRIMARY KEY (key_id, camera, hour),
    FOREIGN KEY (key_id, camera) REFERENCES cameras ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX camera_hours_0 ON camera_hours (hour);

CREATE TABLE alert_crops (
    number INTEGER PRIMARY KEY REFERENCES alerts ON DELETE CASCADE,
    captured_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE watch_trials (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    tracks INTEGER NOT NULL,
    ended_at INTEGER,
    PRIMARY KEY (gallery_id, key_id, camera)
) WITHOUT ROWID;

CREATE TABLE trial_alerts (
    number INTEGER PRIMARY KEY REFERENCES alerts ON DELETE CASCADE,
    gallery_id INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    held INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX trial_alerts_0 ON trial_alerts (gallery_id, key_id, camera, number);

CREATE TABLE alert_scores (
    number INTEGER PRIMARY KEY REFERENCES alerts ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    subject TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE review_changes (
    gallery_id INTEGER PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    changes INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE ignored_reviews (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    PRIMARY KEY (gallery_id, key_id, camera)
) WITHOUT ROWID;

CREATE TABLE deletions (
    kind TEXT NOT NULL,
    gallery_id INTEGER NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (kind, gallery_id, id)
) WITHOUT ROWID;

CREATE TRIGGER crop_deleted AFTER INSERT ON tombstones BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id)
    VALUES ('crop', new.gallery_id, new.crop_id);
END;
CREATE TRIGGER crop_deleted_again AFTER UPDATE ON tombstones BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id)
    VALUES ('crop', new.gallery_id, new.crop_id);
END;
CREATE TRIGGER gallery_deleted AFTER UPDATE OF name ON galleries WHEN new.name IS NULL BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id)
    VALUES ('gallery', 0, new.gallery_id || '-' || new.created_at);
END;
CREATE TRIGGER key_deleted AFTER DELETE ON api_keys BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('key', 0, old.key_id);
END;
CREATE TRIGGER secret_deleted AFTER UPDATE OF body ON api_keys
WHEN new.body ->> '$.secret_sha256' != old.body ->> '$.secret_sha256' BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id)
    VALUES ('secret', 0, old.body ->> '$.secret_sha256');
END;
CREATE TRIGGER keyless_deleted AFTER INSERT ON record WHEN new.name = 'keys_asked_for' BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('keyless', 0, 'all');
END;
CREATE TRIGGER search_deleted AFTER DELETE ON searches
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('search', 0, old.query_id);
END;
CREATE TRIGGER case_deleted AFTER DELETE ON cases
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('case', 0, old.case_id);
END;
CREATE TRIGGER webhook_deleted AFTER DELETE ON webhooks BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('webhook', 0, old.webhook_id);
END;
CREATE TRIGGER alert_deleted AFTER DELETE ON alerts
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('alert', 0, old.alert_id);
END;
CREATE TRIGGER merge_deleted AFTER DELETE ON merges
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('merge', 0, old.merge_id);
END;
CREATE TRIGGER job_deleted AFTER DELETE ON jobs
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('job', 0, old.job_id);
END;

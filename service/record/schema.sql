-- The tables, indexes and triggers of the record, as a new one is created with them.

-- Single values, of the slices too; `CAST(value AS BIGINT)` reads a number. Those of the core are
-- `record_id`, `group_secret`, `next_gallery`, `keys_asked_for`, `index_owners`, `indexes_rebuilt`,
-- and `commit`, the number of the last commit.
CREATE TABLE record (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A gallery without a name is being deleted. `generation` numbers the sets of its vectors: a reindex
-- fills the file of `staged_generation` and then makes it the searched one. `changed` is the number
-- of the commit that last changed anything of the gallery; `calibrated`, its calibrations.
-- `set_aside` counts the crops that are.
CREATE TABLE galleries (
    gallery_id INTEGER PRIMARY KEY,
    name TEXT UNIQUE,
    embedder TEXT NOT NULL,
    settings TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    next_slot INTEGER NOT NULL,
    next_generation INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    dimension INTEGER,
    staged_embedder TEXT,
    staged_generation INTEGER,
    staged_dimension INTEGER,
    staged_slot INTEGER NOT NULL,
    staged_crops INTEGER NOT NULL,
    crops INTEGER NOT NULL,
    people INTEGER NOT NULL,
    unnamed INTEGER NOT NULL,
    set_aside INTEGER NOT NULL,
    image_bytes INTEGER NOT NULL,
    removals INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    calibrated INTEGER NOT NULL
) WITHOUT ROWID;

-- `sort_key` is the name in natural order: numbers in names sort numerically.
CREATE TABLE people (
    person_id INTEGER PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    name TEXT NOT NULL,
    sort_key TEXT NOT NULL,
    UNIQUE (gallery_id, name)
) WITHOUT ROWID;
CREATE INDEX people_0 ON people (gallery_id, sort_key, name);

-- `slot` is the crop's position in the vector files of its gallery, from 1 on. `seen_at` is the
-- time of capture, or of enrollment if that is unknown. Times are microseconds since 1970, UTC. An
-- external id is stored as it was sent, and found by `external_key`, its Unicode normal form C.
-- `sent_sha256` is the hash of the file that was sent; `sha256`, that of the stored picture, is null
-- if this is the same file. `inside` is 1 if the picture is stored in the table `pictures`. `changed`
-- is the gallery's version of the crop's last change. `set_aside` is 1 if no search, grouping, fit or
-- watch list has the crop.
CREATE TABLE crops (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    slot INTEGER NOT NULL,
    crop_id TEXT NOT NULL,
    person_id INTEGER REFERENCES people,
    camera TEXT,
    captured_at INTEGER,
    seen_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    external_id TEXT,
    external_key TEXT,
    sent_sha256 BLOB,
    content_type TEXT,
    image_bytes INTEGER NOT NULL,
    inside INTEGER NOT NULL,
    quality REAL,
    metadata TEXT,
    set_aside INTEGER NOT NULL,
    changed INTEGER NOT NULL DEFAULT 0,
    sha256 BLOB,
    PRIMARY KEY (gallery_id, slot),
    UNIQUE (gallery_id, crop_id)
) WITHOUT ROWID;
CREATE INDEX crops_0 ON crops (gallery_id, sent_sha256);
CREATE INDEX crops_1 ON crops (person_id, gallery_id, slot);
CREATE INDEX crops_2 ON crops (gallery_id, camera, slot);
CREATE INDEX crops_3 ON crops (gallery_id, seen_at, slot);
CREATE INDEX crops_4 ON crops (gallery_id, created_at, slot);
CREATE INDEX crops_5 ON crops (gallery_id, external_key, slot) WHERE external_key IS NOT NULL;
CREATE INDEX crops_6 ON crops (gallery_id, changed);

-- Tracks of the crops that have one. A track is a tracker's frames of one person in one camera.
CREATE TABLE tracks (
    gallery_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    track TEXT NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX tracks_0 ON tracks (gallery_id, track, slot);

-- Checksum of each vector and its crop's id. A slot has several while vectors of another embedder
-- are prepared, one for each generation.
CREATE TABLE checksums (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    slot INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, slot, generation)
) WITHOUT ROWID;

-- Crops that an import has stored. `renamed` is 1 if a crop got another identity since.
CREATE TABLE imported_crops (
    gallery_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    renamed INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX imported_crops_0 ON imported_crops (job_id, slot);

-- `checksum` is the CRC-32 of the content.
CREATE TABLE pictures (
    gallery_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    content BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
);

-- Crops removed for good, which no import and no restore may bring back. `changed` is the gallery's
-- version of the removal.
CREATE TABLE tombstones (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    removed_at INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    changed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (gallery_id, crop_id)
) WITHOUT ROWID;
CREATE INDEX tombstones_0 ON tombstones (gallery_id, removed_at);
CREATE INDEX tombstones_1 ON tombstones (gallery_id, changed);

-- Answers of processed requests, kept for a day so that repeated requests change nothing.
CREATE TABLE requests (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    answer TEXT NOT NULL,
    happened_at INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, key)
) WITHOUT ROWID;
CREATE INDEX requests_0 ON requests (happened_at);

-- `into_person` received the crops of `identity`.
-- `restored_person` is set by the commit that undoes the merge, before it deletes the row.
CREATE TABLE merges (
    merge_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    identity TEXT NOT NULL,
    into_person INTEGER NOT NULL REFERENCES people ON DELETE CASCADE,
    restored_person INTEGER,
    crops INTEGER NOT NULL,
    version INTEGER NOT NULL,
    merged_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX merges_0 ON merges (gallery_id, version);
CREATE INDEX merges_1 ON merges (into_person);

CREATE TABLE merged_crops (
    merge_id TEXT NOT NULL REFERENCES merges ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    PRIMARY KEY (merge_id, crop_id)
) WITHOUT ROWID;

CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    key_id TEXT NOT NULL,
    parameters TEXT NOT NULL,
    progress TEXT NOT NULL,
    problems INTEGER NOT NULL,
    cancelling INTEGER NOT NULL,
    detail TEXT,
    worker TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX jobs_0 ON jobs (gallery_id, created_at, job_id);
CREATE INDEX jobs_1 ON jobs (created_at, job_id);
CREATE INDEX jobs_2 ON jobs (state);

CREATE TABLE job_problems (
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    problem TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;

-- Calibrations of a gallery, and the searches that they were fitted to, numbered by `number`. A
-- `score_kind` is a scoring and the artefact that computed the scores.
CREATE TABLE calibrations (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    score_kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT,
    searches INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, score_kind)
) WITHOUT ROWID;

CREATE TABLE calibration_searches (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    score_kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (gallery_id, score_kind, number),
    UNIQUE (gallery_id, score_kind, name)
) WITHOUT ROWID;

CREATE TABLE runtimes (
    embedder TEXT PRIMARY KEY,
    choice TEXT NOT NULL
) WITHOUT ROWID;

-- `checksum` is that of all columns but `used_at`, by `key_crc` of keys.py.
CREATE TABLE api_keys (
    key_id TEXT PRIMARY KEY,
    gallery TEXT,
    body TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    used_at INTEGER
) WITHOUT ROWID;

-- Files of the data directory that nothing refers to.
CREATE TABLE unneeded_files (
    path TEXT PRIMARY KEY
) WITHOUT ROWID;

-- Pictures outside the record whose crops do not exist, or not yet; deleted after a grace period.
CREATE TABLE stray_pictures (
    gallery_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, name)
) WITHOUT ROWID;
CREATE INDEX stray_pictures_0 ON stray_pictures (until);

-- Deletions that are not in the log of deletions yet. `gallery_id` is that of a crop, or 0.
CREATE TABLE deletions (
    kind TEXT NOT NULL,
    gallery_id INTEGER NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (kind, gallery_id, id)
) WITHOUT ROWID;

-- Whoever deletes something writes a row of `deletions` in the same commit. What is deleted with
-- its gallery comes back with no restore that leaves out the gallery, and needs no row.
CREATE TRIGGER crop_deleted AFTER INSERT ON tombstones BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id)
    VALUES ('crop', new.gallery_id, new.crop_id);
END;
-- A crop that has a tombstone already is deleted as any other.
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
CREATE TRIGGER merge_deleted AFTER DELETE ON merges
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('merge', 0, old.merge_id);
END;
CREATE TRIGGER job_deleted AFTER DELETE ON jobs
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('job', 0, old.job_id);
END;

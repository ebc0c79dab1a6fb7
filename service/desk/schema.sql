-- Tables of kept searches, reviews and cases.

-- Kept searches. `number` grows within a gallery in the order of commits. `crop_id` is the first of the crops
-- that were searched by, and `crop_gallery` is their gallery if it is another one.
CREATE TABLE searches (
    query_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    request TEXT NOT NULL,
    answer TEXT NOT NULL,
    crop_id TEXT,
    crop_gallery INTEGER,
    content_type TEXT,
    number INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX searches_0 ON searches (gallery_id, query_id);
CREATE INDEX searches_1 ON searches (gallery_id, key_id, query_id);
CREATE INDEX searches_2 ON searches (gallery_id, number);

-- The kept results of a search; the best one has rank 1.
CREATE TABLE search_results (
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    rank INTEGER NOT NULL,
    crop_id TEXT NOT NULL,
    cosine REAL NOT NULL,
    pair_logit REAL,
    probability REAL,
    verdict TEXT,
    likelihood_ratio REAL,
    PRIMARY KEY (query_id, rank)
) WITHOUT ROWID;

CREATE TABLE search_pictures (
    query_id TEXT PRIMARY KEY REFERENCES searches ON DELETE CASCADE,
    content BLOB NOT NULL
);

-- The files that were sent with a search, in their order. The box of a file is JSON. `sent_sha256` is
-- the hash of the file; `sha256`, that of the file without its metadata, is null if it has none.
CREATE TABLE search_files (
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    number INTEGER NOT NULL,
    sent_sha256 BLOB NOT NULL,
    name TEXT,
    box TEXT,
    sha256 BLOB,
    PRIMARY KEY (query_id, number)
) WITHOUT ROWID;

-- The visits that a search found, as JSON without names of people; `removed` counts those that were.
CREATE TABLE search_visits (
    query_id TEXT PRIMARY KEY REFERENCES searches ON DELETE CASCADE,
    visits TEXT NOT NULL
);

-- The crops of these visits. A crop that is deleted is removed from them.
CREATE TABLE visit_crops (
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    PRIMARY KEY (query_id, crop_id)
) WITHOUT ROWID;
CREATE INDEX visit_crops_0 ON visit_crops (crop_id);

-- Crops shown by a kept search, which is deleted when any of their people is forgotten. `gallery_id` is the
-- gallery of the crop.
CREATE TABLE shown (
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    gallery_id INTEGER NOT NULL,
    PRIMARY KEY (query_id, crop_id)
) WITHOUT ROWID;
CREATE INDEX shown_0 ON shown (crop_id);

CREATE TABLE reviews (
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    crop_id TEXT NOT NULL,
    decision TEXT NOT NULL,
    key_id TEXT NOT NULL,
    key_note TEXT NOT NULL,
    reviewed_at INTEGER NOT NULL,
    PRIMARY KEY (query_id, crop_id)
) WITHOUT ROWID;

CREATE TABLE cases (
    case_id TEXT PRIMARY KEY,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    name TEXT NOT NULL,
    notes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    key_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX cases_0 ON cases (gallery_id, case_id);

CREATE TABLE case_searches (
    case_id TEXT NOT NULL REFERENCES cases ON DELETE CASCADE,
    query_id TEXT NOT NULL REFERENCES searches ON DELETE CASCADE,
    added_at INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (case_id, query_id)
) WITHOUT ROWID;
CREATE INDEX case_searches_0 ON case_searches (query_id);

-- Number of searches of a case deleted on a day, with a person or because of their age.
CREATE TABLE case_deletions (
    case_id TEXT NOT NULL REFERENCES cases ON DELETE CASCADE,
    day TEXT NOT NULL,
    searches INTEGER NOT NULL,
    PRIMARY KEY (case_id, day)
) WITHOUT ROWID;
CREATE TRIGGER search_deleted AFTER DELETE ON searches
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('search', 0, old.query_id);
END;
CREATE TRIGGER case_deleted AFTER DELETE ON cases
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('case', 0, old.case_id);
END;

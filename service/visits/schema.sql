-- The latest grouping of a gallery's unnamed crops, as JSON. `version` is that of the gallery when its
-- crops were read.
CREATE TABLE groupings (
    gallery_id INTEGER PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    job_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    groups TEXT NOT NULL
) WITHOUT ROWID;

-- The travel times that each gallery has learned, as JSON.
CREATE TABLE travel_times (
    gallery_id INTEGER PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    body TEXT NOT NULL
) WITHOUT ROWID;

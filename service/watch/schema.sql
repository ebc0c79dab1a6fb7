-- Tables of watch lists, cameras, alerts and webhooks.
--
-- In the table `record`, `newest_alert` is the number of the newest alert, and `alerts_changed` that of
-- the last commit that changed alerts or deliveries.

-- Watch lists that are or were armed, with the forecast at that time. A list is a gallery; a
-- different embedder shows that its vectors were replaced since. `kept_silent` counts the tracks
-- since it was armed that rang for its silent people alone, and so raised no alert. An armed list
-- with `paused_at` is compared with nothing.
CREATE TABLE watches (
    gallery_id INTEGER PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    settings TEXT NOT NULL,
    forecast TEXT NOT NULL,
    embedder TEXT NOT NULL,
    armed_at INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    disarmed_at INTEGER,
    paused_at INTEGER,
    why TEXT,
    kept_silent INTEGER NOT NULL
) WITHOUT ROWID;

-- Histogram of the best scores of a list's tracks. Scores of one `score_kind` are comparable: it
-- tells the embedder, whether scores are relative to a level, and the order of the list's size.
-- Counting starts at `since`, which moves when the list is disarmed or paused.
CREATE TABLE watch_traffic (
    gallery_id INTEGER PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    score_kind TEXT NOT NULL,
    histogram BLOB NOT NULL,
    tracks INTEGER NOT NULL,
    since INTEGER NOT NULL
) WITHOUT ROWID;

-- The part of that histogram that one camera sent with one API key. A camera without a name is ''.
-- `tracks_since_armed` counts its tracks since the list was armed.
CREATE TABLE camera_traffic (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    score_kind TEXT NOT NULL,
    histogram BLOB NOT NULL,
    tracks_since_armed INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, key_id, camera)
) WITHOUT ROWID;
CREATE INDEX camera_traffic_0 ON camera_traffic (key_id);

-- Tracks that were counted lately in a histogram, each with the bin of its best score.
-- `name` is a hash; `began` and `until` are times of capture between which the track was open.
-- `kept_silent` is 1 if a part of it was.
CREATE TABLE counted_tracks (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    name BLOB NOT NULL,
    began INTEGER NOT NULL,
    until INTEGER NOT NULL,
    bin INTEGER NOT NULL,
    kept_silent INTEGER NOT NULL,
    counted_at INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, name, began)
) WITHOUT ROWID;
CREATE INDEX counted_tracks_0 ON counted_tracks (counted_at);

-- Tracks that raised no alert of a list, for a day, if the list explains them. `name`, `began` and
-- `until` are as in `counted_tracks`; without a tracker's id there is no name. The columns from
-- `captured_at` on are about the track's best crop. A track is `hidden` if a part of it raised an
-- alert or was kept silent: nothing else of it is kept.
CREATE TABLE passages (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    passage_id TEXT NOT NULL,
    name BLOB,
    began INTEGER NOT NULL,
    until INTEGER NOT NULL,
    hidden INTEGER NOT NULL,
    noted_at INTEGER NOT NULL,
    captured_at INTEGER,
    camera TEXT,
    zone TEXT,
    track TEXT,
    score REAL,
    threshold REAL,
    probability REAL,
    height INTEGER,
    faults TEXT,
    PRIMARY KEY (gallery_id, passage_id)
) WITHOUT ROWID;
CREATE INDEX passages_0 ON passages (gallery_id, name);

-- Cameras as API keys name them. `camera` is empty for crops without a camera, and for the cameras
-- beyond the limit of a key. `state`, `fps` and `lag` are those of the last heartbeat; `silent_at`
-- is when it was noted that the camera is silent. An administrator drew `zones`, and has asked at
-- `still_asked_at` for a still that has not come yet.
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
    zones TEXT,
    still_asked_at INTEGER,
    PRIMARY KEY (key_id, camera)
) WITHOUT ROWID;
CREATE INDEX cameras_0 ON cameras (heard_at);

-- What a camera sent in an hour, which is numbered from 1970.
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

-- `number` grows in commit order; `follows` is the id of the person's preceding visit at
-- another camera. An alert about a list or a camera has a `detail` and no person. From `camera` to
-- `trial`, the columns of a visit are about the crop that it shows: `zone` is where the person
-- stood, `key_id` is the API key that sent it, only scores of the same `score_kind` are comparable,
-- and `trial` is 1 if the list was on trial at its camera.
CREATE TABLE alerts (
    number INTEGER PRIMARY KEY,
    alert_id TEXT NOT NULL UNIQUE,
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    person_id INTEGER REFERENCES people ON DELETE CASCADE,
    kind TEXT NOT NULL,
    detail TEXT,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    crops INTEGER NOT NULL,
    camera TEXT,
    zone TEXT,
    key_id TEXT,
    track TEXT,
    captured_at INTEGER,
    score REAL,
    score_kind TEXT,
    threshold REAL,
    probability REAL,
    needed REAL,
    cohesion REAL,
    calibration_version TEXT,
    crop_id TEXT,
    trial INTEGER NOT NULL,
    state TEXT NOT NULL,
    reviewed_by TEXT,
    reviewed_at INTEGER,
    follows TEXT,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX alerts_0 ON alerts (gallery_id, number);
CREATE INDEX alerts_1 ON alerts (gallery_id, crop_id);
CREATE INDEX alerts_2 ON alerts (person_id, last_seen);
CREATE INDEX alerts_3 ON alerts (gallery_id, score_kind, number) WHERE state != 'open';
CREATE INDEX alerts_4 ON alerts (gallery_id, key_id, coalesce(camera, ''), number) WHERE trial = 1;

CREATE TABLE alert_pictures (
    number INTEGER PRIMARY KEY REFERENCES alerts ON DELETE CASCADE,
    content_type TEXT NOT NULL,
    content BLOB NOT NULL
);

-- How often reviews of a list have changed, or what they may move; its thresholds depend on them.
CREATE TABLE review_changes (
    gallery_id INTEGER PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    changes INTEGER NOT NULL
) WITHOUT ROWID;

-- Cameras whose reviews move no threshold of a list until it is armed again, by an administrator's
-- decision. A camera without a name is ''.
CREATE TABLE ignored_reviews (
    gallery_id INTEGER NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    camera TEXT NOT NULL,
    PRIMARY KEY (gallery_id, key_id, camera)
) WITHOUT ROWID;
CREATE INDEX ignored_reviews_0 ON ignored_reviews (key_id);

-- A webhook without a gallery receives all alerts; `dropped` counts alerts that found it full.
CREATE TABLE webhooks (
    webhook_id TEXT PRIMARY KEY,
    gallery_id INTEGER REFERENCES galleries ON DELETE CASCADE,
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    former_secret TEXT,
    former_until INTEGER,
    enabled INTEGER NOT NULL,
    why TEXT,
    note TEXT NOT NULL,
    key_id TEXT NOT NULL,
    dropped INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX webhooks_0 ON webhooks (gallery_id);

-- `sent_to` is the last address, kept for when the webhook is deleted.
CREATE TABLE deliveries (
    delivery_id TEXT PRIMARY KEY,
    webhook_id TEXT REFERENCES webhooks ON DELETE SET NULL,
    number INTEGER NOT NULL REFERENCES alerts ON DELETE CASCADE,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    status INTEGER,
    error TEXT,
    sent_to TEXT,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX deliveries_0 ON deliveries (webhook_id, state, next_at);
CREATE INDEX deliveries_1 ON deliveries (number);
CREATE TRIGGER webhook_deleted AFTER DELETE ON webhooks BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('webhook', 0, old.webhook_id);
END;
CREATE TRIGGER alert_deleted AFTER DELETE ON alerts
WHEN EXISTS (SELECT 1 FROM galleries WHERE gallery_id = old.gallery_id AND name IS NOT NULL) BEGIN
    INSERT OR IGNORE INTO deletions (kind, gallery_id, id) VALUES ('alert', 0, old.alert_id);
END;
-- Cameras are those of keys; a key of a file has no row that a foreign key could refer to.
CREATE TRIGGER cameras_deleted AFTER DELETE ON api_keys BEGIN
    DELETE FROM cameras WHERE key_id = old.key_id;
    DELETE FROM camera_traffic WHERE key_id = old.key_id;
    DELETE FROM ignored_reviews WHERE key_id = old.key_id;
END;
-- An alert is about the person that its nearest crop shows, and keeps the id of that crop.
CREATE TRIGGER alerts_follow_crop AFTER UPDATE OF person_id ON crops
WHEN new.person_id IS NOT NULL AND new.person_id IS NOT old.person_id BEGIN
    UPDATE alerts SET person_id = new.person_id
    WHERE gallery_id = new.gallery_id AND crop_id = new.crop_id;
END;
-- Alerts whose crop was deleted follow the merge of their person, and the undoing of it.
CREATE TRIGGER alerts_merged AFTER INSERT ON merges BEGIN
    INSERT OR IGNORE INTO merged_crops (merge_id, crop_id)
    SELECT new.merge_id, crop_id FROM alerts JOIN people USING (person_id)
    WHERE people.gallery_id = new.gallery_id AND name = new.identity;
    UPDATE alerts SET person_id = new.into_person WHERE person_id = (
        SELECT person_id FROM people WHERE gallery_id = new.gallery_id AND name = new.identity
    );
END;
CREATE TRIGGER alerts_restored AFTER UPDATE OF restored_person ON merges BEGIN
    UPDATE alerts SET person_id = new.restored_person WHERE person_id = new.into_person
    AND crop_id IN (SELECT crop_id FROM merged_crops WHERE merge_id = new.merge_id);
END;

CREATE TABLE record (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);
CREATE TABLE galleries (
    gallery_id BIGINT PRIMARY KEY,
    name TEXT COLLATE "C" UNIQUE,
    embedder TEXT COLLATE "C" NOT NULL,
    settings TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    next_slot BIGINT NOT NULL,
    next_generation BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    dimension BIGINT,
    staged_embedder TEXT COLLATE "C",
    staged_generation BIGINT,
    staged_dimension BIGINT,
    staged_slot BIGINT NOT NULL,
    staged_crops BIGINT NOT NULL,
    crops BIGINT NOT NULL,
    people BIGINT NOT NULL,
    unnamed BIGINT NOT NULL,
    set_aside BIGINT NOT NULL,
    image_bytes BIGINT NOT NULL,
    removals BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    calibrated BIGINT NOT NULL
);
CREATE TABLE people (
    person_id BIGINT PRIMARY KEY,
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    name TEXT COLLATE "C" NOT NULL,
    sort_key TEXT COLLATE "C" NOT NULL,
    UNIQUE (gallery_id, name)
);
CREATE INDEX people_0 ON people (gallery_id, sort_key, name);
CREATE TABLE crops (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    slot BIGINT NOT NULL,
    crop_id TEXT COLLATE "C" NOT NULL,
    person_id BIGINT REFERENCES people,
    camera TEXT COLLATE "C",
    captured_at BIGINT,
    seen_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    external_id TEXT COLLATE "C",
    external_key TEXT COLLATE "C",
    sha256 BYTEA,
    content_type TEXT COLLATE "C",
    image_bytes BIGINT NOT NULL,
    inside BIGINT NOT NULL,
    quality DOUBLE PRECISION,
    metadata TEXT COLLATE "C",
    set_aside BIGINT NOT NULL,
    changed BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (gallery_id, slot),
    UNIQUE (gallery_id, crop_id)
);
CREATE INDEX crops_0 ON crops (gallery_id, sha256);
CREATE INDEX crops_1 ON crops (person_id, gallery_id, slot);
CREATE INDEX crops_2 ON crops (gallery_id, camera, slot);
CREATE INDEX crops_3 ON crops (gallery_id, seen_at, slot);
CREATE INDEX crops_4 ON crops (gallery_id, created_at, slot);
CREATE INDEX crops_5 ON crops (gallery_id, external_key, slot) WHERE external_key IS NOT NULL;
CREATE INDEX crops_6 ON crops (gallery_id, changed);
CREATE TABLE tracks (
    gallery_id BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    track TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
);
CREATE INDEX tracks_0 ON tracks (gallery_id, track, slot);
CREATE TABLE checksums (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    slot BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    checksum BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, slot, generation)
);
CREATE TABLE imported_crops (
    gallery_id BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    job_id TEXT COLLATE "C" NOT NULL,
    renamed BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
);
CREATE INDEX imported_crops_0 ON imported_crops (job_id, slot);
CREATE TABLE pictures (
    gallery_id BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    content BYTEA NOT NULL,
    checksum BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
);
CREATE TABLE tombstones (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    crop_id TEXT COLLATE "C" NOT NULL,
    removed_at BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    changed BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (gallery_id, crop_id)
);
CREATE INDEX tombstones_0 ON tombstones (gallery_id, removed_at);
CREATE INDEX tombstones_1 ON tombstones (gallery_id, changed);
CREATE TABLE requests (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    answer TEXT COLLATE "C" NOT NULL,
    happened_at BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, key)
);
CREATE INDEX requests_0 ON requests (happened_at);
CREATE TABLE merges (
    merge_id TEXT COLLATE "C" PRIMARY KEY,
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    identity TEXT COLLATE "C" NOT NULL,
    into_person BIGINT NOT NULL REFERENCES people ON DELETE CASCADE,
    restored_person BIGINT,
    crops BIGINT NOT NULL,
    version BIGINT NOT NULL,
    merged_at BIGINT NOT NULL
);
CREATE INDEX merges_0 ON merges (gallery_id, version);
CREATE INDEX merges_1 ON merges (into_person);
CREATE TABLE merged_crops (
    merge_id TEXT COLLATE "C" NOT NULL REFERENCES merges ON DELETE CASCADE,
    crop_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (merge_id, crop_id)
);
CREATE TABLE jobs (
    job_id TEXT COLLATE "C" PRIMARY KEY,
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    kind TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    parameters TEXT COLLATE "C" NOT NULL,
    progress TEXT COLLATE "C" NOT NULL,
    problems BIGINT NOT NULL,
    cancelling BIGINT NOT NULL,
    detail TEXT COLLATE "C",
    worker TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX jobs_0 ON jobs (gallery_id, created_at, job_id);
CREATE INDEX jobs_1 ON jobs (created_at, job_id);
CREATE INDEX jobs_2 ON jobs (state);
CREATE TABLE job_problems (
    job_id TEXT COLLATE "C" NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number BIGINT NOT NULL,
    problem TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (job_id, number)
);
CREATE TABLE calibrations (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    score_kind TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    body TEXT COLLATE "C",
    searches BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, score_kind)
);
CREATE TABLE calibration_searches (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    score_kind TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (gallery_id, score_kind, number),
    UNIQUE (gallery_id, score_kind, name)
);
CREATE TABLE runtimes (
    embedder TEXT COLLATE "C" PRIMARY KEY,
    choice TEXT COLLATE "C" NOT NULL
);
CREATE TABLE api_keys (
    key_id TEXT COLLATE "C" PRIMARY KEY,
    gallery TEXT COLLATE "C",
    body TEXT COLLATE "C" NOT NULL,
    checksum BIGINT NOT NULL,
    used_at BIGINT
);
CREATE TABLE unneeded_files (
    path TEXT COLLATE "C" PRIMARY KEY
);
CREATE TABLE stray_pictures (
    gallery_id BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, name)
);
CREATE INDEX stray_pictures_0 ON stray_pictures (until);
CREATE TABLE deletions (
    kind TEXT COLLATE "C" NOT NULL,
    gallery_id BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, gallery_id, id)
);
CREATE TABLE searches (
    query_id TEXT COLLATE "C" PRIMARY KEY,
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    request TEXT COLLATE "C" NOT NULL,
    answer TEXT COLLATE "C" NOT NULL,
    crop_id TEXT COLLATE "C",
    crop_gallery BIGINT,
    content_type TEXT COLLATE "C",
    number BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX searches_0 ON searches (gallery_id, query_id);
CREATE INDEX searches_1 ON searches (gallery_id, key_id, query_id);
CREATE INDEX searches_2 ON searches (gallery_id, number);
CREATE TABLE search_results (
    query_id TEXT COLLATE "C" NOT NULL REFERENCES searches ON DELETE CASCADE,
    rank BIGINT NOT NULL,
    crop_id TEXT COLLATE "C" NOT NULL,
    cosine DOUBLE PRECISION NOT NULL,
    pair_logit DOUBLE PRECISION,
    probability DOUBLE PRECISION,
    verdict TEXT COLLATE "C",
    likelihood_ratio DOUBLE PRECISION,
    PRIMARY KEY (query_id, rank)
);
CREATE TABLE search_pictures (
    query_id TEXT COLLATE "C" PRIMARY KEY REFERENCES searches ON DELETE CASCADE,
    content BYTEA NOT NULL
);
CREATE TABLE search_files (
    query_id TEXT COLLATE "C" NOT NULL REFERENCES searches ON DELETE CASCADE,
    number BIGINT NOT NULL,
    sha256 BYTEA NOT NULL,
    name TEXT COLLATE "C",
    box TEXT COLLATE "C",
    PRIMARY KEY (query_id, number)
);
CREATE TABLE search_visits (
    query_id TEXT COLLATE "C" PRIMARY KEY REFERENCES searches ON DELETE CASCADE,
    visits TEXT COLLATE "C" NOT NULL
);
CREATE TABLE shown (
    query_id TEXT COLLATE "C" NOT NULL REFERENCES searches ON DELETE CASCADE,
    crop_id TEXT COLLATE "C" NOT NULL,
    gallery_id BIGINT NOT NULL,
    PRIMARY KEY (query_id, crop_id)
);
CREATE INDEX shown_0 ON shown (crop_id);
CREATE TABLE reviews (
    query_id TEXT COLLATE "C" NOT NULL REFERENCES searches ON DELETE CASCADE,
    crop_id TEXT COLLATE "C" NOT NULL,
    decision TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    key_note TEXT COLLATE "C" NOT NULL,
    reviewed_at BIGINT NOT NULL,
    PRIMARY KEY (query_id, crop_id)
);
CREATE TABLE cases (
    case_id TEXT COLLATE "C" PRIMARY KEY,
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    name TEXT COLLATE "C" NOT NULL,
    notes TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL
);
CREATE INDEX cases_0 ON cases (gallery_id, case_id);
CREATE TABLE case_searches (
    case_id TEXT COLLATE "C" NOT NULL REFERENCES cases ON DELETE CASCADE,
    query_id TEXT COLLATE "C" NOT NULL REFERENCES searches ON DELETE CASCADE,
    added_at BIGINT NOT NULL,
    note TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (case_id, query_id)
);
CREATE INDEX case_searches_0 ON case_searches (query_id);
CREATE TABLE case_deletions (
    case_id TEXT COLLATE "C" NOT NULL REFERENCES cases ON DELETE CASCADE,
    day TEXT COLLATE "C" NOT NULL,
    searches BIGINT NOT NULL,
    PRIMARY KEY (case_id, day)
);
CREATE TABLE doubtful_crops (
    gallery_id BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    person_id BIGINT NOT NULL,
    other_slot BIGINT NOT NULL,
    other_person_id BIGINT NOT NULL,
    doubt BIGINT NOT NULL,
    own DOUBLE PRECISION,
    own_probability DOUBLE PRECISION,
    other DOUBLE PRECISION NOT NULL,
    other_probability DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
);
CREATE INDEX doubtful_crops_0 ON doubtful_crops (gallery_id, doubt, slot);
CREATE TABLE confirmed_crops (
    gallery_id BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    person_id BIGINT NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    confirmed_at BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
);
CREATE TABLE doubt_checks (
    gallery_id BIGINT PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    generation BIGINT NOT NULL,
    rule TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    crops BIGINT NOT NULL,
    begun BIGINT NOT NULL
);
CREATE TABLE collections (
    gallery_id BIGINT PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    collection TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    embedder TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    timestamp BIGINT NOT NULL,
    building TEXT COLLATE "C" NOT NULL,
    builds BIGINT NOT NULL,
    wanted BIGINT NOT NULL,
    lacks_rows BIGINT NOT NULL
);
CREATE TABLE groupings (
    gallery_id BIGINT PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    job_id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    groups TEXT COLLATE "C" NOT NULL
);
CREATE TABLE travel_times (
    gallery_id BIGINT PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    body TEXT COLLATE "C" NOT NULL
);
CREATE TABLE watches (
    gallery_id BIGINT PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    settings TEXT COLLATE "C" NOT NULL,
    forecast TEXT COLLATE "C" NOT NULL,
    embedder TEXT COLLATE "C" NOT NULL,
    armed_at BIGINT NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    disarmed_at BIGINT,
    paused_at BIGINT,
    why TEXT COLLATE "C",
    kept_silent BIGINT NOT NULL
);
CREATE TABLE watch_traffic (
    gallery_id BIGINT PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    score_kind TEXT COLLATE "C" NOT NULL,
    histogram BYTEA NOT NULL,
    tracks BIGINT NOT NULL,
    since BIGINT NOT NULL
);
CREATE TABLE camera_traffic (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT COLLATE "C" NOT NULL,
    camera TEXT COLLATE "C" NOT NULL,
    score_kind TEXT COLLATE "C" NOT NULL,
    histogram BYTEA NOT NULL,
    tracks_since_armed BIGINT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, key_id, camera)
);
CREATE INDEX camera_traffic_0 ON camera_traffic (key_id);
CREATE TABLE counted_tracks (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    name BYTEA NOT NULL,
    began BIGINT NOT NULL,
    until BIGINT NOT NULL,
    bin BIGINT NOT NULL,
    kept_silent BIGINT NOT NULL,
    counted_at BIGINT NOT NULL,
    PRIMARY KEY (gallery_id, name, began)
);
CREATE INDEX counted_tracks_0 ON counted_tracks (counted_at);
CREATE TABLE passages (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    passage_id TEXT COLLATE "C" NOT NULL,
    name BYTEA,
    began BIGINT NOT NULL,
    until BIGINT NOT NULL,
    hidden BIGINT NOT NULL,
    noted_at BIGINT NOT NULL,
    captured_at BIGINT,
    camera TEXT COLLATE "C",
    zone TEXT COLLATE "C",
    track TEXT COLLATE "C",
    score DOUBLE PRECISION,
    threshold DOUBLE PRECISION,
    probability DOUBLE PRECISION,
    height BIGINT,
    faults TEXT COLLATE "C",
    PRIMARY KEY (gallery_id, passage_id)
);
CREATE INDEX passages_0 ON passages (gallery_id, name);
CREATE TABLE cameras (
    key_id TEXT COLLATE "C" NOT NULL,
    camera TEXT COLLATE "C" NOT NULL,
    heard_at BIGINT NOT NULL,
    crop_at BIGINT,
    heartbeat_at BIGINT,
    state TEXT COLLATE "C",
    fps DOUBLE PRECISION,
    lag DOUBLE PRECISION,
    silent_at BIGINT,
    clock_ahead DOUBLE PRECISION,
    zones TEXT COLLATE "C",
    still_asked_at BIGINT,
    PRIMARY KEY (key_id, camera)
);
CREATE INDEX cameras_0 ON cameras (heard_at);
CREATE TABLE camera_hours (
    key_id TEXT COLLATE "C" NOT NULL,
    camera TEXT COLLATE "C" NOT NULL,
    hour BIGINT NOT NULL,
    crops BIGINT NOT NULL,
    tracks BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    PRIMARY KEY (key_id, camera, hour),
    FOREIGN KEY (key_id, camera) REFERENCES cameras ON DELETE CASCADE
);
CREATE INDEX camera_hours_0 ON camera_hours (hour);
CREATE TABLE alerts (
    number BIGINT PRIMARY KEY,
    alert_id TEXT COLLATE "C" NOT NULL UNIQUE,
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    person_id BIGINT REFERENCES people ON DELETE CASCADE,
    kind TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C",
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    crops BIGINT NOT NULL,
    camera TEXT COLLATE "C",
    zone TEXT COLLATE "C",
    key_id TEXT COLLATE "C",
    track TEXT COLLATE "C",
    captured_at BIGINT,
    score DOUBLE PRECISION,
    score_kind TEXT COLLATE "C",
    threshold DOUBLE PRECISION,
    probability DOUBLE PRECISION,
    needed DOUBLE PRECISION,
    cohesion DOUBLE PRECISION,
    calibration_version TEXT COLLATE "C",
    crop_id TEXT COLLATE "C",
    trial BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    reviewed_by TEXT COLLATE "C",
    reviewed_at BIGINT,
    follows TEXT COLLATE "C",
    created_at BIGINT NOT NULL
);
CREATE INDEX alerts_0 ON alerts (gallery_id, number);
CREATE INDEX alerts_1 ON alerts (gallery_id, crop_id);
CREATE INDEX alerts_2 ON alerts (person_id, last_seen);
CREATE INDEX alerts_3 ON alerts (gallery_id, score_kind, number) WHERE state != 'open';
CREATE INDEX alerts_4 ON alerts (gallery_id, key_id, coalesce(camera, ''), number) WHERE trial = 1;
CREATE TABLE alert_pictures (
    number BIGINT PRIMARY KEY REFERENCES alerts ON DELETE CASCADE,
    content_type TEXT COLLATE "C" NOT NULL,
    content BYTEA NOT NULL
);
CREATE TABLE review_changes (
    gallery_id BIGINT PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    changes BIGINT NOT NULL
);
CREATE TABLE ignored_reviews (
    gallery_id BIGINT NOT NULL REFERENCES galleries ON DELETE CASCADE,
    key_id TEXT COLLATE "C" NOT NULL,
    camera TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (gallery_id, key_id, camera)
);
CREATE INDEX ignored_reviews_0 ON ignored_reviews (key_id);
CREATE TABLE webhooks (
    webhook_id TEXT COLLATE "C" PRIMARY KEY,
    gallery_id BIGINT REFERENCES galleries ON DELETE CASCADE,
    url TEXT COLLATE "C" NOT NULL,
    secret TEXT COLLATE "C" NOT NULL,
    former_secret TEXT COLLATE "C",
    former_until BIGINT,
    enabled BIGINT NOT NULL,
    why TEXT COLLATE "C",
    note TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    dropped BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX webhooks_0 ON webhooks (gallery_id);
CREATE TABLE deliveries (
    delivery_id TEXT COLLATE "C" PRIMARY KEY,
    webhook_id TEXT COLLATE "C" REFERENCES webhooks ON DELETE SET NULL,
    number BIGINT NOT NULL REFERENCES alerts ON DELETE CASCADE,
    state TEXT COLLATE "C" NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    status BIGINT,
    error TEXT COLLATE "C",
    sent_to TEXT COLLATE "C",
    created_at BIGINT NOT NULL
);
CREATE INDEX deliveries_0 ON deliveries (webhook_id, state, next_at);
CREATE INDEX deliveries_1 ON deliveries (number);
-- What a record in PostgreSQL has besides the tables and indexes of every schema.sql: triggers of the
-- core, vectors, and the commit of each deletion, by which every machine logs it.

ALTER TABLE checksums ADD COLUMN content BYTEA;
-- Vectors cannot be compressed, and long ones do not fit into a page.
ALTER TABLE checksums ALTER COLUMN content SET STORAGE EXTERNAL;

ALTER TABLE deletions ADD COLUMN committed BIGINT NOT NULL;
ALTER TABLE deletions ADD COLUMN noted_at TIMESTAMPTZ NOT NULL DEFAULT now();
CREATE INDEX deletions_0 ON deletions (committed);

-- Tokens of the newest commits, by their numbers modulo the size of the table. A number after a crash
-- of the server, and a transaction's id too, may be one that was given before.
CREATE TABLE commits (
    slot BIGINT PRIMARY KEY,
    token TEXT NOT NULL
);

-- The newest commit of each machine, by which it knows the record again after any number of commits.
CREATE TABLE machines (
    machine TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    token TEXT NOT NULL
);

-- Each machine removes its own files of these names.
ALTER TABLE unneeded_files ADD COLUMN noted_at TIMESTAMPTZ NOT NULL DEFAULT now();

CREATE FUNCTION note_commit() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    new.committed := (SELECT CAST(value AS BIGINT) + 1 FROM record WHERE name = 'commit');
    RETURN new;
END $$;
CREATE TRIGGER deletion_noted BEFORE INSERT ON deletions
FOR EACH ROW EXECUTE FUNCTION note_commit();

CREATE FUNCTION note_deletion(of_kind TEXT, of_gallery BIGINT, deleted_id TEXT) RETURNS VOID
LANGUAGE sql AS $$
INSERT INTO deletions (kind, gallery_id, id) VALUES (of_kind, of_gallery, deleted_id)
ON CONFLICT (kind, gallery_id, id) DO UPDATE SET committed = excluded.committed
$$;

CREATE FUNCTION note_crop() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    PERFORM note_deletion('crop', new.gallery_id, new.crop_id);
    RETURN NULL;
END $$;
CREATE TRIGGER crop_deleted AFTER INSERT OR UPDATE ON tombstones
FOR EACH ROW EXECUTE FUNCTION note_crop();

CREATE FUNCTION note_gallery() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    PERFORM note_deletion('gallery', 0, new.gallery_id || '-' || new.created_at);
    RETURN NULL;
END $$;
CREATE TRIGGER gallery_deleted AFTER UPDATE OF name ON galleries
FOR EACH ROW WHEN (new.name IS NULL) EXECUTE FUNCTION note_gallery();

CREATE FUNCTION note_secret() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    PERFORM note_deletion('secret', 0, old.body::json ->> 'secret_sha256');
    RETURN NULL;
END $$;
CREATE TRIGGER secret_deleted AFTER UPDATE OF body ON api_keys FOR EACH ROW
WHEN (new.body::json ->> 'secret_sha256' != old.body::json ->> 'secret_sha256')
EXECUTE FUNCTION note_secret();

CREATE FUNCTION note_keyless() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    PERFORM note_deletion('keyless', 0, 'all');
    RETURN NULL;
END $$;
CREATE TRIGGER keyless_deleted AFTER INSERT ON record
FOR EACH ROW WHEN (new.name = 'keys_asked_for') EXECUTE FUNCTION note_keyless();

-- The arguments are the kind and the column of the id. What is deleted with its gallery is not noted.
-- Each slice's postgres.sql uses it, too.
CREATE FUNCTION note_row() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    former JSONB := to_jsonb(old) - 'content';
BEGIN
    IF tg_argv[2] = 'of a gallery' AND NOT EXISTS (
        SELECT 1 FROM galleries
        WHERE gallery_id = (former ->> 'gallery_id')::BIGINT AND name IS NOT NULL
    ) THEN
        RETURN NULL;
    END IF;
    PERFORM note_deletion(tg_argv[0], 0, former ->> tg_argv[1]);
    RETURN NULL;
END $$;
CREATE TRIGGER key_deleted AFTER DELETE ON api_keys
FOR EACH ROW EXECUTE FUNCTION note_row('key', 'key_id');
CREATE TRIGGER merge_deleted AFTER DELETE ON merges
FOR EACH ROW EXECUTE FUNCTION note_row('merge', 'merge_id', 'of a gallery');
CREATE TRIGGER job_deleted AFTER DELETE ON jobs
FOR EACH ROW EXECUTE FUNCTION note_row('job', 'job_id', 'of a gallery');
-- PostgreSQL's triggers of these tables, beside those that schema.sql has for SQLite. `note_row` is that
-- of postgres/triggers.sql.
CREATE TRIGGER search_deleted AFTER DELETE ON searches
FOR EACH ROW EXECUTE FUNCTION note_row('search', 'query_id', 'of a gallery');
CREATE TRIGGER case_deleted AFTER DELETE ON cases
FOR EACH ROW EXECUTE FUNCTION note_row('case', 'case_id', 'of a gallery');
-- PostgreSQL's triggers of these tables, beside those that schema.sql has for SQLite. `note_row` is that
-- of postgres/triggers.sql.
CREATE TRIGGER webhook_deleted AFTER DELETE ON webhooks
FOR EACH ROW EXECUTE FUNCTION note_row('webhook', 'webhook_id');
CREATE TRIGGER alert_deleted AFTER DELETE ON alerts
FOR EACH ROW EXECUTE FUNCTION note_row('alert', 'alert_id', 'of a gallery');

CREATE FUNCTION delete_cameras() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    DELETE FROM cameras WHERE key_id = old.key_id;
    DELETE FROM camera_traffic WHERE key_id = old.key_id;
    DELETE FROM ignored_reviews WHERE key_id = old.key_id;
    RETURN NULL;
END $$;
CREATE TRIGGER cameras_deleted AFTER DELETE ON api_keys
FOR EACH ROW EXECUTE FUNCTION delete_cameras();

CREATE FUNCTION follow_crop() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    UPDATE alerts SET person_id = new.person_id
    WHERE gallery_id = new.gallery_id AND crop_id = new.crop_id;
    RETURN NULL;
END $$;
CREATE TRIGGER alerts_follow_crop AFTER UPDATE OF person_id ON crops FOR EACH ROW
WHEN (new.person_id IS NOT NULL AND new.person_id IS DISTINCT FROM old.person_id)
EXECUTE FUNCTION follow_crop();

CREATE FUNCTION follow_merge() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO merged_crops (merge_id, crop_id)
    SELECT DISTINCT new.merge_id, crop_id FROM alerts JOIN people USING (person_id)
    WHERE people.gallery_id = new.gallery_id AND name = new.identity;
    UPDATE alerts SET person_id = new.into_person WHERE person_id = (
        SELECT person_id FROM people WHERE gallery_id = new.gallery_id AND name = new.identity
    );
    RETURN NULL;
END $$;
CREATE TRIGGER alerts_merged AFTER INSERT ON merges
FOR EACH ROW EXECUTE FUNCTION follow_merge();

CREATE FUNCTION follow_undoing() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    UPDATE alerts SET person_id = new.restored_person WHERE person_id = new.into_person
    AND crop_id IN (SELECT crop_id FROM merged_crops WHERE merge_id = new.merge_id);
    RETURN NULL;
END $$;
CREATE TRIGGER alerts_restored AFTER UPDATE OF restored_person ON merges
FOR EACH ROW EXECUTE FUNCTION follow_undoing();


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

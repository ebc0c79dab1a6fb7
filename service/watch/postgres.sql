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

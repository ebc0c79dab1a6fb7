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

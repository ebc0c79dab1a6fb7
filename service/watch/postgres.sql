-- PostgreSQL's triggers of these tables, beside those that schema.sql has for SQLite. `note_row` is that
-- of postgres/triggers.sql.
CREATE TRIGGER webhook_deleted AFTER DELETE ON webhooks
FOR EACH ROW EXECUTE FUNCTION note_row('webhook', 'webhook_id');
CREATE TRIGGER alert_deleted AFTER DELETE ON alerts
FOR EACH ROW EXECUTE FUNCTION note_row('alert', 'alert_id', 'of a gallery');

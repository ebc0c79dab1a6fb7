-- PostgreSQL's triggers of these tables, beside those that schema.sql has for SQLite. `note_row` is that
-- of postgres/triggers.sql.
CREATE TRIGGER search_deleted AFTER DELETE ON searches
FOR EACH ROW EXECUTE FUNCTION note_row('search', 'query_id', 'of a gallery');
CREATE TRIGGER case_deleted AFTER DELETE ON cases
FOR EACH ROW EXECUTE FUNCTION note_row('case', 'case_id', 'of a gallery');

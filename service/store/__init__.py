"""Backups and restores of a record, its verification, exports, and the copy to PostgreSQL."""

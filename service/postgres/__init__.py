"""A record in PostgreSQL in place of SQLite's file, for several machines."""

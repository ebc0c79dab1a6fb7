"""The store of record in Redis: a script for each write, and one stream of all changes."""

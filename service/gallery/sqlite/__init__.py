"""The store of record in one SQLite file: WAL, synchronous=FULL, deleted means overwritten."""

"""The record of everything as SQL tables in one SQLite file, with one file of vectors a gallery."""

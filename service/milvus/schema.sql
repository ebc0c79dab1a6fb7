-- State of each gallery's collection in Milvus.
CREATE TABLE collections (
    gallery_id INTEGER PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    collection TEXT NOT NULL,
    generation INTEGER NOT NULL,
    embedder TEXT NOT NULL,
    version INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    building TEXT NOT NULL,
    builds INTEGER NOT NULL,
    wanted INTEGER NOT NULL,
    lacks_rows INTEGER NOT NULL
) WITHOUT ROWID;

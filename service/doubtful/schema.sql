-- Tables of doubtful crops.

-- Named crops that the last check of their gallery found doubtful. A row holds while both crops
-- have the people of that check. `other_slot` is the crop of another person that the crop
-- resembles; it may have been deleted since. `doubt` orders the list, in millionths. `own` and
-- `other` are mean cosines, `own_probability` and `other_probability` their calibrated meaning;
-- those of the own person are null for an only crop.
CREATE TABLE doubtful_crops (
    gallery_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    person_id INTEGER NOT NULL,
    other_slot INTEGER NOT NULL,
    other_person_id INTEGER NOT NULL,
    doubt INTEGER NOT NULL,
    own REAL,
    own_probability REAL,
    other REAL NOT NULL,
    other_probability REAL NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX doubtful_crops_0 ON doubtful_crops (gallery_id, doubt, slot);

-- Crops that somebody has confirmed to show their person, and which are not listed as long as they
-- are that person's.
CREATE TABLE confirmed_crops (
    gallery_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    person_id INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    confirmed_at INTEGER NOT NULL,
    PRIMARY KEY (gallery_id, slot),
    FOREIGN KEY (gallery_id, slot) REFERENCES crops ON DELETE CASCADE
) WITHOUT ROWID;

-- How far each gallery was checked: up to the crop in `slot` among those whose last change was in
-- `version`, with the vectors of `generation`, by `rule`. `crops` and `begun` are the size and the
-- version of the gallery when this round over all of its crops began.
CREATE TABLE doubt_checks (
    gallery_id INTEGER PRIMARY KEY REFERENCES galleries ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    rule TEXT NOT NULL,
    version INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    crops INTEGER NOT NULL,
    begun INTEGER NOT NULL
) WITHOUT ROWID;

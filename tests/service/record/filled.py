"""A record of which every table has rows, and its contents."""

import random

from service.record.schema import TABLES
from service.record.transaction import JSON_COLUMNS
from service.record.values import JsonObject
from tests.service.gallery.new_crops import new_gallery, open_record

# A key that is a gallery's number alone has one row.
ROWS = 40
MADE_WITH_THE_GALLERY = ("record", "galleries")
# Its rows leave it with their commit.
WITHOUT_ROWS = (*MADE_WITH_THE_GALLERY, "deletions")


def fill_record(folder):
    with open_record(folder) as record:
        record.database.write(_fill, new_gallery(record))
        record.database.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")


def contents(record):
    with record.database.read() as reader:
        return {
            name: sorted((_as_tuple(row) for row in reader.rows(name)), key=repr) for name in TABLES
        }


def _as_tuple(row):
    return tuple(dict(value) if isinstance(value, JsonObject) else value for value in row.values())


def flip(path, wanted):
    """Flip a bit in the middle of the wanted bytes of a file."""
    body = bytearray(path.read_bytes())
    body[body.index(wanted) + len(wanted) // 2] ^= 1
    path.write_bytes(body)


def _fill(transaction, gallery_id):
    chance = random.Random(1)
    for name in TABLES:
        if name not in WITHOUT_ROWS:
            columns = transaction.execute(
                "SELECT name, type, pk FROM pragma_table_info(?)", (name,)
            )
            keys = [column["name"] for column in columns if column["pk"]]
            count = 1 if keys == ["gallery_id"] else ROWS
            types = {column["name"]: column["type"] for column in columns}
            rows = [_row(types, gallery_id, number, chance) for number in range(1, count + 1)]
            transaction.insert(name, *rows)


def _row(types, gallery_id, number, chance):
    """Make a row; what names a row of another table names the one of the same number."""
    row = {}
    for column, kind in types.items():
        if column == "gallery_id":
            row[column] = gallery_id
        elif column in ("slot", "person_id", "into_person", "other_person_id", "number"):
            row[column] = number
        elif column.endswith("_id") or column == "camera":
            row[column] = f"{column} {number:03}"
        elif kind == "INTEGER":
            row[column] = chance.getrandbits(40)
        elif kind == "REAL":
            row[column] = chance.random()
        elif kind == "BLOB":
            row[column] = chance.randbytes(24)
        elif column in JSON_COLUMNS or column == "metadata":
            row[column] = {column: chance.getrandbits(64)}
        else:
            row[column] = f"{column} {chance.getrandbits(64):x} {number}"
    return row

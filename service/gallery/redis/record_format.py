"""What marks a Redis as this record: the format's version and a random name."""

from __future__ import annotations

import secrets

from model.problems import InputProblem
from service.gallery.redis.database import Database
from service.gallery.stored_values import log_dropped_calibrations

FORMAT = 3
# Crops of format 1 have no checksums; they are read as they are, and crops written later have them.
OLDER = (b"1", b"2")


def adopt_record(database: Database) -> str:
    """Begins a record where there is none, and holds later writes against the one that is there.

    Returns:
        The record's random name.

    Raises:
        InputProblem: for a record of a newer program, and for data that are none.
    """
    if database.command("GET", "gmn:epoch") is None and database.command("EXISTS", "gmn:seq"):
        raise InputProblem(
            f"Redis at {database.place}: holds a record without its name, gmn:epoch; restore it "
            "from a whole copy"
        )
    # Of two processes that begin at once, one does.
    database.command("SET", "gmn:format", FORMAT, "NX")
    database.command("SET", "gmn:epoch", secrets.token_hex(16), "NX")
    found = database.command("GET", "gmn:format")
    if found in OLDER:
        log_dropped_calibrations(int(database.batch("adopt_format_3")))
        found = database.command("GET", "gmn:format")
    if not found.isdigit() or int(found) != FORMAT:
        raise InputProblem(
            f"Redis at {database.place}: its record has format version "
            f"{found.decode(errors='replace')}, this program reads up to {FORMAT}; serve it with "
            "the program version that wrote it"
        )
    epoch: str = database.command("GET", "gmn:epoch").decode()
    database.epoch = epoch
    return epoch

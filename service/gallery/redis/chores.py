"""What is left to remove after a change of one step: a batch at a time, by whoever comes by."""

from __future__ import annotations

from service.gallery.redis.database import Database
from service.gallery.redis.values import now_microseconds

CROPS_PER_BATCH = 200


def do_chores(database: Database) -> None:
    """Does every chore that may be done now; several processes may do so at once."""
    for name in database.command("HKEYS", "gmn:chores"):
        gallery, generation, what = name.decode().split(":", 2)
        while (
            database.batch("tidy", gallery, generation, what, now_microseconds(), CROPS_PER_BATCH)
            == "more"
        ):
            continue

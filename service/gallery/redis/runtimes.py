"""What computes the features, in Redis."""

from __future__ import annotations

from service.gallery.redis.database import Database

KEY = "gmn:runtimes"


class RedisRuntimes:
    """Implements `RuntimeRecords`; what is kept stays, so that commands may be sent twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""
        kept = self._database.command("HGET", KEY, embedder)
        return None if kept is None else str(kept.decode(errors="replace"))

    def keep_first(self, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept."""
        self._database.command("HSETNX", KEY, embedder, choice)
        return self.get(embedder) or choice

    def forget(self) -> int:
        """Removes the choices of all embedders, and answers how many there were."""
        count = int(self._database.command("HLEN", KEY))
        self._database.command("DEL", KEY)
        return count

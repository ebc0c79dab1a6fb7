"""What computes the features, in SQLite."""

from __future__ import annotations

from service.gallery.sqlite.database import Database


class SqliteRuntimes:
    """Implements `RuntimeRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""
        row = self._database.connection.execute(
            "SELECT choice FROM runtimes WHERE embedder = ?", (embedder,)
        ).fetchone()
        return None if row is None else str(row[0])

    def keep_first(self, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO runtimes VALUES (?, ?)", (embedder, choice))
        return self.get(embedder) or choice

    def forget(self) -> int:
        """Removes the choices of all embedders, and answers how many there were."""
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM runtimes").rowcount

"""What computes the features, in the record."""

from __future__ import annotations

from service.record.engine import RecordPart, Transaction, key, transactional


class Runtimes(RecordPart):
    """What computes the features, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""
        choice: str | None = self._reader.json(key("runtime", embedder))
        return choice

    @transactional
    def keep_first(self, transaction: Transaction, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept."""
        own = key("runtime", embedder)
        before: str | None = transaction.json(own)
        if before is None:
            transaction.put_json(own, choice)
        return before or choice

    @transactional
    def forget(self, transaction: Transaction) -> int:
        """Removes the choices of all embedders, and answers how many there were."""
        found = [own for own, _ in transaction.below(key("runtime"))]
        transaction.delete(*found)
        return len(found)

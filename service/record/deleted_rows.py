"""Rows that an older copy of the record brought back, by their lines in the log of deletions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.record.transaction import Transaction

# Deletes rows, given by their ids in the log of deletions.
DeleteRows = Callable[[Transaction, Sequence[str]], object]


def rows_of(table: str, key: str) -> DeleteRows:
    """Return a function that deletes rows of a table by their ids."""

    def delete(transaction: Transaction, ids: Sequence[str]) -> None:
        transaction.change(f"DELETE FROM {table} WHERE {transaction.dialect.among(key)}", (ids,))

    return delete

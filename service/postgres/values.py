"""Rows and values of PostgreSQL as SQLite gives and takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap, Dumper, Loader

from service.record.schema import as_micros


class PostgresRow(tuple[Any, ...]):
    """A row: values by position, or by the column's name."""

    positions: Mapping[str, int]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.positions[key] if isinstance(key, str) else key)

    def keys(self) -> Iterable[str]:
        return self.positions.keys()


def named_row(cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], PostgresRow]:
    positions: dict[str, int] = {}
    for position, column in enumerate(cursor.description or ()):
        positions.setdefault(column.name, position)

    def make(values: Sequence[Any]) -> PostgresRow:
        row = PostgresRow(values)
        row.positions = positions
        return row

    return make


class _Number(Dumper):
    """Sends a number as PostgreSQL's bigint."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: Any) -> bytes:
        number = as_micros(obj) if isinstance(obj, datetime) else int(obj)
        if not -(2**63) <= number < 2**63:
            raise OverflowError(f"{number} has more than 64 bits")
        return b"%d" % number


class _Numeric(Loader):
    """Reads a sum of integers as an integer."""

    def load(self, data: Any) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text else int(text)


def register(adapters: AdaptersMap) -> None:
    """Let a connection send truths, numbers and times as integers, and read sums as such."""
    for kind in (bool, int, datetime):
        adapters.register_dumper(kind, _Number)
    adapters.register_loader("numeric", _Numeric)

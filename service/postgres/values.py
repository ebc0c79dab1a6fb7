"""Rows and values of PostgreSQL as rules give and take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap, Dumper, Loader
from pydantic_core import to_json

from service.record.schema import as_micros
from service.record.transaction import Values
from service.record.values import JsonObject

# A value of these types is a collection, which PostgreSQL takes as an array.
COLLECTIONS = (tuple, set, frozenset, range)


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


class _Json(Dumper):
    """Sends a JSON object as its text."""

    def dump(self, obj: Any) -> bytes:
        return obj.text.encode() if isinstance(obj, JsonObject) else to_json(obj)


class _Numeric(Loader):
    """Reads a sum of integers as an integer."""

    def load(self, data: Any) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text else int(text)


def register(adapters: AdaptersMap) -> None:
    """Have a connection send truths, numbers, times and JSON, and read sums, as the record does."""
    for kind in (bool, int, datetime):
        adapters.register_dumper(kind, _Number)
    adapters.register_dumper(dict, _Json)
    adapters.register_dumper(JsonObject, _Json)
    adapters.register_loader("numeric", _Numeric)


def as_parameters(names: Sequence[str], values: Values) -> list[Any]:
    """Return the values of a statement in the order of its placeholders.

    Args:
        names: those of the placeholders; none if the values are given in order.
    """
    ordered = [values[name] for name in names] if isinstance(values, Mapping) else values
    return [list(value) if isinstance(value, COLLECTIONS) else value for value in ordered]

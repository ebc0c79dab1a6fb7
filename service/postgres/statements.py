"""Translation of SQLite's statements, and of the tables of each `schema.sql`, into PostgreSQL's."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from service.record.dialect import Dialect
from service.record.schema import schema_statements
from service.record.transaction import Values
from service.record.values import JsonObject

TYPES = {
    r"\bINTEGER\b": "BIGINT",
    r"\bBLOB\b": "BYTEA",
    r"\bREAL\b": "DOUBLE PRECISION",
    r"\bTEXT\b": 'TEXT COLLATE "C"',
    r"\bvalue NOT NULL": 'value TEXT COLLATE "C" NOT NULL',
    r"\) WITHOUT ROWID": ")",
}
# A text, the comparison with a collection or with placeholders, a placeholder, or a percent sign.
TOKENS = re.compile(
    r"(?P<text>'(?:[^']|'')*')"
    r"|(?P<negated>NOT )?IN \(SELECT value FROM json_each\((?P<many>\?\d*|:[a-z_]\w*)\)\)"
    r"|IN \((?P<run>\?(?:, \?)*)\)"
    r"|(?P<one>\?\d*|(?<![:\w]):[a-z_]\w*)"
    r"|(?P<percent>%)"
)


class PostgresDialect(Dialect):
    """The SQL of PostgreSQL, where a collection is an array."""

    def among(self, column: str, value: str = "?") -> str:
        return f"{column} IN (SELECT value FROM json_each({value}))"

    def gathered(self, expression: str, condition: str | None = None) -> str:
        array = f"json_agg({expression})"
        if condition is not None:
            array = f"{array} FILTER (WHERE {condition})"
        return f"coalesce({array}, '[]')::text"

    def as_bytes(self, text: str) -> str:
        return f"convert_to({text}, 'UTF8')"

    def unindexed(self, expression: str) -> str:
        return expression


@dataclass(frozen=True)
class Translation:
    """A statement for PostgreSQL.

    Attributes:
        collections: the names of its values that are collections.
        runs: of these, the ones that several values in a row make, by the place of the first, and
            how many values that are.
    """

    text: str
    collections: frozenset[str]
    runs: Mapping[int, int]


@functools.lru_cache(4096)
def translate(statement: str) -> Translation:
    """Translate a statement; its values get names: `p0`, `p1` … where it has none."""
    numbers = itertools.count()
    collections = set()
    runs = {}

    def name_of(placeholder: str) -> str:
        if placeholder.startswith(":"):
            return placeholder[1:]
        return f"p{int(placeholder[1:]) - 1 if placeholder[1:] else next(numbers)}"

    def replace(token: re.Match[str]) -> str:
        if token["text"]:
            return token["text"].replace("%", "%%")
        if token["percent"]:
            return "%%"
        if token["one"]:
            return f"%({name_of(token['one'])})s"
        if token["run"]:
            # Each of a thousand parameters would take psycopg longer than the one before.
            places = [next(numbers) for _ in range(token["run"].count("?"))]
            runs[places[0]] = len(places)
            collections.add(f"p{places[0]}")
            return f"= ANY(%(p{places[0]})s)"
        name = name_of(token["many"])
        collections.add(name)
        return f"{'<> ALL' if token['negated'] else '= ANY'}(%({name})s)"

    text = TOKENS.sub(replace, statement)
    return Translation(text, frozenset(collections), runs)


def table_definitions() -> list[str]:
    """Return the tables and indexes of each `schema.sql` for PostgreSQL, in their order."""
    definitions = []
    for statement in schema_statements():
        if statement.startswith("CREATE TRIGGER"):
            continue
        for pattern, of_postgres in TYPES.items():
            statement = re.sub(pattern, of_postgres, statement)
        definitions.append(statement)
    return definitions


def bind(translation: Translation, values: Values) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        by_place = dict(enumerate(values))
        for first, count in translation.runs.items():
            by_place[first] = [by_place.pop(place) for place in range(first, first + count)]
        values = {f"p{place}": value for place, value in by_place.items()}
    return {
        name: [_plain(item) for item in value] if name in translation.collections else _plain(value)
        for name, value in values.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        # PostgreSQL takes no NUL. No stored text has one, nor another control character.
        return value.replace("\0", "\1")
    if isinstance(value, JsonObject):
        return value.text
    if isinstance(value, dict):
        return to_json(value).decode()
    if isinstance(value, list | tuple | set | frozenset | range):
        return to_json(list(value)).decode()
    return value

"""The SQL of PostgreSQL where it differs from that of other engines."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from service.record.dialect import Dialect
from service.record.schema import changing_statements, schema_statements

# PostgreSQL's types, by the names that each schema.sql gives them. Texts sort by their bytes.
TYPES = {
    "BLOB": "BYTEA",
    "INTEGER": "BIGINT",
    "REAL": "DOUBLE PRECISION",
    "TEXT": 'TEXT COLLATE "C"',
}
TYPE = re.compile(rf"\b({'|'.join(TYPES)})\b")
# A quoted text or name, a cast, or a placeholder.
TOKEN = re.compile(r"""'[^']*'|"[^"]*"|::|\?|:([a-z_]\w*)""")


class PostgresDialect(Dialect):
    """The SQL of PostgreSQL, where a collection is an array."""

    def among(self, column: str, value: str = "?") -> str:
        return f"{column} = ANY({value})"

    def gathered(self, expression: str, condition: str | None = None) -> str:
        array = f"json_agg({expression})"
        if condition is not None:
            array = f"{array} FILTER (WHERE {condition})"
        return f"coalesce({array}, '[]')::text"

    def unindexed(self, expression: str) -> str:
        return expression


class NumberedStatement(NamedTuple):
    """A statement with the placeholders of PostgreSQL.

    Attributes:
        names: the named values in the order of their numbers; none if values are given in order.
    """

    text: str
    names: tuple[str, ...]


@functools.lru_cache(4096)
def number_placeholders(statement: str) -> NumberedStatement:
    """Number the placeholders of a statement, as PostgreSQL does: `$1`, `$2` …

    Statements have those of SQLite: `?` for the next value, or `:name`, which may stand several
    times. Quoted text, casts (`::text`) and everything else stay as they are.
    """
    unnamed = 0
    numbers: dict[str, int] = {}

    def replace(token: re.Match[str]) -> str:
        nonlocal unnamed
        if token[0] == "?":
            unnamed += 1
            return f"${unnamed}"
        if token[1] is None:
            return token[0]
        number = numbers.setdefault(token[1], len(numbers) + 1)
        return f"${number}"

    text = TOKEN.sub(replace, statement)
    return NumberedStatement(text, tuple(numbers))


def table_definitions() -> list[str]:
    """Return the tables and indexes of each `schema.sql` for PostgreSQL, in their order."""
    return _translate(schema_statements())


def changing_definitions(former: int) -> list[str]:
    """Return the statements that lead from the tables of a former format to those of this one."""
    return _translate(changing_statements(former))


def _translate(statements: Iterable[str]) -> list[str]:
    return [
        TYPE.sub(lambda name: TYPES[name[0]], statement).removesuffix(" WITHOUT ROWID")
        for statement in statements
        if not statement.startswith("CREATE TRIGGER")
    ]

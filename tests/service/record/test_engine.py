"""What an engine of the record has to offer, on SQLite and on PostgreSQL."""

import importlib
import pkgutil
import re
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic_core import from_json

import service.desk.tables
import service.doubtful.tables
import service.record
import service.watch.tables
from service.postgres.dialect import number_placeholders
from service.record.deletions import read_deletions
from service.record.keys import ApiKey
from service.record.schema import TABLES
from service.record.transaction import Reader, upsert
from service.watch.tables.alerts import about_list, write_alert
from tests.service.gallery.new_crops import (
    NOON,
    desk_of,
    enroll,
    new_crop,
    new_gallery,
    watch_of,
)
from tests.service.gallery.new_jobs import new_job
from tests.service.record.new_searches import new_search

THINGS = "CREATE TABLE things (number BIGINT PRIMARY KEY, name TEXT, part TEXT)"
ROWS = [(1, "Ann", "a"), (2, "Zoë", "a"), (3, "it's", "b"), (4, None, "b"), (5, "Bob", "c")]
KEY = ApiKey("own", "1" * 64, ("admin",), created_at=NOON)
# The foreign keys that another table's deletion follows, and the columns of the indexes of a table.
FOREIGN_KEYS = {
    "sqlite": (
        'SELECT tables.name, part.id, part."from" FROM sqlite_master AS tables, '
        "pragma_foreign_key_list(tables.name) AS part "
        "WHERE tables.type = 'table' AND part.on_delete != 'NO ACTION' ORDER BY 1, 2, part.seq"
    ),
    "postgres": (
        "SELECT conrelid::regclass::text, conname::text, attname::text FROM pg_constraint, "
        "unnest(conkey) WITH ORDINALITY AS part (number, place), pg_attribute "
        "WHERE contype = 'f' AND confdeltype != 'a' "
        "AND connamespace = current_schema()::regnamespace AND attrelid = conrelid "
        "AND attnum = part.number ORDER BY 1, 2, place"
    ),
}
INDEXES = {
    "sqlite": (
        "SELECT tables.name, listed.name, part.name FROM sqlite_master AS tables, "
        "pragma_index_list(tables.name) AS listed, pragma_index_info(listed.name) AS part "
        "WHERE tables.type = 'table' AND NOT listed.partial ORDER BY 1, 2, part.seqno "
    ),
    "postgres": (
        "SELECT indrelid::regclass::text, indexrelid::bigint, attname::text FROM pg_index, "
        "unnest(indkey::smallint[]) WITH ORDINALITY AS part (number, place), pg_attribute "
        "WHERE indpred IS NULL AND attrelid = indrelid AND attnum = part.number "
        "ORDER BY 1, 2, place"
    ),
}


@pytest.fixture
def things(record):
    """Return a reader of the record, which has a table of its own for the test."""
    record.database.connection().execute(THINGS)
    record.database.connection().executemany("INSERT INTO things VALUES (?, ?, ?)", ROWS)
    return Reader(record.database)


@pytest.mark.parametrize(
    ("column", "wanted", "found"),
    [
        ("number", [], []),
        ("number", [2, 7], [2]),
        ("number", {3}, [3]),
        ("number", range(1, 4), [1, 2, 3]),
        ("number", list(range(3, 9000)), [3, 4, 5]),
        ("name", ("Zoë", "it's"), [2, 3]),
        ("name", frozenset(["nobody"]), []),
    ],
)
def test_a_column_is_compared_with_a_collection_that_is_one_value(things, column, wanted, found):
    among = things.dialect.among
    statement = f"SELECT number FROM things WHERE {among(column)} ORDER BY number"
    assert things.column(statement, (wanted,)) == found
    named = f"SELECT number FROM things WHERE {among(column, ':wanted')} ORDER BY number"
    assert things.column(named, {"wanted": wanted, "unused": object()}) == found
    others = f"SELECT number FROM things WHERE NOT {among(column)} AND name IS NOT NULL"
    assert sorted(things.column(others, (wanted,))) == sorted({1, 2, 3, 5}.difference(found))


def test_the_values_of_a_group_are_gathered_as_a_json_array(things):
    names = things.dialect.gathered("name", "name IS NOT NULL")
    rows = things.tuples(f"SELECT part, {names} FROM things GROUP BY part ORDER BY part")
    assert [(part, sorted(from_json(text))) for part, text in rows] == [
        ("a", ["Ann", "Zoë"]),
        ("b", ["it's"]),
        ("c", ["Bob"]),
    ]
    text = things.value(f"SELECT {things.dialect.gathered('number')} FROM things WHERE number < 0")
    assert from_json(text) == []


def test_columns_are_read_as_lists_that_are_equally_long(things):
    query = "SELECT number, name FROM things ORDER BY number"
    numbers, names = things.columns(["number", "name"], query)
    assert list(zip(numbers, names, strict=True)) == [row[:2] for row in ROWS]


def test_what_uses_no_index_is_compared_and_sorted_alike(things):
    unindexed = things.dialect.unindexed
    statement = (
        f"SELECT name FROM things WHERE {unindexed('number > 1')} AND name IS NOT NULL "
        f"ORDER BY {unindexed('number DESC')}"
    )
    assert things.column(statement) == ["Bob", "it's", "Zoë"]


def test_texts_sort_by_their_bytes(things):
    ordered = things.column("SELECT name FROM things WHERE name IS NOT NULL ORDER BY name")
    assert ordered == sorted(ordered) == ["Ann", "Bob", "Zoë", "it's"]


@pytest.mark.parametrize(
    ("kind", "given", "stored"),
    [
        ("BIGINT", 2**63 - 1, 2**63 - 1),
        ("BIGINT", True, 1),
        ("BIGINT", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 1_000_000),
        ("TEXT", "ʻOkina % ? :name ''", "ʻOkina % ? :name ''"),
        ("TEXT", {"a": [1, "é"]}, '{"a":[1,"é"]}'),
        ("TEXT", None, None),
    ],
)
def test_a_value_is_stored_in_the_same_form(record, kind, given, stored):
    record.database.connection().execute(f"CREATE TABLE single (value {kind})")
    record.database.write(lambda it: it.insert("single", {"value": given}))
    assert Reader(record.database).value("SELECT value FROM single") == stored


def test_a_number_that_is_too_large_is_refused(things):
    with pytest.raises(OverflowError):
        things.tuples("SELECT number FROM things WHERE number = ?", (2**63,))


def test_a_rule_sees_its_changes_and_others_see_them_once_it_has_ended(record, things):
    has_changed = threading.Event()
    may_end = threading.Event()
    count = "SELECT count(*) FROM things"

    def rule(transaction):
        assert transaction.change("DELETE FROM things WHERE number > ?", (3,)) == 2
        seen = transaction.value(count)
        has_changed.set()
        assert may_end.wait(60)
        return seen

    with ThreadPoolExecutor(1) as thread:
        changing = thread.submit(record.database.write, rule)
        assert has_changed.wait(60)
        assert things.value(count) == 5
        may_end.set()
        assert changing.result(60) == 3
    assert things.value(count) == 3


def test_an_error_in_a_rule_reaches_its_caller_and_undoes_all_of_it(record, things):
    newest = things.newest_commit()

    def rule(transaction):
        transaction.change("DELETE FROM things")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record.database.write(rule)
    assert things.tuples("SELECT number, name, part FROM things ORDER BY number") == ROWS
    assert things.newest_commit() == newest


def test_a_statement_that_fails_undoes_its_rule_and_the_next_one_is_run(record, things):
    def rule(transaction):
        transaction.change("UPDATE things SET name = 'x'")
        transaction.insert("things", {"number": 1})

    with pytest.raises(Exception, match=r"(?i)unique"):
        record.database.write(rule)
    assert record.database.write(lambda it: it.value("SELECT name FROM things LIMIT 1")) != "x"


def test_commits_are_numbered_and_a_rule_that_changes_nothing_makes_none(record, things):
    newest = things.newest_commit()
    number = record.database.write(lambda it: it.change("DELETE FROM things") and it.commit)
    assert number == things.newest_commit() == newest + 1
    assert record.database.write(lambda it: it.change("DELETE FROM things")) == 0
    assert things.newest_commit() == newest + 1


def test_a_read_of_several_statements_shows_one_state(record, things):
    count = "SELECT count(*) FROM things"
    with record.database.read() as reader, ThreadPoolExecutor(1) as thread:
        assert reader.value(count) == 5
        thread.submit(record.database.write, lambda it: it.change("DELETE FROM things")).result(60)
        assert reader.value(count) == 5
    assert things.value(count) == 0


def test_rules_take_turns_so_that_none_loses_what_another_has_changed(record, things):
    def count_up(transaction):
        (seen,) = transaction.column("SELECT number FROM things WHERE name = 'Bob'")
        transaction.change("UPDATE things SET number = ? WHERE name = 'Bob'", (seen + 1,))

    with ThreadPoolExecutor(4) as threads:
        for writing in [threads.submit(record.database.write, count_up) for _ in range(20)]:
            writing.result(60)
    assert things.value("SELECT number FROM things WHERE name = 'Bob'") == 25


def test_a_row_of_the_same_key_is_replaced_or_left_as_it_is(record):
    def put(transaction, value, **options):
        transaction.insert("record", {"name": "own", "value": value}, **options)

    record.database.write(put, "first")
    record.database.write(put, "second", instead=True)
    statement = upsert("record", ("name", "value"), "VALUES (?, ?)", "value = record.value || '!'")
    changed = record.database.write(
        lambda it: it.value(f"{statement} RETURNING value", ("own", ""))
    )
    assert changed == "second!"


def _columns(reader, statement):
    """Return the columns of each key or index, as a list for each table."""
    columns = defaultdict(list)
    for table, name, column in reader.tuples(statement):
        columns[table, name].append(column)
    by_table = defaultdict(list)
    for (table, _), names in columns.items():
        by_table[table].append(names)
    return by_table


def test_each_deletion_that_others_follow_finds_their_rows_by_an_index(record, engine):
    reader = Reader(record.database)
    indexes = _columns(reader, INDEXES[engine])
    keys = _columns(reader, FOREIGN_KEYS[engine])
    assert sum(len(of_table) for of_table in keys.values()) > 30
    unindexed = [
        (table, key)
        for table, of_table in keys.items()
        for key in of_table
        # SQLite names no index of a primary key that is a single number.
        if not any(index[: len(key)] == key for index in [*indexes[table], TABLES[table].key])
    ]
    assert unindexed == []


@pytest.mark.promise("2")
def test_a_deletion_of_each_kind_is_logged(record, gallery, tmp_path):
    desk = desk_of(record)
    watch = watch_of(record)
    record.keys.add(KEY)
    record.keys.change(replace(KEY, secret_sha256="2" * 64))
    record.keys.revoke("own")
    record.crops.remove(gallery, enroll(record, gallery, new_crop(1)))
    enroll(record, gallery, new_crop(2, "Ann"), new_crop(3, "Bob"))
    record.people.undo_merge(gallery, record.people.rename(gallery, "Ann", "Bob").merge_id)
    search = new_search()
    desk.kept.keep(gallery, [search], 10)
    desk.kept.remove(gallery, [search.query_id])
    case = desk.cases.create(gallery, "case", "", "own")
    desk.cases.delete(gallery, case.case_id, None)
    fields = {"url": "https://example.org", "secret": "s", "note": "", "key_id": "own"}
    watch.webhooks.delete(watch.webhooks.create(gallery, fields).webhook_id)
    record.database.write(write_alert, gallery, about_list("disarmed", "why"))
    record.jobs.create(new_job("import", gallery))
    for table in ("alerts", "jobs"):
        record.database.write(lambda it, table=table: it.change(f"DELETE FROM {table}"))
    record.galleries.delete(new_gallery(record, "yard"))
    logged = {line.kind for line in read_deletions(tmp_path / "deletions.log")}
    assert logged == record.deletion_kinds


def _modules(package):
    yield package
    for found in pkgutil.iter_modules(getattr(package, "__path__", ())):
        # That file has the statements of SQLite alone.
        if found.name != "sqlite":
            yield importlib.import_module(f"{package.__name__}.{found.name}")


def _statements():
    """Yield the statements that stand in constants, with what the dialect writes left out."""
    slices = (service.watch.tables, service.desk.tables, service.doubtful.tables)
    for package in (service.record, *slices):
        for module in _modules(package):
            for name, text in vars(module).items():
                is_statement = re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\s", str(text))
                if name.isupper() and isinstance(text, str) and is_statement:
                    yield name, re.sub(r"\{[a-z_]+\}", "TRUE", text)


def test_each_statement_that_stands_in_a_constant_is_taken_by_the_engine(record, engine):
    connection = record.database.connection()
    refused = {}
    statements = dict(_statements())
    assert len(statements) > 20
    for number, (name, text) in enumerate(statements.items()):
        try:
            if engine == "postgres":
                numbered, _ = number_placeholders(text)
                connection.run_script(f"PREPARE statement_{number} AS {numbered}")
            else:
                # SQLite compiles it without running it.
                names = re.findall(r":([a-z_]\w*)", text)
                values = dict.fromkeys(names) or [None] * text.count("?")
                connection.execute(f"EXPLAIN {text}", values)
        except Exception as error:
            refused[name] = str(error)
    assert refused == {}

"""The change of a record in PostgreSQL from a former format, by the first start."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

import psycopg

from model.problems import InputProblem
from service.desk.tables import index_visits
from service.postgres.address import sentence_of
from service.postgres.database import describe_format
from service.postgres.dialect import changing_definitions
from service.postgres.locks import CREATORS, WRITERS, is_locked
from service.postgres.stored import StoredPostgresRecord, open_stored_postgres
from service.record.schema import FORMAT
from service.record.transaction import Transaction

log = logging.getLogger(__name__)
# One machine at a time has the right to this work, for as long as any serves the record.
SERVED = "jobs"


def change_format_in_postgres(folder: Path, url: str, accepted: Sequence[str] = ()) -> None:
    """Turn the tables of a former format into those of this program, in one transaction.

    One process changes them, while others that start wait.

    Raises:
        InputProblem: they cannot be changed, and are as they were.
    """
    record = open_stored_postgres(folder, url, accepted, may_be_former=True)
    if record is None:
        return
    with contextlib.closing(record):
        if record.read_format() == FORMAT:
            return
        connection = record.connection()
        try:
            connection.execute(f"SELECT pg_advisory_lock({CREATORS})")
            # Another process may have changed them meanwhile.
            former = record.read_format()
            if former != FORMAT:
                _change(record, former)
        except psycopg.Error as error:
            raise InputProblem(
                f"GMN_DATABASE_URL: the format of the record could not be changed "
                f"({sentence_of(error)}), and the record is as it was; start the service as the "
                "role that owns the tables"
            ) from error


def _change(record: StoredPostgresRecord, former: int) -> None:
    connection = record.connection()
    if is_locked(connection, SERVED):
        raise InputProblem(
            "GMN_DATABASE_URL: this version changes the format of the record, and another machine "
            "is serving it; stop all machines first"
        )
    connection.execute("BEGIN READ WRITE")
    connection.execute(f"SELECT pg_advisory_xact_lock({WRITERS})")
    connection.run_script(";\n".join(changing_definitions(former)))
    index_visits(Transaction(record))
    statement = "UPDATE record SET value = ? WHERE name = 'format'"
    connection.execute(statement, (describe_format(),))
    connection.execute("COMMIT")
    log.warning("the record had format %d and now has format %d", former, FORMAT)

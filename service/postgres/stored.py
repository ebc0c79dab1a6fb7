"""A record in PostgreSQL that is read and not changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import psycopg

from model.problems import InputProblem
from service.postgres.address import sentence_of
from service.postgres.connection import PostgresConnection, require_server
from service.postgres.database import PostgresDatabase
from service.record.database import Database
from service.record.transaction import Reader, Source


class StoredPostgresRecord(PostgresDatabase):
    """A record opened for a short read that changes neither it nor the data directory."""

    close = Source.close

    def __init__(self, folder: Path, url: str, accepted: Sequence[str] = ()) -> None:
        Database.__init__(self, folder, only_read=True)
        self._url = url
        self._accepted = accepted
        connection = self.connection()
        try:
            require_server(connection, accepted)
            connection.run_script("SET default_transaction_read_only = on")
        except BaseException:
            self.close()
            raise

    def connection(self) -> PostgresConnection:
        return cast("PostgresConnection", Source.connection(self))

    def _connect(self) -> PostgresConnection:
        return PostgresConnection(self._url)


def open_stored_postgres(
    folder: Path, url: str, accepted: Sequence[str] = (), may_be_former: bool = False
) -> StoredPostgresRecord | None:
    """Open a record in PostgreSQL to read it; None if no start has created it yet.

    Args:
        may_be_former: open a record of a former format too, which a start changes.

    Raises:
        InputProblem: the server does not answer or cannot be used for a record, or the record has
            another format.
    """
    try:
        record = StoredPostgresRecord(folder, url, accepted)
    except psycopg.Error as error:
        raise InputProblem(f"GMN_DATABASE_URL: {sentence_of(error)}") from error
    try:
        if Reader(record).value("SELECT to_regclass('record') IS NOT NULL"):
            if may_be_former:
                record.read_format()
            else:
                record.require_format()
            return record
    except BaseException:
        record.close()
        raise
    record.close()
    return None

"""The engine of the record under test: SQLite, or a PostgreSQL server of the worker."""

import hashlib
from contextlib import contextmanager

_servers = []


@contextmanager
def records_in(server):
    """Keep the records that are opened in the block in a server; None stands for SQLite."""
    _servers.append(server)
    try:
        yield
    finally:
        _servers.pop()


def database_url(folder):
    """Return where the record of a data directory is: an URL, or None for SQLite."""
    if not _servers or _servers[-1] is None:
        return None
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return _servers[-1].url(f"record_{name}")

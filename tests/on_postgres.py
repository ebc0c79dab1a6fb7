"""A pytest plugin by which the services of all tests keep their record in PostgreSQL.

Usage: python -m pytest -p tests.on_postgres tests/service/test_people.py
"""

import pytest

from tests.engines import records_in
from tests.postgres import postgres


@pytest.fixture(scope="session", autouse=True)
def all_records_in_postgres():
    with postgres() as server, records_in(server):
        yield

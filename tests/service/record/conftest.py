"""A record in a folder of the test, on each engine, and an empty gallery in it."""

import pytest

from tests.engines import records_in
from tests.postgres import postgres
from tests.service.gallery.new_crops import new_gallery, open_record


def pytest_generate_tests(metafunc):
    engines = ["sqlite", "postgres"]
    for engine in engines:
        if metafunc.definition.get_closest_marker(f"{engine}_alone"):
            engines = [engine]
    metafunc.parametrize("engine", engines, indirect=True)


@pytest.fixture(scope="session")
def postgres_server():
    with postgres() as server:
        yield server


@pytest.fixture(autouse=True)
def engine(request):
    server = request.getfixturevalue("postgres_server") if request.param == "postgres" else None
    with records_in(server):
        yield request.param


@pytest.fixture
def record(tmp_path):
    with open_record(tmp_path) as opened:
        yield opened


@pytest.fixture
def gallery(record):
    return new_gallery(record)

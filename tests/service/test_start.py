"""What a start imports, and what it leaves in memory."""

import pytest

from tests.service.conftest import START, Served

# What exports, tables in a terminal, Redis, PostgreSQL, Milvus and images outside the record need.
NOT_NEEDED = ("fsspec", "hiredis", "jinja2", "psycopg", "pymilvus", "redis", "rich.console")
WITHOUT_THEM = f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"


@pytest.fixture
def service(tiny_artefact, tmp_path):
    settings = {"artefact": tiny_artefact, "data_dir": tmp_path / "data"}
    started = Served(tmp_path / "log", WITHOUT_THEM + START, forked=False, **settings)
    yield started
    started.kill()


def test_a_service_with_default_settings_imports_no_package_that_it_does_not_use(service, images):
    gallery = service.create("people")
    service.enrolled(gallery, *images)
    assert service.search(gallery, images[0])

"""What a start imports, and what it leaves in memory."""

import gc
import json
import sys

import pytest

from service.ops.memory import without_collector
from service.settings import COLLECTOR_VARIABLE
from tests.outside import run_command
from tests.service.conftest import START, Served, served_environment

# Needed by exports, tables in a terminal, Redis, PostgreSQL, Milvus, webhooks, image stores and
# traces.
NOT_NEEDED = (
    *("fsspec", "hiredis", "httpcore2", "jinja2", "opentelemetry.exporter", "opentelemetry.sdk"),
    *("psycopg", "pymilvus", "redis", "rich.console"),
)
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


def test_the_collector_leaves_out_what_was_made_without_it():
    frozen = gc.get_freeze_count()
    try:
        with without_collector():
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()


BUILT = """
import gc, json, os
from service.commands.processes import ServiceConfig
from service.settings import read_settings

config = ServiceConfig(read_settings())
config.build()
objects = {"frozen": gc.get_freeze_count(), "others": len(gc.get_objects())}
print(json.dumps({"on": gc.isenabled(), **objects}))
os._exit(0)
"""


def test_a_process_that_is_about_to_serve_collects_only_what_is_made_from_then_on(
    tiny_artefact, tmp_path
):
    environment = served_environment(artefact=tiny_artefact, data_dir=tmp_path / "data")
    ran = run_command(sys.executable, "-c", BUILT, env=environment, check=True)
    collector = json.loads(ran.stdout)
    assert collector["on"]
    # The modules and classes of a start are hundreds of thousands of objects.
    assert collector["frozen"] > 100_000
    assert collector["others"] < 0.1 * collector["frozen"]


def test_without_the_extra_or_with_a_wrong_address_a_start_says_what_to_do(monkeypatch, tmp_path):
    without = "import sys; sys.modules['opentelemetry.exporter'] = None\n"
    program = "import gmn, sys; sys.exit(gmn.run(['serve', '--port', '0']))"

    def start_with(value, before=""):
        monkeypatch.setenv(COLLECTOR_VARIABLE, value)
        environment = served_environment(data_dir=tmp_path / "data")
        ran = run_command(sys.executable, "-c", before + program, env=environment)
        return ran.returncode, ran.stderr

    assert start_with("http://localhost:4318", without) == (
        2,
        f"gmn: {COLLECTOR_VARIABLE} is set, and OpenTelemetry's exporter is not installed; "
        "pip install 'gmn-reid[otel]', or unset the variable\n",
    )
    assert start_with("localhost:4318") == (
        2,
        f"gmn: {COLLECTOR_VARIABLE} begins with neither http:// nor https://; set it to the "
        "address at which the collector takes OTLP by HTTP, such as http://localhost:4318\n",
    )
    assert not (tmp_path / "data").exists()
